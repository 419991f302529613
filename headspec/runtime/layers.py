"""The layers of a pruned GPT-NeoX: attention by groups of heads, and the MLP.

`cache` is the LayerCache of a layer or None; in a graph (`functional.py`) something that stands in for it, and numbers
of tokens may be symbols.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import pick_sinks, see_all, see_window
from .configuration import PrunedGPTNeoXConfig
from .linear import FastLinear
from .policies import QueryFacts
from .step import Step
from .stores import Watched
from .tricks import Tricks

PIECE = 1024
"""Tokens that go through an MLP together."""


class PrunedAttention(nn.Module):
    """The heads that are left of a layer. Weights hold all queries, then all keys, then all values, head after head."""

    def __init__(self, config: PrunedGPTNeoXConfig, layer_idx: int, tricks: Tricks):
        super().__init__()
        self.layer_idx, self.dropout = layer_idx, config.attention_dropout
        self.groups = config.groups(layer_idx)
        self.d_head = config.hidden_size // config.num_attention_heads
        self.width = sum(len(group.heads) for group in self.groups) * self.d_head
        self.rotary_ndims = int(self.d_head * config.rope_parameters.get("partial_rotary_factor", 1.0))
        self.qkv = FastLinear(config.hidden_size, 3 * self.width, config.attention_bias, tricks)
        self.dense = FastLinear(self.width, config.hidden_size, True, tricks)
        expecting = sum(len(group.heads) for group in self.groups if group.policy == "expected_attention")
        if expecting:
            for name in QueryFacts._fields:
                per_head = [self.d_head] if name == "query_mean" else [self.d_head, self.d_head]
                self.register_buffer(name, torch.zeros(expecting, *per_head))

    def forward(self, hidden: Tensor, step: Step, cache: Any, n_last: Any, known: Tensor | None = None) -> Tensor:
        """What the heads write for the last `n_last` tokens: `[batch, n_last, d_model]`.

        `known` are queries, keys and values of these tokens before rotation, where a table has them.
        """
        if cache is None:
            return self._write(self._read(hidden, step, n_last, known), self.dense)
        part: Any = cache.slices or self
        if not part.width:
            return part.bias
        watched = max(store.watched() for store in cache.stores)
        queries, kv = self._project(hidden, step, min(max(n_last, watched), step.n_new), part, known)
        query, dropout = queries[:, :, -n_last:], self.dropout if self.training else 0.0
        seen, start = [], 0
        for place, store in enumerate(cache.stores):
            heads = slice(start, start := start + store.n_heads)
            if watched and store.n_heads:
                store.watch(queries[:, heads], self._shown(place, cache))
            if store.n_heads:
                seen.append(store.attend(query[:, heads], kv[:, :, heads], step, dropout))
        cache.cut(self)
        return self._write(seen, part.dense)

    def _read(self, hidden: Tensor, step: Step, n_last: Any, known: Tensor | None) -> list[Tensor]:
        """What each group sees without a cache."""
        query, kv = self._project(hidden, step, n_last, self, known)
        seen, start, dropout = [], 0, self.dropout if self.training else 0.0
        for group in self.groups:
            heads = slice(start, start := start + len(group.heads))
            mine, own = query[:, heads], kv[:, :, heads]
            if group.window:
                seen.append(see_window(mine, own, pick_sinks(own, group, step), group, step, dropout))
            else:
                seen.append(see_all(mine, own, step, dropout))
        return seen

    @staticmethod
    def _write(seen: list[Tensor], dense: Any) -> Tensor:
        z = seen[0] if len(seen) == 1 else torch.cat(seen, dim=1)
        return dense(z.transpose(1, 2).flatten(2))

    def _shown(self, place: int, cache: Any) -> Watched:
        """What the store of a group may look at beside its queries."""
        assert cache.residual is not None
        return Watched(self._facts(place), cache.residual, partial(self._w_o, place))

    def _facts(self, place: int) -> QueryFacts | None:
        """What is known of the heads of a group under expected attention."""
        if self.groups[place].policy != "expected_attention":
            return None
        before = sum(len(group.heads) for group in self.groups[:place] if group.policy == "expected_attention")
        heads = slice(before, before + len(self.groups[place].heads))
        return QueryFacts(*(getattr(self, name)[heads] for name in QueryFacts._fields))

    def _w_o(self, place: int) -> Tensor | None:
        """The output projections of the heads of a group, `[head, d_head, d_model]`.

        None where no head can be cut out of the weights, because somebody has hooked or replaced a projection.
        """
        if not all(isinstance(part, FastLinear) and part.divisible() for part in (self.qkv, self.dense)):
            return None
        before = sum(len(group.heads) for group in self.groups[:place])
        columns = slice(before * self.d_head, (before + len(self.groups[place].heads)) * self.d_head)
        return self.dense.weight.detach()[:, columns].T.unflatten(0, (-1, self.d_head))

    def _project(
        self, hidden: Tensor, step: Step, n_last: Any, part: Any, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Rotated queries of the last tokens, `[batch, head, token, d_head]`, and all keys and values, 5-D.

        `part` has the projection of the heads that are computed: the layer itself, or its Slices.
        """
        divisible = isinstance(part.qkv, FastLinear) and part.qkv.divisible()
        known = known if part is self and divisible else None  # the table is of all heads, and of no hook
        if n_last == hidden.shape[1] or known is not None or not divisible:
            states = self._heads(part.qkv(hidden) if known is None else known, 3)
            states = self._rotated(states, 2, step).permute(2, 0, 3, 1, 4)
            return states[0, :, :, -n_last:], states[1:]
        query = self._heads(part.qkv.part(hidden[:, -n_last:], 0, part.width), 1)
        states = self._heads(part.qkv.part(hidden, part.width, 3 * part.width), 2)
        query = self._rotated(query, 1, step)
        return query[:, :, 0].transpose(1, 2), self._rotated(states, 1, step).permute(2, 0, 3, 1, 4)

    def _heads(self, states: Tensor, kinds: int) -> Tensor:
        """`[batch, token, kinds × head × d_head]` as `[batch, token, kinds, head, d_head]`."""
        n_heads = states.shape[-1] // (kinds * self.d_head)
        return states.view(states.shape[0], states.shape[1], kinds, n_heads, self.d_head)

    def _rotated(self, states: Tensor, kinds: int, step: Step) -> Tensor:
        """Rotary position embedding of the last tokens, on the first `rotary_ndims` of each head, for the first
        `kinds` of queries, keys and values. In place, but in a graph, which has no places."""
        n_tokens = states.shape[1]
        turned = states[:, :, :kinds, :, : self.rotary_ndims]
        across = turned.roll(self.rotary_ndims // 2, dims=-1)  # the sines carry the sign of the half that is turned
        new = turned * step.cos[:, -n_tokens:] + across * step.sin[:, -n_tokens:]
        if torch.compiler.is_compiling():
            rotated = torch.cat((new, states[:, :, :kinds, :, self.rotary_ndims :]), dim=-1)
            return torch.cat((rotated, states[:, :, kinds:]), dim=2)
        turned.copy_(new)
        return states


class NoHeads(nn.Module):
    """A layer whose heads were all removed: their constants are left, in the bias."""

    def __init__(self, config: PrunedGPTNeoXConfig):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, hidden: Tensor, step: Step, cache: Any, n_last: Any, known: Tensor | None = None) -> Tensor:
        """The same for every token."""
        return self.bias


class PrunedMLP(nn.Module):
    """The MLP of GPT-NeoX."""

    def __init__(self, config: PrunedGPTNeoXConfig, tricks: Tricks):
        super().__init__()
        self.tricks = tricks
        self.dense_h_to_4h = FastLinear(config.hidden_size, config.intermediate_size, True, tricks)
        self.dense_4h_to_h = FastLinear(config.intermediate_size, config.hidden_size, True, tricks)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, token, d_model]` to the same."""
        rows = hidden.flatten(0, 1)
        apart = self.tricks.pieces and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not apart or len(rows) <= PIECE:
            return self._whole(hidden)
        out = torch.empty_like(rows)
        for start in range(0, len(rows), PIECE):
            out[start : start + PIECE] = self._whole(rows[start : start + PIECE])
        return out.view_as(hidden)

    def _whole(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.act(self.dense_h_to_4h(hidden)))


class PrunedLayer(GradientCheckpointingLayer):
    """Attention and MLP, side by side (Pythia) or one after the other."""

    def __init__(self, config: PrunedGPTNeoXConfig, layer_idx: int, tricks: Tricks):
        super().__init__()
        self.parallel, self.dropout = config.use_parallel_residual, config.hidden_dropout
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        heads = bool(config.groups(layer_idx))
        self.attention = PrunedAttention(config, layer_idx, tricks) if heads else NoHeads(config)
        self.mlp = PrunedMLP(config, tricks)
        self.table: Tensor | None
        self.register_buffer("table", None, persistent=False)

    def forward(self, hidden: Tensor, step: Step, cache: Any, n_last: Any) -> Tensor:
        """The residual after this layer, of the last `n_last` tokens."""
        if cache is not None:
            cache.residual = hidden
        qkv, beside = self._looked_up(step, hidden.shape[-1])
        written = self._drop(self.attention(self.input_layernorm(hidden), step, cache, n_last, qkv))
        if cache is not None:
            cache.residual = None
        if beside is not None:
            return beside[:, -n_last:] + written
        hidden = hidden[:, -n_last:]
        if self.parallel:
            return hidden + written + self._drop(self.mlp(self.post_attention_layernorm(hidden)))
        hidden = hidden + written
        return hidden + self._drop(self.mlp(self.post_attention_layernorm(hidden)))

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.table = None  # it belongs to the weights that go
        super()._load_from_state_dict(*arguments, **options)

    def _looked_up(self, step: Step, d_model: int) -> tuple[Tensor | None, Tensor | None]:
        """What the table has of the tokens at hand: queries, keys and values; the residual with the MLP.

        Not in training or under autograd: weights may move on.
        """
        if self.table is None or step.tokens is None or self.training or torch.is_grad_enabled():
            return None, None
        rows = F.embedding(step.tokens, self.table)
        return rows[..., :-d_model], rows[..., -d_model:]

    def _drop(self, written: Tensor) -> Tensor:
        return F.dropout(written, self.dropout) if self.training and self.dropout else written
