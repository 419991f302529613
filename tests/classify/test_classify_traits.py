"""Traits describe a head beside its role."""

import numpy as np
import pytest
from made_up import CUT, MadeUp, profile_of

from headspec.classify.head_map import Trait
from headspec.classify.traits import traits
from headspec.heads import HeadId


def traits_of(head: MadeUp, window: int = 512) -> tuple[Trait, ...]:
    return traits(profile_of(head, window=window), CUT)[HeadId(0, 0)]


@pytest.mark.parametrize(
    ("name", "at", "below", "trait"),
    [
        ("previous_token_score", 0.5, 0.49, Trait.PREVIOUS_TOKEN),
        ("induction_score", 0.1501, 0.1499, Trait.INDUCTION),
        ("sink_attention_ratio", 0.5, 0.49, Trait.SINK_RESTING),
    ],
)
def test_a_trait_begins_at_its_cut_off(name: str, at: float, below: float, trait: Trait) -> None:
    assert traits_of(MadeUp(numbers={name: at})) == (trait,)
    assert traits_of(MadeUp(numbers={name: below})) == ()


def test_an_output_that_varies_by_less_than_a_tenth_of_itself_is_near_constant() -> None:
    assert traits_of(MadeUp(numbers={"output_spread": 0.04})) == (Trait.NEAR_CONSTANT,)
    assert traits_of(MadeUp(numbers={"output_spread": 0.06})) == ()


def test_no_output_at_all_is_not_called_constant() -> None:
    assert traits_of(MadeUp(numbers={"output_spread": 0.0, "relative_output_norm": 0.0})) == ()


@pytest.mark.parametrize("offset", [0, 1, 5, 63])
def test_a_maximum_at_one_offset_is_a_fixed_offset(offset: int) -> None:
    assert traits_of(MadeUp(top={offset: 0.95})) == (Trait.FIXED_OFFSET,)
    assert traits_of(MadeUp(top={offset: 0.85})) == ()


def test_a_maximum_somewhere_in_a_wide_bin_is_no_fixed_offset() -> None:
    assert traits_of(MadeUp(top={65: 1.0})) == ()


def test_scores_that_were_not_measured_give_no_trait() -> None:
    assert traits_of(MadeUp(numbers=dict.fromkeys(("previous_token_score", "induction_score"), np.nan))) == ()


def test_a_head_may_have_several_traits() -> None:
    numbers = {"previous_token_score": 0.9, "output_spread": 0.0}
    assert traits_of(MadeUp(sink=0.6, numbers=numbers)) == (
        Trait.PREVIOUS_TOKEN, Trait.SINK_RESTING, Trait.NEAR_CONSTANT,
    )  # fmt: skip
