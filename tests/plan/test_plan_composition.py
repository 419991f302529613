"""Plans together, in part and side by side: `|`, only, without, difference, equality, digest, renamed."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_makers import made_up_map, made_up_profile

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import KEEP, Fill, Remove, Window
from headspec.probe.profile import HeadProfile

PROFILE = made_up_profile()
NAMES = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
TEXTS = ["zero", "mean", "random", "window:8", "window:3+0", "compress:snapkv:0.5"]
Wish = dict[str, str]
wishes = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS))
some_heads = st.sets(st.sampled_from(NAMES))
few = settings(max_examples=50, deadline=None)


def made(*several: Wish) -> list[HeadPlan]:
    return [plan_heads(PROFILE, wish) for wish in several]


def treated(plan: HeadPlan) -> dict[str, str]:
    return {str(head): str(what) for head, what in plan.treatments.items()}


# Both together.


def test_both_plans_together_treat_the_heads_of_both(profile: HeadProfile) -> None:
    both = plan_heads(profile, {"L0H0": "mean"}) | plan_heads(profile, {"L1H1": "window:8"})
    assert treated(both) == {"L0H0": "mean", "L1H1": "window:8"}


def test_where_both_plans_treat_a_head_the_right_one_counts(profile: HeadProfile) -> None:
    left, right = plan_heads(profile, {"L0H0": "mean", "L1H1": "zero"}), plan_heads(profile, {"L0H0": "window:8"})
    assert treated(left | right) == {"L0H0": "window:8", "L1H1": "zero"}
    assert treated(right | left) == {"L0H0": "mean", "L1H1": "zero"}


def test_where_both_plans_remove_a_head_the_right_fill_counts(profile: HeadProfile) -> None:
    left, right = plan_heads(profile, {"L0H0": "mean"}), plan_heads(profile, {"L0H0": "random"})
    np.testing.assert_array_equal((left | right).fills[HeadId(0, 0)], right.fills[HeadId(0, 0)])


def test_a_head_that_the_right_plan_windows_has_no_fill_any_more(profile: HeadProfile) -> None:
    assert dict((plan_heads(profile, {"L0H0": "mean"}) | plan_heads(profile, {"L0H0": "window:8"})).fills) == {}


@few
@given(wishes, wishes, wishes)
def test_putting_plans_together_does_not_depend_on_brackets(one: Wish, two: Wish, three: Wish) -> None:
    first, second, third = made(one, two, three)
    assert (first | second) | third == first | (second | third)


@few
@given(wishes)
def test_a_plan_together_with_itself_or_nothing_is_itself(wish: Wish) -> None:
    plan, nothing = made(wish, {})
    assert plan | plan == plan | nothing == nothing | plan == plan


@few
@given(wishes, wishes)
def test_both_together_leave_both_as_they_were(one: Wish, two: Wish) -> None:
    first, second = made(one, two)
    before = treated(first), treated(second), first.digest, second.digest
    first | second
    assert (treated(first), treated(second), first.digest, second.digest) == before


# Parts.


def test_only_some_heads_are_treated_and_the_others_kept(mixed: HeadPlan) -> None:
    assert treated(mixed.only(["0.3", HeadId(1, 0), "L0H0"])) == {"L0H3": "mean", "L1H0": "window:8+0"}


def test_a_plan_without_some_heads_keeps_them(mixed: HeadPlan) -> None:
    rest = mixed.without(["L0H1", "1.3", "L0H0"])
    assert treated(rest) == {"L0H3": "mean", "L1H0": "window:8+0", "L1H2": "random"}
    assert rest["L0H1"] == KEEP


@few
@given(wishes, some_heads)
def test_a_plan_falls_apart_into_two_and_can_be_put_together_again(wish: Wish, some: set[str]) -> None:
    [plan] = made(wish)
    assert plan.only(some) | plan.without(some) == plan


@few
@given(wishes, some_heads)
def test_the_parts_of_a_plan_do_to_a_head_what_the_plan_does(wish: Wish, some: set[str]) -> None:
    [plan] = made(wish)
    for name in NAMES:
        assert plan.only(some)[name] == (plan[name] if name in some else KEEP)
        assert plan.without(some)[name] == (KEEP if name in some else plan[name])


@pytest.mark.parametrize("part", [HeadPlan.only, HeadPlan.without])
def test_parts_by_a_head_that_the_model_lacks_are_refused(
    mixed: HeadPlan, part: Callable[[HeadPlan, list[str]], HeadPlan]
) -> None:
    with pytest.raises(HeadspecError, match="unknown heads L9H3"):
        part(mixed, ["L0H1", "L9H3"])


@pytest.mark.parametrize(
    "change",
    [lambda plan: plan | plan, lambda plan: plan.only(["L0H1"]), lambda plan: plan.without(["L0H1"])],
    ids=["or", "only", "without"],
)
def test_another_plan_does_not_inherit_the_certificate(mixed: HeadPlan, change: Callable[[HeadPlan], HeadPlan]) -> None:
    assert change(mixed.certified({"loss": 0.1})).certificate is None


# Side by side.


def test_heads_treated_differently_are_listed_with_both_treatments(profile: HeadProfile) -> None:
    here = plan_heads(profile, {"L0H0": "mean", "L0H1": "zero", "L1H1": "window:8"})
    there = plan_heads(profile, {"L0H0": "mean", "L0H1": "mean", "L1H2": "window:8"})
    assert here.difference(there) == {
        HeadId(0, 1): (Remove(Fill.ZERO), Remove(Fill.MEAN)),
        HeadId(1, 1): (Window(8), KEEP),
        HeadId(1, 2): (KEEP, Window(8)),
    }


@few
@given(wishes, wishes)
def test_plans_are_equal_exactly_where_they_do_not_differ(one: Wish, two: Wish) -> None:
    first, second = made(one, two)
    assert (first == second) == (first.difference(second) == {}) == (first.digest == second.digest)


@few
@given(wishes, wishes)
def test_differences_are_the_same_seen_from_the_other_side(one: Wish, two: Wish) -> None:
    first, second = made(one, two)
    backwards = {head: (there, here) for head, (here, there) in second.difference(first).items()}
    assert first.difference(second) == backwards


def test_plans_with_other_fills_are_not_equal(profile: HeadProfile) -> None:
    first, second = (plan_heads(profile, {"L0H0": "random"}, seed=seed) for seed in (0, 1))
    assert first != second
    assert first.digest != second.digest


def test_plans_whose_fills_belong_to_each_others_heads_have_another_digest() -> None:
    first, second = (made_up_profile() for _ in range(2))
    second.mean_z[0, :2] = first.mean_z[0, 1::-1]
    digests = [plan_heads(profile, {"L0H0": "mean", "L0H1": "mean"}).digest for profile in (first, second)]
    assert digests[0] != digests[1]


def test_how_a_plan_was_written_does_not_matter(profile: HeadProfile) -> None:
    first = plan_heads(profile, {"L1H2": "window:8", "L0H0": "mean", "L0H1": "keep"})
    second = plan_heads(profile, [("0.0", Remove(Fill.MEAN)), ("l1h2", "window:8+4")])
    assert first == second
    assert first.digest == second.digest


def test_certificates_do_not_count_for_equality(mixed: HeadPlan) -> None:
    assert mixed.certified({"loss": 0.1}) == mixed.certified({"loss": 0.2}) == mixed


def test_a_plan_equals_no_other_thing(mixed: HeadPlan) -> None:
    assert mixed != dict(mixed.treatments)
    assert mixed != "mixed"


def test_a_plan_cannot_be_a_key(mixed: HeadPlan) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        {mixed}  # noqa: B018


# Another model.


def other(heads: Any = ()) -> HeadPlan:
    return plan_heads(made_up_profile(model="another"), dict(heads))


def test_plans_for_two_models_are_not_equal() -> None:
    assert other() != plan_heads(PROFILE, {})


@pytest.mark.parametrize("combine", [HeadPlan.__or__, HeadPlan.difference], ids=["or", "difference"])
def test_plans_for_two_models_do_not_combine(mixed: HeadPlan, combine: Callable[[HeadPlan, HeadPlan], object]) -> None:
    with pytest.raises(RecordError, match="one plan is for made-up, the other for another"):
        combine(mixed, other({"L0H0": "mean"}))


def test_a_renamed_plan_is_for_the_other_name_and_otherwise_the_same(mixed: HeadPlan) -> None:
    renamed = mixed.certified({"loss": 0.1}).renamed("another")
    assert renamed.about.model == "another"
    assert (treated(renamed), renamed.digest, renamed.certificate) == (treated(mixed), mixed.digest, {"loss": 0.1})
    assert mixed.about.model == "made-up"


def test_a_renamed_plan_combines_with_plans_of_that_name(mixed: HeadPlan) -> None:
    assert treated(mixed.renamed("another") | other({"L0H0": "zero"})) == {"L0H0": "zero", **treated(mixed)}


# Sent away.


@pytest.mark.parametrize("send", [copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_a_plan_can_be_copied_and_sent_to_a_worker(mixed: HeadPlan, send: Callable[[HeadPlan], HeadPlan]) -> None:
    sent = send(mixed)
    assert sent == mixed
    assert sent.about == mixed.about


def test_a_plan_from_a_map_is_the_plan_from_its_profile(profile: HeadProfile) -> None:
    assert plan_heads(made_up_map(), {"L0H0": "random"}, profile) == plan_heads(profile, {"L0H0": "random"})
