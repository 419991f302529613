"""A sweep that is long enough to be killed: `python sweep_to_kill.py MODEL FOLDER` runs it, slowly.

Imports no TransformerLens, so that it starts quickly.
"""

import sys
import time
from typing import Any

from headspec.load.model import load_plain
from headspec.plan.make import plan_heads
from headspec.rowlog import RowLog
from headspec.search.cases import Case
from headspec.search.sweep import sweep
from headspec.search.table import SweepTable

TREATMENTS = ("zero", "window:1+0", "window:2", "window:3+0", "window:5", "window:9")


def many_cases(model: Any) -> list[Case]:
    """Every head of 2 × 4 under 6 treatments, and some heads together; not in the order of layers."""
    singles = [
        Case("single", f"L{layer}H{head}={what}", plan_heads(model, {f"L{layer}H{head}": what}))
        for what in TREATMENTS for head in range(4) for layer in (1, 0)
    ]  # fmt: skip
    together = [Case("mine", what, plan_heads(model, {"L0H1": what, "L1H2": "zero"})) for what in TREATMENTS]
    return together[:3] + singles + together[3:]


def run(model: Any, folder: Any, **options: Any) -> SweepTable:
    return sweep(model, many_cases(model), list(range(30, 90)), out=folder, n_repeats=1, progress=False, **options)


if __name__ == "__main__":
    append = RowLog.append

    def slowly(log: RowLog, row: Any) -> None:
        append(log, row)
        time.sleep(0.02)

    RowLog.append = slowly  # type: ignore[method-assign]
    run(load_plain(sys.argv[1], device="cpu"), sys.argv[2])
