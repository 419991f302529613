"""KV compression as the papers write it: plain loops in float64 over one sequence, and the model that follows from it.

The model is transformers' own, reading the whole text at once; queries after the prompt are kept from what was dropped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from tiny_models import tiny_neox
from torch import Tensor
from transformers.models.gpt_neox import modeling_gpt_neox

from headspec.export.surgery import pruned_model
from headspec.heads import HeadId
from headspec.load.plain import PlainModel
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Treatment, Window, parse_treatment
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM

SIZES: dict[str, dict[str, Any]] = {
    "parallel": {"seed": 5, "n_heads": 4, "d_model": 64, "rotary_share": 0.25},
    "sequential": {"seed": 6, "n_heads": 3, "d_model": 24, "rotary_share": 1.0, "parallel": False},
}
"""Heads of 16 numbers of which 4 are rotated, as in Pythia; heads of 8 numbers that are all rotated."""
KINDS = tuple(SIZES)
CONTEXT = 256
SINKS, OBSERVED, NEIGHBOURS, HORIZON, FLOOR = 4, 32, 2, 512, 0.2
EXACT = 1e-5
"""Logits in float32 may differ from the reference's by so much."""
TEXTS = (
    "compress:snapkv:0.25", "compress:snapkv:40", "compress:snapkv:24:latest8", "compress:snapkv:0.5:adakv",
    "compress:snapkv:24:latest8:adakv", "compress:expected_attention:0.3", "compress:expected_attention:24:latest8",
    "compress:expected_attention:0.3:adakv", "compress:expected_attention:24:latest8:adakv", "compress:streaming:16",
    "compress:random:0.5", "compress:random:24:latest8:adakv",
)  # fmt: skip
FEW = ("compress:snapkv:0.5", "compress:snapkv:24:latest8:adakv", "compress:expected_attention:0.3:adakv",
       "compress:streaming:16")  # fmt: skip
MIXED = {
    "L0H0": "compress:snapkv:0.25", "L0H1": "compress:expected_attention:16:latest4", "L0H2": "compress:snapkv:0.25",
    "L0H3": "window:9", "L1H0": "compress:expected_attention:0.3", "L1H1": "compress:expected_attention:16:latest4",
    "L1H2": "compress:streaming:12",
}  # fmt: skip
"""For the parallel model; the last head of layer 1 keeps every key."""


class Text(NamedTuple):
    """What one head makes of a prompt, float64."""

    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray
    w_o: np.ndarray
    """`[d_head, d_model]`."""
    facts: np.ndarray | None
    """Mean, then covariance of queries, `[1 + d_head, d_head]`."""
    frequencies: np.ndarray
    """Radians a position, `[rotary dims / 2]`."""


# Policies: a score for every key.


def snapkv(text: Text, n_open: int) -> np.ndarray:
    """Mean attention of the last queries, smoothed over five neighbours among the first `n_open` keys."""
    n_keys, d_head = text.keys.shape
    votes, seen_by = np.zeros(n_keys), np.zeros(n_keys)
    for column in range(max(n_keys - OBSERVED, 0), n_keys):
        weights = np.exp(text.keys[: column + 1] @ text.queries[column] / d_head**0.5)
        votes[: column + 1] += weights / weights.sum()
        seen_by[: column + 1] += 1
    votes /= seen_by
    scores = np.zeros(n_keys)
    for key in range(n_open):
        for neighbour in range(key - NEIGHBOURS, key + NEIGHBOURS + 1):
            scores[key] += votes[neighbour] / (2 * NEIGHBOURS + 1) if 0 <= neighbour < n_open else 0
    return scores


def expected_attention(text: Text, n_open: int) -> np.ndarray:
    """What queries drawn at the next 512 positions give to each key, times the length of what it would write."""
    assert text.facts is not None
    n_keys, d_head = text.keys.shape
    turn = mean_rotation(n_keys, tuple(text.frequencies), d_head)
    mean, covariance = turn @ text.facts[0], turn @ text.facts[1:] @ turn.T
    weights = np.array([np.exp(mean @ key / d_head**0.5 + key @ covariance @ key / (2 * d_head)) for key in text.keys])
    return weights / weights.sum() * np.array([np.linalg.norm(value @ text.w_o) for value in text.values])


@cache
def mean_rotation(first: int, frequencies: tuple[float, ...], d_head: int) -> np.ndarray:
    """Over 512 positions. Shared: leave it as it is."""
    return np.mean([rotation(first + ahead, frequencies, d_head) for ahead in range(HORIZON)], axis=0)


def rotation(position: int, frequencies: Sequence[float], d_head: int) -> np.ndarray:
    """The matrix that rotates a query or key at a position; dimension i is paired with i + half."""
    matrix, half = np.eye(d_head), len(frequencies)
    for pair, frequency in enumerate(frequencies):
        cos, sin = np.cos(position * frequency), np.sin(position * frequency)
        matrix[pair, pair], matrix[pair, pair + half] = cos, -sin
        matrix[pair + half, pair], matrix[pair + half, pair + half] = sin, cos
    return matrix


def scores_of(what: Compress, texts: list[Text], n_open: int, seed: int) -> list[np.ndarray]:
    """One array a head."""
    if what.policy == "snapkv":
        return [snapkv(text, n_open) for text in texts]
    if what.policy == "expected_attention":
        return [expected_attention(text, n_open) for text in texts]
    n_keys = len(texts[0].keys)
    if what.policy == "streaming":
        return [np.arange(n_keys) for _ in texts]
    drawn = torch.rand(n_keys, len(texts), generator=torch.Generator().manual_seed(seed))
    return [drawn[:, head].flip(0).numpy() for head in range(len(texts))]


# Choices: which keys a query after the prompt sees.


class Kept(NamedTuple):
    """What is left of a prompt."""

    chosen: list[set[int]]
    """Columns that stay for good, for each head."""
    ring: int
    """So many latest keys are seen beside these; 0: all that follow."""
    first: int
    """The first column that is not up for choice."""


def keep(what: Compress, texts: list[Text], seed: int = 0) -> Kept:
    """The choice of heads that share a treatment."""
    n_keys = len(texts[0].keys)
    asked = round(what.budget * n_keys) if isinstance(what.budget, float) else what.budget
    budget = max(1, min(asked, n_keys))
    if not what.bounded:
        stays = min(OBSERVED, budget // 2) if what.policy in ("snapkv", "random") else 0
        chosen = best(scores_of(what, texts, n_keys - stays, seed), n_keys - stays, budget - stays, what.allocation)
        return Kept([columns | set(range(n_keys - stays, n_keys)) for columns in chosen], 0, n_keys)
    latest = what.latest or max(1, what.budget - SINKS)
    sinks = min(SINKS, int(what.budget) - latest)
    latest = min(latest, max(n_keys - sinks, 0))  # the sinks come first, where the prompt is short
    n_open = n_keys - latest
    number = min(budget - latest, n_open)
    chosen = best(scores_of(what, texts, n_open, seed), n_open, number, what.allocation)
    return Kept(chosen, int(what.budget) - number, n_open)


def best(scores: list[np.ndarray], n_open: int, number: int, allocation: str) -> list[set[int]]:
    """`number` of the first `n_open` keys a head, the sinks first; under AdaKV that many a head together."""
    ranked = [
        [*range(min(SINKS, n_open)), *sorted(range(SINKS, n_open), key=mine.__getitem__, reverse=True)]
        for mine in scores
    ]
    if allocation == "uniform":
        return [set(order[:number]) for order in ranked]
    least = max(min(SINKS, number), int(FLOOR * number))
    chosen = [set(order[:least]) for order in ranked]
    others = sorted(
        ((head, key) for head, order in enumerate(ranked) for key in order[least:]),
        key=lambda place: -scores[place[0]][place[1]],
    )
    for head, key in others[: number * len(scores) - least * len(scores)]:
        chosen[head].add(key)
    return chosen


# Models.


@cache
def source(kind: str = "parallel") -> PlainModel:
    """A model as transformers has it. Shared: leave it as it is."""
    return PlainModel(tiny_neox(context=CONTEXT, **SIZES[kind]), kind)


@cache
def _exact(kind: str) -> Any:
    return tiny_neox(context=CONTEXT, **SIZES[kind]).double()


def compress_plan(wish: str | dict[str, str], kind: str = "parallel") -> HeadPlan:
    """A plan of treatments in short text (one text: for every head), with made-up statistics of queries."""
    about = about_of(source(kind))
    if isinstance(wish, str):
        wish = {str(head): wish for head in about.heads}
    chosen: dict[HeadId, Treatment] = {HeadId.parse(name): parse_treatment(what) for name, what in wish.items()}
    return HeadPlan(about, chosen, queries={head: query_facts(head, about.d_head) for head in chosen})


def query_facts(head: HeadId, d_head: int) -> np.ndarray:
    """A mean, and the covariance of twenty vectors."""
    drawn = np.random.default_rng((head.layer, head.head)).standard_normal((21, d_head)).astype(np.float32)
    return np.concatenate([drawn[:1], np.cov(drawn[1:].T).astype(np.float32)])


def compressed(wish: str | dict[str, str], kind: str = "parallel") -> PrunedGPTNeoXForCausalLM:
    """The model under test, fresh."""
    return pruned_model(source(kind).huggingface, compress_plan(wish, kind))


@torch.no_grad()
def reference_logits(wish: str | dict[str, str], tokens: Tensor, n_prompt: int, kind: str = "parallel") -> Tensor:
    """Logits of every token of each row, `[row, token, vocabulary]`."""
    model, plan = _exact(kind), compress_plan(wish, kind)
    with masked_by(plan, n_prompt):
        return model(tokens, use_cache=False).logits.float()


@contextmanager
def masked_by(plan: HeadPlan, n_prompt: int) -> Iterator[None]:
    """Transformers' GPT-NeoX with attention as the plan wants it; for texts without padding."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, None]:
        rows = zip(query, key, value, strict=True)
        seen = torch.from_numpy(np.stack([seen_keys(plan, module, *row, n_prompt) for row in rows]))
        scores = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    with patch.object(modeling_gpt_neox, "eager_attention_forward", attend):
        yield


def seen_keys(plan: HeadPlan, module: Any, query: Tensor, key: Tensor, value: Tensor, n_prompt: int) -> np.ndarray:
    """Which keys each query of a text sees, `[head, query, key]`."""
    n_tokens, d_head, layer = key.shape[1], key.shape[2], module.layer_idx
    numbers = np.arange(n_tokens)
    treatments = [plan[HeadId(layer, head)] for head in range(plan.about.n_heads)]
    seen = [numbers[None] <= numbers[:, None] for _ in treatments]
    config = module.config
    rotary = int(d_head * config.rope_parameters["partial_rotary_factor"])
    frequencies = config.rope_parameters["rope_theta"] ** -(np.arange(0, rotary, 2) / rotary)
    for what in set(treatments):
        heads = [head for head, other in enumerate(treatments) if other == what]
        if isinstance(what, Window):
            for head in heads:
                seen[head] &= (numbers > numbers[:, None] - what.window) | (numbers < what.sinks)
        if isinstance(what, Compress) and n_tokens > n_prompt:
            texts = [
                Text(
                    *(part[head, :n_prompt].double().numpy() for part in (key, value, query)),
                    module.dense.weight[:, head * d_head : (head + 1) * d_head].T.detach().double().numpy(),
                    plan.queries.get(HeadId(layer, head)), frequencies,
                )
                for head in heads
            ]  # fmt: skip
            kept = keep(what, texts, seed=layer)
            later = numbers[n_prompt:, None]
            near = (numbers >= kept.first) & ((numbers > later - kept.ring) if kept.ring else (numbers <= later))
            for head, chosen in zip(heads, kept.chosen, strict=True):
                seen[head][n_prompt:] &= near | np.isin(numbers, list(chosen))
    return np.stack(seen)
