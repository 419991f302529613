"""The SweepTable: one row a case. Plain data; no torch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.files import write_whole
from headspec.rowlog import LogKind, read_rows, read_settings

SWEEP = LogKind("headspec.SweepTable/1", "sweep.json", "sweep")
TABLE = "sweep.csv"
MEASURES = {
    "loss_increase": "nats a token more than the original",
    "perplexity_increase": "relative: 0.02 is 2 % more",
    "kl": "KL(original ‖ treated), nats a token",
    "kl_se": "standard error of kl over windows; empty with one window",
    "top1_agreement": "share of tokens, in [0, 1]",
    "repeats_loss_increase": "nats a token more on the second copy of repeated random tokens",
    "repeats_kl": "KL on the second copy of repeated random tokens",
    "induction_accuracy": "share of the second copy's tokens that are the most likely one",
    "kv_share": "KV bytes left at the model's context, as a share",
    "removed_share": "share of the attention weights that is cut out",
}
"""What the columns of numbers mean."""


@dataclass(frozen=True)
class SweepTable:
    """What a sweep measured: `table.to_frame()` is a pandas DataFrame; columns are explained in `MEASURES`."""

    settings: Mapping[str, Any]
    """Model, texts and their digests, seed."""
    rows: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in self._kinds().items())
        return f"SweepTable({self.settings.get('model', '?')}: {len(self)} cases: {counts or 'none'})"

    def _repr_html_(self) -> str:
        from headspec.search.table_html import table_html

        return table_html(self)

    def _kinds(self) -> Counter[str]:
        return Counter(str(row.get("kind", "?")) for row in self.rows)

    def to_frame(self) -> Any:
        """One row a case."""
        import pandas

        return pandas.DataFrame([{name: row[name] for name in row if name != "key"} for row in self.rows])

    def save_csv(self, path: Path | str) -> Path:
        """Write the table as CSV."""
        frame = self.to_frame()
        return write_whole(Path(path), lambda temporary: frame.to_csv(temporary, index=False, float_format="%.7g"))

    @classmethod
    def load(cls, folder: Path | str) -> "SweepTable":
        """Read the rows in a sweep's folder, also of an unfinished one."""
        folder = Path(folder)
        return cls(read_settings(folder, SWEEP), tuple(read_rows(folder, SWEEP)))
