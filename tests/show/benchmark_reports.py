"""Made-up reports of benchmarks, with numbers like those of a small model on two cores."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from headspec.measure.report import COLUMNS, MEASURES, BenchmarkReport

MACHINE = {
    "processor": "AMD EPYC", "cores": 2, "memory_bytes": 25_276_502_016, "device": "cpu", "threads": 1,
    "platform": "Linux", "python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0", "headspec": "0.1.0",
}  # fmt: skip
METHODS = {"StreamingLLM": 6.0, "StreamingLLM, dense prefill": 4.5, "SnapKV": 1.5, "Ada-SnapKV": 1.3,
           "expected attention": 1.2, "Ada-expected attention": 1.0, "random keys": 9.0}  # fmt: skip
"""And how much harm they do."""
SHARES = (0.5, 0.25, 0.12)
TIMED_METHODS = ("StreamingLLM", "SnapKV", "expected attention", "Ada-expected attention")
PACE = {"V": 1.0, "S": 1.35, "P0": 1.9, "pruned": 2.6, "head map 25 %": 2.9, "plan c": 3.2}
"""How fast, V being 1."""
Row = dict[str, Any]


def row(system: str, measure: str, value: float | None, part: str = "quality", standing: str = "reference",
        low: float | None = None, high: float | None = None, **more: Any) -> Row:  # fmt: skip
    found = dict.fromkeys(COLUMNS) | MACHINE | {
        "part": part, "system": system, "standing": standing, "label": f"what {system} is", "measure": measure,
        "value": value, "low": low, "high": high, "unit": MEASURES[measure][0],
    }  # fmt: skip
    return found | more


def report(rows: Iterable[Row], model: str = "pythia-160m", **settings: Any) -> BenchmarkReport:
    known = {
        "model": model, "n_layers": 12, "n_heads": 12, "dtype": "float32", "device": "cpu", "threads": 1, "seed": 0,
        "text": "packaged certify.txt", "workload": {"n_prompt": 256, "n_new": 256},
    }  # fmt: skip
    return BenchmarkReport(known | settings, tuple(rows))


def rates() -> list[Row]:
    about = {"standing": "", "part": "size", "label": "this machine"}
    return [row("", "read_bytes_s", 24.8e9, **about), row("", "flops", 99.0e9, **about)]


def skipped(part: str, why: str, batch: int | None, context: int | None) -> Row:
    found = dict.fromkeys(COLUMNS) | MACHINE
    return found | {"part": part, "system": "", "batch": batch, "context": context, "measure": "skipped", "unit": "",
                    "note": why}  # fmt: skip


def quality(system: str, standing: str, share: float, kl: float) -> list[Row]:
    about = {"standing": standing, "context": 256, "n_new": 256, "n": 16}
    perplexity = 24.1 * np.exp(kl)
    return [
        row(system, "perplexity", perplexity, low=perplexity * 0.9, high=perplexity * 1.1, **about),
        row(system, "perplexity_increase", np.expm1(kl), low=np.expm1(kl * 0.8), high=np.expm1(kl * 1.25), **about),
        row(system, "kl", kl, low=kl * 0.8, high=kl * 1.25, **about),
        row(system, "top1_agreement", np.exp(-kl), **about),
        row(system, "induction_accuracy", 0.91 * np.exp(-2 * kl), **about),
        row(system, "needle_accuracy", 0.85 * np.exp(-4 * kl), **about),
        row(system, "kv_share", share, **about),
    ]


def times(system: str, standing: str, part: str, batch: int, context: int, share: float = 1.0) -> list[Row]:
    about: dict[str, Any] = {"standing": standing, "part": part, "batch": batch, "context": context, "n": 24}
    word, base = ("ttft", 900.0) if part == "prefill" else ("tpot", 40.0 + 11.0 * batch)
    pace = PACE.get(system, 1.7)
    median = base / pace
    bound = base / 4.5 * (0.5 + 0.5 * share)
    rows = [
        row(system, f"{word}_ms", median, **about),
        row(system, f"{word}_p95_ms", median * 1.12, **about),
        row(system, f"{word}_cpu_ms", median * 0.98, **about),
        row(system, "bound_ms", bound, **about),
        row(system, "roofline_share", bound / (median * 0.98), **about),
        row(system, "pruning_bound", 2 / (1 + share), against="P0", **about),
    ]
    for other in ("V", "S", "P0"):
        ratio = pace / PACE[other]
        rows += [] if other == system else [
            row(system, "speedup", ratio, low=ratio * 0.95, high=ratio * 1.06, against=other, **about),
        ]  # fmt: skip
    if part == "decode":
        rows += [row(system, "throughput", 1e3 * batch / median, **about),
                 row(system, "kv_bytes", 150e6 * batch * share, **about)]  # fmt: skip
    return rows


def systems(hypothetical: bool = False) -> list[tuple[str, str, float, float, bool]]:
    """Name, standing, share of the bytes, KL, whether timed."""
    found = [(name, "reference", 1.0, kl, True) for name, kl in (("V", 0.0), ("S", 2e-12), ("P0", 3e-12))]
    found += [("pruned", "certified", 0.31, 0.021, True)]
    found += [("plan c", "hypothetical", 0.38, 1.4, True)] if hypothetical else []
    found += [(f"head map {100 * share:.0f} %", "certified", share, 0.004 / share**1.2, share == 0.25)
              for share in SHARES]  # fmt: skip
    for share in SHARES:
        for method, harm in METHODS.items():
            standing = "control" if method == "random keys" else "baseline"
            timed = share == 0.25 and method in TIMED_METHODS
            found.append((f"{method} {100 * share:.0f} %", standing, share, 0.006 * harm / share**1.5, timed))
    return found


def full_report(hypothetical: bool = False, batches: tuple[int, ...] = (1, 4, 16), **settings: Any) -> BenchmarkReport:
    """V, S, P0, an export, head maps and seven methods at three shares."""
    known = systems(hypothetical)
    timed = [(name, standing, share) for name, standing, share, _, is_timed in known if is_timed]
    rows = rates()
    rows += [row(name, "weight_bytes", 649e6 * (0.93 if name == "pruned" else 1), "size", standing)
             for name, standing, _ in timed]  # fmt: skip
    for name, standing, share in timed:
        rows += times(name, standing, "prefill", 1, 2048, 1 - (1 - share) / 5)
    for batch in batches:
        for name, standing, share in timed:
            rows += times(name, standing, "decode", batch, 2000, share)
    for name, standing, share, kl, _ in known:
        rows += quality(name, standing, share, kl)
    return report(rows, systems=[name for name, *_ in known], **settings)
