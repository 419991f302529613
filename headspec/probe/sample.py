"""The PatternSample: every head's attention pattern on a few tokens, to look at. A record; no torch."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from headspec.errors import RecordError
from headspec.files import write_whole
from headspec.heads import HeadId

SCHEMA = "headspec.PatternSample/1"
ABOUT = ("model", "n_layers", "n_heads", "layers", "tokens")


@dataclass(frozen=True, eq=False)
class PatternSample:
    """Patterns on a short sample. They say how a head behaves there, not on average: roles rest on the profile."""

    model: str
    n_layers: int
    n_heads: int
    layers: tuple[int, ...]
    """Row i of `patterns` is layer `layers[i]`."""
    tokens: tuple[str, ...]
    """Decoded one by one: part of a text, twice."""
    patterns: np.ndarray = field(repr=False)
    """`[layer, head, query, key]` float16, each row of queries adds up to 1."""

    def __post_init__(self) -> None:
        shape = (len(self.layers), self.n_heads, len(self.tokens), len(self.tokens))
        if self.patterns.shape != shape:
            raise RecordError(f"patterns of shape {self.patterns.shape}: {self.model} and its tokens want {shape}.")

    def head(self, head: HeadId | str) -> np.ndarray:
        """`[query, key]` of one head."""
        head = HeadId.parse(head)
        if head.layer not in self.layers or head.head >= self.n_heads:
            raise RecordError(
                f"no pattern of {head}: this sample of {self.model} has layers {self.layers}, heads "
                f"0–{self.n_heads - 1}."
            )
        return np.asarray(self.patterns[self.layers.index(head.layer), head.head])

    def save(self, path: Path | str) -> Path:
        """Write it as `.safetensors`."""
        about = {name: getattr(self, name) for name in ABOUT}
        header = {"schema": SCHEMA, "about": json.dumps(about)}
        arrays = {"patterns": np.ascontiguousarray(self.patterns)}
        return write_whole(Path(path), lambda temporary: save_file(arrays, temporary, metadata=header))

    @classmethod
    def load(cls, path: Path | str) -> "PatternSample":
        """Read a saved sample; a damaged or foreign file is a RecordError."""
        path = Path(path)
        if not path.is_file():
            raise RecordError(f"no pattern sample at {path}: `headspec analyze MODEL` writes one.")
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("schema") != SCHEMA:
                    raise RecordError(f"{path} is not a {SCHEMA} but {header.get('schema', 'something else')}.")
                patterns = file.get_tensor("patterns")
            about: dict[str, Any] = json.loads(header["about"])
            known: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in about.items()
            }
            return cls(**known, patterns=patterns)
        except RecordError:
            raise
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path} is damaged ({type(error).__name__}: {error}). Run the analysis again."
            ) from error
