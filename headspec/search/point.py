"""A measured plan: how large, how damaging. Plain data, and which of many are worth having."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from headspec.measure.estimate import Estimate
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.treatments import Compress, Remove, Window
from headspec.plan.workload import Workload


@dataclass(frozen=True, eq=False)
class Point:
    """One plan with its measured damage; intervals are 95 %, over windows."""

    plan: HeadPlan
    kl: Estimate
    """KL(original ‖ treated) on text, nats a token."""
    perplexity_increase: Estimate
    repeats_kl: Estimate | None
    """The KL on the second copy of repeated random tokens; None where they were not run."""
    induction_accuracy: Estimate | None
    induction_kept: Estimate | None
    """Induction accuracy as a share of the original's; None where the original can hardly do it."""
    workload: Workload | None = None
    """For which KV bytes are counted; the model's context if None."""
    decode_ms: float | None = None
    """Least time per token at batch 1 by the roofline of this machine (`headspec.measure.bound`), an estimate; None
    where the model's sizes are not known."""

    @property
    def kv_share(self) -> float:
        """KV bytes left, as a share."""
        return plan_size(self.plan, self.workload).kv_share

    @property
    def removed_share(self) -> float:
        """Share of the attention weights that is cut out."""
        return plan_size(self.plan).removed_share

    def to_dict(self) -> dict[str, Any]:
        """Plain values: measures, sizes and counts; no times, which another machine would not have."""
        measures = ("kl", "perplexity_increase", "repeats_kl", "induction_accuracy", "induction_kept")
        return {
            "removed": len(self.plan.heads(Remove)), "windowed": len(self.plan.heads(Window)),
            "compressed": len(self.plan.heads(Compress)), "kv_share": self.kv_share,
            "removed_share": self.removed_share,
            **{name: None if (found := getattr(self, name)) is None else found.to_dict() for name in measures},
        }  # fmt: skip


def pareto_front(points: Iterable[Point], count_weights: bool = True) -> list[Point]:
    """The points that no other beats in KV share, removed weights and KL at once; smallest KV share first.

    Without `count_weights`, in KV share and KL only.
    """
    every = list(points)

    def better(a: Point, b: Point) -> bool:
        ours, theirs = ((p.kv_share, -p.removed_share * count_weights, p.kl.value) for p in (a, b))
        return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))

    front = [point for point in every if not any(better(other, point) for other in every)]
    return sorted(front, key=lambda point: (point.kv_share, point.kl.value))
