"""Choosing a plan: along the path of cheap moves, by joint measurement."""

from collections.abc import Sequence

from scipy.stats import spearmanr

from headspec.errors import HeadspecError
from headspec.heads import HeadId
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.treatments import Compress, Treatment
from headspec.plan.workload import Workload
from headspec.probe.profile import HeadProfile
from headspec.search.attribution import attribute_heads
from headspec.search.budget import Budget
from headspec.search.cases import Case
from headspec.search.evaluate import Evaluator
from headspec.search.fast import measure_fast
from headspec.search.path import Move, moves_by_slope, plan_along
from headspec.search.point import Point

GRID = 8
"""Steps of the path at which plans are measured in any case, for the Pareto front."""
TRIES = 8
"""Moves tried one by one, together with the plan so far, at each step of the refinement."""
SMALL_WEIGHT_VALUE = 0.05
"""What a head's weights are worth beside its KV cache when only the KV share is limited."""


class Search:
    """One search: the path of moves, and the plans measured along it."""

    def __init__(
        self,
        evaluator: Evaluator,
        budget: Budget,
        profile: HeadProfile,
        free: Sequence[HeadId],
        treatments: Sequence[Treatment],
    ) -> None:
        self.evaluator, self.budget = evaluator, budget
        self.points: list[Point] = []
        forecasts = [
            attribute_heads(evaluator.model, text, profile, treatments, continued=evaluator.workload is not None)
            for text in evaluator.texts
        ]
        self.damage = {
            what: sum(
                (each.grid("fisher", str(what)) for each in forecasts[1:]), forecasts[0].grid("fisher", str(what))
            )
            for what in treatments
        }
        self.weight_value = 1.0 if budget.limits_damage else SMALL_WEIGHT_VALUE
        self.workload = evaluator.workload or Workload(profile.about.context)
        self.moves = moves_by_slope(free, self.damage, self.workload, self.weight_value)
        self.everything = {what: plan_heads(profile, dict.fromkeys(profile.about.heads(), what)) for what in treatments}
        self.empty = plan_heads(profile, {})

    def run(self, max_evaluations: int) -> Point:
        """The best measured plan within the budget; the nearest to it, if there is none."""
        if self.budget.max_kv_share is not None:
            self._take_back(self._small_enough(self.budget.max_kv_share), max_evaluations // 2)
        steps = min(GRID, max_evaluations - 1)
        for count in sorted({round(len(self.moves) * part / steps) for part in range(steps + 1)}):
            if self.evaluator.n_measured < max_evaluations:
                self.measure(self.moves[:count])
        if self.budget.limits_damage:
            count = self._bisect(max_evaluations)
            self._refine(self.moves[:count], self.moves[count:], max_evaluations)
        return self._best()

    def measure(self, moves: Sequence[Move]) -> Point:
        """Measure the plan after some moves, once."""
        plan = plan_along(moves, self.everything, self.empty)
        known = next((point for point in self.points if point.plan == plan), None)
        if known is None:
            known = self.evaluator.measure(plan)
            self.points.append(known)
        return known

    def saved(self, point: Point) -> float:
        """What a plan saves: its share of the KV bytes, and of the attention weights."""
        return 1 - point.kv_share + self.weight_value * point.removed_share

    def rank_correlation(self, plan: HeadPlan) -> float:
        """Forecasts against exact effects (KL on text and on repeats) of the heads of a plan, each alone.

        NaN where heads are compressed, or too few treated.
        """
        if len(plan) < 3 or plan.heads(Compress):
            return float("nan")
        cases = [Case("single", str(head), plan.only([head])) for head in plan.treatments]
        measured = measure_fast(self.evaluator.model, cases, self.evaluator.texts)
        exact = {case.label: sum(float(each.kl.mean()) for each in found) for case, found in measured}
        forecast = {str(head): self.damage[what][head.layer, head.head] for head, what in plan.treatments.items()}
        return float(spearmanr([forecast[name] for name in exact], list(exact.values())).statistic)

    def _best(self) -> Point:
        within = [point for point in self.points if not self.budget.broken(point)]
        if within and self.budget.limits_damage:
            return max(within, key=self.saved)
        if within:
            return min(within, key=lambda point: point.kl.value)
        safe = [point for point in self.points if not self.budget.damage_broken(point)]
        return min(safe or self.points, key=lambda point: point.kv_share if safe else point.kl.value)

    def _small_enough(self, limit: float) -> list[Move]:
        """The moves of the first plan along the path that is small enough."""
        plans = (self.moves[:count] for count in range(len(self.moves) + 1))
        small = (moves for moves in plans if self._kv_share(moves) <= limit)
        return next(small, self.moves)

    def _take_back(self, taken: list[Move], max_evaluations: int) -> None:
        """Measure a plan, and those that spend what it leaves of the bytes: one head after another steps back."""
        self.measure(taken)
        while self.evaluator.n_measured < max_evaluations:
            last = {move.head: move for move in taken}
            fewer = [[move for move in taken if move is not undone] for undone in
                     sorted(last.values(), key=lambda move: -move.slope)]  # fmt: skip
            fitting = [moves for moves in fewer if not self._too_large(moves)]
            room = max_evaluations - self.evaluator.n_measured
            if not fitting:
                return
            best = min(fitting[: min(TRIES, room)], key=lambda moves: self.measure(moves).kl.value)
            if self.measure(best).kl.value >= self.measure(taken).kl.value:
                return
            taken = best

    def _too_large(self, moves: Sequence[Move]) -> bool:
        limit = self.budget.max_kv_share
        return limit is not None and self._kv_share(moves) > limit

    def _kv_share(self, moves: Sequence[Move]) -> float:
        return plan_size(plan_along(moves, self.everything, self.empty), self.workload).kv_share

    def _bisect(self, max_evaluations: int) -> int:
        """How many moves of the path keep the limits of damage."""
        low, high = 0, len(self.moves) + 1
        while high - low > 1 and self.evaluator.n_measured < max_evaluations:
            middle = (low + high) // 2
            fits = not self.budget.damage_broken(self.measure(self.moves[:middle]))
            low, high = (middle, high) if fits else (low, middle)
        return low

    def _refine(self, taken: Sequence[Move], left: Sequence[Move], max_evaluations: int) -> None:
        """Go on with the moves that still fit, tried one by one together with the plan so far."""
        taken, left = list(taken), list(left)
        while left and (room := max_evaluations - self.evaluator.n_measured) > 0:
            following: dict[HeadId, Move] = {}
            for move in left:
                following.setdefault(move.head, move)
            tries = list(following.values())[: min(TRIES, room)]
            fitting = [move for move in tries if not self._breaks([*taken, move])]
            fitting.sort(key=lambda move: self.measure([*taken, move]).kl.value)
            fitting = self._together(taken, fitting, max_evaluations)
            taken += fitting
            spent = {move.head for move in tries} - {move.head for move in fitting}
            left = [move for move in left if move not in taken and move.head not in spent]

    def _together(self, taken: list[Move], fitting: list[Move], max_evaluations: int) -> list[Move]:
        """As many of the moves that fit one by one as also fit together."""
        while len(fitting) > 1:
            if self.evaluator.n_measured >= max_evaluations:
                return fitting[:1]
            if not self._breaks([*taken, *fitting]):
                break
            fitting = fitting[: len(fitting) // 2]
        return fitting

    def _breaks(self, moves: Sequence[Move]) -> bool:
        return bool(self.budget.damage_broken(self.measure(moves)))


def check_evaluations(most: int) -> None:
    """Refuse fewer evaluations than both ends of the path need."""
    if most < 2:
        raise HeadspecError(f"max_evaluations={most}: want 2 or more.")
