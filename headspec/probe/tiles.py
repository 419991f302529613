"""A piece of attention small enough for the cache, and the sums that are made of it.

A tile holds the attention of a few heads for the queries of a stretch of text. It comes from a finished pattern
(TransformerLens hooks) or from raw scores (the fast engine), which spares two passes over the numbers.
"""

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from headspec.probe import statistics
from headspec.probe.statistics import Pattern, PerQuery, Positions
from headspec.runtime.statistics import attention_entropy, near_mass, sink_mass

Sums = dict[str, Tensor]
"""Sums by name; each starts with the axis `batch` (windows)."""

PATTERN_STATISTICS = (
    "attention_entropy", "normalized_entropy", "uniform_score", "max_attention", "first_token_attention_ratio",
    "sink_attention_ratio", "value_weighted_sink_share",
)  # fmt: skip
HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Bins:
    """Over which queries and offsets the sums run."""

    first_query: int
    n_sinks: int
    positions: tuple[int, ...]
    offsets: tuple[int, ...]
    exact_offsets: tuple[int, ...] = ()
    """Single offsets whose mean attention is wanted beside the bins (scores on repeated tokens)."""


@dataclass(frozen=True)
class Tile:
    """The attention of a few heads, in float32, and what came to light while it was made."""

    pattern: Pattern
    positions: Positions
    """Absolute positions of the queries, without a gap; the keys are those from position 0 on."""
    entropy: PerQuery
    largest: PerQuery
    offset: Int[Tensor, "batch head query"]
    """How far before the query its most attended key lies."""


def tile_limit(device: torch.device) -> int:
    """Attention weights to reduce at once: on a CPU what fits the cache, on a GPU what fills it."""
    return 2**20 if device.type == "cpu" else 2**26


def tile_of_pattern(pattern: Pattern, positions: Positions) -> Tile:
    """A tile of attention after the softmax."""
    pattern = pattern.float()
    return Tile(pattern, positions, attention_entropy(pattern), *statistics.max_attention(pattern, positions))


def tile_of_scores(scores: Pattern, positions: Positions) -> Tile:
    """A tile of attention scores (float32, hidden keys at the lowest number); `scores` is used up.

    With x = score − largest score and Z = Σ eˣ, entropy is log Z − Σ eˣ x / Z and the largest attention 1 / Z.
    """
    highest, key = scores.max(-1)
    logits = scores.sub_(highest[..., None])
    weights = logits.exp()
    total = weights.sum(-1)
    entropy = total.log() - torch.einsum("...k,...k->...", weights, logits) / total
    return Tile(weights.div_(total[..., None]), positions, entropy, total.reciprocal(), positions - key)


def tile_sums(tile: Tile, value_norms: Float[Tensor, "batch head key"], bins: Bins) -> Sums:
    """Sums over the queries of a tile: `[batch, head, …]` each."""
    pattern, positions = tile.pattern, tile.positions
    in_bin, counted = by_position(positions, bins, pattern), (positions >= bins.first_query).float()
    near = near_mass(pattern, positions, statistics.EXACT_OFFSETS, first_key=bins.n_sinks)
    sums = {
        "patterns": einsum(_scalars(tile, value_norms, bins), in_bin, "s b h q, q p -> b h s p"),
        "near_mass": einsum(near, in_bin, "b h q o, q p -> b h p o"),
        "offset_mass": einsum(
            statistics.offset_mass(pattern, positions, bins.offsets), counted, "b h q o, q -> b h o"
        ),
        "max_position": _count(statistics.bins(tile.offset, bins.offsets), len(bins.offsets), counted),
        "max_histogram": _count(
            (tile.largest * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1), HISTOGRAM_BINS, counted
        ),
    }  # fmt: skip
    if bins.exact_offsets:
        exact = [statistics.mass_at_offset(pattern, positions, offset) @ counted for offset in bins.exact_offsets]
        sums["exact_offsets"] = torch.stack(exact, dim=-1)
    return sums


def by_position(positions: Positions, bins: Bins, like: Tensor) -> Float[Tensor, "query position_bin"]:
    """1 where a query lies in a bin of positions."""
    return one_hot(statistics.bins(positions, bins.positions), len(bins.positions)).to(like.dtype)


def _scalars(tile: Tile, value_norms: Tensor, bins: Bins) -> Float[Tensor, "statistic batch head query"]:
    """One number a query, in the order of PATTERN_STATISTICS."""
    return torch.stack([
        tile.entropy,
        statistics.normalized_entropy(tile.entropy, tile.positions),
        statistics.uniform_score(tile.entropy, tile.positions),
        tile.largest,
        sink_mass(tile.pattern, 1),
        sink_mass(tile.pattern, bins.n_sinks),
        statistics.value_weighted_sink_share(tile.pattern, value_norms, bins.n_sinks),
    ])  # fmt: skip


def _count(index: Int[Tensor, "batch head query"], n_bins: int, counted: Tensor) -> Float[Tensor, "batch head bin"]:
    """How many of the counted queries fall into each bin."""
    counts = torch.zeros(*index.shape[:2], n_bins, device=counted.device)
    return counts.scatter_add_(-1, index, counted.expand(index.shape))
