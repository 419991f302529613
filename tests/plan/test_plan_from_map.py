"""The plan that a head map suggests, and the two optimisers one looks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_makers import CONTEXT, made_up_map, made_up_profile

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.plan.make import make_plan, plan_heads
from headspec.plan.optimizers import DeadHeadPruner, PositionalHeadOptimizer
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Fill
from headspec.probe.profile import HeadProfile

ROLES = {"L0H1": "confirmed", "L0H2": "candidate", "L1H0": "window 8", "L1H3": "window 3"}
kinds = st.sampled_from(["gathering", "confirmed", "candidate", "window 3", "window 64"])
maps = st.dictionaries(st.sampled_from([f"L{i}H{j}" for i in range(2) for j in range(4)]), kinds)


def treated(plan: HeadPlan) -> dict[str, str]:
    return {str(head): str(what) for head, what in plan.treatments.items()}


def test_confirmed_heads_are_removed_and_positional_ones_windowed(profile: HeadProfile) -> None:
    plan = make_plan(made_up_map(**ROLES), profile)
    assert treated(plan) == {"L0H1": "mean", "L1H0": "window:8", "L1H3": "window:3"}


def test_candidates_are_removed_only_when_asked_for(profile: HeadProfile) -> None:
    found = made_up_map(**ROLES)
    assert "L0H2" not in treated(make_plan(found, profile))
    assert treated(make_plan(found, profile, candidates=True)) == {**treated(make_plan(found, profile)), "L0H2": "mean"}


def test_positional_heads_can_be_left_alone(profile: HeadProfile) -> None:
    assert treated(make_plan(made_up_map(**ROLES), profile, positional=False)) == {"L0H1": "mean"}


def test_windows_keep_as_many_sinks_as_are_asked_for(profile: HeadProfile) -> None:
    plan = make_plan(made_up_map(**ROLES), profile, sinks=0)
    assert treated(plan) == {"L0H1": "mean", "L1H0": "window:8+0", "L1H3": "window:3+0"}


def test_a_map_of_gathering_heads_suggests_nothing() -> None:
    assert len(make_plan(made_up_map())) == 0


@pytest.mark.parametrize("fill", Fill)
def test_dead_heads_get_the_fill_that_is_asked_for(profile: HeadProfile, fill: Fill) -> None:
    plan = make_plan(made_up_map(L0H1="confirmed"), profile, fill=fill, seed=5)
    assert plan == plan_heads(profile, {"L0H1": str(fill)}, seed=5)
    np.testing.assert_array_equal(
        plan.fills[HeadId(0, 1)], plan_heads(profile, {"L0H1": str(fill)}, seed=5).fills[HeadId(0, 1)]
    )


def test_a_fill_may_be_given_by_its_word(profile: HeadProfile) -> None:
    assert treated(make_plan(made_up_map(L0H1="confirmed"), profile, fill="zero")) == {"L0H1": "zero"}


def test_an_unknown_fill_is_refused_also_where_no_head_is_dead(profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match="fill 'average': choose zero, mean or random"):
        make_plan(made_up_map(), profile, fill="average")


def test_a_mean_needs_a_profile() -> None:
    with pytest.raises(HeadspecError, match="L0H1=mean: this fill comes from a HeadProfile: give profile="):
        make_plan(made_up_map(L0H1="confirmed"))


def test_zeros_need_no_profile() -> None:
    assert treated(make_plan(made_up_map(L0H1="confirmed"), fill=Fill.ZERO)) == {"L0H1": "zero"}


def test_a_profile_of_another_model_is_refused_naming_both() -> None:
    with pytest.raises(RecordError, match=r"made for another .* not for made-up"):
        make_plan(made_up_map(L0H1="confirmed"), made_up_profile(model="another"))


def test_layers_that_the_map_says_nothing_about_are_kept(profile: HeadProfile) -> None:
    plan = make_plan(made_up_map(layers=(1,), L1H0="confirmed"), profile)
    assert treated(plan) == {"L1H0": "mean"}
    assert len(plan.about.heads) == 8


def test_sinks_beyond_the_context_are_refused(profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match=f"L1H0: .* is beyond the model's context of {CONTEXT} keys"):
        make_plan(made_up_map(**ROLES), profile, sinks=CONTEXT + 1)


def test_fewer_than_no_sinks_are_refused(profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match="sinks -1: want a number of keys, 0 or more"):
        make_plan(made_up_map(**ROLES), profile, sinks=-1)


def test_the_plan_is_for_the_model_of_the_map(profile: HeadProfile) -> None:
    about = make_plan(made_up_map(**ROLES), profile, seed=5).about
    assert (about.model, about.profile, about.text, about.seed) == ("made-up", profile.digest, "numbers", 5)


@settings(max_examples=40, deadline=None)
@given(maps, st.booleans(), st.booleans())
def test_what_happens_to_a_head_depends_on_its_own_verdict_only(
    roles: dict[str, str], candidates: bool, positional: bool
) -> None:
    profile = made_up_profile()
    plan = make_plan(made_up_map(**roles), profile, candidates=candidates, positional=positional)
    for name, role in roles.items():
        alone = make_plan(made_up_map(**{name: role}), profile, candidates=candidates, positional=positional)
        assert plan[name] == alone[name]


# The two optimisers.


def test_the_pruner_removes_confirmed_heads_and_keeps_all_others(profile: HeadProfile) -> None:
    assert treated(DeadHeadPruner().plan(made_up_map(**ROLES), profile)) == {"L0H1": "mean"}


def test_the_pruner_removes_candidates_when_asked_to(profile: HeadProfile) -> None:
    plan = DeadHeadPruner(candidates=True).plan(made_up_map(**ROLES), profile)
    assert treated(plan) == {"L0H1": "mean", "L0H2": "mean"}


def test_the_pruner_uses_its_fill_and_seed(profile: HeadProfile) -> None:
    plan = DeadHeadPruner(fill=Fill.RANDOM, seed=4).plan(made_up_map(**ROLES), profile)
    assert plan == plan_heads(profile, {"L0H1": "random"}, seed=4)


def test_the_pruner_takes_its_fill_by_the_word(profile: HeadProfile) -> None:
    assert treated(DeadHeadPruner(fill="mean").plan(made_up_map(**ROLES), profile)) == {"L0H1": "mean"}


def test_the_pruner_with_zeros_needs_no_profile() -> None:
    assert treated(DeadHeadPruner(fill=Fill.ZERO).plan(made_up_map(**ROLES))) == {"L0H1": "zero"}


def test_the_optimizer_windows_positional_heads_and_keeps_dead_ones() -> None:
    plan = PositionalHeadOptimizer().plan(made_up_map(**ROLES))
    assert treated(plan) == {"L1H0": "window:8", "L1H3": "window:3"}
    assert dict(plan.fills) == {}


def test_the_optimizer_keeps_as_many_sinks_as_are_asked_for() -> None:
    plan = PositionalHeadOptimizer(sinks=1).plan(made_up_map(**ROLES))
    assert treated(plan) == {"L1H0": "window:8+1", "L1H3": "window:3+1"}


@settings(max_examples=40, deadline=None)
@given(maps)
def test_pruner_and_optimizer_together_make_the_plan_of_the_map(roles: dict[str, str]) -> None:
    profile, found = made_up_profile(), made_up_map(**roles)
    both = DeadHeadPruner().plan(found, profile) | PositionalHeadOptimizer().plan(found)
    assert both == make_plan(found, profile)
