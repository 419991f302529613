"""Which model a plan is for, and what it was made from. Plain data."""

from dataclasses import asdict, dataclass
from typing import Any

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId


@dataclass(frozen=True)
class PlanAbout:
    """The model a plan is for, and the profile its fill vectors come from."""

    model: str
    """Name the model was loaded by, as in a ProbeAbout."""
    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    context: int
    profile: str = ""
    """Digest of the HeadProfile that gave the fill vectors; empty if none was needed."""
    text: str = ""
    """Text of that profile."""
    text_digest: str = ""
    seed: int = 0
    """Draws the random fill vectors."""

    @property
    def heads(self) -> list[HeadId]:
        """Every head of the model."""
        return [HeadId(layer, head) for layer in range(self.n_layers) for head in range(self.n_heads)]

    def check_heads(self, heads: Any) -> None:
        """Refuse heads the model does not have."""
        unknown = sorted(head for head in heads if head.layer >= self.n_layers or head.head >= self.n_heads)
        if unknown:
            raise HeadspecError(
                f"unknown heads {', '.join(map(str, unknown))}: {self.model} has layers 0–{self.n_layers - 1}, heads "
                f"0–{self.n_heads - 1}. Was the plan made for another model?"
            )

    def check_model(self, found: Any) -> None:
        """Refuse a model (its Identity, as `identify` gives it) that the plan was not made for, naming both."""
        mine = (self.model, self.n_layers, self.n_heads, self.d_head)
        if mine != (found.name, found.n_layers, found.n_heads, found.d_head):
            raise RecordError(
                f"this plan was made for {self.model} ({self.n_layers} × {self.n_heads} heads of {self.d_head}), "
                f"not for {found.name} ({found.n_layers} × {found.n_heads} of {found.d_head}). If they are the same "
                "weights under another name, use plan.renamed(name)."
            )

    def same_model(self, other: "PlanAbout") -> bool:
        """Whether two plans are for one model."""
        return (self.model, self.n_layers, self.n_heads, self.d_head) == (
            other.model, other.n_layers, other.n_heads, other.d_head)  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
