"""What a sweep tries: each case is a plan with a name. Makes plans; measures nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from headspec.classify.rules import classify_heads
from headspec.classify.thresholds import Thresholds
from headspec.errors import HeadspecError
from headspec.heads import HeadId
from headspec.plan.make import make_plan, plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import SINKS, Treatment, parse_treatment
from headspec.probe.profile import HeadProfile


@dataclass(frozen=True)
class Case:
    """One plan that a sweep measures."""

    kind: str
    """`single`, `curve`, `grid`, `control` or a word of your own: rows are grouped by it."""
    label: str
    """What is special about it: `L3H7=mean`, `by output_spread, 4 heads`."""
    plan: HeadPlan

    @property
    def key(self) -> str:
        """Tells cases apart in a file of rows."""
        return f"{self.kind}|{self.label}|{self.plan.digest[:16]}"

    @property
    def first_layer(self) -> int:
        """The first layer in which a head is treated; what lies before is computed once for many cases."""
        return min((head.layer for head in self.plan.treatments), default=0)

    @property
    def in_one_layer(self) -> bool:
        """Whether it treats heads of one layer only."""
        return len({head.layer for head in self.plan.treatments}) == 1


def single_cases(
    profile: HeadProfile, treatments: Sequence[str | Treatment] = ("mean",), heads: Iterable[HeadId | str] | None = None
) -> list[Case]:
    """Every head alone, under each of the treatments."""
    chosen = profile.about.heads() if heads is None else [HeadId.parse(head) for head in heads]
    every = [parse_treatment(treatment) for treatment in treatments]
    return [Case("single", f"{head}={what}", plan_heads(profile, {head: what})) for head in chosen for what in every]


def curve_cases(
    profile: HeadProfile,
    ranking: Sequence[HeadId | str],
    treatment: str | Treatment,
    name: str,
    sizes: Sequence[int] | None = None,
) -> list[Case]:
    """The first heads of a ranking together, more and more of them: a cumulative curve.

    Args:
        profile: Gives the fill vectors.
        ranking: Heads, the one to treat first in front.
        treatment: What happens to them.
        name: Of the ranking, for the label.
        sizes: How many heads; by default 1, 2, 4, … and all.
    """
    heads, what = [HeadId.parse(head) for head in ranking], parse_treatment(treatment)
    if len(set(heads)) != len(heads):
        raise HeadspecError(f"the ranking {name} names a head twice.")
    doubled = {2**power for power in range(len(heads).bit_length())} | {len(heads)}
    sizes = sorted(size for size in doubled if size <= len(heads)) if sizes is None else sizes
    wrong = [size for size in sizes if not 0 <= size <= len(heads)]
    if wrong:
        raise HeadspecError(f"sizes {wrong}: the ranking {name} has {len(heads)} heads.")
    plan = plan_heads(profile, dict.fromkeys(heads, what))
    return [Case("curve", f"{what} by {name}, {size} heads", plan.only(heads[:size])) for size in sizes]


def grid_cases(
    profile: HeadProfile,
    thresholds: Sequence[Thresholds],
    fills: Sequence[str] = ("mean",),
    sinks: Sequence[int] = (SINKS,),
) -> list[Case]:
    """The plan of every combination of cut-offs (which hold the windows to try), fill and sinks."""
    cases = []
    for number, (cut, fill, kept) in enumerate(product(thresholds, fills, sinks)):
        plan = make_plan(classify_heads(profile, cut), profile, fill=fill, candidates=True, sinks=kept)
        cases.append(Case("grid", f"{number}: {_changed(cut)} fill={fill} sinks={kept}", plan))
    return cases


def control_cases(case: Case, profile: HeadProfile, n_controls: int, seed: int = 0) -> list[Case]:
    """Random plans to compare a plan with: in each layer the same treatments, given to other heads by lot."""
    return [
        Case("control", f"{case.label}, random {number}", matched_random(case.plan, profile, seed + number))
        for number in range(n_controls)
    ]


def matched_random(plan: HeadPlan, profile: HeadProfile, seed: int) -> HeadPlan:
    """A plan with the same treatments in the same layers, on random heads: what choosing the heads is worth."""
    draw = np.random.default_rng(seed)
    treatments: dict[HeadId, Treatment] = {}
    for layer in range(plan.about.n_layers):
        given = [what for head, what in plan.treatments.items() if head.layer == layer]
        heads = draw.permutation(plan.about.n_heads)[: len(given)]
        treatments |= {HeadId(layer, int(head)): what for head, what in zip(heads, given, strict=True)}
    return plan_heads(profile, treatments, seed=plan.about.seed)


def _changed(cut: Thresholds) -> str:
    default = Thresholds().to_dict()
    changed = {name: value for name, value in cut.to_dict().items() if value != default[name]}
    return " ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"
