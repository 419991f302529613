"""The textbook rules: entropy and maximum, and nothing about what the head writes."""

import pytest
from made_up import MadeUp, profile_of

from headspec.classify.head_map import HeadStatus, HeadVerdict
from headspec.classify.rules import classify_heads
from headspec.classify.thresholds import Thresholds
from headspec.heads import HeadRole

FIXED = {3: 1.0}


def naive(entropy: float, largest: float = 0.5, top: dict[int, float] = FIXED) -> HeadVerdict:
    numbers = {"normalized_entropy": entropy, "max_attention": largest}
    return classify_heads(profile_of(MadeUp(top=top, numbers=numbers)), rules="naive")["L0H0"]


@pytest.mark.parametrize(
    ("entropy", "largest", "role"),
    [
        (0.25, 0.5, HeadRole.POSITIONAL),
        (0.7, 0.5, HeadRole.GATHERING),
        (0.95, 0.5, HeadRole.DEAD),
        (0.7, 0.01, HeadRole.DEAD),
        (0.25, 0.01, HeadRole.DEAD),
    ],
)
def test_role_by_entropy_and_maximum(entropy: float, largest: float, role: HeadRole) -> None:
    assert naive(entropy, largest).role == role


def test_low_entropy_at_changing_offsets_is_gathering() -> None:
    assert naive(0.25, top={3: 0.5, 7: 0.5}).role == HeadRole.GATHERING


def test_low_entropy_with_the_maximum_somewhere_in_a_wide_bin_is_gathering() -> None:
    assert naive(0.25, top={65: 1.0}).role == HeadRole.GATHERING


@pytest.mark.parametrize(("offset", "window"), [(0, 3), (2, 3), (3, 4), (63, 64)])
def test_the_window_reaches_to_the_fixed_offset(offset: int, window: int) -> None:
    assert naive(0.25, top={offset: 1.0}).window == window


def test_the_window_is_the_largest_where_none_reaches_to_the_fixed_offset() -> None:
    far = MadeUp(top={50: 1.0}, numbers={"normalized_entropy": 0.25, "max_attention": 0.5})
    assert classify_heads(profile_of(far), Thresholds(windows=(3, 8)), rules="naive")["L0H0"].window == 8


def test_margins_are_distances_from_the_cut_offs() -> None:
    assert naive(0.25).margin == pytest.approx(0.1 / 0.9)
    assert naive(0.95).margin == pytest.approx(0.05 / 0.9, rel=1e-4)
    assert naive(0.75).margin == pytest.approx(0.15 / 0.9, rel=1e-4)


def test_what_the_head_writes_does_not_matter() -> None:
    numbers = {"normalized_entropy": 0.95, "max_attention": 0.5, "output_spread": 100.0}
    found = classify_heads(profile_of(MadeUp(numbers=numbers)), rules="naive")["L0H0"]
    assert (found.role, found.status) == (HeadRole.DEAD, HeadStatus.CANDIDATE)


def test_the_map_says_which_rules_made_it() -> None:
    assert classify_heads(profile_of(MadeUp()), rules="naive").rules == "naive"
    assert classify_heads(profile_of(MadeUp())).rules == "default"
