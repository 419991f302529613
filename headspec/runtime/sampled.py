"""What heads write while a prompt is read: of some of its columns, row by row, until heads are classified."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .evidence import Evidence

SAMPLED = 512
"""Columns of a prompt that are kept, at most; evenly spaced."""


def sampled_columns(first: int, n_past: int, n_total: int, n_prompt: int) -> range:
    """Those of the columns `n_past` … `n_total − 1` that are kept: every so many from `first` on, however it is cut."""
    stride = -(-n_prompt // SAMPLED)
    return range(max(first, first + -(-(n_past - first) // stride) * stride), n_total, stride)


class SampledOutputs:
    """z of the kept columns, and norms of the residual that enters the layer there."""

    def __init__(self, batch: int):
        self.rows: list[list[Tensor]] = [[] for _ in range(batch)]
        self.norms: list[list[Tensor]] = [[] for _ in range(batch)]

    def add(self, row: int, z: Tensor, residual_norms: Tensor) -> None:
        """More columns of a row: z `[column, head, d_head]`, norms `[column]`."""
        self.rows[row].append(z)
        self.norms[row].append(residual_norms)

    def settle(self, evidence: Evidence) -> None:
        """Hand all of it over."""
        evidence.settle(*([torch.cat(parts) for parts in rows] for rows in (self.rows, self.norms)))

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or select rows of the batch."""
        order: Sequence[int] = change(torch.arange(len(self.rows))).tolist()
        self.rows, self.norms = ([list(part[row]) for row in order] for part in (self.rows, self.norms))
