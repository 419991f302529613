"""Where text and token ids come from: packaged texts, files, standard input, data sets. No model is needed here."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headspec.errors import TextError
from headspec.load.names import DEMO_FOLDER

PACKAGED = ("probe", "select", "certify")
"""Texts that come with headspec: one to probe with, one to choose plans with, one to judge them with."""


def read_text(source: str, n_characters: int | None = None) -> str:
    """The text of a packaged name, a file, standard input (`-`) or a data set (`datasets:NAME`).

    `n_characters` bounds how much of a data set is streamed.
    """
    if source.startswith("datasets:"):
        return _read_dataset(source.removeprefix("datasets:"), n_characters)
    text = _decode(sys.stdin.buffer.read() if source == "-" else _read_file(source), source)
    if not text.strip():
        raise TextError(f"{source} is empty.")
    return text


def read_token_ids(path: str) -> Int[Tensor, " token"]:
    """Token ids from a file: `.npy`, or whole numbers separated by white space; of any shape, read as one sequence."""
    try:
        numbers = np.load(path) if str(path).endswith(".npy") else np.array(Path(path).read_text().split(), np.int64)
        return torch.from_numpy(numbers.reshape(-1).astype(np.int64, casting="same_kind"))
    except (OSError, EOFError, ValueError, TypeError, OverflowError) as error:
        raise TextError(f"cannot read token ids from {path}: {error}. Want whole numbers, or a .npy file.") from error


def _read_file(source: str) -> bytes:
    path = DEMO_FOLDER / f"{source}.txt" if source in PACKAGED else Path(source).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(
            f"cannot read the text {source}: {error.strerror}. Give a file, - for standard input, datasets:NAME, "
            f"or one of the packaged {', '.join(PACKAGED)}."
        ) from error


def _decode(data: bytes, source: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{source} is not UTF-8 text (byte {error.start}): is it a binary file?") from error
    if "\0" in text:
        raise TextError(f"{source} contains zero bytes: is it a binary file?")
    return text


def _read_dataset(name: str, n_characters: int | None) -> str:
    """Rows of `NAME`, `NAME/CONFIG` or a folder, `#COLUMN` after it (`text` by default), until there is enough."""
    path, _, column = name.partition("#")
    pieces: list[str] = []
    n_read = 0
    for piece in _rows(path, column or "text"):
        pieces.append(piece)
        n_read += len(piece)
        if n_characters is not None and n_read >= n_characters:
            break
    if not n_read:
        raise TextError(f"data set {path} is empty.")
    return "\n\n".join(pieces)


def _rows(path: str, column: str) -> Iterator[str]:
    from datasets import load_dataset

    parts = path.split("/")
    names = ["/".join(parts[:2]), parts[2]] if len(parts) == 3 and not Path(path).exists() else [path]
    try:
        rows: Any = load_dataset(*names, split="train", streaming=True)
        for row in rows:
            if not isinstance(row[column], str):
                raise TextError(f"column {column} of data set {path} holds {type(row[column]).__name__}, not text.")
            yield row[column]
    except TextError:
        raise
    except KeyError as error:
        raise TextError(f"data set {path} has no column {column}: name it as in datasets:{path}#title.") from error
    except Exception as error:  # whatever a loader of anybody's data raises
        raise TextError(f"cannot read data set {path}: {error}") from error
