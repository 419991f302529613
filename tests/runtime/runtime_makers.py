"""Small GPT-NeoX models, plans for them, and what both should give: the hooked model of `apply_plan`."""

from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from tiny_models import VOCABULARY, tiny_neox
from torch import Tensor

from headspec.export.surgery import pruned_model
from headspec.heads import HeadId
from headspec.intervene.ablate import apply_plan
from headspec.load.plain import PlainModel
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Fill, Remove, Treatment, parse_treatment
from headspec.runtime.cache import PrunedCache
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM
from headspec.runtime.step import Step
from headspec.runtime.tricks import Tricks

TOLERANCE = 1e-4
"""Logits in float32 may differ by so much."""
NEVER = 10**6
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": NEVER}
SIZES: dict[str, dict[str, Any]] = {
    "parallel": {"seed": 3, "n_layers": 4, "n_heads": 4},
    "sequential": {"seed": 4, "n_layers": 3, "n_heads": 8, "d_model": 64, "rotary_share": 1.0, "parallel": False},
}
KINDS = tuple(SIZES)
MIXED = {
    "L0H0": "mean", "L0H1": "window:3+2", "L0H2": "window:8", "L1H0": "window:1+0", "L1H1": "window:5+8",
    "L1H2": "window:5+8", "L1H3": "window:40+1", "L2H0": "mean", "L2H1": "zero", "L2H2": "mean", "L2H3": "mean",
}  # fmt: skip
"""Layer 0 has a head of each kind; layer 1 only windows, in the small model; layer 2 no head; layer 3 is whole."""


def source(kind: str = "parallel") -> PlainModel:
    """A model as transformers has it. Shared: leave it as it is."""
    return _made(kind)


@cache
def _made(kind: str) -> PlainModel:
    model = tiny_neox(**SIZES[kind])
    model.set_attn_implementation("sdpa")
    return PlainModel(model, kind)


def plan_of(wish: dict[str, str], kind: str = "parallel", seed: int = 0) -> HeadPlan:
    """A plan of treatments in short text; the fill of `mean` is a random vector of a head's own, far from zero."""
    about = about_of(source(kind))
    chosen: dict[HeadId, Treatment] = {HeadId.parse(name): parse_treatment(what) for name, what in wish.items()}
    fills = {}
    for head, what in chosen.items():
        if isinstance(what, Remove):
            drawn = np.random.default_rng((seed, head.layer, head.head)).standard_normal(about.d_head)
            fills[head] = (0 * drawn if what.fill is Fill.ZERO else drawn).astype(np.float32)
    return HeadPlan(about, chosen, fills)


def mixed(kind: str = "parallel") -> HeadPlan:
    """A head of each kind; in the larger model all other heads of layers 1 and 2 are windowed or gone as well."""
    n_heads = SIZES[kind]["n_heads"]
    rest = {f"L1H{head}": "window:7+3" for head in range(4, n_heads)}
    rest |= {f"L2H{head}": "mean" for head in range(4, n_heads)}
    return plan_of(MIXED | rest, kind)


def keep_all(kind: str = "parallel") -> HeadPlan:
    return plan_of({}, kind)


def pruned(plan: HeadPlan | None = None, kind: str = "parallel") -> PrunedGPTNeoXForCausalLM:
    """The pruned model, fresh; by default of the mixed plan."""
    return pruned_model(source(kind).huggingface, mixed(kind) if plan is None else plan)


def random_ids(n_rows: int, n_tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCABULARY, (n_rows, n_tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def hooked(plan: HeadPlan, tokens: Tensor, **options: Any) -> Tensor:
    """The reference: logits of transformers' own model under hooks."""
    model = source(plan.about.model)
    with apply_plan(model, plan):
        return model.huggingface(tokens, use_cache=False, **options).logits


@torch.no_grad()
def in_chunks(
    model: Any, tokens: Tensor, chunks: list[int], mask: Tensor | None = None, cache: Any = None, **options: Any
) -> Tensor:
    """Logits of all tokens, read through a cache chunk by chunk; the mask grows along."""
    cache, parts, end = model.make_cache() if cache is None else cache, [], cache.get_seq_length() if cache else 0
    for part in tokens.split(chunks, dim=1):
        end += part.shape[1]
        known = None if mask is None else mask[:, :end]
        parts.append(model(part, attention_mask=known, past_key_values=cache, **options).logits)
    return torch.cat(parts, dim=1)


def left_padded(tokens: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The first tokens of each row, padded on the left to one length, and their mask."""
    width = max(lengths)
    rows, mask = torch.ones(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        rows[row, width - length :] = tokens[row, :length]
        mask[row, width - length :] = 1
    return rows, mask


def same(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def storages(cache: PrunedCache) -> int:
    """Bytes that the buffers of a cache really take."""
    buffers = [store.buffer for layer in cache.layers for store in layer.stores if store.buffer is not None]
    return sum({buffer.untyped_storage().data_ptr(): buffer.untyped_storage().nbytes() for buffer in buffers}.values())


def a_step(n_past: int, n_new: int, real: Tensor | None = None, tricks: Tricks | None = None) -> Step:
    """A step whose rotation turns nothing."""
    rotation = (torch.ones(1, n_new, 2), torch.zeros(1, n_new, 2))
    return Step(n_past, n_new, real, rotation, "cpu", tricks or Tricks())


def seen_by(query: int, group: HeadGroup, real: list[bool]) -> list[int]:
    """The columns that a query sees, by the definition; padding sees itself beside them."""
    near = range(max(0, query - group.window + 1) if group.window else 0, query + 1)
    sinks = [column for column, is_real in enumerate(real) if is_real][: group.sinks if group.window else 0]
    return sorted({c for c in near if real[c]} | {c for c in sinks if c <= query} | {query})


def naive(query: Tensor, kv: Tensor, group: HeadGroup, real: Tensor | None = None) -> Tensor:
    """Attention query by query, of the last ones: in float64, over lists of keys."""
    batch, _, n_queries, d_head = query.shape
    n_total = kv.shape[3]
    out = torch.zeros_like(query, dtype=torch.float64)
    for row in range(batch):
        known = [True] * n_total if real is None else real[row].tolist()
        for number in range(n_queries):
            seen = seen_by(n_total - n_queries + number, group, known)
            keys, values = kv[:, row][:, :, seen].double()
            scores = (query[row, :, number, None].double() @ keys.transpose(-1, -2))[:, 0] / d_head**0.5
            out[row, :, number] = (scores.softmax(-1)[:, None] @ values)[:, 0]
    return out


def wishes(kind: str) -> st.SearchStrategy[dict[str, str]]:
    """Plans: each layer whole, without heads, all windowed, or any mix."""
    n_layers, n_heads = SIZES[kind]["n_layers"], SIZES[kind]["n_heads"]
    windows = st.builds(lambda window, sinks: f"window:{window}+{sinks}", st.integers(1, 64), st.integers(0, 8))
    gone = st.sampled_from(("zero", "mean"))
    heads = st.sampled_from(("keep", "gone", "window")).flatmap(
        lambda what: {"keep": st.just("keep"), "gone": gone, "window": windows}[what]
    )
    whole = st.just(["keep"] * n_heads)
    layers = st.one_of(*(st.lists(what, min_size=n_heads, max_size=n_heads) for what in (heads, windows, gone)), whole)
    return st.lists(layers, min_size=n_layers, max_size=n_layers).map(
        lambda drawn: {f"L{i}H{j}": what for i, layer in enumerate(drawn) for j, what in enumerate(layer)}
    )


def chunkings(n_tokens: int) -> st.SearchStrategy[list[int]]:
    """Ways to cut a text: short and long pieces, many of one token."""

    def cut(sizes: list[int]) -> list[int]:
        chunks: list[int] = []
        for size in sizes:
            if sum(chunks) < n_tokens:
                chunks.append(min(size, n_tokens - sum(chunks)))
        return chunks + [n_tokens - sum(chunks)] * (sum(chunks) < n_tokens)

    return st.lists(st.one_of(st.just(1), st.integers(1, 6), st.integers(1, 70)), min_size=1, max_size=12).map(cut)
