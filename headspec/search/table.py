"""The SweepTable: one row a case. Plain data; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.files import write_whole
from headspec.rowlog import LogKind, read_rows, read_settings

SWEEP = LogKind("headspec.SweepTable/1", "sweep.json", "sweep")
TABLE = "sweep.csv"


@dataclass(frozen=True)
class SweepTable:
    """What a sweep measured: `table.to_frame()` is a pandas DataFrame; columns are explained in `rows.MEASURES`."""

    settings: Mapping[str, Any]
    """Model, texts and their digests, seed."""
    rows: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

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
