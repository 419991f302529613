"""What a record was made from: the model, the text and the settings. Saved inside every record.

Plain data: no torch, no arrays.
"""

from dataclasses import asdict, dataclass
from typing import Any

from headspec.errors import RecordError
from headspec.heads import HeadId


@dataclass(frozen=True)
class ProbeAbout:
    """Where a HeadProfile comes from. Two profiles compare only where window length and settings agree."""

    model: str
    """Name the model was loaded by (`demo`, `pythia-70m@step1000`, a path); `random:…` means random weights."""
    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    context: int
    """Most tokens the model was trained on in one sequence."""
    layers: tuple[int, ...]
    """The layers that were probed; row i of every grid is layer `layers[i]`."""
    text: str
    """Where the text came from."""
    text_digest: str
    """SHA-256 of the token ids and their shape."""
    n_windows: int
    window: int
    """Tokens a window. Normalised entropy depends on it."""
    segment: int
    """Tokens that went through the model at once (with the KV cache); does not change the numbers."""
    first_query: int = 16
    """Averages skip the queries before this position: over one key entropy is 0/0, the first queries are all sink."""
    n_sinks: int = 4
    """How many first tokens count as the attention sink."""
    repeat_length: int = 0
    """Random tokens in one copy of the repeated sequences; 0 if there were none."""
    n_repeats: int = 0
    """How many repeated sequences were run."""
    seed: int = 0
    engine: str = "hooks"
    """What read the statistics: `hooks` of TransformerLens, or `fast`; they agree to 1e-4."""
    query_statistics: bool = False
    """Whether mean and covariance of the queries were kept."""
    dtype: str = "float32"
    device: str = "cpu"
    versions: tuple[tuple[str, str], ...] = ()
    """(package, version) of what computed the numbers."""

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: then the numbers are good for timing and tests only."""
        return self.model.startswith("random:")

    @property
    def n_tokens(self) -> int:
        """Tokens of text that were read."""
        return self.n_windows * self.window

    def heads(self) -> list[HeadId]:
        """Every probed head, in the order of the grids."""
        return [HeadId(layer, head) for layer in self.layers for head in range(self.n_heads)]

    def row(self, layer: int) -> int:
        """The row of `layer` in the grids."""
        if layer not in self.layers:
            raise RecordError(f"layer {layer} was not probed: this record of {self.model} has layers {self.layers}.")
        return self.layers.index(layer)

    def cell(self, head: "HeadId | str") -> tuple[int, int]:
        """The index of a head in the grids: `grid[about.cell("L3H7")]`."""
        head = HeadId.parse(head)
        if head.head >= self.n_heads:
            raise RecordError(f"unknown head {head}: {self.model} has heads 0–{self.n_heads - 1} in each layer.")
        return self.row(head.layer), head.head

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ProbeAbout":
        """Read back what `to_dict` wrote (JSON turns tuples into lists)."""
        versions = tuple((name, version) for name, version in values.get("versions", ()))
        return cls(**{**values, "layers": tuple(values["layers"]), "versions": versions})

    def check_model(self, model: str, n_layers: int, n_heads: int) -> None:
        """Refuse a record that was made for another model, naming both."""
        if (self.model, self.n_layers, self.n_heads) != (model, n_layers, n_heads):
            raise RecordError(
                f"this record was made for {self.model} ({self.n_layers} layers × {self.n_heads} heads), "
                f"not for {model} ({n_layers} × {n_heads}). Probe {model} anew."
            )
