"""What is decided about heads while text is generated: the policy, and verdicts that do not flicker.

Numbers in, verdicts and treatments out. What they rest on is in `evidence.py`, who carries them out in `live.py`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, NamedTuple

from .configuration import HeadGroup, what_is_wrong
from .evidence import Margins
from .policies import POLICIES
from .thresholds import RoleThresholds

GATHERING, POSITIONAL, DEAD = "gathering", "positional", "dead"
FULL = HeadGroup(())
"""The treatment of a head that keeps every key. A dead head's is None."""


class Verdict(NamedTuple):
    """What a head is taken for."""

    role: str
    window: int = 0
    """Keys that a positional head needs."""


@dataclass(frozen=True)
class AdaptivePolicy:
    """How heads are watched, classified and treated while text is generated: `model.make_cache(policy)`.

    At the end of the prompt each head is classified by the last `observed` queries, and its cache cut down at once
    (after a prompt shorter than `first_query + observed`, as soon as there are so many tokens).
    While text is written it is looked at every `every` tokens and classified anew every `reclassify` tokens. In a batch
    one decision holds for all rows: a head is positional or dead only if it is in every row. Heads that the checkpoint
    treats already (windows, compression) stay as they are. What was freed is gone: a window is widened or given up
    only while every key is still there, and dead is final.

    A dead head needs a checkpoint that was exported with its head map, which must neither protect it (induction) nor
    say that a search has refused to remove it.
    """

    __no_type_check__ = True  # to runtime type checkers, as JSON gives the thresholds as a dictionary

    thresholds: RoleThresholds = field(default_factory=RoleThresholds)
    """Cut-offs, the same that the offline classification uses."""
    sinks: int = 4
    """First real tokens of each row that stay visible beside a window."""
    policy: str = ""
    """How the keys of gathering heads are compressed: `snapkv`, `streaming` or `random`; empty: all are kept."""
    budget: float | int = 0.5
    """Of that policy: keys kept, a share of those read (a float) or a number."""
    latest: int = 0
    """Of a budget in keys, the part that always holds the latest ones."""
    shared: bool = False
    """Whether the heads of a layer have the budget together (AdaKV)."""
    observed: int = 64
    """The observation window: last queries of the prompt that are looked at."""
    every: int = 16
    """Tokens between two looks while text is written."""
    reclassify: int = 64
    """Tokens between two classifications while text is written; 0: only at the end of the prompt."""
    hysteresis: float = 0.1
    """A positional head stays one until it misses a cut-off by this share of it."""
    dwell: int = 2
    """Classifications in a row that must agree before a head changes its role; the first counts at once."""
    memory: float = 0.75
    """What was seen before a classification counts so much less after it, in [0, 1]."""
    first_query: int = 16
    """Queries at earlier positions do not count."""
    least: int = 8
    """Queries that must have been looked at, in every row, before they decide anything."""
    caution: float = 1.5
    """What heads write varies less on one prompt than on many texts: the cut-offs for dead heads are divided by this.
    Source: on the demo model's `select` text (docs/live-evidence.md)."""
    dead: bool = True
    """Whether heads may be called dead."""
    together: bool = True
    """Whether the positional heads of a layer share the widest of their windows: a few keys more, one group less."""
    watch_only: bool = False
    """Classify, and treat nothing: how roles change while nothing is done about it."""

    def __post_init__(self) -> None:
        if isinstance(self.thresholds, dict):
            object.__setattr__(self, "thresholds", RoleThresholds(**self.thresholds))
        if not hasattr(self.thresholds, "windowed_mass"):  # not isinstance: remote code makes its own class
            raise TypeError(f"thresholds={self.thresholds!r}: want RoleThresholds, or their values as a dictionary.")
        self._check_numbers()
        if self.reclassify % self.every:
            raise ValueError(f"reclassify={self.reclassify}: want a multiple of every={self.every}, or 0.")
        if self.policy and self.policy not in POLICIES:
            raise ValueError(f"policy {self.policy!r}: choose one of {', '.join(POLICIES)}, or leave it empty.")
        if self.policy == "expected_attention":
            raise ValueError("expected_attention needs a probe's statistics: put it into the exported plan instead.")
        if wrong := what_is_wrong(self.for_gathering()._replace(heads=(0,))):
            raise ValueError(f"policy {self.policy!r} with budget={self.budget!r}, latest={self.latest} {wrong}.")

    def _check_numbers(self) -> None:
        """Refuse numbers outside their range, and switches that are none."""
        for name in ("shared", "dead", "together", "watch_only"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: want True or False.")
        least = {"sinks": 0, "observed": 1, "every": 1, "reclassify": 0, "dwell": 1, "first_query": 0, "least": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name}={value!r}: want a whole number, {lowest} or more.")
        if not 0 <= self.memory <= 1 or not self.hysteresis >= 0 or not self.caution > 0:
            raise ValueError(
                f"memory={self.memory}, hysteresis={self.hysteresis}, caution={self.caution}: want [0, 1], 0 or more, "
                "and more than 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for `AdaptivePolicy(**values)`."""
        return {**asdict(self), "thresholds": {**asdict(self.thresholds), "windows": list(self.thresholds.windows)}}

    def cut_offs(self) -> RoleThresholds:
        """The thresholds for what a single prompt shows."""
        cut = self.thresholds
        spread, p95 = cut.dead_spread / self.caution, cut.dead_spread_p95 / self.caution
        return replace(cut, dead_spread=spread, dead_spread_p95=p95)

    def for_gathering(self) -> HeadGroup:
        """The treatment of gathering heads."""
        return HeadGroup((), 0, 0, self.policy, self.budget, self.shared, self.latest) if self.policy else FULL

    def verdict(self, dead: float, fits: Sequence[float] | None, before: Verdict) -> Verdict:
        """What a head is taken for, from its margins; `fits` is None where not every key is there to judge by."""
        if (before.role == DEAD and not self.watch_only) or (self.dead and dead >= 0):
            return Verdict(DEAD)
        if fits is None:
            return before
        margins = dict(zip(self.thresholds.windows, fits, strict=True))
        held = margins.get(before.window, -inf)
        if before.role == POSITIONAL and (held >= -self.hysteresis or held == -inf):
            return before  # −∞: nothing is known that speaks against it
        needed = next((window for window, margin in margins.items() if margin >= 0), 0)
        return Verdict(POSITIONAL, needed) if needed else Verdict(GATHERING)

    def treatments(
        self, layer: int, n_read: int, verdicts: Sequence[Verdict], now: Sequence[HeadGroup | None]
    ) -> list[HeadGroup | None]:
        """What to do with the heads of one layer; a subclass may decide otherwise.

        Args:
            layer: Its number.
            n_read: Columns read.
            verdicts: Of its heads that see all keys in the checkpoint.
            now: What is being done with them: a HeadGroup without heads, None for a dead one.

        Returns:
            What shall be done. What cannot be done any more, because keys are gone, is left out by those who carry
            it out.
        """
        if self.watch_only:
            return list(now)
        widest = max((verdict.window for verdict in verdicts), default=0)
        rest = self.for_gathering()
        if isinstance(self.budget, int) and n_read <= self.budget:
            rest = FULL  # nothing to drop yet
        wanted = {
            verdict: HeadGroup((), widest if self.together else verdict.window, self.sinks)
            for verdict in verdicts
            if verdict.role == POSITIONAL
        }
        return [None if verdict.role == DEAD else wanted.get(verdict, rest) for verdict in verdicts]


class Judge:
    """The verdicts on the heads of one layer, as they change."""

    def __init__(self, policy: AdaptivePolicy, n_heads: int):
        self.policy = policy
        self.verdicts = [Verdict(GATHERING)] * n_heads
        self.times = 0
        """Classifications so far."""
        self._waiting = [(Verdict(GATHERING), 0)] * n_heads

    def judge(self, margins: Margins, whole: Sequence[bool]) -> list[Verdict]:
        """Classify; `whole[head]` says whether every key of the head is there to judge it by."""
        for head, before in enumerate(self.verdicts):
            fits = margins.fits[head] if whole[head] else None
            found = self.policy.verdict(margins.dead[head], fits, before)
            wish, times = self._waiting[head]
            times = times + 1 if found == wish else 1
            self._waiting[head] = found, times
            if not self.times or times >= self.policy.dwell:
                self.verdicts[head] = found
        self.times += 1
        return list(self.verdicts)


def may_change(now: HeadGroup | None, wanted: HeadGroup | None, n_read: int) -> bool:
    """Whether a treatment can still be changed into another: the keys that it needs must be there.

    >>> may_change(HeadGroup((), window=8), FULL, n_read=100)
    False
    """
    if now is None or now == wanted:
        return False
    if wanted is None or now == FULL:
        return True
    return bool(now.window) and n_read <= now.window


def describe(treatment: HeadGroup | None) -> str:
    """The short text of a treatment, as plans have it: `keep`, `mean`, `window:8+0`, `compress:snapkv:64:latest32`."""
    if treatment is None:
        return "mean"
    if treatment.window:
        return f"window:{treatment.window}" + (f"+{treatment.sinks}" if treatment.sinks != 4 else "")
    if not treatment.policy:
        return "keep"
    options = [f"latest{treatment.latest}"] * bool(treatment.latest) + ["adakv"] * treatment.shared
    return ":".join(["compress", treatment.policy, str(treatment.budget), *options])
