"""A pruned model as a graph for other engines: a torch.export program of `runtime/functional.py`, for all sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headspec.runtime.functional import Past, PastStore, PureStep, layout_of
from headspec.runtime.keeping import KeepingStore
from headspec.runtime.linear import FastLinear

INPUTS = ("tokens", "positions", "n_past", "starts")
"""Of the program, before keys and values; meant as `PureStep.forward` says."""


class ApartStep(nn.Module):
    """The step with keys and values of each group as two inputs, which engines take without copying them."""

    def __init__(self, model: Any, layout: list[list[Past]], keeping: bool = False):
        super().__init__()
        self.step, self.keeping = PureStep(model, layout, KeepingStore if keeping else PastStore), keeping

    def forward(
        self, tokens: Int[Tensor, "batch token"], positions: Int[Tensor, "batch token"], n_past: Int[Tensor, ""],
        starts: Int[Tensor, " batch"], *past: Float[Tensor, "batch _ _ d_head"],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Logits of the last token, then of each group the new keys and values in one tensor, or all of them in two."""
        logits, *new = self.step(tokens, positions, n_past, starts, *zip(past[::2], past[1::2], strict=True))
        return logits, *(chain(*new) if self.keeping else new)


@torch.no_grad()
def step_program(model: Any, keeping: bool = False) -> tuple[torch.export.ExportedProgram, list[list[Past]]]:
    """Export a pruned model, with sizes of batch, tokens and cache left open.

    Args:
        model: A PrunedGPTNeoXForCausalLM in memory; it is not changed.
        keeping: Give back what the next step wants, for engines with states, in place of what is new.

    Returns:
        The program, which takes `INPUTS` and then keys and values of each group, and what these groups are: those of
        windowed heads are taken together, as `layout_of` says.

    Raises:
        ValueError: Compressed heads, which no graph can have, or packed weights.
    """
    layout = layout_of(model.config, together=True)
    if any(isinstance(module, FastLinear) and module.packing is not None for module in model.modules()):
        raise ValueError("packed weights cannot be exported: load the model anew.")
    d_head = model.config.hidden_size // model.config.num_attention_heads
    groups = [group for layer in layout for group in layer]
    batch, new, slots, weight = 2, 3, 5, model.gpt_neox.embed_in.weight
    past = [weight.new_zeros(batch, group.n_heads, group.slots or slots, d_head) for group in groups for _ in "kv"]
    # one tensor given twice would be one input
    tokens = torch.zeros(batch, new, dtype=torch.long, device=weight.device)
    example = (tokens, tokens.clone(), tokens.new_tensor(4), tokens[:, 0].clone(), *past)
    free = torch.export.Dim.DYNAMIC
    shapes = tuple({0: free} if group.windows else {0: free, 2: free} for group in groups for _ in "kv")
    with _in_evaluation(model):
        program = torch.export.export(
            ApartStep(model, layout, keeping), example, strict=False,
            dynamic_shapes=({0: free, 1: free}, {0: free, 1: free}, None, {0: free}, *([shapes] if shapes else [])),
        )  # fmt: skip
    return program, layout


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
