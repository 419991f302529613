"""Run text through a model and profile every head: `probe_heads`.

The text goes through segment by segment with the KV cache, and the hooks reduce each pattern at once, so
memory grows with the cache only, never with the square of the text.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from headspec.errors import HeadspecError, ModelError
from headspec.load.identity import identify
from headspec.load.text import TokenWindows, as_windows
from headspec.probe.about import ProbeAbout
from headspec.probe.averages import Totals, make_profile
from headspec.probe.memory import patterns_let_go
from headspec.probe.profile import HeadProfile
from headspec.probe.reader import Bins, LayerReader
from headspec.probe.statistics import offset_edges, position_edges
from headspec.probe.versions import versions

REPEATED_CONTEXT = 512
"""Repeated random tokens are this long (or the window, if that is shorter): enough to see induction."""


def probe_heads(
    model: Any,
    tokens: "str | Int[Tensor, ' token'] | Int[Tensor, 'window token'] | TokenWindows",
    *,
    segment: int = 256,
    layers: Sequence[int] | None = None,
    every: int = 1,
    n_repeats: int = 2,
    first_query: int = 16,
    n_sinks: int = 4,
    batch_size: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> HeadProfile:
    """Profile every attention head of `model` on a text.

    Args:
        model: A TransformerBridge (from `load_model`, or booted by hand).
        tokens: Token ids, one sequence or `[window, token]`; or text; or TokenWindows from `load_text`. One
            sequence longer than the model's context is cut into windows of the context's length.
        segment: Tokens that go through the model at once. Changes memory and speed, not the numbers.
        layers: The layers to probe (all by default); `every=4` takes every fourth.
        n_repeats: Sequences of repeated random tokens for the induction and previous-token scores and the
            deviation on repeats; with 0 these are NaN: no head will be called dead, and induction protects none.
        first_query: Averages skip the queries before this position.
        n_sinks: How many first tokens count as the attention sink.
        batch_size: Windows that go through the model together.
        seed: Draws the repeated random tokens.
        progress: Show a progress bar on standard error.

    Raises:
        TextError: Fewer than `first_query + 1` tokens, a window beyond the model's context, ids beyond its vocabulary.
        ModelError: A layer out of range, or a model that does not fire the hooks this needs.
    """
    _check_at_least(1, segment=segment, batch_size=batch_size)
    _check_at_least(0, n_repeats=n_repeats, n_sinks=n_sinks, first_query=first_query)
    about = identify(model)
    windows = as_windows(tokens, model, least=first_query + 1)
    chosen = _chosen_layers(layers, every, about.n_layers)
    n_windows, window = windows.tokens.shape
    repeat_length = (min(window, REPEATED_CONTEXT) - 1) // 2
    if repeat_length < 2 or n_repeats == 0:
        n_repeats = repeat_length = 0
    settings = ProbeAbout(
        model=about.name, n_layers=about.n_layers, n_heads=about.n_heads, d_head=about.d_head, d_model=about.d_model,
        context=about.context, layers=chosen, text=windows.source, text_digest=windows.digest, n_windows=n_windows,
        window=window, segment=segment, first_query=first_query, n_sinks=n_sinks, repeat_length=repeat_length,
        n_repeats=n_repeats, seed=seed, dtype=about.dtype, device=about.device, versions=versions(),
    )  # fmt: skip
    bins = Bins(first_query, n_sinks, position_edges(window, first_query), offset_edges(window))
    readers = [LayerReader(layer, model.blocks[layer].attn.W_O) for layer in chosen]
    with tqdm(total=windows.tokens.numel(), unit="token", delay=2, disable=not progress, file=sys.stderr) as bar:
        text = read_sums(model, windows.tokens, readers, bins, segment, batch_size, bar)
    repeats = _read_repeats(model, readers, settings, batch_size) if n_repeats else None
    return make_profile(settings, bins, text, repeats, torch.stack([reader.gram.cpu().double() for reader in readers]))


def read_sums(
    model: Any,
    tokens: Int[Tensor, "window token"],
    readers: list[LayerReader],
    bins: Bins,
    segment: int = 256,
    batch_size: int = 1,
    bar: Any = None,
) -> Totals:
    """Run windows of tokens through the model, `segment` tokens at a time, and sum what the heads do."""
    totals, device = Totals(), identify(model).device
    for batch in tokens.split(batch_size):
        for reader in readers:
            reader.begin(bins)
        for n_new in _run_segments(model, batch.to(device), readers, segment):
            if bar is not None:
                bar.update(n_new)
        totals.add([reader.sums for reader in readers], bins)
    return totals


def repeated_tokens(
    vocabulary: Sequence[int], repeat_length: int, n_repeats: int, first: int | None, seed: int
) -> Int[Tensor, "window token"]:
    """`n_repeats` rows of random tokens given twice, with one token in front (`first`, or a random one)."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randint(len(vocabulary), (n_repeats, repeat_length + 1), generator=generator)
    drawn = torch.tensor(vocabulary)[draw]
    front = drawn[:, :1] if first is None else torch.full((n_repeats, 1), first)
    return torch.cat([front, drawn[:, 1:], drawn[:, 1:]], dim=1)


def _read_repeats(model: Any, readers: list[LayerReader], about: ProbeAbout, batch_size: int) -> Totals:
    """Sums over the second copy of repeated random tokens."""
    identity, length = identify(model), about.repeat_length
    tokens = repeated_tokens(identity.vocabulary, length, about.n_repeats, identity.bos, about.seed)
    bins = Bins(length + 1, about.n_sinks, (0, length + 1), (0,), exact_offsets=(1, length - 1))
    return read_sums(model, tokens, readers, bins, about.segment, batch_size)


def _run_segments(model: Any, tokens: Tensor, readers: list[LayerReader], segment: int) -> Iterator[int]:
    """Feed one batch of windows through the model; yields the number of tokens read after each segment."""
    from transformers import DynamicCache

    cache = DynamicCache() if tokens.shape[1] > segment else None
    last = readers[-1].layer + 1
    hooks = [hook for reader in readers for hook in reader.hooks()]
    keywords = _forward_keywords(model) | ({"stop_at_layer": last} if last < model.cfg.n_layers else {})
    with torch.no_grad(), patterns_let_go(model), model.hooks(fwd_hooks=hooks):
        for piece in tokens.split(segment, dim=1):
            model(piece, past_key_values=cache, return_type=None, **keywords)
            _check_seen(readers)
            yield piece.numel()


def _forward_keywords(model: Any) -> dict[str, Any]:
    """Ask for the last logits only, where the model can: nobody reads them."""
    forward = inspect.signature(type(model.original_model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in forward else {}


def _check_seen(readers: list[LayerReader]) -> None:
    for reader in readers:
        if not {"patterns", "outputs"} <= reader.sums.keys():
            raise ModelError(
                f"layer {reader.layer} fired no hook_pattern or hook_z: headspec probes decoders with ordinary "
                "softmax attention in every layer. Leave this layer out with layers=."
            )


def _check_at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise HeadspecError(f"{name}={value}: want {least} or more.")


def _chosen_layers(layers: Sequence[int] | None, every: int, n_layers: int) -> tuple[int, ...]:
    if every < 1:
        raise ModelError(f"every={every}: take every 1st, 2nd, … layer.")
    chosen = tuple(sorted(set(range(n_layers) if layers is None else layers)))[::every]
    wrong = [layer for layer in chosen if not 0 <= layer < n_layers]
    if wrong or not chosen:
        raise ModelError(f"layers {wrong or list(chosen)}: this model has layers 0–{n_layers - 1}.")
    return chosen


analyze_attention_heads = probe_heads
"""The same function under the name many will look for."""
