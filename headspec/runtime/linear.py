"""A linear layer that takes the quickest exact way through the machine at hand.

On a CPU in float32 torch hands `x Wᵀ + b` to its BLAS. That BLAS is at its best for hundreds of rows; decoding has
as many rows as the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tricks import Tricks

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether torch has oneDNN here, and its own call of it for a linear layer; without them F.linear serves all. The call
is not part of torch's documented interface: tests/runtime/test_linear.py fails when it changes."""
TRANSPOSE_FROM = 2
"""Weights with at least so many outputs per input gain by lying transposed; others lose (measured: docs/runtime.md)."""


class FastLinear(nn.Linear):
    """`nn.Linear` with the tricks `onednn` and `transposed`; as it is under autograd and on other devices."""

    def __init__(self, n_inputs: int, n_outputs: int, bias: bool, tricks: Tricks):
        super().__init__(n_inputs, n_outputs, bias=bias)
        self.tricks = tricks

    def forward(self, x: Tensor) -> Tensor:
        """`x Wᵀ + b`: `[..., n_inputs]` to `[..., n_outputs]`."""
        return self.part(x, 0, self.out_features)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` only."""
        if self._on_blas(x):
            return F.linear(x, *self._rows(start, stop))
        if x.numel() == x.shape[-1]:  # one row
            self._transpose()
            return F.linear(x, *self._rows(start, stop))
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), *self._rows(start, stop), "none", [], "")

    def _rows(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        if stop - start == self.out_features:
            return self.weight, self.bias
        return self.weight[start:stop], None if self.bias is None else self.bias[start:stop]

    def _on_blas(self, x: Tensor) -> bool:
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        return not (plain and self.tricks.onednn and ONEDNN) or torch.is_grad_enabled()

    def _transpose(self) -> None:
        """Lay the weight out as [input, output] in memory; its shape and values stay."""
        wide = self.out_features >= TRANSPOSE_FROM * self.in_features
        if wide and self.tricks.transposed and self.weight.is_contiguous():
            self.weight.data = self.weight.data.t().contiguous().t()
