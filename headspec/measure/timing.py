"""How long work takes, how much faster one way is than another, and whether the machine was quiet enough to tell.

No model: `speed.py` knows what is worth timing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import exp
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from headspec.errors import HeadspecError
from headspec.measure.estimate import CONFIDENCE, Estimate, Statistic, estimate

SPREAD = 0.15
"""Interquartile range over median from which times are called noisy. A quiet machine stays below 5 %."""
WAITING = 1.25
"""Wall time over CPU time from which a process on the CPU has waited for something: a core, or memory from a disk."""
LEAST_LAPS = 4
"""With fewer nothing can be said about noise."""


@dataclass(frozen=True)
class Lap:
    """One run of a piece of work."""

    wall_ms: float
    """By the clock (of the GPU, on CUDA). What a user waits; longer while others use the machine."""
    cpu_ms: float
    """Of all threads of this process together: hardly longer while others use the machine, but no user's time with
    more than one thread, and on a GPU only that of giving orders and waiting."""


def synchronize(device: str) -> None:
    """Wait until a GPU has done all it was told; nothing to wait for on the CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


def lap(work: Callable[[], object], device: str = "cpu") -> Lap:
    """Run something once and time it, waiting for the GPU before and after."""
    synchronize(device)
    begin = _mark(device)
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    end = _mark(device)
    synchronize(device)
    wall_ms, cpu_ms = 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)
    del result  # the time it takes to free what came out does not count
    return Lap(wall_ms if begin is None else begin.elapsed_time(end), cpu_ms)


def _mark(device: str) -> Any:
    """An event of the GPU's own clock, on CUDA."""
    if not device.startswith("cuda"):
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def ratio(base_ms: Sequence[float], own_ms: Sequence[float], seed: int = 0) -> Estimate:
    """How many times as fast as the base: the ratio of medians, with its 95 % interval by a paired bootstrap.

    Number i of both must come from the same round: what slowed that round down then cancels. The interval is about
    the noise of this run on this machine; another machine may give a ratio far outside it.

    >>> ratio([2.0, 4.0, 4.0], [1.0, 2.0, 2.0]).value
    2.0
    """
    base, own = np.asarray(base_ms, float), np.asarray(own_ms, float)
    if base.shape != own.shape or base.ndim != 1 or not len(base):
        raise HeadspecError(f"times of {base.shape} and {own.shape} rounds: want one of each in every round.")
    if not (np.minimum(base, own) > 0).all():
        raise HeadspecError("a time of zero: the work is too short for this clock; time more of it at once.")
    return estimate(median_ratio, base, own, seed=seed)


def ratio_over_openings(
    base_ms: Sequence[Sequence[float]], own_ms: Sequence[Sequence[float]], seed: int = 0
) -> Estimate:
    """The same where both were opened anew several times, with one sequence of rounds each.

    Where weights and caches come to lie in memory makes a run faster or slower as a whole, which no round of it shows.
    So the interval is the wider of two: that of all rounds, and Student's of the logarithms of each opening's ratio.
    """
    together = ratio(list(chain(*base_ms)), list(chain(*own_ms)), seed)
    if len(base_ms) < 2:
        return together
    pairs = zip(base_ms, own_ms, strict=True)
    logs = np.log([median_ratio(np.asarray(base, float), np.asarray(own, float)) for base, own in pairs])
    reach = float(student.ppf(0.5 + CONFIDENCE / 2, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5)
    value = together.value
    return Estimate(value, min(together.low, value * exp(-reach)), max(together.high, value * exp(reach)))


def median_ratio(base: np.ndarray, own: np.ndarray, axis: int = -1) -> Statistic:
    """The median of one sample over that of another."""
    return np.median(base, axis) / np.median(own, axis)


def noise(laps: Sequence[Lap], device: str = "cpu") -> str | None:
    """A warning in words where the machine was too busy to tell differences of some percent; None where it was quiet.

    Both signs are robust: a few slow laps (a first run, a page fault) raise neither. On a GPU only the spread counts.
    """
    if len(laps) < LEAST_LAPS:
        return f"only {len(laps)} measurements: how much they vary cannot be told; take {LEAST_LAPS} or more."
    wall, cpu = (np.array([getattr(one, name) for one in laps]) for name in ("wall_ms", "cpu_ms"))
    found = []
    varies = spread(wall)
    if varies > SPREAD:
        found.append(f"wall times vary by {varies:.0%} (interquartile range over median of {len(laps)})")
    waits = float(np.median(wall) / max(np.median(cpu), 1e-9))
    if device == "cpu" and waits > WAITING:
        found.append(f"wall time is {waits:.1f} times CPU time: the process waits, as when others use the cores")
    return "; ".join(found) or None


def spread(times: np.ndarray) -> float:
    """Interquartile range over median: 0 where all are alike, and blind to a quarter of outliers on either side.

    >>> spread(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    0.6666666666666666
    """
    low, middle, high = np.percentile(times, (25, 50, 75))
    return float((high - low) / middle)
