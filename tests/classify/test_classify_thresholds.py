"""The cut-offs as options: what they may be, and how they travel."""

import json
from dataclasses import fields

import pytest

from headspec.classify.thresholds import Thresholds
from headspec.errors import HeadspecError

OWN = (
    "previous_token", "induction", "sink_resting", "near_constant", "fixed_offset", "naive_low_entropy",
    "naive_uniform", "naive_low_maximum",
)  # fmt: skip


def test_an_unknown_threshold_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HeadspecError, match=r"unknown threshold dead_spreed: there are .*dead_spread"):
        Thresholds.from_dict({"dead_spreed": 0.1})


@pytest.mark.parametrize("name", [*OWN, "windowed_mass"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_a_share_outside_0_to_1_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(HeadspecError, match=f"thresholds: {name} is a share"):
        Thresholds.from_dict({name: value})
    with pytest.raises(ValueError, match=f"{name} is a share"):
        Thresholds(**{name: value})


@pytest.mark.parametrize("windows", [[], [4, 3], [0, 4], [3, 3], "abc", 8], ids=str)
def test_windows_that_are_not_rising_numbers_of_keys_are_refused(windows: object) -> None:
    with pytest.raises(HeadspecError, match="thresholds: "):
        Thresholds.from_dict({"windows": windows})


def test_a_window_of_half_a_key_is_refused() -> None:
    for _ in range(20):  # beartype, when it is on, looks at one item only, picked at random
        with pytest.raises(HeadspecError, match="thresholds: "):
            Thresholds.from_dict({"windows": [3.5, 8]})


@pytest.mark.parametrize("value", ["0.8", None, [0.8]], ids=str)
def test_a_threshold_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(HeadspecError, match="thresholds: "):
        Thresholds.from_dict({"windowed_mass": value})


def test_missing_thresholds_take_their_default() -> None:
    assert Thresholds.from_dict({"windowed_mass": 0.5}) == Thresholds(windowed_mass=0.5)


def test_json_brings_back_what_it_was_given() -> None:
    cut = Thresholds(windowed_mass=0.7, windows=(2, 5), naive_uniform=0.8)
    assert Thresholds.from_dict(json.loads(json.dumps(cut.to_dict()))) == cut


def test_all_thresholds_are_in_the_dictionary() -> None:
    assert Thresholds().to_dict().keys() == {field.name for field in fields(Thresholds)}


def test_the_trait_induction_begins_where_protection_does() -> None:
    assert Thresholds().induction == Thresholds().protected_induction
