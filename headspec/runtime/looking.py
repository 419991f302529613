"""A look at the end of a prompt: what its last queries attend to, row by row where padding wants it."""

import torch
from torch import Tensor

from .attention import attention
from .evidence import Evidence
from .step import Step

TOGETHER = 2**20
"""Rows are looked at together if that makes no more scores than this."""


def look_back(evidence: Evidence, queries: Tensor, kv: Tensor, first: int, step: Step) -> None:
    """Look at those of the new columns that lie at `first` or after it.

    Args:
        queries: The last ones, `[batch, head, query, d_head]`: no fewer than are looked at.
        kv: Every key and value so far, `[2, batch, head, column, d_head]`.
    """
    first, starts = max(step.n_past, first), step.starts()
    batch, n_heads = kv.shape[1:3]
    if starts is None and batch * n_heads * (step.n_total - first) * step.n_total <= TOGETHER:
        _look_at_rows(evidence, queries, kv, slice(0, batch), first, 0, step)
        return
    for row, start in enumerate(starts or [0] * batch):
        _look_at_rows(evidence, queries, kv[:, row : row + 1], slice(row, row + 1), first, start, step)


def _look_at_rows(
    evidence: Evidence, queries: Tensor, kv: Tensor, rows: slice, first: int, start: int, step: Step
) -> None:  # fmt: skip
    """Look at the columns from `first` on of rows whose first real column is `start`."""
    first = max(first, start)
    n_queries = step.n_total - first
    if n_queries <= 0:
        return
    kv = kv[:, :, :, start:]
    mask = step.once(("tail", start, n_queries), lambda: tail_mask(n_queries, kv))
    evidence.look(attention(queries[rows, :, -n_queries:], kv[0], mask), first - start, 0, rows)


def tail_mask(n_queries: int, kv: Tensor) -> Tensor:
    """True where the last queries see a key of a text without padding: `[query, key]`."""
    return torch.ones(n_queries, kv.shape[3], dtype=torch.bool, device=kv.device).tril(kv.shape[3] - n_queries)
