"""Statistics of attention patterns that only the offline probe needs, with shapes as types.

Pure functions, activations in and numbers out: no model, no hooks, no cut-offs. What live generation needs
too is in `headspec.runtime.statistics`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.runtime.statistics import near_mass

Pattern = Float[Tensor, "batch head query key"]
PerQuery = Float[Tensor, "batch head query"]
Positions = Int[Tensor, " query"]

EXACT_OFFSETS = 64
"""Relative offsets 0 … 63 are counted one by one, larger ones in powers of two."""


def offset_edges(context: int) -> tuple[int, ...]:
    """Lower edges of the offset bins for sequences of `context` tokens: 0, 1, … 63, 64, 128, 256, …

    >>> offset_edges(300)[62:]
    (62, 63, 64, 128, 256)
    """
    edges = list(range(min(EXACT_OFFSETS, context)))
    edge = EXACT_OFFSETS
    while edge < context:
        edges.append(edge)
        edge *= 2
    return tuple(edges)


def position_edges(context: int, first_query: int) -> tuple[int, ...]:
    """Lower edges of the position bins: 0, 1, 2, 4, 8, … below `context`, and `first_query`.

    >>> position_edges(100, 16)
    (0, 1, 2, 4, 8, 16, 32, 64)
    """
    powers = [2**k for k in range(context.bit_length()) if 2**k < context]
    return tuple(sorted({0, *powers, first_query} if first_query < context else {0, *powers}))


def bins(values: Int[Tensor, "*shape"], edges: tuple[int, ...]) -> Int[Tensor, "*shape"]:
    """Index of the bin each value falls into; bin i covers edges[i] … edges[i+1]−1."""
    return torch.bucketize(values, torch.tensor(edges, device=values.device), right=True) - 1


def normalized_entropy(entropy: PerQuery, positions: Positions) -> PerQuery:
    """Entropy divided by log(number of visible keys), in [0, 1]; 0 for the first query, which sees one key.

    Makes heads and positions comparable, but not lengths: the same head moves by up to .22 between 128 and 512 tokens.
    """
    return entropy / torch.log(positions + 1.0).clamp(min=torch.finfo(torch.float32).tiny)


def uniform_score(entropy: PerQuery, positions: Positions) -> PerQuery:
    """KL(pattern ‖ uniform over the visible keys) in nats: log(visible keys) − entropy, so no second witness."""
    return torch.log(positions + 1.0) - entropy


def max_attention(pattern: Pattern, positions: Positions) -> tuple[PerQuery, Int[Tensor, "batch head query"]]:
    """The largest attention of each query, in [0, 1], and the relative offset at which it falls (0 = own key)."""
    value, key = pattern.max(-1)
    return value, positions - key


def offset_mass(
    pattern: Pattern, positions: Positions, edges: tuple[int, ...]
) -> Float[Tensor, "batch head query bin"]:
    """Attention in each bin of relative offsets (`offset_edges`), in [0, 1]; a query's bins add up to 1."""
    n_exact = sum(edge < EXACT_OFFSETS for edge in edges)
    near = near_mass(pattern, positions, n_exact)
    beyond = [mass_beyond(pattern, positions, edge) for edge in edges[n_exact:]]
    if not beyond:
        return near
    return torch.cat([near, -torch.stack(beyond, dim=-1).diff(dim=-1), beyond[-1][..., None]], dim=-1)


def mass_beyond(pattern: Pattern, positions: Positions, offset: int) -> PerQuery:
    """Attention on the keys at least `offset` before each query, in [0, 1].

    Queries follow each other without a gap, so that only a square at the edge needs a mask.
    """
    n_queries, n_keys = pattern.shape[-2:]
    newest = int(positions[0]) - offset  # the newest such key of the first query
    low, high = max(newest, 0), min(newest + n_queries, n_keys)
    if high <= 0:
        return torch.zeros_like(pattern[..., 0])
    queries = torch.arange(n_queries, device=pattern.device)
    inside = torch.arange(low, high, device=pattern.device) <= newest + queries[:, None]
    return pattern[..., :low].sum(-1) + (pattern[..., low:high] * inside).sum(-1)


def mass_at_offset(pattern: Pattern, positions: Positions, offset: int) -> PerQuery:
    """Attention on the key exactly `offset` before each query, in [0, 1]; 0 where there is no such key.

    Offset 1 on any text is the previous-token score. On tokens repeated with period L, offset L−1 is the
    induction score (Olsson et al. 2022): the key right after the earlier copy of the current token.
    """
    keys = positions - offset
    index = keys.clamp(min=0)[:, None].expand(*pattern.shape[:2], -1, 1)
    return pattern.gather(-1, index).squeeze(-1) * (keys >= 0)


def value_weighted_sink_share(pattern: Pattern, value_norms: Float[Tensor, "batch head key"], n_sinks: int) -> PerQuery:
    """Share of the first `n_sinks` keys when attention is weighted by ‖v W_O‖, in [0, 1] (Kobayashi et al. 2020).

    Sink keys usually carry small values, so this is far below `sink_mass` for heads that rest on a sink to do nothing.
    """
    everything = torch.einsum("bhqk,bhk->bhq", pattern, value_norms)
    sinks = torch.einsum("bhqk,bhk->bhq", pattern[..., :n_sinks], value_norms[..., :n_sinks])
    return sinks / everything.clamp(min=torch.finfo(everything.dtype).tiny)
