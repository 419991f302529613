"""A linear layer that takes the quickest exact way through the machine at hand.

On a CPU in float32 torch hands `x Wᵀ + b` to its BLAS. That BLAS is at its best for hundreds of rows; decoding has
as many rows as the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tricks import Tricks

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether torch has oneDNN here, and its own calls of it for a linear layer; without them F.linear serves all. The
calls are not part of torch's documented interface: tests/runtime/test_linear.py fails when they change."""
WIDE = 1.5
"""Weights with at least so many outputs per input gain by lying transposed; square and narrow ones do not."""
PACKED_ROWS = 16
"""Rows that packed weights are laid out for; the layout serves other numbers as well."""


class FastLinear(nn.Linear):
    """`nn.Linear` with the tricks `onednn` and `transposed`; as it is under autograd and on other devices."""

    def __init__(self, n_inputs: int, n_outputs: int, bias: bool, tricks: Tricks):
        super().__init__(n_inputs, n_outputs, bias=bias)
        self.tricks = tricks
        self.packed: Any = None
        """The weight in oneDNN's own layout, after `pack`."""

    def forward(self, x: Tensor) -> Tensor:
        """`x Wᵀ + b`: `[..., n_inputs]` to `[..., n_outputs]`."""
        if self.packed is not None:
            return _onednn(x, self.packed, self.bias)
        if not self._serves(x):
            return F.linear(x, self.weight, self.bias)
        self._lay_out()
        one_row = x.numel() == x.shape[-1]  # a BLAS is quicker then
        onednn = self.tricks.onednn and ONEDNN and not one_row
        return _onednn(x, self.weight, self.bias) if onednn else F.linear(x, self.weight, self.bias)

    def divisible(self) -> bool:
        """Whether `part` may stand in for a call: nobody has hooked the call, or put another in its place."""
        return not (self._forward_hooks or self._forward_pre_hooks or "forward" in vars(self))

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` only."""
        if self.packed is not None:
            return self(x)[..., start:stop]
        return F.linear(x, self.weight[start:stop], None if self.bias is None else self.bias[start:stop])

    def pack(self) -> None:
        """Replace the weight by one in oneDNN's own layout; from then on the layer only computes, on this CPU."""
        if ONEDNN and self.packed is None and self.weight.device.type == "cpu" and self.weight.dtype == torch.float32:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().contiguous(), PACKED_ROWS)
            self.weight = nn.Parameter(self.weight.detach().to("meta"), requires_grad=False)

    def _serves(self, x: Tensor) -> bool:
        """Whether the tricks apply: inference on a CPU in float32, and with an ordinary weight."""
        ordinary = type(self.weight) is nn.Parameter and x.dtype == self.weight.dtype == torch.float32
        return ordinary and x.device.type == self.weight.device.type == "cpu" and not torch.is_grad_enabled()

    def _lay_out(self) -> None:
        """Store a wide weight column after column; its shape and values stay."""
        wide = self.out_features >= WIDE * self.in_features
        if wide and self.tricks.transposed and self.weight.is_contiguous() and not self.weight.is_shared():
            with torch.inference_mode(False):  # what inference mode makes could not be trained later
                self.weight.data = self.weight.data.t().contiguous().t()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self.check_not_packed()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.check_not_packed()
        super()._save_to_state_dict(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        self.check_not_packed()  # oneDNN's layout can be neither copied nor saved
        return vars(self)

    def check_not_packed(self) -> None:
        """Refuse what a packed layer cannot do."""
        if self.packed is not None:
            raise RuntimeError(
                "after pack_weights() a model can only compute: load it anew to save, copy, move or convert it."
            )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with torch.no_grad():
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
