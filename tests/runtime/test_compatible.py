"""What other libraries do with a model: hooks, replaced layers, offloading, shared memory, packed texts."""

import copy
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from runtime_makers import hooked, mixed, pruned, random_ids, same
from torch import Tensor, nn

TOKENS = random_ids(2, 100)


class Adapter(nn.Module):
    """Stands in for a linear layer, as LoRA's do."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


def fresh() -> Any:
    return copy.deepcopy(pruned())


def last_logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS, logits_to_keep=1).logits


def test_a_linear_layer_may_be_replaced() -> None:
    model = fresh()
    for layer in model.gpt_neox.layers:
        if hasattr(layer.attention, "qkv"):
            layer.attention.qkv = Adapter(layer.attention.qkv)
    same(last_logits(model), hooked(mixed(), TOKENS)[:, -1:])


def test_hooks_on_the_last_layer_see_every_token_of_a_prompt() -> None:
    model, seen = fresh(), []
    attention = model.gpt_neox.layers[-1].attention
    attention.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    last_logits(model)
    assert seen == [TOKENS.shape[1]]


def test_weights_may_be_offloaded() -> None:
    model = fresh()
    cpu_offload(model, execution_device="cpu")
    same(last_logits(model), hooked(mixed(), TOKENS)[:, -1:])


def test_shared_memory_stays_shared() -> None:
    model = fresh().share_memory()
    last_logits(model)
    assert all(parameter.is_shared() for parameter in model.parameters())


def test_texts_packed_into_one_row_are_refused() -> None:
    half = torch.arange(TOKENS.shape[1] // 2)
    positions = torch.cat((half, half)).expand(len(TOKENS), -1)
    with pytest.raises(ValueError, match="position_ids jump"):
        fresh()(TOKENS[:, : positions.shape[1]], position_ids=positions, use_cache=False)


def test_rows_may_be_repeated_in_inference_mode() -> None:
    model = fresh()
    cache = model.make_cache()
    with torch.inference_mode():
        model(TOKENS[:1, :40], past_key_values=cache)
        cache.batch_repeat_interleave(2)
    with torch.no_grad():
        logits = model(TOKENS[:1, 40:].repeat(2, 1), past_key_values=cache).logits
    same(logits, hooked(mixed(), TOKENS[:1])[:, 40:].repeat(2, 1, 1))


def test_packed_models_refuse_to_be_copied() -> None:
    model = fresh()
    model.pack_weights()
    with pytest.raises(RuntimeError, match="load it anew"):
        copy.deepcopy(model)
