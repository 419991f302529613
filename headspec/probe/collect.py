"""Run text through a model and profile every head: `probe_heads`.

Two engines read the same statistics: hooks on a TransformerBridge, in segments with the KV cache, and the attention
of the plain Hugging Face model itself. Either reduces patterns at once: memory never grows with the square of the text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headspec.errors import HeadspecError, ModelError
from headspec.load.identity import huggingface_config, identify
from headspec.load.plain import as_plain
from headspec.load.text import TokenWindows, as_windows
from headspec.probe.about import ProbeAbout
from headspec.probe.averages import make_profile
from headspec.probe.budget import Choices, Sizes, check_memory
from headspec.probe.checkpoint import Checkpoint
from headspec.probe.fast import FastEngine
from headspec.probe.finite import NotFiniteError, explained
from headspec.probe.hooks import HooksEngine
from headspec.probe.profile import HeadProfile
from headspec.probe.reader import LayerReader
from headspec.probe.repeats import repeats_for, repeats_stage
from headspec.probe.stages import Engine, Stage, read_stages
from headspec.probe.statistics import offset_edges, position_edges
from headspec.probe.tiles import Bins
from headspec.probe.versions import versions

ENGINES = ("hooks", "fast")


def probe_heads(
    model: Any,
    tokens: "str | Int[Tensor, ' token'] | Int[Tensor, 'window token'] | TokenWindows",
    *,
    engine: str = "hooks",
    segment: int = 256,
    layers: Sequence[int] | None = None,
    every: int = 1,
    n_repeats: int = 2,
    first_query: int = 16,
    n_sinks: int = 4,
    query_statistics: bool = False,
    batch_size: int = 1,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> HeadProfile:
    """Profile every attention head of `model` on a text.

    Args:
        model: A TransformerBridge (from `load_model`, or booted by hand); with `engine="fast"` also a PlainModel from
            `load_plain`, which spares the bridge's second copy of q, k and v.
        tokens: Token ids, one sequence or `[window, token]`; or text; or TokenWindows from `load_text`. One
            sequence longer than the model's context is cut into windows of the context's length.
        engine: `hooks` reads TransformerLens activations, so that whatever you have hooked counts. `fast` reads the
            same statistics inside the attention of the Hugging Face model: quicker, and without a KV cache, but blind
            to hooks and edited weights (it refuses a bridge whose logits show either).
        segment: Tokens that go through the model at once (hooks). Changes memory and speed, not the numbers.
        layers: The layers to probe (all by default); `every=4` takes every fourth.
        n_repeats: Sequences of repeated random tokens for the induction and previous-token scores and the
            deviation on repeats; with 0 these are NaN: no head will be called dead, and induction protects none.
        first_query: Averages skip the queries before this position.
        n_sinks: How many first tokens count as the attention sink.
        query_statistics: Also keep mean and covariance of every head's queries before rotation (for caches that predict
            which keys will be needed); d_head² numbers a head.
        batch_size: Windows that go through the model together.
        seed: Draws the repeated random tokens.
        checkpoint: A file in which the sums are kept: saved every 30 seconds, when the probe is interrupted, and at the
            end. Called again with the same arguments, the probe goes on where it was; a finished one is read back.
        resume: Go on with what `checkpoint` holds; false starts anew.
        progress: Show a progress bar with the time left on standard error.

    Raises:
        TextError: Fewer than `first_query + 1` tokens, a window beyond the model's context, ids beyond its vocabulary.
        ModelError: A layer out of range, a model that does not fire the hooks this needs, NaN or infinity in a head,
            or less memory than the probe needs.
        RecordError: `checkpoint` holds a probe of another model, text or setting.
    """
    _check_at_least(1, segment=segment, batch_size=batch_size)
    _check_at_least(0, n_repeats=n_repeats, n_sinks=n_sinks, first_query=first_query)
    check_engine(engine)
    model = as_plain(model) if engine == "fast" else model
    about = identify(model)
    windows = as_windows(tokens, model, least=first_query + 1)
    chosen = _chosen_layers(layers, every, about.n_layers)
    n_windows, window = windows.tokens.shape
    repeat_length, n_repeats = repeats_for(window, n_repeats)
    settings = ProbeAbout(
        model=about.name, n_layers=about.n_layers, n_heads=about.n_heads, d_head=about.d_head, d_model=about.d_model,
        context=about.context, layers=chosen, text=windows.source, text_digest=windows.digest, n_windows=n_windows,
        window=window, segment=window if engine == "fast" else segment, first_query=first_query, n_sinks=n_sinks,
        repeat_length=repeat_length, n_repeats=n_repeats, seed=seed, engine=engine, query_statistics=query_statistics,
        dtype=about.dtype, device=about.device, versions=versions(),
    )  # fmt: skip
    sizes, choices = Sizes.of(huggingface_config(model), 0), Choices(engine, about.dtype, window, segment, batch_size)
    check_memory(f"probing {about.name}", sizes, choices, about.device)
    kept = None if checkpoint is None else Checkpoint(Path(checkpoint), settings, batch_size)
    state = kept.load() if kept is not None and resume else None
    bins = Bins(first_query, n_sinks, position_edges(window, first_query), offset_edges(window))
    stages = [Stage(windows.tokens, bins), *([repeats_stage(about, settings)] if n_repeats else [])]
    reads: Engine = FastEngine(model) if engine == "fast" else HooksEngine(model, segment)
    readers = [LayerReader(layer, reads.w_o(layer), query_statistics) for layer in chosen]
    try:
        text, *repeats = read_stages(reads, stages, readers, batch_size, about.device, kept, state, progress)
    except NotFiniteError as error:
        whole = model.huggingface if engine == "fast" else model.original_model
        raise explained(error, about.name, about.dtype, whole) from error
    gram = torch.stack([reader.gram.cpu().double() for reader in readers])
    return make_profile(settings, bins, text, repeats[0] if repeats else None, gram)


def check_engine(engine: str) -> None:
    """Refuse an engine that does not exist."""
    if engine not in ENGINES:
        raise HeadspecError(f"engine {engine!r}: choose one of {', '.join(ENGINES)}.")


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
