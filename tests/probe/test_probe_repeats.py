"""Repeated random tokens: how they are drawn, and what they do to a profile."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from accounts import random_ids
from comparing import difference
from tiny_models import VOCABULARY
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile
from headspec.probe.repeats import repeated_tokens

FROM_REPEATS = ("repeat_deviation", "previous_token_score", "induction_score")


def test_a_row_is_one_token_and_twice_the_same_tokens() -> None:
    rows = repeated_tokens(range(100), 7, 3, first=42, seed=0)
    assert rows.shape == (3, 15)
    assert (rows[:, 0] == 42).all()
    assert torch.equal(rows[:, 1:8], rows[:, 8:])


def test_without_a_first_token_the_front_is_random_too() -> None:
    rows = repeated_tokens(range(1000), 7, 8, first=None, seed=0)
    assert len(set(rows[:, 0].tolist())) > 1


def test_rows_differ_from_each_other() -> None:
    rows = repeated_tokens(range(1000), 30, 2, first=0, seed=0)
    assert not torch.equal(rows[0], rows[1])


def test_only_tokens_of_the_vocabulary_are_drawn() -> None:
    rows = repeated_tokens([5, 9, 11], 50, 4, first=None, seed=0)
    assert set(rows.flatten().tolist()) == {5, 9, 11}


def test_the_seed_decides() -> None:
    one, same, other = (repeated_tokens(range(1000), 20, 2, None, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_special_tokens_are_not_drawn(demo: TransformerBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def draw(vocabulary: Sequence[int], *settings: Any) -> Tensor:
        seen.extend(vocabulary)
        return repeated_tokens(vocabulary, *settings)

    monkeypatch.setattr("headspec.probe.repeats.repeated_tokens", draw)
    probe_heads(demo, torch.arange(2, 42), layers=[0], progress=False)
    assert seen == list(range(2, 1024))


@pytest.mark.parametrize(("window", "length"), [(60, 29), (61, 30), (17, 8)])
def test_repeats_are_as_long_as_the_window(tiny: TransformerBridge, window: int, length: int) -> None:
    assert probe_heads(tiny, random_ids(1, window), progress=False).about.repeat_length == length


def test_repeats_stay_below_512_tokens(demo: TransformerBridge) -> None:
    assert probe_heads(demo, torch.arange(512), layers=[0], progress=False).about.repeat_length == 255


def test_without_repeats_their_scores_are_nan_and_the_others_stay(
    tiny: TransformerBridge, tiny_profile: HeadProfile
) -> None:
    profile = probe_heads(tiny, random_ids(3, 80), n_repeats=0, progress=False)
    assert (profile.about.n_repeats, profile.about.repeat_length) == (0, 0)
    for name in FROM_REPEATS:
        assert np.isnan(profile[name]).all()
    others = tuple(f"grids.{name}" for name in profile.grids if name not in FROM_REPEATS)
    assert difference(profile, tiny_profile, (*others, "near_mass", "mean_z")) == 0


def test_the_seed_moves_the_scores_of_repeats_only(tiny: TransformerBridge, tiny_profile: HeadProfile) -> None:
    profile = probe_heads(tiny, random_ids(3, 80), seed=1, progress=False)
    others = tuple(f"grids.{name}" for name in profile.grids if name not in FROM_REPEATS)
    assert difference(profile, tiny_profile, others) == 0
    assert difference(profile, tiny_profile, tuple(f"grids.{name}" for name in FROM_REPEATS)) > 0


def test_random_weights_do_no_induction(tiny: TransformerBridge) -> None:
    profile = probe_heads(tiny, torch.arange(VOCABULARY)[:100], n_repeats=4, progress=False)
    assert profile["induction_score"].max() < 0.1
