"""Which plans a sweep tries: every head alone, cumulative curves, grids of cut-offs, and random controls."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_makers import HEADS, plain, plan_of, profile_of

from headspec.classify.rules import classify_heads
from headspec.classify.thresholds import Thresholds
from headspec.errors import HeadspecError
from headspec.heads import HeadId
from headspec.load.model import load_plain
from headspec.load.text import load_text
from headspec.plan.make import make_plan, plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Remove, Window
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile
from headspec.search.cases import Case, control_cases, curve_cases, grid_cases, matched_random, single_cases


@pytest.fixture(scope="module")
def profile() -> HeadProfile:
    return profile_of(plain())


@pytest.fixture(scope="module")
def demo_profile() -> HeadProfile:
    demo = load_plain("demo", device="cpu")
    text = load_text(demo, "probe", n_tokens=1024, window=512)
    return probe_heads(demo, text, engine="fast", progress=False)


def treated(plan: HeadPlan) -> dict[str, str]:
    return {str(head): str(what) for head, what in plan.treatments.items()}


# Every head alone.


def test_every_head_is_tried_alone_under_each_treatment(profile: HeadProfile) -> None:
    cases = single_cases(profile, ["mean", "window:8", "window:3+0"])
    assert [treated(case.plan) for case in cases] == [
        {head: what} for head in HEADS for what in ("mean", "window:8", "window:3+0")
    ]


def test_a_single_case_is_labelled_with_its_head_and_treatment(profile: HeadProfile) -> None:
    cases = single_cases(profile, ["mean", Window(3, 0)], heads=["1.2", HeadId(0, 1)])
    assert [case.label for case in cases] == ["L1H2=mean", "L1H2=window:3+0", "L0H1=mean", "L0H1=window:3+0"]
    assert {case.kind for case in cases} == {"single"}


def test_heads_are_mean_ablated_unless_told_otherwise(profile: HeadProfile) -> None:
    [case] = single_cases(profile, heads=["L1H2"])
    np.testing.assert_array_equal(case.plan.fills[HeadId(1, 2)], profile.mean_z[1, 2])


def test_no_heads_are_no_cases(profile: HeadProfile) -> None:
    assert single_cases(profile, heads=[]) == []


def test_a_head_that_does_not_exist_is_refused(profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match="unknown heads L7H0"):
        single_cases(profile, heads=["L7H0"])


def test_a_treatment_that_does_not_exist_is_refused(profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match="'median' is no treatment"):
        single_cases(profile, ["median"])


# What a case says of itself.


def test_a_case_begins_in_the_first_layer_that_it_treats(profile: HeadProfile) -> None:
    assert Case("", "", plan_heads(profile, {"L1H2": "zero"})).first_layer == 1
    assert Case("", "", plan_heads(profile, {"L1H2": "zero", "L0H3": "window:3"})).first_layer == 0
    assert Case("", "", plan_heads(profile, {})).first_layer == 0


def test_a_case_is_in_one_layer_if_all_its_heads_are(profile: HeadProfile) -> None:
    assert Case("", "", plan_heads(profile, {"L1H2": "zero", "L1H0": "window:3"})).in_one_layer
    assert not Case("", "", plan_heads(profile, {"L1H2": "zero", "L0H3": "window:3"})).in_one_layer
    assert not Case("", "", plan_heads(profile, {})).in_one_layer


def test_cases_of_the_same_kind_label_and_plan_have_one_key(profile: HeadProfile) -> None:
    keys = {Case("single", "a", plan_heads(profile, {"L1H2": "mean"})).key for _ in range(2)}
    assert len(keys) == 1


def test_kind_label_treatments_and_fill_vectors_each_make_another_key(profile: HeadProfile) -> None:
    other = profile_of(plain(), seed=1)
    cases = [
        Case("single", "a", plan_heads(profile, {"L1H2": "mean"})),
        Case("curve", "a", plan_heads(profile, {"L1H2": "mean"})),
        Case("single", "b", plan_heads(profile, {"L1H2": "mean"})),
        Case("single", "a", plan_heads(profile, {"L1H1": "mean"})),
        Case("single", "a", plan_heads(profile, {"L1H2": "zero"})),
        Case("single", "a", plan_heads(profile, {"L1H2": "window:8"})),
        Case("single", "a", plan_heads(profile, {"L1H2": "window:8+0"})),
        Case("single", "a", plan_heads(profile, {"L1H2": "random"})),
        Case("single", "a", plan_heads(profile, {"L1H2": "random"}, seed=1)),
        Case("single", "a", plan_heads(other, {"L1H2": "mean"})),
    ]
    assert len({case.key for case in cases}) == len(cases)


# Curves.


@pytest.mark.parametrize(
    ("n_heads", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (7, [1, 2, 4, 7]), (8, [1, 2, 4, 8])]
)
def test_a_curve_doubles_the_number_of_heads_and_ends_with_all(
    profile: HeadProfile, n_heads: int, sizes: list[int]
) -> None:
    cases = curve_cases(profile, HEADS[:n_heads], "mean", "order")
    assert [len(case.plan) for case in cases] == sizes


def test_a_curve_treats_the_first_heads_of_its_ranking(profile: HeadProfile) -> None:
    ranking = ["L1H3", "L0H2", "L1H0", "L0H0"]
    cases = curve_cases(profile, ranking, "window:8", "spread", sizes=[3, 0, 4])
    assert [set(treated(case.plan)) for case in cases] == [set(ranking[:3]), set(), set(ranking)]
    assert {what for case in cases for what in treated(case.plan).values()} == {"window:8"}


@settings(max_examples=20, deadline=None)
@given(st.permutations(HEADS), st.sampled_from(["zero", "mean", "random", "window:3"]))
def test_the_plans_of_a_curve_are_nested(ranking: list[str], what: str) -> None:
    plans = [case.plan for case in curve_cases(profile_of(plain()), ranking, what, "order")]
    for smaller, larger in pairwise(plans):
        assert larger.only(smaller.treatments) == smaller


def test_a_point_of_a_curve_is_labelled_with_its_treatment_ranking_and_size(profile: HeadProfile) -> None:
    labels = [case.label for case in curve_cases(profile, HEADS, "window:8+0", "output_spread", sizes=[2, 8])]
    assert labels == ["window:8+0 by output_spread, 2 heads", "window:8+0 by output_spread, 8 heads"]


@pytest.mark.parametrize("twice", [["L0H1", "L0H1"], ["L0H1", "0.1"], [HeadId(0, 1), "L1H0", "l0h1"]])
def test_a_ranking_that_names_a_head_twice_is_refused(profile: HeadProfile, twice: list[Any]) -> None:
    with pytest.raises(HeadspecError, match="the ranking spread names a head twice"):
        curve_cases(profile, twice, "mean", "spread")


@pytest.mark.parametrize("size", [9, -1])
def test_a_size_that_a_ranking_does_not_have_is_refused(profile: HeadProfile, size: int) -> None:
    with pytest.raises(HeadspecError, match=r"size|heads"):
        curve_cases(profile, HEADS, "mean", "order", sizes=[size])


# Grids.


def test_a_grid_has_the_plan_of_every_combination(demo_profile: HeadProfile) -> None:
    cuts = [Thresholds(), Thresholds(windowed_mass=0.9)]
    cases = grid_cases(demo_profile, cuts, fills=("mean", "zero"), sinks=(0, 4))
    combinations = [(cut, fill, sinks) for cut in cuts for fill in ("mean", "zero") for sinks in (0, 4)]
    for case, (cut, fill, sinks) in zip(cases, combinations, strict=True):
        head_map = classify_heads(demo_profile, cut)
        assert case.plan == make_plan(head_map, demo_profile, fill=fill, candidates=True, sinks=sinks)


def test_other_cut_offs_make_other_plans(demo_profile: HeadProfile) -> None:
    loose, default, strict = grid_cases(
        demo_profile, [Thresholds(dead_spread=0.3, dead_spread_p95=0.4), Thresholds(), Thresholds(windowed_mass=0.95)]
    )
    assert len(loose.plan.heads(Remove)) > len(default.plan.heads(Remove)) > 0
    assert len(default.plan.heads(Window)) > len(strict.plan.heads(Window))


def test_the_labels_of_a_grid_say_what_differs_from_the_defaults(demo_profile: HeadProfile) -> None:
    cuts = [Thresholds(), Thresholds(windowed_mass=0.9, windows=(4, 8))]
    labels = [case.label for case in grid_cases(demo_profile, cuts, fills=("zero",), sinks=(0,))]
    assert labels == ["0: defaults fill=zero sinks=0", "1: windowed_mass=0.9 windows=(4, 8) fill=zero sinks=0"]


def test_the_cases_of_a_grid_have_keys_of_their_own_also_where_their_plans_are_equal(demo_profile: HeadProfile) -> None:
    cases = grid_cases(demo_profile, [Thresholds(), Thresholds(induction=0.3)])
    assert cases[0].plan == cases[1].plan
    assert cases[0].key != cases[1].key
    assert {case.kind for case in cases} == {"grid"}


def test_a_fill_that_does_not_exist_is_refused(demo_profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match="fill 'median': choose zero, mean or random"):
        grid_cases(demo_profile, [Thresholds()], fills=("median",))


# Controls.


def per_layer(plan: HeadPlan) -> Counter[tuple[int, str]]:
    return Counter((head.layer, str(what)) for head, what in plan.treatments.items())


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from(HEADS), st.sampled_from(["zero", "mean", "random", "window:3", "window:8+0"])),
    st.integers(0, 1000),
)
def test_a_control_gives_each_layer_the_same_treatments(wish: dict[str, str], seed: int) -> None:
    plan = plan_of(plain(), wish)
    assert per_layer(matched_random(plan, profile_of(plain()), seed)) == per_layer(plan)


def big_case(demo_profile: HeadProfile) -> Case:
    treatments = ["mean", "mean", "window:8", "zero", "random", "mean"]
    heads = ["L0H1", "L1H5", "L1H6", "L2H0", "L3H3", "L3H4"]
    return Case("curve", "mine", plan_heads(demo_profile, zip(heads, treatments, strict=True), seed=5))


def test_controls_are_the_same_for_the_same_seed(demo_profile: HeadProfile) -> None:
    first, second = (control_cases(big_case(demo_profile), demo_profile, 4, seed=3) for _ in range(2))
    assert [case.key for case in first] == [case.key for case in second]


def test_controls_differ_from_one_another_and_from_the_plan(demo_profile: HeadProfile) -> None:
    case = big_case(demo_profile)
    digests = [control.plan.digest for control in control_cases(case, demo_profile, 8)]
    assert len({*digests, case.plan.digest}) == 9


def test_another_seed_draws_other_controls(demo_profile: HeadProfile) -> None:
    case = big_case(demo_profile)
    first, second = (control_cases(case, demo_profile, 3, seed=seed) for seed in (0, 100))
    assert not {control.plan.digest for control in first} & {control.plan.digest for control in second}


def test_controls_take_their_fills_from_the_profile(demo_profile: HeadProfile) -> None:
    [control] = control_cases(big_case(demo_profile), demo_profile, 1)
    expected = plan_heads(demo_profile, control.plan.treatments, seed=5)
    assert control.plan == expected


def test_controls_are_labelled_with_their_plan_and_number(demo_profile: HeadProfile) -> None:
    controls = control_cases(big_case(demo_profile), demo_profile, 2)
    assert [control.label for control in controls] == ["mine, random 0", "mine, random 1"]
    assert {control.kind for control in controls} == {"control"}


def test_no_controls_can_be_asked_for(demo_profile: HeadProfile) -> None:
    assert control_cases(big_case(demo_profile), demo_profile, 0) == []


def test_controls_reach_every_head_of_a_layer(demo_profile: HeadProfile) -> None:
    case = Case("single", "one", plan_heads(demo_profile, {"L2H0": "zero"}))
    found = {str(head) for control in control_cases(case, demo_profile, 60) for head in control.plan.treatments}
    assert found == {f"L2H{head}" for head in range(8)}
