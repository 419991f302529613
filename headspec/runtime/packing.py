"""Weights in a layout that only computes: float32 as oneDNN wants it, or integers of 8 bits.

int8: a weight is rounded to integers of −127 … 127 times a scale for each output (symmetric, per channel); inputs are
rounded to 7 bits as they come, with one scale and zero point a call (dynamic quantisation, as torch.ao has it: 7 bits,
since the sums of CPUs without VNNI would overflow with 8). Sums are exact integers, so the error is that of rounding.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether torch has oneDNN here, and its own calls of it for a linear layer; without them F.linear serves all. The
calls are not part of torch's documented interface: tests/runtime/test_linear.py fails when they change."""
INT8 = torch.backends.quantized.engine != "none"
"""Whether torch has quantised linear layers here."""
PACKED_ROWS = 16
"""Rows that packed weights are laid out for; the layout serves other numbers as well."""


class Packing(NamedTuple):
    """A way to lay weights out."""

    dtype: torch.dtype
    """Of the numbers that are kept."""
    possible: bool
    """On this machine."""
    pack: Callable[[Tensor, Tensor | None], Any]
    """From weight and bias."""
    call: Callable[[Tensor, Any, Tensor | None], Tensor]
    """`x Wᵀ + b` from x, what `pack` made, and b."""


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x Wᵀ + b` through oneDNN; the weight as it is, or packed."""
    with torch.no_grad():
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _graph_onednn() -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """`onednn` as a node that torch.compile leaves as it is: its own way to oneDNN wants weights that are constants.

    Defined once in a process, also where exported folders bring this module along.
    """
    if not hasattr(torch.ops.headspec, "linear"):
        torch.library.define("headspec::linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
        torch.library.impl("headspec::linear", "cpu", onednn)
        torch.library.register_fake("headspec::linear", lambda x, weight, bias: x.new_empty(*x.shape[:-1], len(weight)))
    return torch.ops.headspec.linear


graph_onednn = _graph_onednn()


def _pack_onednn(weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)


def _pack_int8(weight: Tensor, bias: Tensor | None) -> Any:
    scales = (weight.abs().amax(1).double() / 127).clamp(min=torch.finfo(torch.float32).tiny)
    rounded = (weight.double() / scales[:, None]).round().clamp(-127, 127).to(torch.int8).contiguous()
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():  # of torch, which moves such tensors to another package in time
        warnings.simplefilter("ignore")
        integers = torch._make_per_channel_quantized_tensor(rounded, scales, zeros, 0)
    return torch.ops.quantized.linear_prepack(integers, bias)


def _int8(x: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
    found = torch.ops.quantized.linear_dynamic(torch.atleast_2d(x.contiguous()), packed, reduce_range=True)
    return found.view(*x.shape[:-1], -1)


PACKINGS = {
    "float32": Packing(torch.float32, ONEDNN, _pack_onednn, onednn),
    "int8": Packing(torch.int8, INT8, _pack_int8, _int8),
}
