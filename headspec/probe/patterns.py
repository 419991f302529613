"""The attention patterns of whole layers on a few tokens: what pattern views and the report show.

The probe itself never forms them for a text; here they are kept, so the text must be short.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import HeadspecError
from headspec.load.identity import identify
from headspec.load.plain import PlainModel
from headspec.load.text import as_windows
from headspec.probe.memory import patterns_let_go
from headspec.probe.sample import PatternSample

SAMPLE_TOKENS = 48
"""Tokens of the sample: the first half is text, the second half the same again."""

LayerPattern = Float[Tensor, "head query key"]


def sample_patterns(model: Any, ids: Int[Tensor, " token"], layers: Sequence[int] | None = None) -> PatternSample:
    """The patterns of every head on a few tokens of a text, read twice in a row.

    The repetition lets induction heads show themselves: in the second half they look at what followed the token the
    first time, a line below the diagonal. Heads that look at fixed offsets do the same in both halves.

    Args:
        model: A TransformerBridge or a PlainModel.
        ids: The text; its first 24 tokens are taken.
        layers: Which layers; all by default.
    """
    known = identify(model)
    wanted = tuple(range(known.n_layers)) if layers is None else tuple(layers)
    half = ids[: min(SAMPLE_TOKENS, known.context) // 2]
    ids = torch.cat([half, half])
    found = patterns_of(model, ids, wanted)
    return PatternSample(
        model=known.name, n_layers=known.n_layers, n_heads=known.n_heads, layers=wanted,
        tokens=tuple(token_texts(model, ids)),
        patterns=torch.stack([found[layer] for layer in wanted]).half().numpy(),
    )  # fmt: skip


def patterns_of(model: Any, ids: Int[Tensor, " token"], layers: Sequence[int]) -> dict[int, LayerPattern]:
    """The pattern of every head of some layers on one short sequence, by layer, in float32 on the CPU.

    Of a TransformerBridge as its hooks see them, so that treated heads show what they are treated to; of a plain model
    as transformers' `eager` attention gives them.
    """
    tokens = as_windows(ids, model, least=1).tokens[:1].to(identify(model).device)
    with torch.no_grad():
        return (_of_plain if isinstance(model, PlainModel) else _of_bridge)(model, tokens, layers)


def token_texts(model: Any, ids: Int[Tensor, " token"]) -> list[str]:
    """What each token stands for; its number where there is no tokenizer."""
    if model.tokenizer is None:
        return [str(int(token)) for token in ids]
    return [model.tokenizer.decode([int(token)]) for token in ids]


def _of_bridge(model: Any, tokens: Tensor, layers: Sequence[int]) -> dict[int, LayerPattern]:
    kept: dict[int, LayerPattern] = {}

    def keep(pattern: Tensor, hook: Any) -> None:
        kept[int(hook.name.split(".")[1])] = pattern[0].detach().float().cpu()

    hooks = [(f"blocks.{layer}.attn.hook_pattern", keep) for layer in layers]
    with patterns_let_go(model), model.hooks(fwd_hooks=hooks):
        model(tokens, return_type=None)
    return kept


def _of_plain(model: PlainModel, tokens: Tensor, layers: Sequence[int]) -> dict[int, LayerPattern]:
    with _eager(model.huggingface):
        found = model.huggingface(tokens, use_cache=False, output_attentions=True).attentions
    if not found or any(found[layer] is None for layer in layers):
        raise HeadspecError(f"{model.name} gives no attention patterns: load it with headspec.load_model.")
    return {layer: found[layer][0].float().cpu() for layer in layers}


@contextmanager
def _eager(huggingface: Any) -> Iterator[None]:
    """The attention that forms patterns, and afterwards the one there was before."""
    before = huggingface.config._attn_implementation
    huggingface.set_attn_implementation("eager")
    try:
        yield
    finally:
        huggingface.set_attn_implementation(before)
