"""What the published methods that a benchmark compares with have in common: one treatment for every head.

Each has a file of its own here. A method may leave something open, such as how much of a budget holds the latest keys;
then it names several treatments, and the benchmark takes the one that does least harm on other text.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headspec.errors import HeadspecError
from headspec.measure.systems.system import Standing
from headspec.plan.make import about_of, plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.size import mean_keys_held
from headspec.plan.treatments import Window
from headspec.plan.workload import Workload

LATEST_SHARES = (0.25, 0.5, 0.75)
"""Of a bounded budget, the shares that the latest keys may have."""


@dataclass(frozen=True)
class Baseline:
    """A method that treats every head alike."""

    name: str
    label: str
    treatments: Callable[[int, Workload], list[str]]
    """Treatments under which a head holds so many keys in the mean over a workload; none where those are too few."""
    standing: Standing = Standing.BASELINE
    needs_queries: bool = False
    """Whether it needs a profile with statistics of queries."""

    def plans(self, known: Any, share: float, workload: Workload) -> list[HeadPlan]:
        """The plans that hold a share of the full cache's bytes, in the mean over a workload.

        Args:
            known: A HeadProfile, or the model where no profile is needed.
            share: In (0, 1].
            workload: Prompt and continuation.

        Raises:
            HeadspecError: A share that leaves a head too few keys.
        """
        keys = max(1, round(share * workload.mean_keys))
        treatments = self.treatments(keys, workload)
        if not treatments:
            raise HeadspecError(
                f"{self.name} at {share:.2%} of the KV bytes: {keys} key a head of {workload.n_prompt} + "
                f"{workload.n_new} tokens leaves nothing to choose. Take a larger share, or a longer text."
            )
        heads = about_of(known).heads
        return [plan_heads(known, dict.fromkeys(heads, treatment)) for treatment in treatments]


def bounded(keys: int, workload: Workload) -> int:
    """The budget under which a head holds so many keys in the mean: more than those, if the prompt does not fill it.

    >>> bounded(14, Workload(10, 10))  # 11 + 12 + 13 + 14 + 6 × 15 keys are 14 in the mean
    15
    """

    def held(budget: int) -> float:
        return mean_keys_held(Window(budget, sinks=0), workload)

    return keys + bisect_left(range(keys, workload.n_total), keys - 0.5, key=held)


def compressed(policy: str, suffix: str = "") -> Callable[[int, Workload], list[str]]:
    """Treatments of a policy: with every later key kept, where that leaves something for the prompt, or bounded."""

    def treatments(keys: int, workload: Workload) -> list[str]:
        growth = workload.mean_keys - workload.n_prompt
        growing = [f"compress:{policy}:{round(keys - growth)}{suffix}"] if round(keys - growth) >= 1 else []
        budget = bounded(keys, workload)
        latest = sorted({min(max(1, round(share * budget)), budget - 1) for share in LATEST_SHARES} - {0})
        return growing + [f"compress:{policy}:{budget}:latest{number}{suffix}" for number in latest]

    return treatments
