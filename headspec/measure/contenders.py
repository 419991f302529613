"""Who takes part in a benchmark: the original in three ways, exported models and plans, and published methods made to
hold as many bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headspec.load.plain import PlainModel
from headspec.measure.continuation import measure_continuation
from headspec.measure.systems.baseline import Baseline
from headspec.measure.systems.planned import planned
from headspec.measure.systems.static_cache import static_cache
from headspec.measure.systems.system import Standing, System
from headspec.measure.systems.transformers_default import transformers_default
from headspec.measure.systems.unpruned import unpruned
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.workload import Workload
from headspec.probe.profile import HeadProfile


@dataclass(frozen=True, eq=False)
class Contender:
    """One row of the comparison; what it runs may depend on the workload, as budgets in keys do."""

    name: str
    label: str
    standing: Standing
    make: Callable[[Workload], System]
    timed: bool = True
    """Whether it is timed as well, and not only judged by quality."""
    identity: str = ""
    """Digest of what it does, where it is a plan."""
    engine: str = ""
    exact: bool = True
    """Both as for its System."""


def fixed(system: System, timed: bool = True) -> Contender:
    """A system that is the same for every workload."""
    digest = "" if system.plan is None else system.plan.digest
    return Contender(
        system.name, system.label, system.standing, lambda workload: system, timed, digest, system.engine, system.exact
    )


def references(source: PlainModel) -> list[Contender]:
    """V, S and P0: engineering and pruning are told apart by these."""
    return [fixed(make(source)) for make in (transformers_default, static_cache, unpruned)]


def mean_share(plan: HeadPlan, workload: Workload) -> float:
    """KV bytes of a plan, as a share of the full cache's, in the mean over a workload."""
    return plan_size(plan, workload).kv_share


def matched(
    source: PlainModel,
    profile: HeadProfile | None,
    baseline: Baseline,
    share: float,
    workload: Workload,
    select: Any,
    timed: bool = True,
) -> Contender:
    """A published method that holds a share of the full cache's bytes, in the mean over a workload.

    Where a method leaves open how its budget is divided, the way with the least KL on `select` is taken, counted from
    the end of the method's list, so that it is the same for other workloads.
    """
    known = source if profile is None else profile
    plans = baseline.plans(known, share, workload)
    best = least_harm(source, plans, workload, select) - len(plans)
    name = with_share(baseline.name, share)
    treatment = str(next(iter(plans[best].treatments.values())))
    label = f"{baseline.label}: {treatment} on {workload.n_prompt} + {workload.n_new} tokens"

    def make(workload: Workload) -> System:
        plans = baseline.plans(known, share, workload)
        return planned(source, plans[max(best, -len(plans))], name, label, baseline.standing)

    return Contender(name, label, baseline.standing, make, timed, plans[best].digest)


def with_share(name: str, share: float) -> str:
    """The name of a method at a share of the KV bytes.

    >>> with_share("SnapKV", 0.25)
    'SnapKV 25 %'
    >>> with_share("SnapKV", 0.249)
    'SnapKV 24.9 %'
    """
    return f"{name} {100 * share:.3g} %"


def least_harm(source: PlainModel, plans: Sequence[HeadPlan], workload: Workload, select: Any) -> int:
    """Which of some plans has the least KL on a text; the first without one."""
    if len(plans) == 1 or select is None:
        return 0

    def harm(plan: HeadPlan) -> float:
        running = planned(source, plan, "", "", Standing.BASELINE).open()
        return measure_continuation(source, running, select, workload, n_repeats=0, n_needles=0).kl.value

    return min(range(len(plans)), key=lambda number: harm(plans[number]))
