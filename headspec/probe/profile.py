"""The HeadProfile: everything the probe found out about every head, as numbers.

A record: numpy arrays, saved as one `.safetensors` file. No torch, no cut-offs, no plots.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from headspec.errors import RecordError
from headspec.files import write_whole
from headspec.heads import HeadId
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import BY_POSITION, BY_WINDOW, GRIDS

SCHEMA = "headspec.HeadProfile/2"
PROFILE = "head_profile.safetensors"
"""What it is called in results folders."""


@dataclass(frozen=True, eq=False)
class HeadProfile:
    """Statistics of every probed head; `profile["attention_entropy"]` is a `[layer, head]` grid.

    Averages run over all windows and over the queries from `about.first_query` on. `headspec.probe.catalogue`
    says of every statistic what it means, its unit and range, and when it misleads.
    """

    about: ProbeAbout
    grids: dict[str, np.ndarray]
    """`[layer, head]`, one number a head; the names are `catalogue.GRIDS`."""
    by_position: dict[str, np.ndarray]
    """`[position bin, layer, head]`: the same averaged over the queries of one bin (`position_edges`)."""
    by_window: dict[str, np.ndarray]
    """`[window, layer, head]`: the same for each window of text, to see the spread."""
    position_edges: np.ndarray
    """`[position bin]`: first query position of each bin."""
    queries_per_position: np.ndarray
    """`[position bin]`: queries averaged over in each bin, over all windows."""
    offset_edges: np.ndarray
    """`[offset bin]`: smallest relative offset of each bin; 0 … 63 one by one, then powers of two."""
    offset_mass: np.ndarray
    """`[layer, head, offset bin]`: mean attention by relative offset; adds up to 1."""
    max_attention_position: np.ndarray
    """`[layer, head, offset bin]`: share of the queries whose largest attention falls there; adds up to 1."""
    max_attention_histogram: np.ndarray
    """`[layer, head, bin]`: share of the queries by size of their largest attention, in equal bins of [0, 1]."""
    near_mass: np.ndarray
    """`[position bin, layer, head, offset]`: mean attention at offsets 0 … 63, sink keys left out."""
    mean_z: np.ndarray
    """`[layer, head, d_head]`: mean of z over the text: what replaces the head when it is mean-ablated."""
    z_norm: np.ndarray
    """`[layer, head]`: mean of ‖z‖: how long the random vector is that may replace the head."""
    query_mean: np.ndarray | None = None
    """`[layer, head, d_head]`: mean of the queries before rotation, from `first_query` on; None unless
    `query_statistics` was asked for. With `query_covariance`: what expected attention needs (kvpress)."""
    query_covariance: np.ndarray | None = None
    """`[layer, head, d_head, d_head]`: their covariance (divided by the number of queries)."""
    schema: str = field(default=SCHEMA, repr=False)

    def __post_init__(self) -> None:
        shape = (len(self.about.layers), self.about.n_heads)
        for name in GRIDS:
            if name not in self.grids or self.grids[name].shape != shape:
                raise RecordError(f"profile of {self.about.model}: no grid {name} of shape {shape} (layers, heads).")

    def __getitem__(self, statistic: str) -> np.ndarray:
        if statistic not in self.grids:
            raise RecordError(f"no statistic {statistic!r}: choose one of {', '.join(self.grids)}.")
        return self.grids[statistic]

    def __repr__(self) -> str:
        about = self.about
        return (
            f"HeadProfile({about.model}: {len(about.layers)} layers × {about.n_heads} heads, {about.n_windows} × "
            f"{about.window} tokens of {about.text})"
        )

    def _repr_html_(self) -> str:
        from headspec.probe.profile_html import profile_html

        return profile_html(self)

    def head(self, head: HeadId | str) -> dict[str, float]:
        """The numbers of one head: `profile.head("L3H7")["attention_entropy"]`."""
        cell = self.about.cell(head)
        return {name: float(grid[cell]) for name, grid in self.grids.items()}

    def to_frame(self) -> Any:
        """One row a head, one column a statistic, as a pandas DataFrame."""
        import pandas

        heads = self.about.heads()
        columns: dict[str, Any] = {"head": [str(head) for head in heads], "layer": [head.layer for head in heads]}
        columns |= {name: grid.ravel() for name, grid in self.grids.items()}
        columns["top_offset"] = self.top_offset.ravel()
        columns["top_offset_share"] = self.top_offset_share.ravel()
        return pandas.DataFrame(columns)

    @property
    def top_offset(self) -> np.ndarray:
        """`[layer, head]`: the offset (lower edge of its bin) at which the largest attention falls most often."""
        return self.offset_edges[self.max_attention_position.argmax(-1)]

    @property
    def top_offset_share(self) -> np.ndarray:
        """`[layer, head]`: the share of queries for which it falls there, in [0, 1] (Voita et al. 2019 ask for .9)."""
        return self.max_attention_position.max(-1)

    @property
    def digest(self) -> str:
        """SHA-256 of every number in the profile; a HeadPlan keeps that of the profile it was made from."""
        arrays = sorted(self._arrays().items())
        return hashlib.sha256(b"".join(name.encode() + array.tobytes() for name, array in arrays)).hexdigest()

    def save(self, path: Path | str) -> Path:
        """Write everything into one `.safetensors` file."""
        header = {"schema": self.schema, "about": json.dumps(self.about.to_dict())}
        arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}
        return write_whole(Path(path), lambda temporary: save_file(arrays, temporary, metadata=header))

    @classmethod
    def load(cls, path: Path | str) -> "HeadProfile":
        """Read a saved profile; a damaged or foreign file is a RecordError."""
        path = Path(path)
        if not path.is_file():
            raise RecordError(f"no profile at {path}: `headspec analyze MODEL` writes one.")
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise RecordError(f"{path} is damaged or not a safetensors file ({error}). Run the probe again.") from error
        if header.get("schema") != SCHEMA:
            raise RecordError(f"{path} is not a {SCHEMA} but {header.get('schema', 'something else')}. Probe anew.")
        try:
            about = ProbeAbout.from_dict(json.loads(header["about"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path} has a damaged header ({type(error).__name__}: {error}). Probe anew.") from error
        return cls._from_arrays(about, arrays, path)

    def _arrays(self) -> dict[str, np.ndarray]:
        flat: dict[str, np.ndarray] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, dict):
                flat |= {f"{part.name}.{name}": array for name, array in value.items()}
            elif isinstance(value, np.ndarray):
                flat[part.name] = value
        return flat

    @classmethod
    def _from_arrays(cls, about: ProbeAbout, arrays: dict[str, np.ndarray], path: Path) -> "HeadProfile":
        groups = {"grids": GRIDS, "by_position": BY_POSITION, "by_window": BY_WINDOW}
        try:
            parts: dict[str, Any] = {
                group: {name: arrays.pop(f"{group}.{name}") for name in names} for group, names in groups.items()
            }
            return cls(about=about, **parts, **dict[str, Any](arrays))
        except (KeyError, TypeError) as error:
            raise RecordError(f"{path} lacks or has unknown arrays ({error}). Run the probe again.") from error
