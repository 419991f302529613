"""The hooks of one layer: they turn each segment's activations into sums and let go of the activations.

What is summed, over which bins; averages are made later, in `headspec.probe.averages`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from headspec.probe import statistics
from headspec.runtime.statistics import attention_entropy, near_mass, output_energy, sink_mass

Sums = dict[str, Tensor]
"""Running float64 sums by name; each starts with the axis `batch` (windows)."""

PATTERN_STATISTICS = (
    "attention_entropy", "normalized_entropy", "uniform_score", "max_attention", "first_token_attention_ratio",
    "sink_attention_ratio", "value_weighted_sink_share",
)  # fmt: skip
OUTPUT_STATISTICS = ("output_norm", "relative_output_norm", "share_of_layer")
HISTOGRAM_BINS = 20
CPU_TILE, GPU_TILE = 2**20, 2**26
"""Pattern elements reduced at once: on a CPU what fits the cache, on a GPU what fills it."""


@dataclass(frozen=True)
class Bins:
    """Over which queries and offsets the reader sums."""

    first_query: int
    n_sinks: int
    positions: tuple[int, ...]
    offsets: tuple[int, ...]
    exact_offsets: tuple[int, ...] = ()
    """Single offsets whose mean attention is wanted beside the bins (scores on repeated tokens)."""


class LayerReader:
    """Reads one layer, segment by segment. `sums` holds what it has seen since `begin`."""

    def __init__(self, layer: int, w_o: Float[Tensor, "head d_head d_model"]) -> None:
        self.layer = layer
        # Float64 keeps ‖z − z̄‖² exact for a head whose output is large but constant. MPS has none.
        self.exact = torch.float32 if w_o.device.type == "mps" else torch.float64
        w_o = w_o.detach().to(self.exact)
        self.gram = einsum(w_o, w_o, "head d_head model, head other model -> head d_head other")

    def begin(self, bins: Bins) -> None:
        """Forget everything: a new batch of windows starts."""
        self.bins = bins
        self.sums: Sums = {}
        self._n_keys = 0
        self._value_norms: list[Float[Tensor, "batch head key"]] = []

    def hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """The (name, function) pairs for TransformerLens; none of them changes an activation."""
        block = f"blocks.{self.layer}"
        return [
            (f"{block}.hook_resid_pre", self.on_residual),
            (f"{block}.attn.hook_v", self.on_value),
            (f"{block}.attn.hook_pattern", self.on_pattern),
            (f"{block}.attn.hook_z", self.on_z),
        ]

    def on_residual(self, residual: Float[Tensor, "batch query d_model"], hook: Any = None) -> None:
        """Keep the norm of the residual that enters the layer, and count its tokens: it is the first hook to fire."""
        self._n_keys += residual.shape[1]
        self._residual_norm = residual.detach().norm(dim=-1, dtype=torch.float32).to(self.exact)

    def on_value(self, value: Float[Tensor, "batch query kv_head d_head"], hook: Any = None) -> None:
        """Keep ‖v W_O‖ of every key; grouped-query values are shared by several heads."""
        group = self.gram.shape[0] // value.shape[2]
        value = repeat(value.detach(), "batch query kv d -> batch query (kv group) d", group=group)
        norms = output_energy(value.to(self.exact), self.gram).clamp(min=0).sqrt()
        self._value_norms.append(norms.float().transpose(1, 2))

    def on_pattern(self, pattern: Float[Tensor, "batch head query key"], hook: Any = None) -> None:
        """Reduce the pattern a few heads at a time, so that no copy of it is ever made."""
        values = torch.cat(self._value_norms, dim=-1)
        self._value_norms = [values]
        limit = CPU_TILE if pattern.device.type == "cpu" else GPU_TILE
        heads = max(1, limit * pattern.shape[1] // pattern.numel())
        tiles = [
            self._pattern_sums(tile.detach().float(), value)
            for tile, value in zip(pattern.split(heads, dim=1), values.split(heads, dim=1), strict=True)
        ]
        for name in tiles[0]:
            self._add(name, torch.cat([tile[name] for tile in tiles], dim=1))

    def on_z(self, z: Float[Tensor, "batch query head d_head"], hook: Any = None) -> None:
        """Sum what the heads write, and its first and second moments relative to the residual."""
        z = z.detach().to(self.exact)
        energy = output_energy(z, self.gram).clamp(min=0)
        norm, residual = energy.sqrt(), self._residual_norm[..., None]
        share = norm / norm.sum(-1, keepdim=True).clamp(min=torch.finfo(norm.dtype).tiny)
        positions = self._positions(z.shape[1])
        scalars = torch.stack([norm, norm / residual, share])
        self._add("outputs", einsum(scalars, self._by_position(positions, scalars), "s b q h, q p -> b h s p"))
        counted = (positions >= self.bins.first_query).to(self.exact)
        weight = counted / self._residual_norm**2
        self._add("count", counted.sum().expand(z.shape[0]))
        self._add("weight", weight.sum(1))
        self._add("weighted_energy", einsum(weight, energy, "b q, b q h -> b h"))
        self._add("weighted_z", einsum(weight, z, "b q, b q h d -> b h d"))
        self._add("z", einsum(counted, z, "q, b q h d -> b h d"))

    def _positions(self, n_queries: int) -> statistics.Positions:
        """Absolute positions of this segment's queries: the last of the keys seen so far."""
        return torch.arange(self._n_keys - n_queries, self._n_keys, device=self.gram.device)

    def _by_position(self, positions: statistics.Positions, like: Tensor) -> Float[Tensor, "query position_bin"]:
        return one_hot(statistics.bins(positions, self.bins.positions), len(self.bins.positions)).to(like.dtype)

    def _pattern_sums(self, pattern: statistics.Pattern, values: Float[Tensor, "batch head key"]) -> Sums:
        bins, positions = self.bins, self._positions(pattern.shape[2])
        by_position = self._by_position(positions, pattern)
        counted = (positions >= bins.first_query).float()
        entropy = attention_entropy(pattern)
        largest, offset = statistics.max_attention(pattern, positions)
        scalars = torch.stack([
            entropy,
            statistics.normalized_entropy(entropy, positions),
            statistics.uniform_score(entropy, positions),
            largest,
            sink_mass(pattern, 1),
            sink_mass(pattern, bins.n_sinks),
            statistics.value_weighted_sink_share(pattern, values, bins.n_sinks),
        ])  # fmt: skip
        near = near_mass(pattern, positions, statistics.EXACT_OFFSETS, first_key=bins.n_sinks)
        sums = {
            "patterns": einsum(scalars, by_position, "s b h q, q p -> b h s p"),
            "near_mass": einsum(near, by_position, "b h q o, q p -> b h p o"),
            "offset_mass": einsum(
                statistics.offset_mass(pattern, positions, bins.offsets), counted, "b h q o, q -> b h o"
            ),
            "max_position": self._count(statistics.bins(offset, bins.offsets), len(bins.offsets), counted),
            "max_histogram": self._count(
                (largest * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1), HISTOGRAM_BINS, counted
            ),
        }
        if bins.exact_offsets:
            exact = [statistics.mass_at_offset(pattern, positions, offset) @ counted for offset in bins.exact_offsets]
            sums["exact_offsets"] = torch.stack(exact, dim=-1)
        return sums

    @staticmethod
    def _count(index: Tensor, n_bins: int, counted: Tensor) -> Float[Tensor, "batch head bin"]:
        return einsum(one_hot(index, n_bins).to(counted.dtype), counted, "b h q bin, q -> b h bin")

    def _add(self, name: str, value: Tensor) -> None:
        value = value.cpu().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
