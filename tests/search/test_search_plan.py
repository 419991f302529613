"""Searching for a plan: the path of moves by hand, whole searches of tiny models, and two of the demo model."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sweep_makers import HEADS, ids, plain, profile_of

from headspec.classify.confirm import does_induction
from headspec.classify.head_map import HeadMap, HeadStatus
from headspec.classify.rules import classify_heads
from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId, HeadRole
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import load_text
from headspec.measure.quality import measure_plan
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.treatments import Remove, Treatment, parse_treatment
from headspec.plan.workload import Workload
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile
from headspec.search import choose
from headspec.search.budget import Budget
from headspec.search.choose import Search
from headspec.search.evaluate import Evaluator
from headspec.search.path import Move, cost, moves_by_slope, plan_along
from headspec.search.search_plan import SearchResult, search_plan

# The path, by hand: 100 keys of context, so window:6 holds 10 of them (4 are sinks) and window:46 holds 50

ONE = HeadId(0, 0)


def moves_of(weight_value: float = 1.0, **damage: float) -> list[tuple[str, float]]:
    grids = {parse_treatment(what.replace("_", ":")): np.array([[harm]]) for what, harm in damage.items()}
    return [(str(move.to), round(move.slope, 4)) for move in moves_by_slope([ONE], grids, Workload(100), weight_value)]


@pytest.mark.parametrize(
    ("what", "left"), [("keep", 1.25), ("window:6", 0.35), ("window:46", 0.75), ("window:99", 1.25), ("zero", 0.0)]
)
def test_by_hand_a_head_costs_its_share_of_the_keys_and_its_weights(what: str, left: float) -> None:
    assert cost(parse_treatment(what), Workload(100), weight_value=0.25) == pytest.approx(left)


def test_by_hand_a_treatment_above_the_convex_hull_is_left_out() -> None:
    # saved .5, .9, 2; slopes from nothing .1, .3, .245; from window:46 on .55 to window:6, .2933 to mean
    assert moves_of(window_46=0.05, window_6=0.27, mean=0.49) == [("window:46", 0.1), ("mean", 0.2933)]


def test_by_hand_all_treatments_on_the_hull_are_taken_in_order() -> None:
    assert moves_of(0.0, window_46=0.05, window_6=0.27, mean=0.49) == [
        ("window:46", 0.1), ("window:6", 0.55), ("mean", 2.2)]  # fmt: skip


def test_by_hand_removal_that_costs_nothing_is_the_only_move() -> None:
    assert moves_of(window_46=0.0, window_6=0.0, mean=0.0) == [("mean", 0.0)]


def test_what_saves_more_and_harms_less_replaces_what_came_before() -> None:
    assert moves_of(window_46=0.5, mean=0.1) == [("mean", 0.05)]


def test_the_value_of_the_weights_decides_whether_a_window_comes_first() -> None:
    harm = {"window_6": 0.09, "mean": 0.15}
    assert moves_of(0.0, **harm)[0] == ("window:6", 0.1)
    assert moves_of(1.0, **harm) == [("mean", 0.075)]


@lru_cache
def many() -> tuple[list[HeadId], dict[Treatment, np.ndarray], list[Move]]:
    draw = np.random.default_rng(0)
    names = ("mean", "window:3", "window:8", "window:16", "window:64")
    damage = {parse_treatment(name): draw.exponential(size=(2, 4)) for name in names}
    heads = [HeadId.parse(head) for head in HEADS]
    return heads, damage, moves_by_slope(heads, damage, Workload(128), 0.3)


def test_slopes_rise_along_the_path() -> None:
    slopes = [move.slope for move in many()[2]]
    assert slopes == sorted(slopes)
    assert slopes[0] >= 0


def test_every_move_of_a_head_saves_more_than_the_one_before() -> None:
    heads, _, moves = many()
    for head in heads:
        left = [cost(move.to, Workload(128), 0.3) for move in moves if move.head == head]
        assert left == sorted(left, reverse=True)
        assert len(set(left)) == len(left)


def test_the_hull_lies_on_or_below_every_treatment() -> None:
    heads, damage, moves = many()
    start = cost(parse_treatment("keep"), Workload(128), 0.3)
    for head in heads:
        own = [move.to for move in moves if move.head == head]
        saved = [0.0, *(start - cost(what, Workload(128), 0.3) for what in own)]
        harm = [0.0, *(damage[what][head.layer, head.head] for what in own)]
        for what, grid in damage.items():
            on_hull = np.interp(start - cost(what, Workload(128), 0.3), saved, harm)
            assert on_hull <= grid[head.layer, head.head] + 1e-12


def test_only_the_heads_given_are_moved() -> None:
    _, damage, _ = many()
    assert {move.head for move in moves_by_slope([ONE, HeadId(1, 2)], damage, Workload(128))} == {ONE, HeadId(1, 2)}


def test_after_all_moves_every_head_has_the_last_of_its_ladder() -> None:
    heads, damage, moves = many()
    profile = profile_of(plain())
    everything = {what: plan_heads(profile, dict.fromkeys(heads, what)) for what in damage}
    plan = plan_along(moves, everything, plan_heads(profile, {}))
    last = {move.head: move.to for move in moves}
    assert dict(plan.treatments) == last
    assert plan == plan_heads(profile, last)


def test_after_no_moves_nothing_is_treated() -> None:
    empty = plan_heads(profile_of(plain()), {})
    assert plan_along([], {}, empty) == empty


# The refinement


def test_the_next_moves_of_the_path_are_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "TRIES", 1)
    a1, b1, b2, a2 = (
        Move(HeadId(0, head), parse_treatment(what), slope)
        for head, what, slope in ((0, "window:16", 1.0), (1, "window:16", 2.0), (1, "mean", 3.0), (0, "mean", 4.0))
    )
    tried: list[list[Move]] = []

    def measure(moves: Any) -> Any:
        tried.append(list(moves))
        return SimpleNamespace(kl=SimpleNamespace(value=0.0))

    search = object.__new__(Search)
    search.evaluator, search.measure = SimpleNamespace(n_measured=0), measure  # type: ignore[assignment,method-assign]
    search.budget = SimpleNamespace(damage_broken=lambda found: [])  # type: ignore[assignment]
    search._refine([], [a1, b1, b2, a2], 1000)
    assert tried[0] == [a1]


# Tiny models: whole searches in a moment

TEXT, OTHER = ids(3, 48), ids(2, 48, seed=1)
QUICK: dict[str, Any] = {
    "select": TEXT, "certify_on": OTHER, "n_repeats": 2, "n_controls": 1, "seeds": (0,), "max_evaluations": 15,
    "treatments": ("mean", "window:3", "window:16"),
}  # fmt: skip


def protecting(*protected: str) -> HeadProfile:
    """A profile in which these heads do induction."""
    profile = profile_of(plain())
    scores = np.array([0.6 if head in protected else 0.0 for head in HEADS], np.float32).reshape(2, 4)
    return replace(profile, grids=profile.grids | {"induction_score": scores})


def find(budget: Budget, profile: HeadProfile | None = None, **options: Any) -> SearchResult:
    return search_plan(plain(), budget, profile=profile or profile_of(plain()), **{**QUICK, **options})


@lru_cache
def half() -> SearchResult:
    return find(Budget(max_kv_share=0.5))


@lru_cache
def by_damage() -> SearchResult:
    return find(Budget(max_kl=0.1))


def test_a_budget_of_size_is_kept_by_the_size_of_the_plan() -> None:
    found = half()
    assert found.within_budget
    assert plan_size(found.plan).kv_share <= 0.5


def test_within_a_budget_of_size_the_plan_with_the_least_kl_is_chosen() -> None:
    small = [point.kl.value for point in half().points if point.kv_share <= 0.5]
    assert half().chosen.kl.value == min(small)


def test_a_budget_of_damage_holds_on_the_text_the_plan_was_chosen_on() -> None:
    found = by_damage()
    assert found.within_budget
    assert found.chosen.kl.high <= 0.1
    assert len(found.plan) > 0


def test_within_a_budget_of_damage_no_measured_plan_saves_more() -> None:
    found, budget = by_damage(), Budget(max_kl=0.1)
    saved = {id(point): 1 - point.kv_share + point.removed_share for point in found.points}
    assert saved[id(found.chosen)] == max(saved[id(point)] for point in found.points if not budget.broken(point))


def test_both_limits_hold_at_once() -> None:
    found = find(Budget(max_kl=5.0, max_kv_share=0.4))
    assert found.within_budget
    assert found.chosen.kl.high <= 5
    assert found.chosen.kv_share <= 0.4


def test_no_damage_at_all_leaves_the_model_as_it_is() -> None:
    found = find(Budget(max_kl=0.0))
    assert found.within_budget
    assert found.chosen.kl.value == 0
    assert len(found.plan) == 0


def test_without_treated_heads_there_is_no_rank_correlation() -> None:
    assert np.isnan(find(Budget(max_kl=0.0)).rank_correlation)


def test_an_impossible_budget_gives_the_smallest_plan_that_keeps_the_damage() -> None:
    budget = Budget(max_kl=1e-9, max_kv_share=0.05)
    found = find(budget)
    assert not found.within_budget
    safe = [point.kv_share for point in found.points if not budget.damage_broken(point)]
    assert found.chosen.kv_share == min(safe)


def test_a_size_that_protected_heads_forbid_gives_the_smallest_plan() -> None:
    found = find(Budget(max_kv_share=0.1), protecting(*HEADS[:5]), treatments=("mean",))
    assert not found.within_budget
    assert found.chosen.kv_share == min(point.kv_share for point in found.points) == 5 / 8


@pytest.mark.parametrize(
    "budget", [Budget(max_kl=0.1), Budget(max_kv_share=0.45), Budget(max_kl=5.0, max_kv_share=0.45)]
)
@pytest.mark.parametrize("most", [2, 9, 11])
def test_no_more_plans_are_measured_than_allowed(budget: Budget, most: int) -> None:
    assert len(find(budget, max_evaluations=most, n_repeats=0, n_controls=0).points) <= most


def test_fewer_plans_than_two_are_refused() -> None:
    with pytest.raises(HeadspecError, match="max_evaluations=1: want 2 or more"):
        find(Budget(max_kl=0.1), max_evaluations=1)


def test_every_plan_is_measured_once() -> None:
    points = by_damage().points
    assert not any(a.plan == b.plan for number, a in enumerate(points) for b in points[:number])


def test_the_chosen_plan_is_one_of_the_measured() -> None:
    assert any(point is by_damage().chosen for point in by_damage().points)
    assert by_damage().plan == by_damage().chosen.plan


def test_the_front_is_not_beaten() -> None:
    found = by_damage()
    sizes = [(point.kv_share, -point.removed_share, point.kl.value) for point in found.points]
    for point in found.front:
        own = (point.kv_share, -point.removed_share, point.kl.value)
        assert not any(other != own and all(x <= y for x, y in zip(other, own, strict=True)) for other in sizes)


def test_a_search_is_the_same_again() -> None:
    again = find(Budget(max_kl=0.1))
    assert again.plan == by_damage().plan
    assert again.certificate == by_damage().certificate


def test_only_the_treatments_given_are_used() -> None:
    found = find(Budget(max_kv_share=0.3), treatments=("window:8",))
    assert set(found.plan.counts()) <= {"window:8", "keep"}


def test_stages_are_told() -> None:
    told: list[str] = []
    find(Budget(max_kv_share=0.9), stage=told.append)
    assert told == ["forecasting the damage of every treatment", "measuring plans on tokens", "certifying"]


@pytest.mark.parametrize("family", ["neox-sequential", "llama-grouped"])
def test_other_families_can_be_searched(family: str) -> None:
    model = plain(family)
    found = search_plan(model, Budget(max_kv_share=0.6), profile=profile_of(model), **QUICK)
    assert found.within_budget
    assert measure_plan(model, found.plan, TEXT, n_repeats=0, n_needles=0).kl.value == pytest.approx(
        found.chosen.kl.value, rel=1e-4
    )


def test_one_window_of_text_cannot_keep_a_budget_of_damage() -> None:
    found = find(Budget(max_kl=100.0), select=TEXT[:1])
    assert not found.within_budget


def test_repeats_can_be_left_out() -> None:
    found = find(Budget(max_kl=0.1), n_repeats=0)
    assert found.chosen.repeats_kl is None
    assert found.certificate["quality"]["repeats_kl"] is None


# Protected heads and the head map


def test_induction_heads_are_kept() -> None:
    found = find(Budget(max_kv_share=0.5), protecting("L0H1", "L1H3"))
    assert not {HeadId(0, 1), HeadId(1, 3)} & set(found.plan.treatments)
    assert found.within_budget


def test_induction_heads_are_treated_where_that_is_asked_for() -> None:
    found = find(Budget(max_kv_share=0.01), protecting("L0H1"), protect_induction=False)
    assert HeadId(0, 1) in found.plan.treatments


def test_where_every_head_does_induction_the_search_is_refused() -> None:
    with pytest.raises(HeadspecError, match="every head does induction, so none may be treated"):
        find(Budget(max_kv_share=0.5), protecting(*HEADS))


def test_removed_heads_are_confirmed_and_induction_heads_protected_in_the_map(tmp_path: Path) -> None:
    found = find(Budget(max_kl=9.0, min_induction_kept=0.0), protecting("L0H1"), treatments=("mean",))
    removed = set(found.plan.heads(Remove))
    assert removed
    for verdict in HeadMap.load(found.head_map.save(tmp_path / "map.json")):
        gone = verdict.head in removed
        assert (verdict.status is HeadStatus.CONFIRMED) == gone
        assert (verdict.status is HeadStatus.PROTECTED) == (str(verdict.head) == "L0H1")
        assert not gone or (verdict.role is HeadRole.DEAD and verdict.window is None)


def test_the_map_says_with_how_many_others_a_head_was_removed() -> None:
    found = find(Budget(max_kl=9.0, min_induction_kept=0.0), treatments=("mean",))
    removed = found.plan.heads(Remove)
    assert f"together with {len(removed) - 1} others" in found.head_map[removed[0]].reason


def test_a_budget_of_size_confirms_nothing() -> None:
    found = find(Budget(max_kv_share=0.5), treatments=("mean",))
    assert found.within_budget
    assert found.plan.heads(Remove)
    assert not any(verdict.status is HeadStatus.CONFIRMED for verdict in found.head_map)


def test_a_budget_of_size_rejects_no_candidate() -> None:
    found = find(Budget(max_kv_share=0.5), treatments=("mean",))
    assert not any(verdict.status is HeadStatus.REJECTED for verdict in found.head_map)


def test_induction_heads_that_may_be_treated_are_not_called_protected() -> None:
    found = find(Budget(max_kl=9.0, min_induction_kept=0.0), protecting("L0H1"), protect_induction=False)
    assert not any(verdict.status is HeadStatus.PROTECTED for verdict in found.head_map)


def test_the_search_leaves_the_map_it_was_given_alone() -> None:
    given = classify_heads(profile_of(plain()))
    before = [verdict.to_dict() for verdict in given]
    find(Budget(max_kv_share=0.5), head_map=given)
    assert [verdict.to_dict() for verdict in given] == before


def test_a_plan_over_budget_confirms_no_head() -> None:
    found = find(Budget(max_kv_share=0.01), protecting("L0H1"), treatments=("mean",))
    assert not found.within_budget
    assert not [verdict for verdict in found.head_map if verdict.status is HeadStatus.CONFIRMED]


def test_the_profile_of_another_model_is_refused() -> None:
    with pytest.raises(RecordError, match="this record was made for other"):
        find(Budget(max_kl=0.1), replace(profile_of(plain()), about=replace(profile_of(plain()).about, model="other")))


# The certificate


def test_the_certificate_is_plain_json_and_travels_with_the_plan(tmp_path: Path) -> None:
    found = by_damage()
    again = HeadPlan.load(found.plan.save(tmp_path / "plan.json"))
    assert again == found.plan
    assert again.certificate == json.loads(json.dumps(found.certificate, allow_nan=False))


def test_the_certificate_is_of_the_plan_on_the_other_text() -> None:
    found = by_damage()
    fresh = measure_plan(plain(), found.plan, OTHER, n_repeats=2, seed=1000)
    assert found.certificate["quality"] == fresh.to_dict()
    assert found.certificate["seeds"][0]["kl"]["value"] == pytest.approx(fresh.kl.value, rel=1e-4)


def test_the_certificate_counts_and_sizes_are_those_of_the_plan() -> None:
    certificate, plan = half().certificate, half().plan
    assert certificate["heads_removed"] == len(plan.heads(Remove))
    assert certificate["heads_removed"] + certificate["heads_windowed"] == len(plan)
    assert certificate["kv_share"] == plan_size(plan).kv_share
    assert certificate["n_tokens"] == 128


def test_each_seed_of_a_certificate_draws_other_repeats() -> None:
    seeds = find(Budget(max_kv_share=0.5), seeds=(0, 1)).certificate["seeds"]
    assert [each["seed"] for each in seeds] == [1000, 1001]
    assert seeds[0]["repeats_kl"] != seeds[1]["repeats_kl"]
    assert seeds[0]["kl"]["value"] == seeds[1]["kl"]["value"]


def test_a_certificate_without_random_plans_has_no_numbers_of_them() -> None:
    random = find(Budget(max_kv_share=0.5), n_controls=0).certificate["random_plans"]
    assert random == {"n": 0, "kl": [], "perplexity_increase": [], "kl_median": None, "share_worse": None}


def test_by_hand_the_share_of_random_plans_that_are_worse() -> None:
    certificate = find(Budget(max_kv_share=0.5), n_controls=4).certificate
    own, random = certificate["seeds"][0]["kl"]["value"], certificate["random_plans"]
    assert random["share_worse"] == sum(value > own for value in random["kl"]) / 4
    assert random["kl_median"] == pytest.approx(np.median(random["kl"]))


def test_limits_that_do_not_hold_on_fresh_text_are_named() -> None:
    found = find(Budget(max_kv_share=0.01), protecting("L0H1"), treatments=("mean",))
    assert found.certificate["broken"] == ["KV share 0.125 > 0.01"]


# The evaluator


def test_the_evaluator_measures_what_measure_plan_does() -> None:
    plan = plan_heads(profile_of(plain()), {"L0H2": "mean", "L1H0": "window:3"})
    found = Evaluator(plain(), TEXT, 2, seed=5).measure(plan)
    expected = measure_plan(plain(), plan, TEXT, n_repeats=2, n_needles=0, seed=5)
    for name in ("kl", "perplexity_increase", "repeats_kl", "induction_accuracy"):
        own, theirs = getattr(found, name), getattr(expected, name)
        assert [own.value, own.low, own.high] == pytest.approx([theirs.value, theirs.low, theirs.high], rel=1e-3)


def test_induction_that_the_original_cannot_do_is_not_judged() -> None:
    assert Evaluator(plain(), TEXT, 2, seed=0).measure(plan_heads(plain(), {"L0H0": "zero"})).induction_kept is None


# The demo model, which does induction


@pytest.fixture(scope="module")
def demo_plain() -> PlainModel:
    return load_plain("demo", device="cpu")


@pytest.fixture(scope="module")
def profile(demo_plain: PlainModel) -> HeadProfile:
    return probe_heads(demo_plain, load_text(demo_plain, "probe", n_tokens=512), engine="fast", progress=False)


@pytest.fixture(scope="module")
def found(demo_plain: PlainModel, profile: HeadProfile) -> Iterator[SearchResult]:
    select, certify_on = (load_text(demo_plain, name, n_tokens=512, window=256) for name in ("select", "certify"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield search_plan(
            demo_plain, Budget(max_kl=0.1), profile=profile, select=select, certify_on=certify_on, n_repeats=2,
            n_controls=2, seeds=(0,), max_evaluations=15, treatments=("mean", "window:8", "window:32"),
        )  # fmt: skip


def test_the_plan_for_the_demo_model_keeps_its_budget(found: SearchResult) -> None:
    assert found.within_budget
    assert found.chosen.kl.high <= 0.1
    assert found.chosen.induction_kept is not None
    assert found.chosen.induction_kept.low >= 0.9
    assert found.chosen.kv_share < 0.9


def test_the_plan_for_the_demo_model_measured_again_has_the_same_damage(
    found: SearchResult, demo_plain: PlainModel
) -> None:
    select = load_text(demo_plain, "select", n_tokens=512, window=256)
    again = measure_plan(demo_plain, found.plan, select, n_repeats=2, n_needles=0, seed=0)
    assert again.kl.value == pytest.approx(found.chosen.kl.value, rel=1e-4)
    assert found.chosen.repeats_kl is not None
    assert again.repeats_kl is not None
    assert again.repeats_kl.value == pytest.approx(found.chosen.repeats_kl.value, rel=1e-4)
    assert again.perplexity_increase.value == pytest.approx(found.chosen.perplexity_increase.value, rel=1e-3)


def test_forecasts_rank_the_heads_of_the_demo_model(found: SearchResult) -> None:
    assert 0.5 < found.rank_correlation <= 1


def test_no_induction_head_of_the_demo_model_is_treated(found: SearchResult) -> None:
    protected = {verdict.head for verdict in found.head_map if does_induction(verdict, found.head_map)}
    assert protected
    assert not protected & set(found.plan.treatments)
    assert {v.head for v in found.head_map if v.status is HeadStatus.PROTECTED} == protected


def test_random_plans_of_the_demo_model_are_worse_than_the_chosen_one(found: SearchResult) -> None:
    assert found.certificate["random_plans"]["share_worse"] == 1
