"""What one layer's heads do, as running sums: activations come in, are summed, and are let go of.

The hooks engine hands it TransformerLens activations segment by segment, the fast engine tiles of its own attention.
Which sums, over which bins, is in `headspec.probe.tiles`; averages are made in `headspec.probe.averages`.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from headspec.probe.finite import check_finite
from headspec.probe.statistics import Positions
from headspec.probe.tiles import Bins, Sums, by_position, tile_limit, tile_of_pattern, tile_sums
from headspec.runtime.statistics import output_energy

OUTPUT_STATISTICS = ("output_norm", "relative_output_norm", "share_of_layer")


class LayerReader:
    """Reads one layer. `sums` holds what it has seen since `begin`, in float64."""

    def __init__(self, layer: int, w_o: Float[Tensor, "head d_head d_model"], query_statistics: bool = False) -> None:
        self.layer, self.query_statistics = layer, query_statistics
        # Float64 keeps ‖z − z̄‖² exact for a head whose output is large but constant. MPS has none.
        self.exact = torch.float32 if w_o.device.type == "mps" else torch.float64
        w_o = w_o.detach().to(self.exact)
        self.gram = einsum(w_o, w_o, "head d_head model, head other model -> head d_head other")

    def begin(self, bins: Bins, sums: Sums | None = None) -> None:
        """Forget everything: a new batch of windows starts, or goes on with `sums`."""
        self.bins = bins
        self.sums: Sums = dict(sums or {})
        self.skipping = False
        """While true, only what later segments need is kept: an interrupted run reads a text up to where it was."""
        self._n_keys = 0
        self._value_norms: list[Float[Tensor, "batch head key"]] = []

    def hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """The (name, function) pairs for TransformerLens; none of them changes an activation."""
        block = f"blocks.{self.layer}"
        hooks: list[tuple[str, Callable[..., None]]] = [
            (f"{block}.hook_resid_pre", self.on_residual),
            (f"{block}.attn.hook_v", self.on_value),
            (f"{block}.attn.hook_pattern", self.on_pattern),
            (f"{block}.attn.hook_z", self.on_z),
        ]
        return hooks + ([(f"{block}.attn.hook_q", self.on_query)] if self.query_statistics else [])

    def on_residual(self, residual: Float[Tensor, "batch query d_model"], hook: Any = None) -> None:
        """Keep the norm of the residual that enters the layer, and count its tokens: it is the first hook to fire."""
        self._n_keys += residual.shape[1]
        wide = torch.promote_types(residual.dtype, torch.float32)
        self._residual_norm = residual.detach().norm(dim=-1, dtype=wide).to(self.exact)

    def on_query(self, query: Float[Tensor, "batch query head d_head"], hook: Any = None) -> None:
        """Sum queries and their outer products, before any rotation by position."""
        if self.skipping:
            return
        query = query.detach().to(self.exact)
        counted = (self._positions(query.shape[1]) >= self.bins.first_query).to(self.exact)
        self._add("query", einsum(counted, query, "q, b q h d -> b h d"))
        self._add("query_products", einsum(counted, query, query, "q, b q h d, b q h e -> b h d e"))

    def on_value(self, value: Float[Tensor, "batch query kv_head d_head"], hook: Any = None) -> None:
        """Keep ‖v W_O‖ of every key; grouped-query values are shared by several heads."""
        group = self.gram.shape[0] // value.shape[2]
        value = repeat(value.detach(), "batch query kv d -> batch query (kv group) d", group=group)
        norms = output_energy(value.to(self.exact), self.gram).clamp(min=0).sqrt()
        self._value_norms.append(norms.float().transpose(1, 2))

    def on_pattern(self, pattern: Float[Tensor, "batch head query key"], hook: Any = None) -> None:
        """Reduce the pattern a few heads at a time, so that no copy of it is ever made."""
        if self.skipping:
            return
        norms, positions = self.value_norms, self._positions(pattern.shape[2])
        limit = tile_limit(pattern.device)
        heads = max(1, limit * pattern.shape[1] // pattern.numel())
        pieces = zip(pattern.detach().split(heads, dim=1), norms.split(heads, dim=1), strict=True)
        self.add_tiles([tile_sums(tile_of_pattern(some, positions), norm, self.bins) for some, norm in pieces])

    def on_z(self, z: Float[Tensor, "batch query head d_head"], hook: Any = None) -> None:
        """Sum what the heads write, and its first and second moments relative to the residual."""
        if self.skipping:
            return
        z = z.detach().to(self.exact)
        energy = output_energy(z, self.gram).clamp(min=0)
        norm, residual = energy.sqrt(), self._residual_norm[..., None]
        share = norm / norm.sum(-1, keepdim=True).clamp(min=torch.finfo(norm.dtype).tiny)
        positions = self._positions(z.shape[1])
        scalars = torch.stack([norm, norm / residual, share])
        in_bin = by_position(positions, self.bins, scalars)
        self._add("outputs", einsum(scalars, in_bin, "s b q h, q p -> b h s p"))
        counted = (positions >= self.bins.first_query).to(self.exact)
        weight = counted / self._residual_norm**2
        self._add("count", counted.sum().expand(z.shape[0]))
        self._add("weight", weight.sum(1))
        self._add("weighted_energy", einsum(weight, energy, "b q, b q h -> b h"))
        self._add("weighted_z", einsum(weight, z, "b q, b q h d -> b h d"))
        self._add("z", einsum(counted, z, "q, b q h d -> b h d"))
        self._add("z_norm", einsum(counted, z.norm(dim=-1), "q, b q h -> b h"))

    @property
    def value_norms(self) -> Float[Tensor, "batch head key"]:
        """‖v W_O‖ of every key seen since `begin`."""
        self._value_norms = [torch.cat(self._value_norms, dim=-1)]
        return self._value_norms[0]

    def add_tiles(self, tiles: list[Sums]) -> None:
        """Add the sums of tiles that together hold every head once, in order."""
        for name in tiles[0]:
            self._add(name, torch.cat([tile[name] for tile in tiles], dim=1))

    def _positions(self, n_queries: int) -> Positions:
        """Absolute positions of this segment's queries: the last of the keys seen so far."""
        return torch.arange(self._n_keys - n_queries, self._n_keys, device=self.gram.device)

    def _add(self, name: str, value: Tensor) -> None:
        value = value.cpu().double()
        check_finite(name, value, self.layer)
        self.sums[name] = self.sums[name] + value if name in self.sums else value
