"""What compressed heads see of a text: every key of its prompt, then those that their policy chose, and what follows.

Queries, keys and values in, masks out: no model and no hooks. Policies and choice are the runtime's own.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from headspec.errors import HeadspecError, ModelError
from headspec.intervene.masks import Seen
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Allocation, Compress
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.policies import Prompt, QueryFacts
from headspec.runtime.selection import choose_keys

States = Float[Tensor, "batch head token d_head"]
Dropped = Bool[Tensor, "batch head query key"]


class Columns(NamedTuple):
    """What the compressed heads of a layer make of some columns of a batch; queries and keys are rotated."""

    queries: States
    keys: States
    values: States
    cos: Float[Tensor, "batch token rotary"]
    sin: Float[Tensor, "batch token rotary"]

    @classmethod
    def rotated(
        cls, queries: States, keys: States, values: States,
        cos: Float[Tensor, "_ token rotary"], sin: Float[Tensor, "_ token rotary"],
    ) -> "Columns":  # fmt: skip
        """From queries and keys before rotation."""
        queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
        alike = (part.expand(len(keys), -1, -1) for part in (cos, sin))
        return cls(*(part.detach() for part in (queries, keys, values, *alike)))

    def then(self, later: "Columns") -> "Columns":
        """With the columns that follow."""
        return Columns(*(torch.cat(both, dim=-2) for both in zip(self, later, strict=True)))

    def of_row(self, row: int, heads: slice, start: int, stop: int, frequencies: Tensor) -> Prompt:
        """Columns `start` … `stop − 1` of one row, as the runtime's policies want them."""
        queries, keys, values = (part[row, heads, start:stop] for part in self[:3])
        return Prompt(keys, values, queries, (self.cos[row, stop - 1], self.sin[row, stop - 1]), frequencies)


class Chosen(NamedTuple):
    """What the compressed heads of a layer keep of a prompt."""

    kept: Bool[Tensor, "batch head prompt"]
    ring: Int[Tensor, "batch head"]
    """So many of the latest columns from `first` on are seen beside the kept ones; 0: all of them."""
    first: Int[Tensor, "batch head"]

    def drops(self, n_past: int, n_keys: int) -> Dropped:
        """The keys that queries `n_past` … `n_keys − 1` do not see; those of the prompt see all."""
        n_prompt = self.kept.shape[-1]
        keys = torch.arange(n_keys, device=self.kept.device)
        queries = keys[n_past:, None]
        ring, first = self.ring[:, :, None, None], self.first[:, :, None, None]
        follows = (keys >= first) & ((ring == 0) | (keys > queries - ring))
        return ~(F.pad(self.kept, (0, n_keys - n_prompt))[:, :, None] | follows) & (queries >= n_prompt)


class CompressedHeads:
    """The compressed heads of one layer, and what they remember of the text that is being read.

    Args:
        layer: Number of the layer.
        treatments: By number of the head; heads under one treatment may share its budget.
        queries: `[1 + d_head, d_head]`, mean and covariance before rotation, of heads under expected attention.
        w_o: `[head, d_head, d_model]`, of all heads of the layer.
        frequencies: Of the rotation, radians a column: `[rotary dims / 2]`.
        prompt: Columns of the prompt; 0: what the first call brings.
    """

    def __init__(
        self, layer: int, treatments: Mapping[int, Compress], queries: Mapping[int, np.ndarray],
        w_o: Float[Tensor, "head d_head d_model"], frequencies: Float[Tensor, " pair"], prompt: int = 0,
    ) -> None:  # fmt: skip
        self.layer, self.frequencies, self.prompt = layer, frequencies, prompt
        by_treatment: dict[Compress, list[int]] = {}
        for head, what in sorted(treatments.items()):
            by_treatment.setdefault(what, []).append(head)
        self.groups = [_group(what, heads) for what, heads in by_treatment.items()]
        self.facts = [_facts(group, queries, w_o) for group in self.groups]
        self.heads = [head for group in self.groups for head in group.heads]
        """In the order of all masks and columns here."""
        self.forget()

    def forget(self) -> None:
        """A new text begins."""
        self.n_read = 0
        self.columns: Columns | None = None
        """What was read, until the prompt is complete."""
        self.chosen: Chosen | None = None

    def drops(self, columns: Callable[[], Columns], seen: Seen) -> Dropped | None:
        """The keys that the latest queries do not see because they were dropped; None if there are none.

        Args:
            columns: Gives the columns that come now; called only where they are needed.
            seen: What these queries see of all columns without compression, for every row.
        """
        n_rows, n_queries, n_keys = seen.shape
        n_past = n_keys - n_queries
        if not n_past:
            self.forget()
        self._check(n_past, n_rows)
        self.n_read = n_keys
        if self.chosen is None:
            self.columns = columns() if self.columns is None else self.columns.then(columns())
            n_prompt = self.prompt or n_keys
            if n_keys < n_prompt:
                return None
            self.chosen = self._choose(self.columns, seen[:, n_prompt - 1 - n_past, :n_prompt])
            self.columns = None
        return self.chosen.drops(n_past, n_keys) if n_keys > self.chosen.kept.shape[-1] else None

    def _check(self, n_past: int, n_rows: int) -> None:
        """Refuse a cache whose columns are not those that were read."""
        known = self.columns.keys if self.columns is not None else None if self.chosen is None else self.chosen.kept
        least = self.n_read if self.chosen is None else self.chosen.kept.shape[-1]
        if least <= n_past <= self.n_read and (known is None or len(known) == n_rows):
            return
        have = f"{self.n_read} columns" + ("" if known is None else f" in {len(known)} rows")
        raise ModelError(
            f"a KV cache of {n_past} columns in {n_rows} rows, where the compressed heads of layer {self.layer} have "
            f"read {have}: read one text at a time inside the `with` block, from its beginning, through a "
            "DynamicCache; what follows a prompt can be taken back, the prompt cannot."
        )

    @torch.no_grad()
    def _choose(self, columns: Columns, real: Bool[Tensor, "batch prompt"]) -> Chosen:
        """One row at a time, padding in front taken away and put back."""
        n_prompt = real.shape[-1]
        starts = torch.where(real.any(-1), real.int().argmax(-1), n_prompt).tolist()
        rows = [self._choose_row(columns, row, start, n_prompt) for row, start in enumerate(starts)]
        kept, ring, first = zip(*rows, strict=True)
        return Chosen(torch.stack(kept), *(torch.tensor(part, device=real.device) for part in (ring, first)))

    def _choose_row(self, columns: Columns, row: int, start: int, stop: int) -> tuple[Tensor, list[int], list[int]]:
        """`kept`, `ring` and `first` of one row."""
        kept, ring, first, at = [], list[int](), list[int](), 0
        for group, facts in zip(self.groups, self.facts, strict=True):
            heads = slice(at, at := at + len(group.heads))
            prompt = columns.of_row(row, heads, start, stop, self.frequencies.to(columns.keys.device))
            choice = choose_keys(group, prompt, facts, seed=self.layer)
            kept.append(F.pad(choice.kept, (start, 0)))
            ring += [choice.ring] * len(group.heads)
            first += [stop - choice.in_ring] * len(group.heads)
        return torch.cat(kept), ring, first


def compressed_heads(
    model: Any, plan: HeadPlan, layer: int, w_o: Callable[[], Float[Tensor, "head d_head d_model"]], prompt: int
) -> CompressedHeads | None:
    """The compressed heads of one layer of a model under a plan; None if there are none."""
    here = {head.head: what for head, what in plan.treatments.items()
            if head.layer == layer and isinstance(what, Compress)}  # fmt: skip
    if not here:
        return None
    queries = {head.head: facts for head, facts in plan.queries.items() if head.layer == layer}
    return CompressedHeads(layer, here, queries, w_o(), rotary_frequencies(model), prompt)


def rotary_frequencies(model: Any) -> Float[Tensor, " pair"]:
    """Radians a column by which a GPT-NeoX (a bridge or plain) turns queries and keys."""
    inner = model.original_model if hasattr(model, "original_model") else model.huggingface
    return inner.base_model.rotary_emb.inv_freq


def check_prompt(prompt: int) -> None:
    """Refuse what is no number of columns."""
    if not isinstance(prompt, int) or isinstance(prompt, bool) or prompt < 0:
        raise HeadspecError(f"prompt {prompt!r}: want the number of columns of the prompt, 0 for what comes first.")


def _group(what: Compress, heads: list[int]) -> HeadGroup:
    shared = what.allocation is Allocation.ADAKV
    return HeadGroup(tuple(heads), 0, 0, what.policy, what.budget, shared, what.latest)


def _facts(
    group: HeadGroup, queries: Mapping[int, np.ndarray], w_o: Float[Tensor, "head d_head d_model"]
) -> QueryFacts | None:
    """What expected attention needs to know of the heads of a group."""
    if group.policy != "expected_attention":
        return None
    known = torch.stack([torch.from_numpy(queries[head]) for head in group.heads]).to(w_o.device)
    written = w_o[list(group.heads)].detach().float()
    return QueryFacts(known[:, 0], known[:, 1:], einsum(written, written, "head d model, head e model -> head d e"))
