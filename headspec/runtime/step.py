"""What all layers share while some tokens run through the model: where these are, and which keys they may see.

Tokens are counted in *columns* of the batch: column 0 is where the longest row starts. Padding takes columns too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .tricks import Tricks


class Step:
    """Tokens `n_past` … `n_total − 1` of a batch.

    Args:
        n_past: Columns that are in the cache already, a number (in a graph a tensor).
        n_new: Columns that come now, a number (in a graph perhaps a symbol).
        real: `[batch, n_total]`, False on padding; None if nothing is padding.
        rotation: Cosines and sines of the new positions, each `[batch or 1, n_new, rotary dims]`.
        device: Where the masks are needed.
        tricks: What may be done to be fast.
        frequencies: Of the rotation, radians a column, `[rotary dims / 2]`.
    """

    def __init__(
        self, n_past: Any, n_new: Any, real: Tensor | None, rotation: tuple, device: Any, tricks: Tricks,
        frequencies: Tensor | None = None,
    ):  # fmt: skip
        self.n_past, self.n_new, self.n_total = n_past, n_new, n_past + n_new
        self.real, self.device, self.tricks = real, device, tricks
        self.rotation, self.frequencies = rotation, frequencies
        self.tokens: Tensor | None = None
        """`[batch, n_new]`, where they are known."""
        cos, sin = rotation
        half = sin.shape[-1] // 2
        self.cos = cos[:, :, None, None]  # [batch or 1, new, q or k, head, rotary]
        self.sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)[:, :, None, None]
        self._made: dict = {}

    def to(self, device: Any, **options: Any) -> "Step":
        """The same on another device; accelerate calls it where layers are spread over devices."""
        if torch.device(device) == torch.device(self.device):
            return self

        def copy() -> Step:
            real = None if self.real is None else self.real.to(device, **options)
            rotation = tuple(part.to(device, **options) for part in self.rotation)
            frequencies = None if self.frequencies is None else self.frequencies.to(device)
            return Step(self.n_past, self.n_new, real, rotation, device, self.tricks, frequencies)

        return self.once(("to", str(device)), copy)

    def whole(self) -> "Step":
        """The same columns as if all had come now; for stores that take over heads which have read them."""
        return self.once(("whole",), self._whole)

    def _whole(self) -> "Step":
        return Step(0, self.n_total, self.real, self.rotation, self.device, self.tricks, self.frequencies)

    def starts(self) -> list[int] | None:
        """The first real column of each row; None where no row has padding."""
        if self.real is None:
            return None
        return self.once(("starts",), lambda: self.sink_columns(1)[:, 0].tolist())

    def once(self, name: tuple, make: Callable[[], Any]) -> Any:
        """The result of `make`, computed for the first layer that asks and kept for the others."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def columns(self, start: int, stop: int) -> Tensor:
        """The numbers of some columns."""
        return torch.arange(start, stop, device=self.device)

    def is_real(self, columns: Tensor) -> Tensor:
        """Which of these columns hold real tokens, `[batch or 1, *columns]`; columns before the first do not."""
        inside = (columns >= 0) & (columns < self.n_total)
        if self.real is None:
            return inside[None]
        return self.real[:, columns.clamp(0, self.n_total - 1)] & inside

    def sink_columns(self, sinks: int) -> Tensor:
        """The columns of the first `sinks` real tokens of each row, `[batch or 1, sinks]`; n_total where there are
        not so many yet."""

        def find() -> Tensor:
            if self.real is None:
                return self.columns(0, sinks).clamp(max=self.n_total)[None]
            rank = self.real.cumsum(-1)
            wanted = torch.arange(1, sinks + 1, device=self.device).expand(len(self.real), -1).contiguous()
            return torch.searchsorted(rank, wanted)  # n_total where the rank is never reached

        return self.once(("sinks", sinks), find)

    def is_sink(self, columns: Tensor, sinks: int) -> Tensor:
        """Which of these columns hold one of the first `sinks` real tokens, `[batch or 1, *columns]`."""
        if not sinks:
            return torch.zeros_like(columns, dtype=torch.bool)[None]
        last = self.sink_columns(sinks)[:, -1].reshape(-1, *[1] * columns.ndim)
        return (columns <= last) & self.is_real(columns)

    def sinks_open(self, sinks: int) -> bool:
        """Whether the new columns may hold one of the first `sinks` real tokens of a row."""
        if not sinks or self.real is None:
            return self.n_past < sinks
        return self.n_past <= self.once(("last sink", sinks), lambda: int(self.sink_columns(sinks).max()))
