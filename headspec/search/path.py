"""The order in which heads are treated: cheapest forecast damage for what it saves first. Measures nothing.

Each head has a ladder of treatments, each saving more than the one before. A path of moves along these ladders gives a
family of plans, from nothing treated to everything; the search then measures along the path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headspec.heads import HeadId
from headspec.plan.plan import HeadPlan
from headspec.plan.size import mean_keys_held
from headspec.plan.treatments import KEEP, Remove, Treatment
from headspec.plan.workload import Workload

Damage = Mapping[Treatment, np.ndarray]
"""Forecast damage of each treatment, `[layer, head]`, nats a token."""


@dataclass(frozen=True)
class Move:
    """One step: a head goes from the treatment it has on the path so far to a stronger one."""

    head: HeadId
    to: Treatment
    slope: float
    """Forecast damage for each unit saved; the path takes small ones first."""


def cost(treatment: Treatment, workload: Workload, weight_value: float) -> float:
    """What a head still costs: its share of the keys, and `weight_value` unless it is removed."""
    share = mean_keys_held(treatment, workload) / workload.mean_keys
    return share + (0 if isinstance(treatment, Remove) else weight_value)


def moves_by_slope(
    heads: Sequence[HeadId], damage: Damage, workload: Workload, weight_value: float = 1.0
) -> list[Move]:
    """All moves of the path, in order.

    Args:
        heads: The heads that may be treated.
        damage: Forecasts for each treatment that may be used.
        workload: For which KV bytes are counted.
        weight_value: What the weights of a head are worth beside a whole KV cache of it.
    """
    costs = {what: cost(what, workload, weight_value) for what in (KEEP, *damage)}
    moves = [move for head in heads for move in _ladder(head, damage, costs)]
    return sorted(moves, key=lambda move: move.slope)  # slopes rise along a ladder, so its order is kept


def plan_along(moves: Sequence[Move], everything: Mapping[Treatment, HeadPlan], empty: HeadPlan) -> HeadPlan:
    """The plan after some moves; `everything` holds, for each treatment, the plan that gives it to all heads."""
    last = {move.head: move.to for move in moves}
    plan = empty
    for what, whole in everything.items():
        plan = plan | whole.only([head for head, to in last.items() if to == what])
    return plan


def _ladder(head: HeadId, damage: Damage, costs: Mapping[Treatment, float]) -> list[Move]:
    """The lower convex hull of damage over savings: the treatments worth taking, with rising slopes."""
    options = [(costs[KEEP] - costs[what], float(grid[head.layer, head.head]), what) for what, grid in damage.items()]
    moves: list[Move] = []
    saved, done = 0.0, 0.0
    while left := [option for option in options if option[0] > saved]:
        slopes = [(max(harm - done, 0.0) / (gain - saved), -gain) for gain, harm, _ in left]
        best = min(range(len(left)), key=lambda option: slopes[option])
        gain, harm, what = left[best]
        moves.append(Move(head, what, max(slopes[best][0], moves[-1].slope if moves else 0.0)))
        saved, done = gain, max(harm, done)
    return moves
