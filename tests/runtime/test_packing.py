"""Weights in 8 bits: rounded as said, near to what they were, and good for computing only."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compression_reference import compressed
from runtime_makers import GREEDY, KINDS, hooked, in_chunks, left_padded, mixed, pruned, random_ids, same
from torch import Tensor

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.linear import FastLinear
from headspec.runtime.packing import INT8, PACKINGS
from headspec.runtime.tricks import Tricks

pytestmark = pytest.mark.skipif(not INT8, reason="this torch has no quantised layers")
TOKENS = random_ids(2, 60)


def packed_layer(weight: Tensor, bias: Tensor | None = None) -> FastLinear:
    linear = FastLinear(weight.shape[1], weight.shape[0], bias is not None, Tricks())
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    linear.pack("int8")
    return linear


def numbers(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(kind: str = "parallel") -> Any:
    model = copy.deepcopy(pruned(kind=kind))
    model.pack_weights("int8")
    return model


@torch.no_grad()
def computed(linear: FastLinear, x: Tensor) -> Tensor:
    return linear(x)


# By hand.


def test_a_weight_is_an_integer_times_the_scale_of_its_output() -> None:
    linear = packed_layer(torch.tensor([[127.0, -63.4], [2.54, 0.029]]))  # scales 1 and 0.02
    same(computed(linear, torch.tensor([[127.0, 0.0]])), 127 * torch.tensor([[127.0, 2.54]]), 1e-2)
    same(computed(linear, torch.tensor([[0.0, 127.0]])), 127 * torch.tensor([[-63.0, 0.02]]), 1e-2)


def test_inputs_are_rounded_to_seven_bits_of_the_widest() -> None:
    linear = packed_layer(torch.eye(2))
    found = computed(linear, torch.tensor([[127.0, 3.4]]))  # 128 steps from 0 to 127
    same(found, torch.tensor([[127.0, 3.0]]), 1e-3)


def test_the_bias_is_not_rounded() -> None:
    linear = packed_layer(torch.eye(2), torch.tensor([0.12345, -1000.0]))
    same(computed(linear, torch.zeros(1, 2)), torch.tensor([[0.12345, -1000.0]]), 0)


def test_an_output_without_weights_is_its_bias() -> None:
    linear = packed_layer(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.5, 0.0]))
    same(computed(linear, torch.tensor([[127.0, 127.0]])), torch.tensor([[0.5, 254.0]]), 1e-3)


def test_a_scale_is_of_one_output_only() -> None:
    linear = packed_layer(torch.tensor([[1e-4, 0.0], [1e4, 0.0]]))
    found = computed(linear, torch.tensor([[127.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[127e-4, 127e4]]), rtol=1e-4, atol=0)


# Near to the weights in float32.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 16, 300])
@pytest.mark.parametrize("sizes", [(24, 72), (24, 24), (96, 24)])
def test_the_error_is_that_of_rounding(sizes: tuple[int, int], rows: int, bias: bool) -> None:
    (n_inputs, n_outputs), x = sizes, numbers(rows, sizes[0])
    weight, b = numbers(n_outputs, n_inputs, seed=3), numbers(n_outputs, seed=4) if bias else None
    error = (computed(packed_layer(weight, b), x) - F.linear(x, weight, b)).abs()
    step = (max(x.max().item(), 0) - min(x.min().item(), 0)) / 127  # of inputs; that of weights is one per output
    of_weights = x.abs().sum(1, keepdim=True) * weight.abs().amax(1) / 254
    of_inputs = step / 2 * (weight.abs().sum(1) + n_inputs * weight.abs().amax(1) / 254)
    assert bool((error <= 1.05 * (of_weights + of_inputs) + 1e-4).all())


def test_rows_of_any_form_give_the_same() -> None:
    linear, x = packed_layer(numbers(72, 24)), numbers(6, 24)
    expected = computed(linear, x)
    same(computed(linear, x.view(2, 3, 24)), expected.view(2, 3, 72), 0)
    same(computed(linear, numbers(6, 24).t().contiguous().t()), expected, 0)


def test_a_single_vector_is_a_row() -> None:
    linear, x = packed_layer(numbers(72, 24)), numbers(24)
    same(computed(linear, x), computed(linear, x[None])[0], 0)


def test_a_part_is_that_part_of_the_whole() -> None:
    linear, x = packed_layer(numbers(72, 24), numbers(72)), numbers(5, 24)
    with torch.no_grad():
        assert torch.equal(linear.part(x, 24, 72), linear(x)[:, 24:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gives_nearly_the_logits_that_it_gave(kind: str) -> None:
    found, expected = in_chunks(integers(kind), TOKENS, [40, 1, 1, 18]), hooked(mixed(kind), TOKENS)
    assert (found - expected).square().mean() < 0.01 * expected.var()


def test_a_model_without_a_cache_gives_what_it_gives_with_one() -> None:
    model = integers()
    with torch.no_grad():
        assert torch.equal(in_chunks(model, TOKENS, [60]), model(TOKENS, use_cache=False).logits)


def test_a_padded_batch_is_generated() -> None:
    tokens, mask = left_padded(TOKENS, [60, 9])
    found = integers().generate(tokens, attention_mask=mask, max_new_tokens=8, **GREEDY)
    assert found.shape == (2, 68)


def test_beams_are_generated() -> None:
    assert integers().generate(TOKENS, max_new_tokens=8, num_beams=3, **GREEDY).shape == (2, 68)


def test_compressed_heads_may_have_weights_in_8_bits() -> None:
    model = copy.deepcopy(compressed("compress:expected_attention:0.3"))
    expected = in_chunks(model, TOKENS, [40, 20])
    model.pack_weights("int8")
    found = in_chunks(model, TOKENS, [40, 20])
    assert (found - expected).square().mean() < 0.05 * expected.var()


# What becomes of the weights.


def test_a_weight_is_let_go_and_leaves_its_size_and_kind() -> None:
    linear = packed_layer(numbers(72, 24))
    assert linear.weight.is_meta
    assert (linear.weight.shape, linear.weight.dtype) == ((72, 24), torch.int8)
    assert not linear.weight.requires_grad


def test_every_projection_of_a_model_is_packed() -> None:
    model = integers()
    assert {module.packing for module in model.modules() if isinstance(module, FastLinear)} == {PACKINGS["int8"]}
    assert not model.gpt_neox.embed_in.weight.is_meta


def test_packing_leaves_the_model_it_came_from_as_it_is() -> None:
    integers()
    same(in_chunks(pruned(), TOKENS, [60]), hooked(mixed(), TOKENS))


def test_packing_once_more_as_float32_changes_nothing() -> None:
    model = integers()
    before = in_chunks(model, TOKENS, [60])
    model.pack_weights("float32")
    assert torch.equal(in_chunks(model, TOKENS, [60]), before)


# Refused.


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pack_weights\('int4'\): want one of float32, int8"):
        pruned().pack_weights("int4")


@pytest.mark.parametrize("before", ["float32", "int8"])
def test_weights_that_are_packed_are_not_packed_in_8_bits(before: str) -> None:
    model = copy.deepcopy(pruned())
    model.pack_weights(before)
    with pytest.raises(ValueError, match="not packed before"):
        model.pack_weights("int8")


def test_a_model_in_another_number_format_is_refused_and_stays_as_it_is() -> None:
    model = copy.deepcopy(pruned()).to(torch.bfloat16)
    with pytest.raises(ValueError, match="wants a model in float32 on a CPU"):
        model.pack_weights("int8")
    assert all(module.packing is None for module in model.modules() if isinstance(module, FastLinear))


ENDS = {
    "copied": copy.deepcopy,
    "converted": lambda model: model.to(torch.bfloat16),
    "moved": lambda model: model.to("meta"),
    "read": lambda model: model.state_dict(),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_packed_model_can_only_compute(end: str) -> None:
    model = integers()
    with pytest.raises(RuntimeError, match=r"after pack_weights\(\) a model can only compute"):
        ENDS[end](model)
    assert torch.equal(in_chunks(model, TOKENS, [60]), in_chunks(integers(), TOKENS, [60]))


def test_a_packed_model_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"after pack_weights\(\) a model can only compute"):
        integers().save_pretrained(tmp_path)


def test_a_packed_model_is_not_treated_live() -> None:
    with pytest.raises(RuntimeError, match="packed weights cannot be treated live"):
        integers().make_cache(AdaptivePolicy())
