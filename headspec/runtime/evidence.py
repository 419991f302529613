"""What was seen of the heads of one layer while a text is generated: running sums, row by row.

Activations in, margins out: the statistics are those of `statistics.py`, the comparison with cut-offs is that of
`rules.py`. No decisions, no caches.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .rules import FAIR_POSITION, dead_margins, window_margins, window_share
from .statistics import output_energy, window_masses
from .thresholds import RoleThresholds

PASSAGE = 16
"""Queries of the prompt whose output spread is averaged; the 95th percentile of these counts for `dead_spread_p95`."""


class KnownHeads(NamedTuple):
    """What a probe has found about the heads of a layer; `[head]` each."""

    induction: Tensor
    """Induction score, in [0, 1]; NaN if unknown."""
    repeat_deviation: Tensor
    """How far the output moves from its mean while tokens repeat; NaN if unknown."""
    may_die: Tensor
    """Whether the head may be called dead: it is neither protected nor has it failed a joint check."""

    @classmethod
    def nothing(cls, n_heads: int) -> "KnownHeads":
        """Of heads without a head map: none may die."""
        unknown = torch.full((n_heads,), torch.nan)
        return cls(unknown, unknown, torch.zeros(n_heads, dtype=torch.bool))

    @classmethod
    def of(
        cls, facts: dict[str, Any] | None, layer: int, heads: Sequence[int], dead: bool = True
    ) -> "KnownHeads":  # fmt: skip
        """From the configuration's `head_facts`, of some heads of a layer; without `dead` none of them may die."""
        if not facts:
            return cls.nothing(len(heads))
        nan = float("nan")
        induction, deviation = (
            torch.tensor([nan if (value := facts[name][layer][head]) is None else value for head in heads])
            for name in ("induction", "repeat_deviation")
        )
        return cls(
            induction, deviation, torch.tensor([dead and head not in facts["protected"][layer] for head in heads])
        )


class Margins(NamedTuple):
    """How far inside the cut-offs each head lies, in the row of the batch where it lies worst; −∞ if not known."""

    dead: list[float]
    """`[head]`; 0 or more: the head writes nothing that matters."""
    fits: list[list[float]]
    """`[head][window]`; 0 or more: the window does for the head."""


class Evidence:
    """Sums over the queries that were looked at.

    Queries at positions before `first_query` do not count, and for a window those that see less than FAIR_POSITION
    times its keys do not, as offline.
    """

    def __init__(self, cut: RoleThresholds, n_sinks: int, first_query: int, known: KnownHeads):
        self.cut, self.n_sinks, self.first_query, self.known = cut, n_sinks, first_query, known
        self.from_position = torch.tensor([max(first_query, FAIR_POSITION * window) for window in cut.windows])
        self.sums: dict[str, Tensor] = {}
        """By name: `inside` and `sink` `[batch, head, window]` over `counted` queries; `energy` over `outputs` queries,
        and `peak`, `[batch, head]`."""
        self.gram: Tensor | None = None
        """W_O W_Oᵀ, `[head, d_head, d_head]`; only where heads may die."""
        self.constant: Tensor | None = None
        """Mean z of the prompt, over all rows: `[head, d_head]`; what would stand in for a dead head."""

    def begin(self, batch: int, like: Tensor, w_o: Callable[[], Tensor | None]) -> None:
        """A text begins; `w_o` gives `[head, d_head, d_model]`, or None where no head may die."""
        n_heads, wide = len(self.known.may_die), like.new_zeros((), dtype=torch.float32)
        self.known = KnownHeads(*(part.to(like.device) for part in self.known))
        self.from_position = self.from_position.to(like.device)
        for name in ("inside", "sink", "counted", "seen"):
            self.sums[name] = wide.new_zeros(batch, n_heads, len(self.from_position))
        for name in ("energy", "outputs", "peak"):
            self.sums[name] = wide.new_zeros(batch, n_heads)
        weights = w_o() if bool(self.known.may_die.any()) else None
        self.gram = None if weights is None else weights.float() @ weights.float().transpose(1, 2)

    def look(self, pattern: Tensor, first: int, start: int, rows: slice, heads: Any = slice(None)) -> None:
        """Add the attention of some queries.

        Args:
            pattern: `[batch, head, query, key]`, of these rows and heads.
            first: Column of the first query.
            start: The first real column of these rows.
            rows: Which rows of the batch.
            heads: Which heads.
        """
        skipped = max(start - first, 0)  # queries that are padding
        pattern, first = pattern[:, :, skipped:].float(), first + skipped
        inside, sink = window_masses(pattern, first, start, self.cut.windows, self.n_sinks)
        positions = torch.arange(inside.shape[2], device=inside.device) + (first - start)
        fair = (positions[:, None] >= self.from_position).float()
        found = {
            "inside": torch.einsum("bhqw,qw->bhw", inside, fair), "sink": torch.einsum("bhq,qw->bhw", sink, fair),
            "counted": fair.sum(0).expand(inside.shape[0], inside.shape[1], -1),
            "seen": fair.sum(0).expand(inside.shape[0], inside.shape[1], -1),
        }  # fmt: skip
        for name, value in found.items():
            self._add(name, rows, heads, value)

    def settle(self, outputs: Sequence[Tensor], residual_norms: Sequence[Tensor]) -> None:
        """What the heads wrote on the prompt, and its mean.

        Args:
            outputs: z of the counted queries, `[query, head, d_head]`, one a row of the batch.
            residual_norms: Of the residual that enters the layer, `[query]`, one a row.
        """
        if self.gram is None or not sum(len(z) for z in outputs):
            return
        self.constant = torch.cat(list(outputs)).float().mean(0)
        for row, (z, norms) in enumerate(zip(outputs, residual_norms, strict=True)):
            spread = self._spread(z[None], norms[None])[0]
            self._add_spread(spread[None], slice(row, row + 1))
            if len(spread):
                means = torch.stack([passage.mean(0) for passage in spread.split(PASSAGE)])
                self._raise_peak(torch.quantile(means, 0.95, dim=0)[None], slice(row, row + 1))

    def watch(self, z: Tensor, residual_norms: Tensor, heads: Any = slice(None)) -> None:
        """Add what the heads write now: z `[batch, query, head, d_head]` of these heads, norms `[batch, query]`."""
        if self.constant is not None:
            spread = self._spread(z, residual_norms, heads)
            self._add_spread(spread, slice(None), heads)
            self._raise_peak(spread.mean(1), slice(None), heads)

    def _spread(self, z: Tensor, norms: Tensor, heads: Any = slice(None)) -> Tensor:
        """‖(z − z̄) W_O‖² / ‖residual‖²: `[batch, query, head]`."""
        assert self.gram is not None
        assert self.constant is not None
        energy = output_energy(z.float() - self.constant[heads], self.gram[heads]).clamp(min=0)
        return energy / norms.float().square()[..., None]

    def _add_spread(self, spread: Tensor, rows: slice, heads: Any = slice(None)) -> None:
        """Add `[row, query, head]`."""
        if spread.shape[1]:
            self._add("energy", rows, heads, spread.sum(1))
            self._add("outputs", rows, heads, spread.shape[1])

    def _raise_peak(self, spread: Tensor, rows: slice, heads: Any = slice(None)) -> None:
        """The liveliest `[row, head]` so far counts."""
        self._add("peak", rows, heads, (spread - self.sums["peak"][rows, heads]).clamp(min=0))

    def _add(self, name: str, rows: slice, heads: Any, value: Any) -> None:
        """Not in place: what inference mode has made could not be changed outside it."""
        sums = self.sums[name].clone()
        sums[rows, heads] += value
        self.sums[name] = sums

    def fade(self, share: float) -> None:
        """From now on what was seen so far counts less: `share` of what it did."""
        for name in self.sums.keys() - {"seen"}:
            self.sums[name] = self.sums[name] * share

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or select rows of the batch."""
        self.sums = {name: change(value) for name, value in self.sums.items()}

    def margins(self, least: int) -> Margins:
        """Margins of every head; of windows and outputs that fewer than `least` queries speak for, they are −∞."""
        sums, never = self.sums, torch.tensor(-torch.inf)
        n_queries = sums["counted"].clamp(min=1e-9)
        inside, sink = sums["inside"] / n_queries, sums["sink"] / n_queries
        induction = self.known.induction.nan_to_num(0.0)[:, None].expand_as(inside)
        fits = torch.stack(window_margins(inside + sink, window_share(inside, sink), induction, self.cut)).amin(0)
        fits = torch.where(sums["seen"] >= least, fits, never.to(fits)).amin(0)
        spread, peak = (sums["energy"] / sums["outputs"].clamp(min=1e-9)).sqrt(), sums["peak"].sqrt()
        repeats, induction = (part.expand_as(spread) for part in (self.known.repeat_deviation, self.known.induction))
        dead = torch.stack(dead_margins(spread, peak, repeats, induction, self.cut)).nan_to_num(nan=-torch.inf).amin(0)
        open_to_it = self.known.may_die & (sums["outputs"] >= least)
        return Margins(torch.where(open_to_it, dead, never.to(dead)).amin(0).tolist(), fits.tolist())
