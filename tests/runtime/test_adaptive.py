"""Verdicts that do not flicker, by hand: hysteresis, dwell, death, and what is not known."""

import json
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_makers import treatment_of

from headspec.plan.treatments import parse_treatment
from headspec.runtime.adaptive import FULL, AdaptivePolicy, Judge, Verdict, describe, may_change
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.evidence import Margins
from headspec.runtime.thresholds import RoleThresholds

WINDOWS = (4, 8, 16)
POLICY = AdaptivePolicy(thresholds=RoleThresholds(windows=WINDOWS), hysteresis=0.125)
GATHERING, DEAD = Verdict("gathering"), Verdict("dead")
NO = [-1.0, -1.0, -1.0]
YES = [0.5, 0.5, 0.5]
WIDER = [-1.0, 0.5, 0.5]


def positional(window: int) -> Verdict:
    return Verdict("positional", window)


def ring(window: int, sinks: int = 4) -> HeadGroup:
    return HeadGroup((), window, sinks)


def judged(judge: Judge, fits: list[float], dead: float = -1.0, whole: bool = True) -> Verdict:
    """Of the only head."""
    return judge.judge(Margins([dead], [fits]), [whole])[0]


# One look.


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        ([0.0, 0.5, 0.5], positional(4)), ([-0.01, 0.0, 0.5], positional(8)), ([-1.0, -1.0, 0.1], positional(16)),
        (NO, GATHERING), ([-inf] * 3, GATHERING), ([0.5, -0.2, -inf], positional(4)),
    ],
)  # fmt: skip
def test_the_smallest_window_that_passes_is_what_a_head_needs(fits: list[float], expected: Verdict) -> None:
    assert POLICY.verdict(-1.0, fits, GATHERING) == expected


@pytest.mark.parametrize(
    ("dead", "expected"), [(0.0, DEAD), (0.5, DEAD), (-1e-9, positional(4)), (-inf, positional(4))]
)
def test_dead_goes_before_positional(dead: float, expected: Verdict) -> None:
    assert POLICY.verdict(dead, YES, GATHERING) == expected


def test_nobody_is_dead_where_that_is_not_wanted() -> None:
    assert replace(POLICY, dead=False).verdict(1.0, NO, GATHERING) == GATHERING


@pytest.mark.parametrize(
    ("held", "expected"),
    [(0.0, positional(8)), (-0.125, positional(8)), (-0.126, positional(16)), (-inf, positional(8))],
)
def test_a_positional_head_stays_one_until_it_misses_by_the_hysteresis(held: float, expected: Verdict) -> None:
    assert POLICY.verdict(-1.0, [-1.0, held, 0.5], positional(8)) == expected


def test_a_smaller_window_that_would_do_changes_nothing() -> None:
    assert POLICY.verdict(-1.0, [0.5, 0.5, 0.5], positional(8)) == positional(8)


def test_a_gathering_head_has_no_hysteresis() -> None:
    assert POLICY.verdict(-1.0, [-0.1, -0.1, -0.1], GATHERING) == GATHERING


@pytest.mark.parametrize("before", [GATHERING, positional(8), DEAD])
def test_without_every_key_a_verdict_stays(before: Verdict) -> None:
    assert POLICY.verdict(-1.0, None, before) == before


def test_without_every_key_a_head_may_still_be_found_dead() -> None:
    assert POLICY.verdict(0.1, None, positional(8)) == DEAD


@given(dead=st.floats(-2, 2), fits=st.none() | st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_dead_is_final(dead: float, fits: list[float] | None) -> None:
    assert POLICY.verdict(dead, fits, DEAD) == DEAD


# One look after another.


def test_the_first_classification_counts_at_once() -> None:
    assert judged(Judge(replace(POLICY, dwell=5), 1), YES) == positional(4)


@pytest.mark.parametrize("dwell", [1, 2, 3])
def test_a_change_waits_until_so_many_classifications_agree(dwell: int) -> None:
    judge = Judge(replace(POLICY, dwell=dwell), 1)
    judged(judge, NO)
    found = [judged(judge, YES) for _ in range(4)]
    assert found == [GATHERING] * (dwell - 1) + [positional(4)] * (5 - dwell)


def test_classifications_that_disagree_start_the_count_anew() -> None:
    judge = Judge(replace(POLICY, dwell=2), 1)
    judged(judge, NO)
    wishes = [YES, NO, YES, WIDER, YES, YES]
    assert [judged(judge, fits) for fits in wishes] == [GATHERING] * 5 + [positional(4)]


def test_death_waits_like_any_change() -> None:
    judge = Judge(replace(POLICY, dwell=2), 1)
    judged(judge, NO)
    assert [judged(judge, NO, dead=0.5) for _ in range(3)] == [GATHERING, DEAD, DEAD]
    assert [judged(judge, YES) for _ in range(5)] == [DEAD] * 5


def test_a_head_that_swings_within_the_hysteresis_never_changes() -> None:
    judge = Judge(replace(POLICY, dwell=1), 1)
    assert {judged(judge, [margin, -1.0, -1.0]) for margin in [0.1, -0.1, 0.0, -0.125, 0.05, -0.02]} == {positional(4)}


@pytest.mark.parametrize("first", [NO, YES, [-1.0, -1.0, 0.2]])
def test_nothing_known_changes_nothing(first: list[float]) -> None:
    judge = Judge(replace(POLICY, dwell=1), 1)
    before = judged(judge, first)
    assert [judged(judge, [-inf] * 3, dead=-inf) for _ in range(3)] == [before] * 3


def test_heads_are_judged_apart() -> None:
    judge = Judge(replace(POLICY, dwell=1), 3)
    margins = Margins([-1.0, 0.5, -1.0], [YES, YES, NO])
    assert judge.judge(margins, [True] * 3) == [positional(4), DEAD, GATHERING]
    other = Margins([-1.0, -1.0, -1.0], [NO, YES, WIDER])
    assert judge.judge(other, [False, False, True]) == [positional(4), DEAD, positional(8)]


margins = st.floats(-0.5, 0.5) | st.just(-inf)


@given(looks=st.lists(st.tuples(margins, st.lists(margins, min_size=3, max_size=3), st.booleans()), max_size=12),
       dwell=st.integers(1, 3))  # fmt: skip
def test_a_verdict_changes_only_to_what_the_last_looks_agree_on(looks: Any, dwell: int) -> None:
    policy = replace(POLICY, dwell=dwell)
    judge, before, wishes = Judge(policy, 1), GATHERING, []
    for number, (dead, fits, whole) in enumerate(looks):
        wishes.append(policy.verdict(dead, fits if whole else None, before))
        after = judged(judge, fits, dead, whole)
        if after != before:
            assert set(wishes[-dwell if number else -1 :]) == {after}
            assert before != DEAD
        before = after


# Treatments.


def test_positional_heads_share_the_widest_window_and_gathering_heads_keep_all() -> None:
    verdicts = [positional(4), GATHERING, positional(16), DEAD]
    assert POLICY.treatments(0, 100, verdicts, [FULL] * 4) == [ring(16), FULL, ring(16), None]


def test_positional_heads_may_have_windows_of_their_own() -> None:
    apart = replace(POLICY, together=False, sinks=1)
    assert apart.treatments(0, 100, [positional(4), positional(16)], [FULL] * 2) == [ring(4, 1), ring(16, 1)]


def test_watching_leaves_everything_as_it_is() -> None:
    now = [FULL, ring(8), None]
    assert replace(POLICY, watch_only=True).treatments(0, 100, [DEAD, GATHERING, DEAD], now) == now


@pytest.mark.parametrize(("n_read", "compresses"), [(99, False), (100, False), (101, True)])
def test_a_budget_in_keys_waits_until_there_is_something_to_drop(n_read: int, compresses: bool) -> None:
    policy = AdaptivePolicy(policy="snapkv", budget=100, latest=10)
    wanted = HeadGroup((), 0, 0, "snapkv", 100, False, 10) if compresses else FULL
    assert policy.treatments(0, n_read, [GATHERING], [FULL]) == [wanted]


def test_a_share_is_kept_at_once() -> None:
    policy = AdaptivePolicy(policy="random", budget=0.25, shared=True)
    assert policy.treatments(0, 5, [GATHERING], [FULL]) == [HeadGroup((), 0, 0, "random", 0.25, True, 0)]


COMPRESSED = HeadGroup((), 0, 0, "snapkv", 0.5)


@pytest.mark.parametrize(
    ("now", "wanted", "n_read", "possible"),
    [
        (FULL, ring(8), 500, True), (FULL, COMPRESSED, 500, True), (FULL, None, 500, True), (FULL, FULL, 500, False),
        (ring(8), FULL, 8, True), (ring(8), FULL, 9, False), (ring(8), ring(16), 8, True),
        (ring(8), ring(16), 9, False), (ring(8), ring(4), 100, False), (ring(8), COMPRESSED, 8, True),
        (ring(8), COMPRESSED, 9, False), (ring(8), None, 100, True), (ring(8), ring(8), 3, False),
        (COMPRESSED, FULL, 3, False), (COMPRESSED, ring(8), 3, False), (COMPRESSED, None, 300, True),
        (None, FULL, 3, False), (None, None, 3, False),
    ],
)  # fmt: skip
def test_a_treatment_changes_only_where_its_keys_are_there(now: Any, wanted: Any, n_read: int, possible: bool) -> None:
    assert may_change(now, wanted, n_read) == possible


@pytest.mark.parametrize(
    "text",
    ["keep", "mean", "window:8", "window:8+0", "compress:snapkv:0.5", "compress:snapkv:64:latest32",
     "compress:random:0.25:adakv", "compress:snapkv:64:latest32:adakv", "compress:streaming:40"],
)  # fmt: skip
def test_treatments_are_described_in_the_words_of_plans(text: str) -> None:
    assert describe(treatment_of(text)) == text
    assert str(parse_treatment(text)) == text


# Settings.


def test_settings_come_back_from_json() -> None:
    policy = AdaptivePolicy(thresholds=RoleThresholds(windows=(2, 9)), policy="snapkv", budget=64, latest=8, memory=0)
    assert AdaptivePolicy(**json.loads(json.dumps(policy.to_dict()))) == policy


def test_the_defaults_are_those_of_the_offline_classification() -> None:
    assert AdaptivePolicy().thresholds == RoleThresholds()


@pytest.mark.parametrize("name", ["observed", "every", "dwell", "least"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None])
def test_numbers_that_must_be_one_or_more_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r}: want a whole number, 1 or more"):
        AdaptivePolicy(**{name: value})


@pytest.mark.parametrize("name", ["sinks", "reclassify", "first_query"])
@pytest.mark.parametrize("value", [-1, 0.5, False, None])
def test_numbers_that_must_not_be_negative_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r}: want a whole number, 0 or more"):
        AdaptivePolicy(**{name: value})


@pytest.mark.parametrize(
    "values",
    [{"memory": -0.1}, {"memory": 1.1}, {"memory": nan}, {"hysteresis": -1}, {"hysteresis": nan}, {"caution": 0}],
)
def test_shares_outside_their_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"memory=.*, hysteresis=.*, caution=.*: want \[0, 1\], 0 or more"):
        AdaptivePolicy(**values)


def test_classifying_between_two_looks_is_refused() -> None:
    with pytest.raises(ValueError, match="reclassify=64: want a multiple of every=10, or 0"):
        AdaptivePolicy(every=10)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"policy 'h2o': choose one of .*snapkv.*leave it empty"):
        AdaptivePolicy(policy="h2o")


def test_expected_attention_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="needs a probe's statistics: put it into the exported plan"):
        AdaptivePolicy(policy="expected_attention")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 0.0}, "budget"), ({"budget": 1.5}, "budget"), ({"budget": 0}, "budget"), ({"budget": -3}, "budget"),
        ({"budget": True}, "budget"), ({"budget": "half"}, "budget"), ({"budget": nan}, "budget"),
        ({"budget": 8, "latest": 8}, "latest"), ({"budget": 0.5, "latest": 8}, "latest"),
        ({"latest": -1, "budget": 9}, "latest=-1"), ({"shared": 1}, "shared=1: want True or False"),
        ({"policy": "streaming"}, "number of keys"), ({"policy": "streaming", "budget": 9, "shared": True}, "without"),
    ],
)  # fmt: skip
def test_budgets_that_no_compressed_head_has_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptivePolicy(**{"policy": "snapkv", **values})


@pytest.mark.parametrize("thresholds", [None, 0.5, [0.8], "loose", AdaptivePolicy])
def test_what_are_no_thresholds_is_refused(thresholds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="thresholds"):
        AdaptivePolicy(thresholds=thresholds)


@pytest.mark.parametrize("thresholds", [{"windowed_mass": 2.0}, {"windows": []}])
def test_cut_offs_outside_their_range_are_refused(thresholds: Any) -> None:
    with pytest.raises(ValueError, match=r"windowed_mass is a share|windows are rising"):
        AdaptivePolicy(thresholds=thresholds)


@pytest.mark.parametrize("name", ["dead", "together", "watch_only"])
def test_switches_that_are_neither_true_nor_false_are_refused(name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        AdaptivePolicy(**{name: "no"})
