"""The rules on heads made up to lie where they decide: at, just inside and just outside a cut-off."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import AT_THE_CUT, CUT, DEAD, MadeUp, profile_of

from headspec.classify.head_map import HeadStatus, HeadVerdict
from headspec.classify.rules import EVIDENCE, classify_heads
from headspec.classify.thresholds import Thresholds
from headspec.errors import HeadspecError
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile

same_profile = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
shares = st.integers(0, 1000).map(lambda thousandth: thousandth / 1000)
NEAR = MadeUp(near={0: 0.25, 1: 0.75})


def verdict(head: MadeUp, cut: Thresholds = CUT, window: int = 512, n_repeats: int = 2) -> HeadVerdict:
    return classify_heads(profile_of(head, window=window, n_repeats=n_repeats), cut)["L0H0"]


def test_a_head_at_all_four_cut_offs_is_dead_with_margin_0() -> None:
    found = verdict(MadeUp(numbers=AT_THE_CUT))
    assert (found.role, found.margin, found.status) == (HeadRole.DEAD, 0, HeadStatus.CANDIDATE)


@pytest.mark.parametrize("name", AT_THE_CUT)
def test_dead_needs_each_of_its_four_conditions(name: str) -> None:
    numbers = {**DEAD, "induction_score": 0.0, name: AT_THE_CUT[name] * 1.01}
    found = verdict(MadeUp(numbers=numbers))
    assert found.role == HeadRole.GATHERING
    assert found.margin == pytest.approx(0.01, rel=1e-3)
    assert found.status is None


@pytest.mark.parametrize("name", ["output_spread", "output_spread_p95", "repeat_deviation"])
def test_the_margin_of_a_dead_head_is_that_of_its_closest_condition(name: str) -> None:
    assert verdict(MadeUp(numbers={**DEAD, name: AT_THE_CUT[name] / 2})).margin == pytest.approx(0.5)


def test_a_head_without_repeats_is_never_dead() -> None:
    numbers = {**DEAD, "repeat_deviation": np.nan, "induction_score": np.nan}
    assert verdict(MadeUp(numbers=numbers), n_repeats=0).role == HeadRole.GATHERING


@pytest.mark.parametrize("name", ["output_spread", "repeat_deviation", "induction_score"])
def test_one_number_that_was_not_measured_is_enough_not_to_be_dead(name: str) -> None:
    assert verdict(MadeUp(numbers={**DEAD, name: np.nan})).role != HeadRole.DEAD


def test_a_dead_head_with_all_its_attention_near_is_dead() -> None:
    assert verdict(replace(NEAR, numbers=DEAD)).role == HeadRole.DEAD


def test_a_head_without_repeats_can_be_positional() -> None:
    numbers = {"repeat_deviation": np.nan, "induction_score": np.nan}
    assert verdict(replace(NEAR, numbers=numbers), n_repeats=0).role == HeadRole.POSITIONAL


@pytest.mark.parametrize(
    ("offset", "window"), [(0, 3), (2, 3), (3, 4), (4, 8), (7, 8), (8, 16), (15, 16), (31, 32), (32, 64), (63, 64)]
)
def test_a_positional_head_gets_the_smallest_window_that_holds_its_attention(offset: int, window: int) -> None:
    found = verdict(MadeUp(near={offset: 1.0}))
    assert (found.role, found.window) == (HeadRole.POSITIONAL, window)


def test_attention_beyond_the_largest_window_is_gathering() -> None:
    found = verdict(MadeUp(near={}))
    assert (found.role, found.window) == (HeadRole.GATHERING, None)


def test_a_window_at_its_cut_off_does_with_margin_0() -> None:
    found = verdict(MadeUp(near={63: 0.75}))
    assert (found.role, found.window, found.margin) == (HeadRole.POSITIONAL, 64, 0)


def test_a_window_just_below_its_cut_off_does_not() -> None:
    found = verdict(MadeUp(near={63: 0.74}))
    assert found.role == HeadRole.GATHERING
    assert found.margin == pytest.approx(0.01 / 0.75, rel=1e-3)


def test_the_margin_of_a_positional_head_is_no_larger_than_its_distance_from_death() -> None:
    found = verdict(replace(NEAR, numbers={**DEAD, "output_spread": 0.125 * 1.01}))
    assert found.role == HeadRole.POSITIONAL
    assert found.margin == pytest.approx(0.01, rel=1e-3)


def test_the_sinks_count_into_the_window_but_do_not_make_a_head_positional() -> None:
    resting = MadeUp(sink=0.875, near={0: 0.03125})
    assert verdict(resting).role == HeadRole.GATHERING
    assert verdict(replace(resting, near={0: 0.0625})).role == HeadRole.POSITIONAL


def test_a_head_that_rests_on_the_sinks_entirely_is_not_positional() -> None:
    assert verdict(MadeUp(sink=1.0)).role == HeadRole.GATHERING


def test_induction_protects_from_positional_too() -> None:
    found = verdict(replace(NEAR, numbers={"induction_score": 0.25}))
    assert found.role == HeadRole.GATHERING
    assert found.margin == pytest.approx(1)


def test_a_head_that_only_induction_keeps_from_its_window_says_so() -> None:
    found = verdict(replace(NEAR, numbers={"induction_score": 0.25}))
    assert "induction" in found.reason


def test_a_reason_for_death_gives_both_spreads() -> None:
    found = verdict(MadeUp(numbers={**DEAD, "output_spread": 0.0625, "repeat_deviation": 0.25}))
    assert "0.062" in found.reason
    assert "0.250" in found.reason


def test_a_reason_for_a_window_gives_what_it_holds() -> None:
    assert "last 4 keys and the sinks hold 0.88" in verdict(MadeUp(sink=0.125, near={3: 0.75})).reason


def test_every_verdict_carries_its_evidence() -> None:
    evidence = dict(verdict(MadeUp(sink=0.25, near={3: 0.5})).evidence)
    assert set(EVIDENCE) <= evidence.keys()
    assert (evidence["judged_window"], evidence["windowed_mass"]) == (4, 0.75)
    assert evidence["windowed_share"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("window", "largest"), [(17, 8), (32, 8), (33, 16), (65, 32), (128, 32), (129, 64)])
def test_a_window_is_judged_on_queries_that_see_twice_as_much(window: int, largest: int) -> None:
    far = verdict(MadeUp(near={largest - 1: 1.0}), window=window)
    assert (far.role, far.window) == (HeadRole.POSITIONAL, largest)
    if largest < 64:
        assert verdict(MadeUp(near={largest: 1.0}), window=window).role == HeadRole.GATHERING


def test_a_text_too_short_for_every_window_gives_no_positional_head_and_says_why() -> None:
    found = verdict(NEAR, replace(CUT, windows=(16, 64)), window=20)
    assert found.role == HeadRole.GATHERING
    assert "too short" in found.reason


def test_a_window_beyond_what_the_probe_counts_is_not_blamed_on_the_text() -> None:
    try:
        reason = verdict(NEAR, replace(CUT, windows=(128,)), window=2048).reason
    except HeadspecError as error:
        assert "128" in str(error)  # noqa: PT017 (refusing is as good as saying so in the reason)
    else:
        assert "too short" not in reason


def test_every_head_of_a_profile_gets_a_verdict_in_its_order() -> None:
    head_map = classify_heads(profile_of(NEAR, MadeUp(), MadeUp(numbers=DEAD)), CUT)
    assert [str(each.head) for each in head_map] == ["L0H0", "L0H1", "L0H2"]
    assert [each.role for each in head_map] == [HeadRole.POSITIONAL, HeadRole.GATHERING, HeadRole.DEAD]


def test_unknown_rules_are_refused_with_the_known_ones() -> None:
    with pytest.raises(HeadspecError, match="rules 'strict': choose one of default, naive"):
        classify_heads(profile_of(NEAR), rules="strict")


def test_margins_of_real_heads_are_finite_and_not_negative(demo_profile: HeadProfile) -> None:
    for rules in ("default", "naive"):
        for found in classify_heads(demo_profile, rules=rules):
            assert 0 <= found.margin < np.inf, found


@same_profile
@given(one=shares, other=shares)
def test_a_higher_windowed_mass_never_adds_positional_heads(
    demo_profile: HeadProfile, one: float, other: float
) -> None:
    low, high = (
        set(classify_heads(demo_profile, Thresholds(windowed_mass=mass)).heads(HeadRole.POSITIONAL))
        for mass in sorted((one, other))
    )
    assert high <= low


@same_profile
@given(one=shares, other=shares)
def test_a_higher_dead_spread_never_brings_a_head_to_life(demo_profile: HeadProfile, one: float, other: float) -> None:
    low, high = (
        set(classify_heads(demo_profile, Thresholds(dead_spread=spread)).heads(HeadRole.DEAD))
        for spread in sorted((one, other))
    )
    assert low <= high


@same_profile
@given(data=st.data())
def test_a_smaller_choice_of_windows_never_gives_a_smaller_window(
    demo_profile: HeadProfile, data: st.DataObject
) -> None:
    sizes = (3, 4, 8, 16, 32)
    some = tuple(sorted(data.draw(st.sets(st.sampled_from(sizes)))))
    all_of_them = classify_heads(demo_profile, Thresholds(windows=(*sizes, 64)))
    for found in classify_heads(demo_profile, Thresholds(windows=(*some, 64))):
        if found.window is not None:
            assert found.window >= (all_of_them[found.head].window or 0)
