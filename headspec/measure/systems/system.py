"""What a compared system is: a name, what it stands for, and something that reads tokens through a KV cache."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from headspec.plan.plan import HeadPlan


class Standing(StrEnum):
    """What a system is there for; figures and tables keep these apart."""

    REFERENCE = "reference"
    """The original: as transformers runs it (V, S), and in headspec's runtime with every head kept (P0)."""
    BASELINE = "baseline"
    """A published method that treats all heads alike: StreamingLLM, SnapKV, …"""
    CERTIFIED = "certified"
    """A plan whose cost in quality was measured; the certificate says how much."""
    HYPOTHETICAL = "hypothetical"
    """A plan that nobody has judged: its speed says nothing about its worth."""
    CONTROL = "control"
    """Made to be bad, such as the same treatments on random heads."""
    PEER = "peer"
    """The original, or a plan that was judged, on another engine or with rounded weights."""


@runtime_checkable
class Running(Protocol):
    """A system, loaded and ready. One text (or batch of texts) at a time."""

    model: Any
    """The module that computes, a transformers PreTrainedModel."""

    @property
    def kv_bytes(self) -> int:
        """Bytes that the cache holds now, for all rows together; 0 without one."""

    def start(self, prompt: int, expected: int, batch: int = 1) -> None:
        """Forget everything, and make an empty cache.

        Args:
            prompt: Columns of the prompt, the first of those expected.
            expected: Columns that will be read altogether.
            batch: Rows of the prompt.
        """

    def read(self, tokens: Int[Tensor, "batch token"], n_last: int = 1) -> Float[Tensor, "batch n_last vocabulary"]:
        """Read tokens through the cache (the prompt first); the logits of the last `n_last` of them, 0: of all."""

    def repeat(self, times: int) -> None:
        """Make `times` rows of every row of the cache, side by side: fills a batch from one prompt."""

    def forget(self) -> None:
        """Drop the cache and its memory."""


@dataclass(frozen=True, eq=False)
class System:
    """Something that can be compared."""

    name: str
    """Short, for tables: `V`, `P0`."""
    label: str
    """One line in words."""
    standing: Standing
    open: Callable[[], Running]
    """Makes it ready. What was not cut is shared with the original; every call makes a model of its own."""
    plan: HeadPlan | None = None
    """What is done with the heads; None where transformers runs the original."""
    folder: Path | None = None
    """Of an exported model."""
    engine: str = ""
    """What runs it, or how its weights are stored, where that is not torch in the original's numbers."""
    exact: bool = True
    """Whether its logits should be those of the plan (or the original), up to rounding in float32."""
    unpruned: str = ""
    """The name of the system that runs the whole model in the same way: what is beyond it is pruning's own share."""

    def elsewhere(self, suffix: str, words: str, **changes: Any) -> "System":
        """The same plan in another way, which adds a word to its name."""
        standing = self.standing if self.standing is Standing.HYPOTHETICAL else Standing.PEER
        return replace(
            self, name=f"{self.name} {suffix}", label=f"{self.label}; {words}", standing=standing,
            unpruned=f"P0 {suffix}", **changes,
        )  # fmt: skip
