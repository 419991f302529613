"""Jobs for a process of their own, which imports them from here."""

import os
import signal
import time
from collections.abc import Callable

import torch

MB = 2**20


def fill(n_mb: int) -> torch.Tensor:
    """So much memory, written to."""
    return torch.ones(n_mb * MB // 4).add_(1)


def takes(n_mb: int) -> Callable[[], object]:
    """Work that has so much in memory for a moment."""
    fill(1)  # brings its code into memory
    return lambda: fill(n_mb)[0]


def loads_then_takes(loaded_mb: int, n_mb: int) -> Callable[[], object]:
    """More is in memory while loading than during the work, and some of it stays."""
    fill(2 * loaded_mb)
    kept = fill(loaded_mb)
    return lambda: kept[0] + fill(n_mb)[0]


def takes_nothing() -> Callable[[], object]:
    return lambda: None


def fails_to_load() -> Callable[[], object]:
    raise ValueError("no such model as this")


def fails_at_work() -> Callable[[], object]:
    def work() -> None:
        raise ZeroDivisionError("nothing can be divided by it")

    return work


def is_killed() -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def ends() -> Callable[[], object]:
    return lambda: os._exit(3)


def tells_threads() -> Callable[[], object]:
    raise ValueError(f"{torch.get_num_threads()} threads")


def tells_its_process() -> Callable[[], object]:
    raise ValueError(f"process {os.getpid()}")


def lingers() -> Callable[[], object]:
    time.sleep(600)
    return takes_nothing()
