"""What the rules look at: window masses and shares."""

from itertools import pairwise

import pytest
from made_up import MadeUp, profile_of

from headspec.classify.evidence import judged_windows
from headspec.probe.profile import HeadProfile

WINDOWS = (3, 4, 8, 16, 32, 64)


def test_mass_and_share_by_hand() -> None:
    small, large = judged_windows(profile_of(MadeUp(sink=0.5, near={0: 0.125, 3: 0.25})), (3, 4))
    assert (small.window, small.mass[0, 0], small.share[0, 0]) == (3, 0.625, 0.25)
    assert (large.window, large.mass[0, 0], large.share[0, 0]) == (4, 0.875, 0.75)


def test_a_share_of_almost_nothing_counts_as_0() -> None:
    (found,) = judged_windows(profile_of(MadeUp(sink=0.9995, near={0: 0.0005})), (4,))
    assert found.share[0, 0] == 0


def test_only_late_queries_are_judged() -> None:
    profile = profile_of(MadeUp(near={0: 0.25}), window=256)
    profile.near_mass[profile.position_edges < 128] = 1.0
    (found,) = judged_windows(profile, (64,))
    assert found.mass[0, 0] == 0.25


def test_positions_count_by_their_queries() -> None:
    profile = profile_of(MadeUp(), window=160)
    profile.near_mass[profile.position_edges == 64, ..., 0] = 1.0
    (found,) = judged_windows(profile, (32,))
    assert found.mass[0, 0] == pytest.approx(64 / 96)


@pytest.mark.parametrize(("window", "largest"), [(16, None), (17, 8), (64, 16), (65, 32), (2048, 64)])
def test_windows_that_the_text_cannot_judge_are_left_out(window: int, largest: int | None) -> None:
    sizes = [each.window for each in judged_windows(profile_of(MadeUp(), window=window), WINDOWS)]
    assert sizes == ([] if largest is None else [size for size in WINDOWS if size <= largest])


def test_mass_and_share_grow_with_the_window(demo_profile: HeadProfile) -> None:
    judged = judged_windows(demo_profile, WINDOWS)
    for smaller, larger in pairwise(judged):
        assert (smaller.mass <= larger.mass + 1e-6).all()
        assert (smaller.share <= larger.share + 1e-6).all()


def test_mass_and_share_are_shares(demo_profile: HeadProfile) -> None:
    for each in judged_windows(demo_profile, WINDOWS):
        for grid in (each.mass, each.share):
            assert grid.shape == (4, 8)
            assert ((grid >= 0) & (grid <= 1 + 1e-6)).all()
