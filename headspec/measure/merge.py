"""Benchmarks of single systems, each from a process of its own, as one report: where two do not fit in memory together.

Ratios between them are of separate runs, so they have no interval.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headspec.errors import RecordError
from headspec.measure.report import BENCHMARK, MEASURES, REFERENCES, TABLE, BenchmarkReport
from headspec.rowlog import LOG, RowLog

TIMES = {"tpot_ms": "speedup", "tpot_cpu_ms": "speedup_cpu", "ttft_ms": "speedup", "ttft_cpu_ms": "speedup_cpu"}
"""What the ratio of each time is called."""
APART = "measured in separate processes, one after the other"


def merge_reports(reports: Sequence[BenchmarkReport], folder: Path) -> BenchmarkReport:
    """One report of all, saved in a folder.

    Raises:
        RecordError: Reports of different settings.
    """
    shared = [{name: value for name, value in report.settings.items() if name not in ("systems", "plans")}
              for report in reports]  # fmt: skip
    if any(settings != shared[0] for settings in shared):
        raise RecordError("benchmarks of different settings cannot be merged.")
    settings = shared[0] | {
        "systems": [name for report in reports for name in report.settings["systems"]],
        "plans": {name: digest for report in reports for name, digest in report.settings["plans"].items()},
    }
    for name in (LOG, BENCHMARK.settings, TABLE):
        (folder / name).unlink(missing_ok=True)
    rows = [dict(row) for report in reports for row in report.rows]
    log = RowLog(folder, settings, BENCHMARK)
    log.append({"key": "merged", "rows": [*rows, *_ratios(rows)]})
    merged = BenchmarkReport.load(folder)
    merged.save_csv(folder / TABLE)
    return merged


def _ratios(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """How many times as fast as V, S and P0, from medians."""
    times = [row for row in rows if row["measure"] in TIMES]
    for row in times:
        for base in times:
            alike = all(base[name] == row[name] for name in ("part", "batch", "context", "measure"))
            if alike and base["system"] in REFERENCES and base["system"] != row["system"]:
                measure = TIMES[row["measure"]]
                yield row | {
                    "measure": measure, "value": base["value"] / row["value"], "unit": MEASURES[measure][0],
                    "against": base["system"], "note": APART,
                }  # fmt: skip
