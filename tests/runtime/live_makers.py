"""Live treatment without the runtime: a schedule of treatments, and transformers' own model that follows it.

The reference reads a whole text in float64; from the column on at which a treatment was decided, queries see what it
leaves, and a dead head's z is a constant. Columns before it are computed as if nothing had happened.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from compression_reference import CONTEXT, SIZES, Text, compress_plan, keep, source
from tiny_models import tiny_neox
from torch import Tensor
from transformers.models.gpt_neox import modeling_gpt_neox

from headspec.export.surgery import pruned_model
from headspec.plan.treatments import Compress, Fill, Keep, Remove, Treatment, Window, parse_treatment
from headspec.runtime.adaptive import FULL, AdaptivePolicy, Verdict
from headspec.runtime.cache import PrunedCache
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.live import LiveStore
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM
from headspec.runtime.thresholds import RoleThresholds

N_PROMPT, OBSERVED, FIRST_QUERY, EVERY = 40, 16, 4, 4
"""The tests' own sizes: heads are classified after 40 columns, by the queries from column 24 on."""
QUICK: dict[str, Any] = {"observed": OBSERVED, "first_query": FIRST_QUERY, "every": EVERY, "reclassify": EVERY}
NOTHING = RoleThresholds(windowed_mass=1.0, windowed_share=1.0, dead_spread=0.0, dead_spread_p95=0.0)
"""Cut-offs that no head meets."""
ANYTHING = RoleThresholds(
    windowed_mass=0.0, windowed_share=0.0, dead_spread=1e9, dead_spread_p95=1e9, protected_induction=1.0
)
"""Cut-offs that every head meets."""
Script = Mapping[int, Mapping[str, str]]
"""Columns read → head → its treatment from then on, in the words of plans."""


def facts(n_layers: int, n_heads: int, protected: dict[int, list[int]] | None = None) -> dict[str, Any]:
    """What a head map could say: nobody does induction, and all but the protected may die."""
    grid = [[0.0] * n_heads for _ in range(n_layers)]
    return {
        "induction": grid, "repeat_deviation": grid,
        "protected": [(protected or {}).get(layer, []) for layer in range(n_layers)],
    }  # fmt: skip


def live(
    kind: str = "parallel", plan: dict[str, str] | None = None, protected: dict[int, list[int]] | None = None,
    known: bool = True,
) -> PrunedGPTNeoXForCausalLM:  # fmt: skip
    """The runtime's model, fresh: with every head, unless there is a plan, and heads that may die if it is `known`."""
    zero = {name for name, what in (plan or {}).items() if what == "zero"}
    made = compress_plan({name: what for name, what in (plan or {}).items() if name not in zero}, kind)
    gone = {head: Remove(Fill.ZERO) for head in made.about.heads if str(head) in zero}
    fills = dict.fromkeys(gone, np.zeros(made.about.d_head, np.float32))
    made = replace(made, treatments={**made.treatments, **gone}, fills=fills)
    model = pruned_model(source(kind).huggingface, made)
    if known:
        config = model.config
        model.config.head_facts = facts(config.num_hidden_layers, config.num_attention_heads, protected)
    return model


def treatment_of(text: str) -> HeadGroup | None:
    """As `AdaptivePolicy.treatments` gives it."""
    what = parse_treatment(text)
    if isinstance(what, Remove):
        return None
    if isinstance(what, Window):
        return HeadGroup((), what.window, what.sinks)
    if isinstance(what, Compress):
        return HeadGroup((), 0, 0, what.policy, what.budget, what.allocation == "adakv", what.latest)
    return FULL


@dataclass(frozen=True)
class Scripted(AdaptivePolicy):
    """Treats heads by a script, whatever they are taken for."""

    script: Script = field(default_factory=dict)
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """The heads of a layer that are treated live; all of them if not said."""

    def treatments(
        self, layer: int, n_read: int, verdicts: Sequence[Verdict], now: Sequence[HeadGroup | None]
    ) -> list[HeadGroup | None]:
        wanted = self.script.get(n_read, {})
        names = [f"L{layer}H{head}" for head in self.heads.get(layer, range(len(now)))]
        return [
            treatment_of(wanted[name]) if name in wanted else before for name, before in zip(names, now, strict=True)
        ]


def scripted(script: Script, **options: Any) -> Scripted:
    """Watches as many queries as SnapKV has to see, for scripts that want it."""
    return Scripted(**{**QUICK, "policy": "snapkv", "script": script, **options})


def live_stores(cache: PrunedCache) -> list[LiveStore]:
    return [store for layer in cache.layers for store in layer.stores if isinstance(store, LiveStore)]


def treated(cache: PrunedCache) -> dict[str, str]:
    """What is done with each head in the end, by the record."""
    record = cache.record()
    return {f"L{layer}H{head}": change.treatment for (layer, head), change in record.at(10**9).items()}


# The reference.


class Turn(NamedTuple):
    """A treatment that a head has from some token of a row on."""

    at: int
    what: Treatment


@torch.no_grad()
def reference(
    script: Script, rows: Sequence[Tensor], kind: str = "parallel", n_settled: int = N_PROMPT, **options: Any
) -> list[Tensor]:
    """Logits of every token of each row, `[token, vocabulary]`; rows without padding, which would be in front.

    Args:
        script: What is done with the heads, by columns.
        rows: Texts. All end with the same column.
        kind: Of model.
        n_settled: Columns at whose end heads are first classified.
        options: Of `constants`.
    """
    model, longest = exact(kind), max(len(row) for row in rows)
    stands_in = constants(script, rows, kind, n_settled, **options)
    logits = []
    for row in rows:
        with attended(turns_of(script, longest - len(row)), stands_in):
            logits.append(model(row[None], use_cache=False).logits[0].float())
    return logits


def exact(kind: str) -> Any:
    """Transformers' own model in float64, with attention that can be replaced."""
    return tiny_neox(context=CONTEXT, **SIZES[kind]).double()


def turns_of(script: Script, shift: int) -> dict[tuple[int, int], list[Turn]]:
    """The script by heads, of a row that begins after `shift` columns of padding."""
    turns: dict[tuple[int, int], list[Turn]] = {}
    for column, wanted in sorted(script.items()):
        for name, text in wanted.items():
            layer, head = map(int, name[1:].split("H"))
            turns.setdefault((layer, head), []).append(Turn(max(column - shift, 0), parse_treatment(text)))
    return turns


@torch.no_grad()
def constants(
    script: Script, rows: Sequence[Tensor], kind: str, n_settled: int, first_query: int = FIRST_QUERY
) -> list[Tensor]:
    """Mean z over the prompt of all rows: one `[head, d_head]` a layer. By hooks on transformers' model, of which the
    script has treated only what it treats before heads are classified."""
    model, longest = exact(kind), max(len(row) for row in rows)
    before = {column: wanted for column, wanted in script.items() if column < n_settled}
    found: list[list[Tensor]] = [[] for _ in model.gpt_neox.layers]
    for row in rows:
        shift = longest - len(row)

        def keep_z(module: Any, given: Any, last: int = n_settled - shift) -> None:
            found[module.number].append(given[0][0, first_query:last])

        handles = []
        for number, layer in enumerate(model.gpt_neox.layers):
            layer.attention.dense.number = number
            handles.append(layer.attention.dense.register_forward_pre_hook(keep_z))
        with attended(turns_of(before, shift), []):
            model(row[None], use_cache=False)
        for handle in handles:
            handle.remove()
    return [torch.cat(z).mean(0).view(SIZES[kind]["n_heads"], -1) for z in found]


@contextmanager
def attended(turns: Mapping[tuple[int, int], list[Turn]], stands_in: list[Tensor]) -> Iterator[None]:
    """Transformers' GPT-NeoX with the attention of a schedule; for one text without padding."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, None]:
        layer, n_heads, d_head = module.layer_idx, query.shape[1], query.shape[3]
        mine = {head: turns.get((layer, head), []) for head in range(n_heads)}
        seen = torch.from_numpy(seen_keys(mine, module, query[0], key[0], value[0]))
        scores = (query @ key.transpose(2, 3) * d_head**-0.5).masked_fill(~seen, -torch.inf)
        z = scores.softmax(-1) @ value
        for head, its in mine.items():
            for turn in its:
                if isinstance(turn.what, Remove):
                    z[:, head, turn.at :] = 0 if turn.what.fill is Fill.ZERO else stands_in[layer][head]
        return z.transpose(1, 2), None

    with patch.object(modeling_gpt_neox, "eager_attention_forward", attend):
        yield


def seen_keys(turns: Mapping[int, list[Turn]], module: Any, query: Tensor, key: Tensor, value: Tensor) -> np.ndarray:
    """Which keys each query of a text sees, `[head, query, key]`."""
    n_heads, n_tokens, d_head = query.shape
    keys = np.arange(n_tokens)
    causal = keys[None] <= keys[:, None]
    seen = np.stack([causal] * n_heads)
    config = module.config
    rotary = int(d_head * config.rope_parameters["partial_rotary_factor"])
    frequencies = config.rope_parameters["rope_theta"] ** -(np.arange(0, rotary, 2) / rotary)
    for turn in {turn for its in turns.values() for turn in its}:
        heads = [head for head, its in turns.items() if turn in its]
        later = np.arange(turn.at, n_tokens)[:, None]
        if turn.at >= n_tokens:
            continue
        shown = [causal[turn.at :] for _ in heads]
        if isinstance(turn.what, Window):
            near = (keys > later - turn.what.window) | (keys < turn.what.sinks)
            shown = [causal[turn.at :] & near for _ in heads]
        elif isinstance(turn.what, Compress):
            texts = [
                Text(
                    *(part[head, : turn.at].numpy() for part in (key, value, query)),
                    module.dense.weight[:, head * d_head : (head + 1) * d_head].T.detach().numpy(), None, frequencies,
                )
                for head in heads
            ]  # fmt: skip
            kept = keep(turn.what, texts, seed=module.layer_idx)
            near = (keys >= kept.first) & ((keys > later - kept.ring) if kept.ring else (keys <= later))
            shown = [causal[turn.at :] & (near | np.isin(keys, list(chosen))) for chosen in kept.chosen]
        else:
            assert isinstance(turn.what, Keep | Remove)
        for head, rows in zip(heads, shown, strict=True):
            end = min((other.at for other in turns[head] if other.at > turn.at), default=n_tokens)
            seen[head][turn.at : end] = rows[: end - turn.at]
    return seen
