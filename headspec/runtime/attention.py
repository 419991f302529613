"""Attention over all keys, and over a window of them, in the forms that are quick on a CPU.

Shapes: queries `[batch, head, query, d_head]`, keys and values in one `kv`, `[key or value, batch, head, key, d_head]`;
rotated already. The queries are those of the last columns of a `Step`; the keys end with its last column.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration import HeadGroup
from .step import Step

BLOCK = 32
"""Queries that a windowed head reads together. Shorter blocks waste less on keys that only some of them see; longer
ones make larger matrix products (32 was the quickest for windows up to 32, docs/speed.md)."""
WIDE, WIDE_BLOCK = 128, 256
"""Windows beyond `WIDE` are read in longer blocks by the fused attention, which need not store all scores."""


def see_all(query: Tensor, kv: Tensor, step: Step, dropout: float = 0.0) -> Tensor:
    """Attention over every real key up to each query; `kv` holds all columns."""
    n_queries = query.shape[2]
    causal = step.real is None and n_queries == step.n_total  # torch's causal mask starts with the first key
    mask = None if causal else step.once(("all", n_queries), lambda: all_mask(step, n_queries))
    return F.scaled_dot_product_attention(query, kv[0], kv[1], mask, dropout, is_causal=causal and n_queries > 1)


def all_mask(step: Step, n_queries: int) -> Tensor | None:
    """True where a key is seen, `[batch or 1, 1, query, key]`; None if the only query sees everything."""
    if step.real is None and n_queries == 1:
        return None
    queries, keys = step.columns(step.n_total - n_queries, step.n_total)[:, None], step.columns(0, step.n_total)
    seen = (keys <= queries) & step.is_real(keys)[:, None]
    return (seen | (keys == queries))[:, None]  # padding sees itself: nobody reads it, but it must not become NaN


def attention(query: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """The weights of attention over the keys where `mask` is True (None: all): `[batch, head, query, key]`, float32."""
    scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32)


def see_window(query: Tensor, kv: Tensor, sinks: Tensor, group: HeadGroup, step: Step, dropout: float = 0.0) -> Tensor:
    """Attention over the last `group.window` keys of each query and the sinks of its row.

    The trick `bands`: a block of queries meets only the keys that its windows reach, and the sinks as extra keys,
    so that work grows with the window and not with the text.

    Args:
        query: As above.
        kv: `[key or value, batch, head, key, d_head]`, back to at least `window − 1` columns before the first query,
            or to the beginning.
        sinks: Keys and values of the sinks, `[key or value, batch, head, sinks, d_head]`.
    """
    batch, n_heads, n_queries, d_head = query.shape
    length = block_length(group.window, n_queries) if step.tricks.bands else n_queries
    n_blocks = -(-n_queries // length)
    hidden = step.once(("band", group[1:], n_queries), lambda: band_hides(step, group, n_queries, length, n_blocks))
    query = F.pad(query, (0, 0, 0, n_blocks * length - n_queries))
    rows = []
    for row in range(batch):  # one by one: what lies between stays small
        keys, values = reached(kv[:, row], sinks[:, row], group, n_queries, length, n_blocks)
        queries = query[row].reshape(n_heads, n_blocks, length, d_head)
        hides = hidden[row % len(hidden)]
        if group.window > WIDE:
            seen = F.scaled_dot_product_attention(queries, keys, values, ~hides.expand(n_heads, -1, -1, -1), dropout)
        else:
            scores = (queries * d_head**-0.5 @ keys.transpose(-1, -2)).masked_fill_(hides, -torch.inf)
            pattern = F.dropout(scores.softmax(-1, dtype=torch.float32).to(values.dtype), dropout, dropout > 0)
            seen = pattern @ values
        rows.append(seen.reshape(n_heads, -1, d_head)[:, :n_queries])
    return torch.stack(rows)


def block_length(window: int, n_queries: int) -> int:
    """How many queries are read together."""
    return min(WIDE_BLOCK if window > WIDE else max(BLOCK, -(-window // BLOCK) * BLOCK), n_queries)


def band_hides(step: Step, group: HeadGroup, n_queries: int, length: int, n_blocks: int) -> Tensor:
    """What the queries of each block do not see, `[batch or 1, block, query, sinks + key]`."""
    first = step.n_total - n_queries
    queries = first + step.columns(0, n_blocks * length).view(n_blocks, length, 1)
    starts = first + length * step.columns(0, n_blocks).view(n_blocks, 1, 1) - (group.window - 1)
    keys = starts + step.columns(0, length + group.window - 1)
    near = (keys <= queries) & (keys > queries - group.window)
    near = near & step.is_real(keys) | (keys == queries)
    if not group.sinks:
        return ~near.expand(-1, n_blocks, length, -1)
    far = step.sink_columns(group.sinks)[:, None, None] <= queries - group.window  # nearer ones are in the window
    shape = (len(near), n_blocks, length, -1)
    return ~torch.cat((far.expand(shape), near.expand(shape)), dim=-1)


def reached(kv: Tensor, sinks: Tensor, group: HeadGroup, n_queries: int, length: int, n_blocks: int) -> Tensor:
    """What each block of queries can see of a row, sinks first: `[key or value, head, block, sinks + key, d_head]`."""
    wanted = n_queries + group.window - 1
    kv = kv[:, :, -wanted:]
    kv = F.pad(kv, (0, 0, wanted - kv.shape[2], n_blocks * length - n_queries))
    blocks = kv.unfold(2, length + group.window - 1, length).transpose(-1, -2)
    return torch.cat((sinks[:, :, None].expand(-1, -1, n_blocks, -1, -1), blocks), dim=3)


def pick_sinks(kv: Tensor, group: HeadGroup, step: Step, known: Tensor | None = None) -> Tensor:
    """Keys and values of the sinks among the new columns, over those known: `[key or value, batch, head, sinks, …]`."""
    columns = step.sink_columns(group.sinks) - step.n_past
    here = ((columns >= 0) & (columns < step.n_new))[:, None, :, None]
    index = columns.clamp(0, step.n_new - 1)[:, None, :, None].expand(*kv.shape[1:3], -1, kv.shape[-1])
    found = kv.gather(3, index.expand(len(kv), *index.shape))
    return torch.where(here, found, 0 if known is None else known)


def see_ring(query: Tensor, kv: Tensor, group: HeadGroup, step: Step, dropout: float = 0.0) -> Tensor:
    """Attention of the last query over a ring `[key or value, batch, head, sinks + slot, d_head]`.

    Column c lies in slot c modulo their number.
    """
    n_slots = kv.shape[3] - group.sinks
    mask = step.once(("ring", group[1:], n_slots), lambda: ring_mask(step, group, n_slots))
    return F.scaled_dot_product_attention(query, kv[0], kv[1], mask, dropout)


def ring_mask(step: Step, group: HeadGroup, n_slots: int) -> Tensor | None:
    """True where the last query sees a slot, `[batch or 1, 1, 1, sinks + slot]`; None if it sees them all."""
    own = step.n_total - 1
    if step.real is None and n_slots == group.window and own - group.window + 1 >= group.sinks:
        return None
    columns = own - (own - step.columns(0, n_slots)) % n_slots  # the latest one that each slot can hold
    seen = (columns >= 0) & (columns > own - group.window) & (step.is_real(columns) | (columns == own))
    seen = seen & ~step.is_sink(columns, group.sinks)
    sinks = (step.sink_columns(group.sinks) <= own).expand(len(seen), -1)
    return torch.cat((sinks, seen), dim=-1)[:, None, None]
