"""A linear layer that takes the quickest exact way through the machine at hand.

On a CPU in float32 torch hands `x Wᵀ + b` to its BLAS. That BLAS is at its best for hundreds of rows; decoding has
as many rows as the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packing import ONEDNN, PACKINGS, Packing, graph_onednn, onednn
from .tricks import Tricks

WIDE = 1.5
"""Weights with at least so many outputs per input gain by lying transposed; square and narrow ones do not."""

exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether torch.export is tracing; of a torch that cannot tell them apart, whether anything is."""


class FastLinear(nn.Linear):
    """`nn.Linear` with the tricks `onednn` and `transposed`; as it is under autograd and on other devices."""

    def __init__(self, n_inputs: int, n_outputs: int, bias: bool, tricks: Tricks):
        super().__init__(n_inputs, n_outputs, bias=bias)
        self.tricks = tricks
        self.packing: Packing | None = None
        self.packed: Any = None
        """The weight in the layout of `packing`, after `pack`."""

    def forward(self, x: Tensor) -> Tensor:
        """`x Wᵀ + b`: `[..., n_inputs]` to `[..., n_outputs]`."""
        if self.packing is not None:
            return self.packing.call(x, self.packed, self.bias)
        if exporting() or not self._serves(x):  # whatever runs an export has tricks of its own
            return F.linear(x, self.weight, self.bias)
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self.lay_out()
        one_row = x.numel() == x.shape[-1]  # a BLAS is quicker then
        if one_row or not (self.tricks.onednn and ONEDNN):
            return F.linear(x, self.weight, self.bias)
        return (graph_onednn if compiling else onednn)(x, self.weight, self.bias)

    def divisible(self) -> bool:
        """Whether `part` may stand in for a call: nobody has hooked the call, or put another in its place."""
        return not (self._forward_hooks or self._forward_pre_hooks or "forward" in vars(self))

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` only."""
        if self.packing is not None:
            return self(x)[..., start:stop]
        return F.linear(x, self.weight[start:stop], None if self.bias is None else self.bias[start:stop])

    def pack(self, kind: str = "float32") -> None:
        """Replace the weight by one in a layout of `PACKINGS`; from then on the layer only computes, on this CPU.

        Does nothing where that layout cannot be had: the weight must be float32 and on a CPU.
        """
        wanted = PACKINGS[kind]
        serves = self.weight.device.type == "cpu" and self.weight.dtype == torch.float32
        if wanted.possible and self.packing is None and serves:
            bias = None if self.bias is None else self.bias.detach()
            self.packing, self.packed = wanted, wanted.pack(self.weight.detach(), bias)
            self.weight = nn.Parameter(self.weight.detach().to("meta", wanted.dtype), requires_grad=False)

    def _serves(self, x: Tensor) -> bool:
        """Whether the tricks apply: inference on a CPU in float32, and with an ordinary weight."""
        ordinary = type(self.weight) is nn.Parameter and x.dtype == self.weight.dtype == torch.float32
        return ordinary and x.device.type == self.weight.device.type == "cpu" and not torch.is_grad_enabled()

    def lay_out(self) -> None:
        """Store a wide weight column after column, if that is wanted; its shape and values stay."""
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
        self.check_not_packed()  # such a layout can be neither copied nor saved
        return vars(self)

    def check_not_packed(self) -> None:
        """Refuse what a packed layer cannot do."""
        if self.packing is not None:
            raise RuntimeError(
                "after pack_weights() a model can only compute: load it anew to save, copy, move or convert it."
            )
