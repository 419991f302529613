"""The BenchmarkReport: one measurement a row, with the machine that made it. Plain data; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.files import write_whole
from headspec.rowlog import LogKind, read_rows, read_settings

BENCHMARK = LogKind("headspec.BenchmarkReport/1", "benchmark.json", "bench")
TABLE = "benchmark.csv"
REFERENCES = ("V", "S", "P0")
"""The original in three ways, against which speed-ups are measured."""
SKIPPED = "skipped "
"""How the keys of cells begin that were left out; a resumed run tries them again."""
COLUMNS = (
    "part", "system", "standing", "label", "batch", "context", "n_new", "measure", "value", "low", "high", "unit", "n",
    "against", "note",
)  # fmt: skip
"""Of the table, before those of the machine."""

MEASURES = {
    "ttft_ms": ("ms", "time to first token: from the prompt's ids to the logits of its last token, median wall time"),
    "ttft_p95_ms": ("ms", "95th percentile of the same"),
    "ttft_cpu_ms": ("ms", "CPU time of the same, all threads together"),
    "tpot_ms": ("ms", "time per output token, for the whole batch, median wall time"),
    "tpot_p95_ms": ("ms", "95th percentile of the same"),
    "tpot_cpu_ms": ("ms", "CPU time of the same, all threads together"),
    "throughput": ("tokens/s", "batch size over the median time per output token"),
    "speedup": ("×", "how many times as fast as the system in `against`, with a 95 % paired bootstrap interval"),
    "speedup_cpu": ("×", "the same for CPU time"),
    "engine_speedup": ("×", "how many times as fast as the whole model run in the same way, which `against` names"),
    "pruning_bound": ("×", "the most that pruning alone could give over P0 on this machine, by the roofline (Amdahl)"),
    "bound_ms": ("ms", "least time by the roofline: weights and keys read once, or multiplications"),
    "roofline_share": ("share", "bound_ms over the measured CPU time a core: 1 is the machine's limit"),
    "kv_bytes": ("bytes", "what the KV cache holds, all rows, measured in its buffers"),
    "kv_bytes_formula": ("bytes", "the same by the closed formula of the plan"),
    "kv_share": ("share", "mean KV bytes while text is continued, as a share of the full cache's, by formula"),
    "repeats_kv_share": ("share", "the same for the repeated random tokens"),
    "needles_kv_share": ("share", "the same for the needles"),
    "logits_difference": ("", "largest difference of a logit from what the plan, or the original, gives in float32"),
    "weight_bytes": ("bytes", "parameters and buffers, shared ones once"),
    "peak_bytes": ("bytes", "peak memory of prefill and decoding above the loaded model, in a fresh process"),
    "read_bytes_s": ("bytes/s", "memory bandwidth measured in this run"),
    "flops": ("FLOP/s", "matrix multiplication rate measured in this run"),
    "perplexity": ("", "exp of the mean loss on the continuation"),
    "perplexity_increase": ("share", "relative to the original: 0.02 is 2 % more"),
    "kl": ("nats/token", "KL(original ‖ treated) on the continuation"),
    "kl_difference": ("nats/token", "KL less that of the system in `against`, on the same windows: below 0 is better"),
    "top1_agreement": ("share", "of tokens at which both find the same one most likely"),
    "repeats_kl": ("nats/token", "KL on the second copy of repeated random tokens"),
    "induction_accuracy": ("share", "of the second copy's tokens that are the most likely one"),
    "needle_accuracy": ("share", "of the needles' value tokens that are the most likely one"),
    "skipped": ("", "a cell that was not measured, and why"),
}
"""Unit and meaning of every measure."""


@dataclass(frozen=True)
class BenchmarkReport:
    """What a benchmark measured: `report.to_frame()` is a tidy pandas DataFrame, explained by `MEASURES`."""

    settings: Mapping[str, Any]
    """Model, texts and their digests, seed, what was measured."""
    rows: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return (
            f"BenchmarkReport({self.settings.get('model', '?')}: {len(self)} measurements of "
            f"{len(self._systems())} systems)"
        )

    def _repr_html_(self) -> str:
        from headspec.measure.report_html import report_html

        return report_html(self)

    def _systems(self) -> dict[str, str]:
        """Standing of every system, in the order of the rows."""
        return {row["system"]: row.get("standing") or "" for row in self.rows if row.get("system")}

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: then there is no quality in it."""
        return str(self.settings["model"]).startswith("random:")

    def to_frame(self) -> Any:
        """One row a measurement."""
        import pandas

        return pandas.DataFrame(list(self.rows), columns=[*COLUMNS, *self._machine_columns()])

    def _machine_columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row if name not in COLUMNS))

    def value(self, system: str, measure: str, **where: Any) -> float | None:
        """One number: `report.value("SnapKV 25 %", "kl")`, `report.value("V", "tpot_ms", batch=4, context=2000)`."""
        for row in self.rows:
            found = row["system"] == system and row["measure"] == measure
            if found and all(row[name] == value for name, value in where.items()):
                return row["value"]
        return None

    def save_csv(self, path: Path | str) -> Path:
        """Write the rows as CSV."""
        frame = self.to_frame()
        return write_whole(Path(path), lambda temporary: frame.to_csv(temporary, index=False, float_format="%.7g"))

    @classmethod
    def load(cls, folder: Path | str) -> "BenchmarkReport":
        """Read the rows in a benchmark's folder, also of an unfinished one."""
        folder = Path(folder)
        cells = {cell["key"]: cell for cell in read_rows(folder, BENCHMARK)}
        for key in [key for key in cells if key.startswith(SKIPPED) and key.removeprefix(SKIPPED) in cells]:
            del cells[key]  # skipped at first, measured later
        return cls(read_settings(folder, BENCHMARK), tuple(row for cell in cells.values() for row in cell["rows"]))
