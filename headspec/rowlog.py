"""Files of rows that grow while something long runs: what is finished stays, whatever happens to the process.

A leaf: no torch, no knowledge of what the rows mean.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.errors import RecordError
from headspec.files import write_whole

LOG = "rows.jsonl"


@dataclass(frozen=True)
class LogKind:
    """What a folder of rows holds."""

    schema: str
    settings: str
    """Name of the file of settings, which all rows of a folder have in common."""
    word: str
    """What it is called, as the command that makes it."""


class RowLog:
    """The rows in a folder, each with a `key`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], kind: LogKind) -> None:
        self.path = folder / LOG
        wanted = json.loads(json.dumps(dict(settings)))
        if (folder / kind.settings).exists():
            check_same(wanted, read_settings(folder, kind), folder, kind)
        else:
            if self.path.exists():
                raise RecordError(f"{self.path} has no {kind.settings} beside it: choose another folder.")
            text = json.dumps({"schema": kind.schema, **wanted}, indent=1) + "\n"
            write_whole(folder / kind.settings, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        self.finished = {row["key"]: row for row in read_rows(folder, kind)}
        _cut_torn_line(self.path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row and wait until it is on the disk."""
        line = json.dumps({name: plain(value) for name, value in row.items()}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished[row["key"]] = json.loads(line)


def read_settings(folder: Path, kind: LogKind) -> dict[str, Any]:
    """The settings of the rows in a folder."""
    path = folder / kind.settings
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.pop("schema", None)
    except FileNotFoundError as error:
        raise RecordError(
            f"no {kind.word} in {folder}: `headspec {kind.word} MODEL --out {folder}` makes one."
        ) from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}): choose another folder.") from error
    if found != kind.schema:
        raise RecordError(f"{path} is not a {kind.schema} but {found or 'something else'}: choose another folder.")
    return values


def read_rows(folder: Path, kind: LogKind) -> list[dict[str, Any]]:
    """The finished rows in a folder; a last line that was being written when the process was killed does not count."""
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


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], folder: Path, kind: LogKind) -> None:
    """Refuse to add to a folder of other settings, naming the differences."""
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if names:
        differences = "; ".join(f"{name} {found.get(name)!r} there, {wanted.get(name)!r} now" for name in names)
        raise RecordError(
            f"{folder} holds a {kind.word} of another configuration ({differences}): choose another folder."
        )


def plain(value: Any) -> Any:
    """A value of a row for JSON, which has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
