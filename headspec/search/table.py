"""The SweepTable: one row a case, and the file of rows that grows while a sweep runs. Plain data; no torch."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.errors import RecordError
from headspec.files import write_whole

SCHEMA = "headspec.SweepTable/1"
SETTINGS, LOG, TABLE = "sweep.json", "rows.jsonl", "sweep.csv"


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
        return cls(read_settings(folder), tuple(read_rows(folder)))


class RowLog:
    """The rows of a sweep's folder: what is finished stays, whatever happens to the process."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / LOG
        wanted = json.loads(json.dumps(dict(settings)))
        if (folder / SETTINGS).exists():
            _check_same(wanted, read_settings(folder), folder)
        else:
            if self.path.exists():
                raise RecordError(f"{self.path} has no {SETTINGS} beside it: choose another folder.")
            text = json.dumps({"schema": SCHEMA, **wanted}, indent=1) + "\n"
            write_whole(folder / SETTINGS, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        self.finished = {row["key"]: row for row in read_rows(folder)}
        _cut_torn_line(self.path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row and wait until it is on the disk."""
        line = json.dumps({name: plain(value) for name, value in row.items()}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished[row["key"]] = json.loads(line)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the sweep in a folder."""
    path = folder / SETTINGS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.pop("schema", None)
    except FileNotFoundError as error:
        raise RecordError(f"no sweep in {folder}: `headspec sweep MODEL --out {folder}` makes one.") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}): choose another folder.") from error
    if found != SCHEMA:
        raise RecordError(f"{path} is not a {SCHEMA} but {found or 'something else'}: choose another folder.")
    return values


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The finished rows in a folder; a last line that was being written when the sweep was killed does not count."""
    path = folder / LOG
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        rows = [json.loads(line) for line in lines]
        if not all(isinstance(row, dict) and isinstance(row.get("key"), str) for row in rows):
            raise ValueError("a line that is no row")
        return rows
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error}): delete the folder, or choose another.") from error


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)


def _check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if names:
        differences = "; ".join(f"{name} {found.get(name)!r} there, {wanted.get(name)!r} now" for name in names)
        raise RecordError(f"{folder} holds a sweep of another configuration ({differences}): choose another folder.")


def plain(value: Any) -> Any:
    """A value of a row for JSON, which has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
