"""A forward pass as a pure function of tensors, for torch.compile, torch.export and what runs graphs elsewhere.

Keys and values come in as they are and go out as what is new of them: whoever calls puts it in its place. So a graph
neither appends nor copies a cache, and serves all positions. Projections, rotation, MLPs and norms are the modules of
the eager form (`layers.py`); attention is over what is past and what is new, with one softmax over both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .configuration import PrunedGPTNeoXConfig
from .step import Step


class Past(NamedTuple):
    """What a group of heads remembers, and how its slots are used."""

    n_heads: int
    windows: tuple[int, ...] = ()
    """Keys that each head sees, its query's own included; empty: all of them."""
    sinks: int = 0
    """Slots in front, for the first real tokens of a row, where there are windows; the others are a ring, in which
    column c lies in slot c modulo their number. Without windows column c lies in slot c."""

    @property
    def slots(self) -> int:
        """Slots that are needed; 0: one for every column."""
        return self.sinks + max(self.windows) if self.windows else 0


def layout_of(config: PrunedGPTNeoXConfig, together: bool = False) -> list[list[Past]]:
    """What every layer remembers, group by group.

    Args:
        config: Of a model whose heads see every key or a window.
        together: Neighbouring groups of windowed heads in one buffer, as wide as the widest window needs: fewer and
            larger operations, for some more bytes.

    Raises:
        ValueError: Compressed heads, which choose their keys: a graph cannot.
    """
    found: list[list[Past]] = []
    for layer in range(config.num_hidden_layers):
        found.append([])
        for group in config.groups(layer):
            if group.policy:
                raise ValueError(
                    f"layer {layer} has heads whose keys are compressed ({group.policy}), which no graph can do: run "
                    "the model as it is, or make a plan with windows and removal only."
                )
            windows = (group.window,) * len(group.heads) if group.window else ()
            last = found[-1][-1] if found[-1] else Past(0)
            if together and windows and last.windows and last.sinks == group.sinks:
                found[-1][-1] = Past(last.n_heads + len(windows), last.windows + windows, last.sinks)
            else:
                found[-1].append(Past(len(group.heads), windows, group.sinks))
    return found


class PureStep(nn.Module):
    """Reads some tokens after those that are past: logits of the last one, and the new keys and values.

    Args:
        model: A PrunedGPTNeoXForCausalLM; its weights are used, not copied.
        layout: As `layout_of` its config.
        store: How groups attend, and what they give back: a PastStore, or one that keeps more (`keeping.py`).
    """

    def __init__(self, model: Any, layout: Sequence[Sequence[Past]], store: "type[PastStore] | None" = None):
        super().__init__()
        self.model, self.layout, self.store = model, layout, store or PastStore

    def forward(self, tokens: Tensor, positions: Tensor, n_past: Tensor, starts: Tensor, *past: Any) -> tuple[Any, ...]:
        """Logits `[batch, 1, vocabulary]`, then of every group `[key or value, batch, head, token, d_head]`.

        Args:
            tokens: `[batch, token]`, of columns `n_past` and so on.
            positions: `[batch or 1, token]`, for the rotation.
            n_past: Columns read before, a number.
            starts: `[batch]`, the first column of each row that is not padding.
            past: Of every group its keys and values, in one tensor or two: `[batch, head, slot, d_head]` each. What
                lies in slots that hold no column, or one that is not seen, does not matter, if it is finite.
        """
        new: list[Any] = []
        core, groups = self.model.gpt_neox, iter(past)
        hidden = core.embed_in(tokens)
        step = GraphStep(n_past, tokens, starts, core.rotary_emb(hidden, position_ids=positions), core.tricks)
        step.tokens = tokens
        for number, (layer, layout) in enumerate(zip(core.layers, self.layout, strict=True)):
            last = number == len(core.layers) - 1 and self.store.shortens
            cache = GraphLayer([self.store(group, next(groups), last) for group in layout])
            hidden = layer(hidden, step, cache, 1 if last else step.n_new)
            new.extend(store.new for store in cache.stores)
        return self.model.lm_head(core.final_layer_norm(hidden[:, -1:])), *new


class GraphStep(Step):
    """A step whose place is a tensor, so that one graph serves all places. Padding is in front of rows only."""

    def __init__(self, n_past: Tensor, tokens: Tensor, starts: Tensor, rotation: tuple, tricks: Any):
        super().__init__(n_past, tokens.shape[1], None, rotation, tokens.device, tricks)
        self.first = starts[:, None, None, None]  # [batch, head, query, key]

    def queries(self, last: bool) -> Tensor:
        """Columns of the queries, `[query, 1]`: of the last one only, or of all new ones."""
        return self.new_columns()[-1:, None] if last else self.new_columns()[:, None]

    def new_columns(self) -> Tensor:
        """Of all new tokens, `[token]`."""
        return self.n_past + torch.arange(self.n_new, device=self.device)


class GraphLayer:
    """Stands in for the LayerCache of a layer."""

    slices = None
    residual: Tensor | None = None

    def __init__(self, stores: "list[PastStore]"):
        self.stores = stores

    def cut(self, attention: Any) -> None:
        """Heads do not die in a graph."""


class PastStore:
    """Stands in for the store of a group, and keeps nothing: `new` is what should be kept."""

    shortens = True
    """Whether the last layer may attend for the last token only."""

    def __init__(self, layout: Past, past: Any, last: bool):
        self.layout, self.past, self.last, self.n_heads = layout, past, last, layout.n_heads
        self.new: Any

    def watched(self) -> int:
        """Nobody looks at the queries."""
        return 0

    def attend(self, query: Tensor, kv: Tensor, step: GraphStep, dropout: float = 0.0) -> Tensor:
        """Attention over what is past and the new `kv`, `[key or value, batch, head, token, d_head]`."""
        self.new = kv
        name = ("past", self.layout[1:], self.last)
        past_bias, new_bias = step.once(name, lambda: self._biases(step, query.dtype))
        query = query * query.shape[-1] ** -0.5
        before = product(query, self.past[0], across=True) + past_bias
        now = product(query, kv[0], across=True) + new_bias
        pattern = torch.cat((now, before), dim=-1).softmax(-1, dtype=torch.float32).to(kv.dtype)
        n_new = kv.shape[3]
        return product(pattern[..., :n_new], kv[1]) + product(pattern[..., n_new:], self.past[1])

    def _biases(self, step: GraphStep, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Added to the scores of past and of new keys, `[batch, 1 or head, query, key]`: 0 where they are seen."""
        seen, n_slots = (self._ring_seen if self.layout.windows else self._full_seen), self.past[0].shape[2]
        least = torch.finfo(dtype).min
        past, new = (torch.where(part, 0.0, least).to(dtype) for part in seen(step, step.queries(self.last), n_slots))
        return past, new

    def _full_seen(self, step: GraphStep, queries: Tensor, n_slots: Any) -> tuple[Tensor, Tensor]:
        past, new = torch.arange(n_slots, device=step.device), step.new_columns()
        before = (past < step.n_past) & (past >= step.first) & (queries >= 0)
        return before, (new <= queries) & ((new >= step.first) | (new == queries))  # padding sees itself: no NaN

    def _ring_seen(self, step: GraphStep, queries: Tensor, n_slots: Any) -> tuple[Tensor, Tensor]:
        """Sinks are seen in their own slots, and not in the ring."""
        windows = torch.tensor(self.layout.windows, device=step.device)[:, None, None]
        far, sinks, newest = queries - windows, self.layout.sinks, step.n_past - 1
        ring = newest - (newest - torch.arange(n_slots - sinks, device=step.device)) % (n_slots - sinks)
        in_ring = (ring > far) & (ring >= step.first + sinks) & (ring >= 0)
        in_front = (step.first + torch.arange(sinks, device=step.device) < step.n_past) & (far <= queries)
        new = step.new_columns()
        now = (new <= queries) & (((new > far) | (new < step.first + sinks)) & (new >= step.first) | (new == queries))
        return torch.cat((in_front, in_ring), dim=-1), now


def product(left: Tensor, right: Tensor, across: bool = False) -> Tensor:
    """Matrix products of `[batch, head, …]`, with the transpose of the right one if `across`.

    In the form that every engine takes to its quickest kernel: OpenVINO does not see through a transpose that comes
    before the heads are made one dimension, and then copies all keys (three times as long, docs/engines.md).
    """
    rows, columns = left.flatten(0, 1), right.flatten(0, 1)
    flat = torch.bmm(rows, columns.transpose(1, 2) if across else columns)
    return flat.unflatten(0, (left.shape[0], left.shape[1]))
