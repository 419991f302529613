"""The dense twin: a plain GPT-NeoX of the original shape in which the removed heads are dead.

Loads anywhere without remote code, and computes the removed heads for nothing. It cannot hold windows: windowed heads
see every key, as in the original.
"""

import copy
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from headspec.export.names import huggingface_name
from headspec.export.surgery import folded_bias
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Remove


def dense_twin(source: Any, plan: HeadPlan) -> Any:
    """A GPTNeoXForCausalLM that shares with `source` what was not treated; for saving."""
    from transformers import GPTNeoXForCausalLM

    config = copy.deepcopy(source.config)
    config.attention_bias = True  # the constants of removed heads need one
    state = {name: tensor.detach() for name, tensor in source.state_dict().items()}
    for layer in range(plan.about.n_layers):
        state |= _dead_heads(state, plan, layer)
    with torch.device("meta"):
        twin = GPTNeoXForCausalLM(config)
    twin.load_state_dict(state, strict=True, assign=True)
    twin.tie_weights()
    twin.generation_config = copy.deepcopy(source.generation_config)
    return twin.eval()


def _dead_heads(state: dict[str, Tensor], plan: HeadPlan, layer: int) -> dict[str, Tensor]:
    """The attention weights of a layer with those of removed heads zero and their constants in the bias."""
    qkv, dense = huggingface_name("attn.qkv", layer), huggingface_name("attn.o", layer)
    removed = [head.head for head in plan.heads(Remove) if head.layer == layer]
    rows, columns = state[f"{qkv}.weight"], state[f"{dense}.weight"]
    found = {
        f"{qkv}.bias": state.get(f"{qkv}.bias", rows.new_zeros(len(rows))),
        f"{dense}.bias": folded_bias(columns, state.get(f"{dense}.bias"), plan, layer),
    }
    if removed:
        heads = rearrange(columns.clone(), "model (head d) -> model head d", d=plan.about.d_head)
        heads[:, removed] = 0
        found[f"{dense}.weight"] = rearrange(heads, "model head d -> model (head d)")
        for name, part in ((f"{qkv}.weight", rows), (f"{qkv}.bias", found[f"{qkv}.bias"])):
            heads = rearrange(part.clone(), "(head d) ... -> head d ...", head=plan.about.n_heads)
            heads[removed] = 0
            found[name] = rearrange(heads, "head d ... -> (head d) ...")
    return found
