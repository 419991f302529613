"""The projections of a layer without its dead heads: sliced out once, so that these are not computed any more."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .linear import FastLinear


class Slices:
    """Copies of the weights of the heads that are alive; the layer's own weights stay as they are.

    Args:
        attention: The layer's PrunedAttention.
        alive: Places of the heads in its weights.
        constants: What stands in for z of all its heads, `[head, d_head]`; only those of dead heads are used.
    """

    @torch.inference_mode(False)  # what inference mode makes could not be used outside it
    @torch.no_grad()
    def __init__(self, attention: Any, alive: Sequence[int], constants: Tensor):
        d_head, n_heads = attention.d_head, attention.width // attention.d_head
        self.alive, self.width = tuple(alive), len(alive) * d_head
        bias = attention.dense.bias.detach()
        dead = constants.clone()
        dead[list(alive)] = 0.0
        self.bias = bias + (attention.dense.weight.detach() @ dead.flatten().to(bias)).to(bias)
        """The bias of the output with what the dead heads write; without heads it is all that is left."""
        if not alive:
            return
        kept = torch.arange(n_heads * d_head, device=bias.device).view(n_heads, d_head)[list(alive)].flatten()
        rows = torch.cat([kept + part * n_heads * d_head for part in range(3)])
        qkv_bias = attention.qkv.bias
        self.qkv = _linear(attention.qkv, attention.qkv.weight[rows], None if qkv_bias is None else qkv_bias[rows])
        self.dense = _linear(attention.dense, attention.dense.weight[:, kept], self.bias)


def _linear(like: FastLinear, weight: Tensor, bias: Tensor | None) -> FastLinear:
    with torch.device("meta"):
        made = FastLinear(weight.shape[1], weight.shape[0], bias is not None, like.tricks)
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made
