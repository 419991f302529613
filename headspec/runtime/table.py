"""The first layer as a table: what it computes of a token before attention depends on that token alone.

In a model with a parallel residual (Pythia) these are queries, keys and values before rotation, and the MLP. Costs
memory: see `table_bytes`.
"""

from typing import Any

import torch
from torch import Tensor

from .configuration import PrunedGPTNeoXConfig

ROWS = 2048
"""Tokens that are computed together while a table is made."""


def table_width(config: PrunedGPTNeoXConfig) -> int:
    """Numbers a token: queries, keys and values of the heads of the first layer, and the residual with its MLP."""
    n_heads = sum(len(group.heads) for group in config.groups(0))
    return 3 * n_heads * (config.hidden_size // config.num_attention_heads) + config.hidden_size


def table_bytes(config: PrunedGPTNeoXConfig, bytes_per_number: int = 4) -> int:
    """Memory that the table takes beside the weights; of pythia-70m 412 MB, for every head and in float32."""
    return config.vocab_size * table_width(config) * bytes_per_number


@torch.no_grad()
def first_layer_table(core: Any) -> Tensor:
    """The table of a PrunedGPTNeoXModel, `[token, 3 × head × d_head + d_model]`.

    Raises:
        ValueError: A residual that is not parallel, where the MLP needs what attention has written.
    """
    config, layer, embedding = core.config, core.layers[0], core.embed_in.weight
    if not config.use_parallel_residual:
        raise ValueError("no table for this model: its MLPs come after attention (use_parallel_residual is false).")
    table = embedding.new_empty(config.vocab_size, table_width(config))
    for start in range(0, config.vocab_size, ROWS):
        hidden = embedding[start : start + ROWS]
        parts = [hidden + layer.mlp(layer.post_attention_layernorm(hidden)[None])[0]]
        if config.groups(0):
            parts.insert(0, layer.attention.qkv(layer.input_layernorm(hidden)))
        table[start : start + ROWS] = torch.cat(parts, dim=-1)
    return table
