"""The statistics of a HeadProfile by the book: Hugging Face's own model, one shot, loops over heads and queries.

Shares no code with headspec: no bridge, no cache, no segments, float64 throughout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

Array = NDArray[np.floating[Any]]
CLOSE = 1e-5
"""Attention weights this close may swap places between two float32 computations."""


@dataclass
class Activations:
    """What a model did on some windows: every head, every query."""

    pattern: Array
    """`[window, layer, head, query, key]`."""
    z: Array
    """`[window, layer, query, head, d_head]`."""
    value: Array
    """`[window, layer, key, head, d_head]`, grouped-query values given to each of their heads."""
    residual_norm: Array
    """`[window, layer, query]`: norm of what enters the layer."""
    w_o: Array
    """`[layer, head, d_head, d_model]`."""

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Windows, layers, heads, queries."""
        return self.pattern.shape[:4]

    def heads(self) -> Iterator[tuple[int, int, int]]:
        """Every (window, layer, head)."""
        return iter(np.ndindex(self.sizes[:3]))


def run_once(model: PreTrainedModel, tokens: Tensor) -> Activations:
    """Run a GPT-NeoX or Llama of transformers on `[window, token]` at once, in float64."""
    model = model.double().eval()
    attentions, names = _attentions(model)
    out, qkv = ([getattr(attention, name) for attention in attentions] for name in names)
    seen: dict[nn.Module, Tensor] = {}
    handles = [part.register_forward_pre_hook(lambda part, given: seen.update({part: given[0]})) for part in out]
    handles += [part.register_forward_hook(lambda part, given, result: seen.update({part: result})) for part in qkv]
    with torch.no_grad():
        result = model(tokens, output_attentions=True, output_hidden_states=True, use_cache=False)
    for handle in handles:
        handle.remove()
    n_heads = model.config.num_attention_heads
    residuals = torch.stack(result.hidden_states[: len(attentions)], 1)
    return Activations(
        pattern=torch.stack(result.attentions, 1).numpy(),
        z=torch.stack([seen[part].unflatten(-1, (n_heads, -1)) for part in out], 1).numpy(),
        value=torch.stack([_values(seen[part], model.config) for part in qkv], 1).numpy(),
        residual_norm=residuals.norm(dim=-1).numpy(),
        w_o=torch.stack([part.weight.detach().T.unflatten(0, (n_heads, -1)) for part in out]).numpy(),
    )


def _attentions(model: Any) -> tuple[list[nn.Module], tuple[str, str]]:
    if model.config.model_type == "gpt_neox":
        return [layer.attention for layer in model.gpt_neox.layers], ("dense", "query_key_value")
    return [layer.self_attn for layer in model.model.layers], ("o_proj", "v_proj")


def _values(projected: Tensor, config: Any) -> Tensor:
    if config.model_type == "gpt_neox":
        return projected.unflatten(-1, (config.num_attention_heads, 3, -1))[..., 2, :]
    values = projected.unflatten(-1, (config.num_key_value_heads, -1))
    shared = config.num_attention_heads // config.num_key_value_heads
    return torch.stack([values[..., head // shared, :] for head in range(config.num_attention_heads)], -2)


def reference_profile(
    text: Activations, repeats: Activations, first_query: int = 16, n_sinks: int = 4
) -> tuple[dict[str, Array], Array]:
    """Every array of a HeadProfile by its name (`grids.attention_entropy`, `mean_z`, …).

    Second, `[layer, head]`: the share of queries at which rounding could move the largest attention to another key
    or another bin of its histogram.
    """
    window = text.sizes[3]
    offsets = _offset_edges(window)
    scalars, distributions, doubtful = _every_query(text, len(offsets), n_sinks)
    scalars |= _outputs(text)
    mean_z = text.z[:, :, first_query:].mean((0, 2))
    spread = np.stack([_spread(text, [index], mean_z, first_query) for index in range(text.sizes[0])])
    by_window = {name: values[..., first_query:].mean(-1) for name, values in scalars.items()}
    grids = {name: values[..., first_query:].mean((0, 3)) for name, values in scalars.items()}
    grids["output_spread"] = _spread(text, list(range(text.sizes[0])), mean_z, first_query)
    grids["output_spread_p95"] = np.quantile(spread, 0.95, axis=0)
    grids |= _repeat_scores(repeats, mean_z)
    edges = _position_edges(window, first_query)
    bins = [slice(low, high) for low, high in zip(edges, [*edges[1:], window], strict=True)]
    arrays = {f"grids.{name}": values for name, values in grids.items()}
    arrays |= {f"by_window.{name}": values for name, values in by_window.items()}
    arrays["by_window.output_spread"] = spread
    for name, values in scalars.items():
        arrays[f"by_position.{name}"] = np.stack([values[..., each].mean((0, 3)) for each in bins])
    near = distributions.pop("near_mass")
    arrays["near_mass"] = np.stack([near[:, :, :, each].mean((0, 3)) for each in bins])
    arrays |= {name: values[:, :, :, first_query:].mean((0, 3)) for name, values in distributions.items()}
    arrays["position_edges"] = np.array(edges)
    arrays["queries_per_position"] = np.array([(each.stop - each.start) * text.sizes[0] for each in bins])
    arrays["offset_edges"] = np.array(offsets)
    arrays["mean_z"] = mean_z
    arrays["z_norm"] = np.linalg.norm(text.z[:, :, first_query:], axis=-1).mean((0, 2))
    return arrays, doubtful[..., first_query:].mean((0, 3))


def _offset_edges(window: int) -> list[int]:
    """Offsets 0 … 63 one by one, then powers of two, as far as the window goes."""
    return [offset for offset in range(window) if offset < 64 or offset & (offset - 1) == 0]


def _position_edges(window: int, first_query: int) -> list[int]:
    """Zero, the powers of two, and the first query that counts."""
    return [place for place in range(window) if place & (place - 1) == 0 or place == first_query]


def _every_query(
    text: Activations, n_offset_bins: int, n_sinks: int
) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Numbers of every query, `[window, layer, head, query]`; distributions, one more axis; doubtful queries."""
    window = text.sizes[3]
    scalars: dict[str, Array] = {}
    widths = {"offset_mass": n_offset_bins, "max_attention_position": n_offset_bins, "max_attention_histogram": 20}
    distributions: dict[str, Array] = {
        name: np.zeros((*text.sizes, width)) for name, width in {**widths, "near_mass": 64}.items()
    }
    doubtful = np.zeros(text.sizes)
    for index in text.heads():
        written = text.value[index[0], index[1], :, index[2]] @ text.w_o[index[1], index[2]]
        value_norm = np.sqrt((written**2).sum(-1))
        for query in range(window):
            attention = text.pattern[index][query, : query + 1]
            for name, value in _scalars(attention, value_norm[: query + 1], n_sinks).items():
                scalars.setdefault(name, np.zeros(text.sizes))[*index, query] = value
            _distribute(attention, n_sinks, {name: d[*index, query] for name, d in distributions.items()})
            doubtful[*index, query] = _is_doubtful(attention)
    return scalars, distributions, doubtful


def _scalars(attention: Array, value_norm: Array, n_sinks: int) -> dict[str, float]:
    seen = attention[attention > 0]
    entropy = float(-(seen * np.log(seen)).sum())
    weighted = attention * value_norm
    n_keys = len(attention)
    return {
        "attention_entropy": entropy,
        "normalized_entropy": entropy / np.log(n_keys) if n_keys > 1 else 0.0,
        "uniform_score": float((seen * np.log(seen * n_keys)).sum()),
        "max_attention": float(attention.max()),
        "first_token_attention_ratio": float(attention[0]),
        "sink_attention_ratio": float(attention[:n_sinks].sum()),
        "value_weighted_sink_share": float(weighted[:n_sinks].sum() / weighted.sum()),
    }


def _distribute(attention: Array, n_sinks: int, into: dict[str, Array]) -> None:
    """Fill one query's distributions in place."""
    last = len(attention) - 1
    for key, weight in enumerate(attention):
        offset = last - key
        into["offset_mass"][_bin(offset)] += weight
        if offset < 64 and key >= n_sinks:
            into["near_mass"][offset] = weight
    into["max_attention_position"][_bin(last - int(attention.argmax()))] = 1
    into["max_attention_histogram"][min(int(attention.max() * 20), 19)] = 1


def _bin(offset: int) -> int:
    """Offsets 0 … 63 have a bin each, then come 64 … 127, 128 … 255 and so on."""
    return offset if offset < 64 else 64 + offset.bit_length() - 7


def _is_doubtful(attention: Array) -> bool:
    largest = np.sort(attention)[::-1]
    tie = len(largest) > 1 and largest[0] - largest[1] < CLOSE
    edge = abs(largest[0] * 20 - round(largest[0] * 20)) < 20 * CLOSE
    return bool(tie or edge)


def _outputs(text: Activations) -> dict[str, Array]:
    """Norms of what each head writes, `[window, layer, head, query]`."""
    norm = np.zeros(text.sizes)
    for window, layer, head in text.heads():
        written = text.z[window, layer, :, head] @ text.w_o[layer, head]
        norm[window, layer, head] = np.sqrt((written**2).sum(-1))
    return {
        "output_norm": norm,
        "relative_output_norm": norm / text.residual_norm[:, :, None],
        "share_of_layer": norm / norm.sum(2, keepdims=True),
    }


def _spread(text: Activations, windows: list[int], center: Array, first_query: int) -> Array:
    """Root mean square of ‖(z − center) W_O‖ / ‖residual‖ over the queries of some windows: `[layer, head]`."""
    _, n_layers, n_heads, _ = text.sizes
    grid = np.zeros((n_layers, n_heads))
    for layer, head in np.ndindex(n_layers, n_heads):
        deviation = (text.z[windows, layer, first_query:, head] - center[layer, head]) @ text.w_o[layer, head]
        relative = np.sqrt((deviation**2).sum(-1)) / text.residual_norm[windows, layer, first_query:]
        grid[layer, head] = np.sqrt((relative**2).mean())
    return grid


def _repeat_scores(repeats: Activations, mean_z: Array) -> dict[str, Array]:
    """Scores over the second copy of sequences of one token and twice the same `length` tokens."""
    n_windows, n_layers, n_heads, n_tokens = repeats.sizes
    length = (n_tokens - 1) // 2
    second = range(length + 1, n_tokens)
    previous, induction = np.zeros((n_layers, n_heads)), np.zeros((n_layers, n_heads))
    for window, layer, head in repeats.heads():
        for query in second:
            earlier = query - length
            previous[layer, head] += repeats.pattern[window, layer, head, query, query - 1]
            induction[layer, head] += repeats.pattern[window, layer, head, query, earlier + 1]
    n_queries = n_windows * length
    deviation = _spread(repeats, list(range(n_windows)), mean_z, length + 1)
    return {
        "repeat_deviation": deviation,
        "previous_token_score": previous / n_queries,
        "induction_score": induction / n_queries,
    }
