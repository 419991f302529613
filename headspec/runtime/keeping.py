"""The stores of a graph that keeps its keys and values itself, as states: what comes out of a step goes into the next.

Heads that see every key append to theirs, which engines with states do without copying (OpenVINO fuses it with the
attention); windowed heads get their ring anew. See `functional.py` for the form that leaves keeping to the caller.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .functional import GraphStep, PastStore


class KeepingStore(PastStore):
    """As PastStore; but `new` is all that the next step wants: keys, and values."""

    shortens = False  # OpenVINO's fused attention wants as many queries as new keys

    def attend(self, query: Tensor, kv: Tensor, step: GraphStep, dropout: float = 0.0) -> Tensor:
        """Attention over what is past and the new `kv`."""
        if self.layout.windows:
            seen = super().attend(query, kv, step)
            self.new = tuple(self._turned(old, new, step) for old, new in zip(self.past, kv, strict=True))
            return seen
        keys, values = (torch.cat((old, new), dim=2) for old, new in zip(self.past, kv, strict=True))
        self.new = (keys, values)
        mask = step.once(("kept",), lambda: self._seen(step, keys.shape[2]))
        return F.scaled_dot_product_attention(query, keys, values, mask)

    def _seen(self, step: GraphStep, n_columns: Any) -> Tensor:
        """Which of all columns a query sees, `[batch, 1, query, key]`."""
        columns, queries = torch.arange(n_columns, device=step.device), step.queries(self.last)
        return (columns <= queries) & ((columns >= step.first) | (columns == queries))

    def _turned(self, old: Tensor, new: Tensor, step: GraphStep) -> Tensor:
        """Sinks and ring with the new columns in their slots, `[batch, head, slot, d_head]`."""
        sinks, n_ring = self.layout.sinks, old.shape[2] - self.layout.sinks
        newest = step.n_total - 1
        columns = newest - (newest - torch.arange(n_ring, device=step.device)) % n_ring
        coming = new.index_select(2, (columns - step.n_past).clamp(min=0))
        ring = torch.where((columns >= step.n_past)[:, None], coming, old[:, :, sinks:])
        if not sinks:
            return ring
        columns = step.first[:, 0, 0] + torch.arange(sinks, device=step.device) - step.n_past  # [batch, sinks]
        here = ((columns >= 0) & (columns < step.n_new))[:, None, :, None]
        places = columns.clamp(min=0).clamp(max=step.n_new - 1)[:, None, :, None]
        coming = new.gather(2, places.expand(-1, new.shape[1], -1, new.shape[3]))
        return torch.cat((torch.where(here, coming, old[:, :, :sinks]), ring), dim=2)
