"""Turn the readers' sums into the averages of a HeadProfile.

Sums over windows and segments are exact to merge; means are made here, once.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from torch import Tensor

from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import BY_POSITION, GRIDS
from headspec.probe.profile import HeadProfile
from headspec.probe.reader import OUTPUT_STATISTICS
from headspec.probe.tiles import PATTERN_STATISTICS, Bins, Sums

assert BY_POSITION == PATTERN_STATISTICS + OUTPUT_STATISTICS, "the reader sums what the catalogue lists, in its order"
KEPT_PER_WINDOW = ("patterns", "outputs", "count", "weight", "weighted_energy", "weighted_z")


@dataclass
class Totals:
    """Sums over all windows of a text, layers stacked: `[layer, …]`, and what is kept of each window."""

    sums: Sums = field(default_factory=dict)
    windows: list[Sums] = field(default_factory=list)
    """Per batch: `[window, layer, head, …]` of the averages from `first_query` on and of the moments."""

    def add(self, batch: list[Sums], bins: Bins) -> "Totals":
        """With one more batch of windows: one Sums a layer, each `[window, head, …]`."""
        stacked = {name: torch.stack([sums[name] for sums in batch], dim=1) for name in batch[0]}
        counted = torch.tensor([edge >= bins.first_query for edge in bins.positions]).double()
        kept = {name: stacked[name] for name in KEPT_PER_WINDOW}
        for name in ("patterns", "outputs"):
            kept[name] = stacked[name] @ counted
        sums = {name: self.sums.get(name, torch.zeros(())) + value.sum(0) for name, value in stacked.items()}
        return Totals(sums, [*self.windows, kept])  # float64: a spread is a small difference of large moments


def relative_spread(sums: Sums, center: Tensor, gram: Tensor) -> Tensor:
    """Root mean square of ‖(z − center) W_O‖ / ‖residual‖, from moments: `[…, layer, head]`.

    The mean of ‖z−c‖²_G / ‖r‖² is (Σ w zᵀGz − 2 cᵀG Σ w z + cᵀGc Σ w) / n with w = 1/‖r‖²: exact in one pass.
    `center` is `[layer, head, d_head]`, `gram` `[layer, head, d_head, d_head]`.
    """
    projected = einsum(gram, center, "layer head d e, layer head e -> layer head d")
    cross = einsum(sums["weighted_z"], projected, "... layer head d, layer head d -> ... layer head")
    own = einsum(center, projected, "layer head d, layer head d -> layer head")
    total = sums["weighted_energy"] - 2 * cross + own * sums["weight"][..., None]
    return (total / sums["count"][..., None]).clamp(min=0).sqrt()


def make_profile(about: ProbeAbout, bins: Bins, text: Totals, repeats: Totals | None, gram: Tensor) -> HeadProfile:
    """The HeadProfile of the sums of a text and, if they were run, of repeated random tokens."""
    per_window = queries_per_position(bins.positions, about.window)
    n_counted = int(per_window[np.array(bins.positions) >= bins.first_query].sum())  # queries a window
    sums, n_all = text.sums, n_counted * about.n_windows
    mean_z = sums["z"] / n_all
    by_window = _by_window(text, n_counted) | {"output_spread": _window_spread(text, mean_z, gram)}
    headline = {name: by_window[name].mean(0) for name in BY_POSITION} | {
        "output_spread": relative_spread(sums, mean_z, gram),
        "output_spread_p95": torch.quantile(by_window["output_spread"], 0.95, dim=0),
        **_repeat_scores(repeats, mean_z, gram, about),
    }
    per_position = per_window * about.n_windows
    return HeadProfile(
        about=about,
        grids={name: _array(headline[name]) for name in GRIDS},
        by_position={name: _array(values) for name, values in _by_position(sums, per_position).items()},
        by_window={name: _array(values) for name, values in by_window.items()},
        position_edges=np.array(bins.positions),
        queries_per_position=per_position,
        offset_edges=np.array(bins.offsets),
        offset_mass=_array(sums["offset_mass"] / n_all),
        max_attention_position=_array(sums["max_position"] / n_all),
        max_attention_histogram=_array(sums["max_histogram"] / n_all),
        near_mass=_array(_per_bin(rearrange(sums["near_mass"], "layer head p o -> p layer head o"), per_position)),
        mean_z=_array(mean_z),
        z_norm=_array(sums["z_norm"] / n_all),
        **(_query_moments(sums, n_all) if about.query_statistics else {}),
    )


def _query_moments(sums: Sums, n_queries: int) -> dict[str, Any]:
    mean = sums["query"] / n_queries
    products = sums["query_products"] / n_queries
    covariance = products - einsum(mean, mean, "layer head d, layer head e -> layer head d e")
    return {"query_mean": _array(mean), "query_covariance": _array(covariance)}


def queries_per_position(edges: tuple[int, ...], window: int) -> np.ndarray:
    """How many of `window` queries fall into each bin of positions: `[position bin]`."""
    return np.diff([*edges, window])


def _by_position(sums: Sums, per_position: np.ndarray) -> dict[str, Tensor]:
    both = torch.cat([sums["patterns"], sums["outputs"]], dim=2)
    means = _per_bin(rearrange(both, "layer head s p -> p s layer head"), per_position)
    return {name: means[:, index] for index, name in enumerate(BY_POSITION)}


def _by_window(text: Totals, n_counted: int) -> dict[str, Tensor]:
    both = torch.cat([torch.cat([batch["patterns"], batch["outputs"]], dim=-1) for batch in text.windows])
    return {name: both[..., index] / n_counted for index, name in enumerate(BY_POSITION)}


def _window_spread(text: Totals, mean_z: Tensor, gram: Tensor) -> Tensor:
    return torch.cat([relative_spread(batch, mean_z, gram) for batch in text.windows])


def _repeat_scores(repeats: Totals | None, mean_z: Tensor, gram: Tensor, about: ProbeAbout) -> dict[str, Tensor]:
    if repeats is None:
        missing = torch.full(mean_z.shape[:2], float("nan"))
        return dict.fromkeys(("repeat_deviation", "previous_token_score", "induction_score"), missing)
    scores = repeats.sums["exact_offsets"] / (about.n_repeats * about.repeat_length)
    return {
        "repeat_deviation": relative_spread(repeats.sums, mean_z, gram),
        "previous_token_score": scores[..., 0],
        "induction_score": scores[..., 1],
    }


def _per_bin(values: Tensor, per_position: np.ndarray) -> Tensor:
    counts = torch.as_tensor(per_position).double().clamp(min=1)
    return values / counts.view(-1, *[1] * (values.ndim - 1))


def _array(values: Tensor) -> np.ndarray:
    return values.to(torch.float32).cpu().numpy()
