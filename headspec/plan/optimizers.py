"""The two optimisers one looks for, as thin names on `make_plan`."""

from dataclasses import dataclass

from headspec.classify.head_map import HeadMap
from headspec.plan.make import make_plan
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import SINKS, Fill, Window
from headspec.probe.profile import HeadProfile


@dataclass(frozen=True)
class DeadHeadPruner:
    """Removes dead heads: `DeadHeadPruner(fill="mean").plan(head_map, profile)`."""

    fill: Fill | str = Fill.MEAN
    candidates: bool = False
    """Also remove heads that no ablation has confirmed."""
    seed: int = 0

    def plan(self, head_map: HeadMap, profile: HeadProfile | None = None) -> HeadPlan:
        """Remove the dead heads of a map, keep all others."""
        return make_plan(
            head_map, profile, fill=self.fill, candidates=self.candidates, positional=False, seed=self.seed
        )


@dataclass(frozen=True)
class PositionalHeadOptimizer:
    """Gives positional heads the sliding window they need: `PositionalHeadOptimizer(sinks=4).plan(head_map)`."""

    sinks: int = SINKS

    def plan(self, head_map: HeadMap) -> HeadPlan:
        """Window the positional heads of a map, keep all others, dead ones too."""
        plan = make_plan(head_map, fill=Fill.ZERO, sinks=self.sinks)
        return plan.only(plan.heads(Window))
