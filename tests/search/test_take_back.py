"""Spending what a small enough plan leaves of its bytes: one head after another steps back."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_makers import ids, plain, profile_of

from headspec.heads import HeadId
from headspec.measure.bound import Rates
from headspec.plan.treatments import parse_treatment
from headspec.plan.workload import Workload
from headspec.search import evaluate
from headspec.search.budget import Budget
from headspec.search.choose import Search
from headspec.search.evaluate import Evaluator
from headspec.search.path import Move
from headspec.search.point import Point

TEXT = ids(3, 48)


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates are not measured."""
    monkeypatch.setattr(evaluate, "measure_rates", lambda *_: Rates(1e10, 1e11))


MANY = ("mean", "window:3", "window:16", "compress:snapkv:16:latest8", "compress:snapkv:8:latest4")


@lru_cache
def searching() -> Search:
    heads = [HeadId(layer, head) for layer in range(2) for head in range(4)]
    evaluator = Evaluator(plain(), TEXT, 2, 0, Workload(24, 24))
    return Search(evaluator, Budget(max_kv_share=0.5), profile_of(plain()), heads, [parse_treatment(w) for w in MANY])


def taken_back(limit: float, most: int = 30) -> list[Point]:
    """What is measured on the way."""
    search = searching()
    search.budget, search.points, search.evaluator.n_measured = Budget(max_kv_share=limit), [], 0
    search._take_back(search._small_enough(limit), most)
    assert search.evaluator.n_measured == len(search.points)
    return search.points


LIMITS = [part / 40 for part in range(3, 39, 2)]


@lru_cache
def every_limit() -> dict[float, list[Point]]:
    return {limit: taken_back(limit) for limit in LIMITS}


def test_taking_back_never_goes_beyond_the_bytes() -> None:
    assert sum(len(points) > 1 for points in every_limit().values()) > 3, "some limits leave room"
    for limit, points in every_limit().items():
        assert all(point.kv_share <= limit for point in points), limit


def test_taking_back_never_ends_with_a_larger_kl_and_never_with_fewer_bytes() -> None:
    for points in every_limit().values():
        best = min(points, key=lambda point: point.kl.value)
        assert best.kl.value <= points[0].kl.value
        assert all(point.kv_share >= points[0].kv_share for point in points)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_taking_back_measures_no_more_plans_than_it_may(most: int) -> None:
    assert max(len(taken_back(limit, most)) for limit in LIMITS) == most


A, B, C = (Move(HeadId(0, head), parse_treatment("window:4"), 3.0 - head) for head in range(3))


def taking_back(kl: dict[frozenset[Move], float], fits: Callable[[list[Move]], bool]) -> list[frozenset[Move]]:
    """What is measured, beginning with three moves of three heads, where each set of moves has this KL."""
    measured: list[frozenset[Move]] = []

    def measure(moves: Sequence[Move]) -> Any:
        measured.append(frozenset(moves))
        return SimpleNamespace(kl=SimpleNamespace(value=kl[frozenset(moves)]))

    search: Any = object.__new__(Search)
    search.evaluator, search.measure = SimpleNamespace(n_measured=0), measure
    search._too_large = lambda moves: not fits(moves)
    search._take_back([A, B, C], 1000)
    return list(dict.fromkeys(measured))


def test_by_hand_the_head_whose_return_lowers_the_kl_most_goes_back() -> None:
    kl = {frozenset({A, B, C}): 9.0, frozenset({B, C}): 7.0, frozenset({A, C}): 5.0, frozenset({A, B}): 8.0}
    found = taking_back(kl, lambda moves: len(moves) >= 2)
    assert found == [{A, B, C}, {B, C}, {A, C}, {A, B}]  # the dearest move first; then nothing smaller fits


def test_by_hand_it_goes_on_while_the_kl_falls() -> None:
    kl = {frozenset({A, B, C}): 9.0, frozenset({B, C}): 7.0, frozenset({A, C}): 5.0, frozenset({A, B}): 8.0,
          frozenset({C}): 6.0, frozenset({A}): 5.5}  # fmt: skip
    assert taking_back(kl, bool)[-2:] == [{C}, {A}]  # from A and C, where it ends: both are worse


def test_by_hand_what_is_too_large_is_not_measured() -> None:
    kl = {frozenset({A, B, C}): 9.0, frozenset({A, B}): 8.0}
    assert taking_back(kl, lambda moves: C not in moves and len(moves) == 2) == [{A, B, C}, {A, B}]


def test_a_head_on_its_second_move_goes_back_to_its_first() -> None:
    search = searching()
    taken = search._small_enough(0.3)
    heads = [move.head for move in taken]
    last = {move.head: move for move in taken}
    twice = next(move for move in last.values() if heads.count(move.head) > 1)
    plan = search.measure([move for move in taken if move is not twice]).plan
    before = [move.to for move in taken if move.head == twice.head][-2]
    assert plan[twice.head] == before != twice.to
