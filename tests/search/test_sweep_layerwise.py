"""A model run layer by layer does what it does in one piece."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_makers import FAMILIES, HEADS, ids, new_plain, plain, plan_of
from tiny_models import VOCABULARY, tiny_neox
from torch import Tensor
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from headspec.errors import ModelError
from headspec.intervene.plain import plan_on_plain
from headspec.load.layout import attention_layers
from headspec.load.plain import PlainModel
from headspec.plan.treatments import Window
from headspec.search.layerwise import LayerWise

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128, "initializer_range": 0.2,
    "attn_implementation": "sdpa",
}  # fmt: skip
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def close(found: Tensor, expected: Tensor, tolerated: float = 1e-5) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerated * expected.abs().max())


def layer_of(model: PlainModel, layer: int) -> Any:
    return attention_layers(model.huggingface, model.identity.d_head)[layer]


def z_of(model: PlainModel, layer: int, tokens: Tensor) -> Tensor:
    """What the output projection of a layer gets in an ordinary forward pass: `[window, token, head, d_head]`."""
    caught: list[Tensor] = []
    hook = layer_of(model, layer).output.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    model(tokens)
    hook.remove()
    return caught[0].unflatten(-1, (-1, model.identity.d_head))


def upto(layers: LayerWise, layer: int, tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The residual that enters a layer."""
    residual, given = layers.enter(tokens)
    for earlier in range(layer):
        residual = layers.block(earlier, residual, given)
    return residual, given


# Layer by layer is in one piece.


@families
@pytest.mark.parametrize(("n_windows", "n_tokens"), [(1, 2), (1, 40), (3, 40), (2, 128)])
def test_layer_by_layer_gives_the_logits_of_the_model_in_one_piece(family: str, n_windows: int, n_tokens: int) -> None:
    model, tokens = plain(family), ids(n_windows, n_tokens)
    layers = LayerWise(model)
    found = layers.unembedding(layers.on(0, *layers.enter(tokens)))
    assert close(found, model(tokens))


@families
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_going_on_from_any_layer_gives_the_logits_of_the_model_in_one_piece(family: str, layer: int) -> None:
    model, tokens = plain(family), ids(2, 40)
    layers = LayerWise(model)
    assert close(layers.unembedding(layers.on(layer, *upto(layers, layer, tokens))), model(tokens))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_blocks_are_given_does_for_any_number_of_windows(attention: str) -> None:
    model, tokens = new_plain("llama-grouped"), ids(5, 40)
    model.huggingface.set_attn_implementation(attention)
    layers = LayerWise(model)
    _, given = layers.enter(tokens[:3])
    for some in (tokens[3:4], tokens[:2], tokens):
        assert close(layers.unembedding(layers.on(0, layers.enter(some)[0], given)), model(some))


def test_embeddings_that_the_model_scales_are_followed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PlainModel(GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8)).eval(), "gemma")
    layers, tokens = LayerWise(model), ids(2, 40)
    layers.check(tokens[:1])
    assert close(layers.unembedding(layers.on(0, *layers.enter(tokens))), model(tokens))


# z.


@families
@pytest.mark.parametrize("layer", [0, 1])
def test_z_is_what_the_output_projection_gets(family: str, layer: int) -> None:
    model, tokens = plain(family), ids(2, 40)
    layers = LayerWise(model)
    assert close(layers.z(layer, *upto(layers, layer, tokens)), z_of(model, layer, tokens))


@families
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("window", ["window:1+0", "window:3+0", "window:3", "window:30", "window:128"])
def test_z_under_a_window_is_that_of_the_model_whose_head_has_the_window(family: str, layer: int, window: str) -> None:
    model, tokens, head = plain(family), ids(2, 40), 2
    layers, plan = LayerWise(model), plan_of(model, {f"L{layer}H{head}": window})
    found = layers.z(layer, *upto(layers, layer, tokens), plan.windows_in(layer)[head])
    with plan_on_plain(model, plan):
        expected = z_of(model, layer, tokens)
    assert close(found[:, :, head], expected[:, :, head])


@families
def test_under_a_window_of_its_own_key_a_head_mixes_its_own_value_alone(family: str) -> None:
    model, tokens = plain(family), ids(2, 20)
    layers = LayerWise(model)
    caught: list[Tensor] = []
    attention, fused = layer_of(model, 0).attention, "neox" in family
    projection = attention.query_key_value if fused else attention.v_proj
    hook = projection.register_forward_hook(lambda module, inputs, output: caught.append(output))
    model(tokens)
    hook.remove()
    values = caught[0].unflatten(-1, (4, 24))[..., 16:] if fused else caught[0].unflatten(-1, (2, 8))
    values = values.repeat_interleave(1 if fused else 2, dim=2)
    assert close(layers.z(0, *layers.enter(tokens), Window(1, 0)), values)


@families
def test_a_window_over_the_whole_text_changes_nothing(family: str) -> None:
    model, tokens = plain(family), ids(2, 40)
    layers = LayerWise(model)
    residual, given = layers.enter(tokens)
    assert close(layers.z(0, residual, given, Window(40, 0)), layers.z(0, residual, given))


def test_a_window_does_not_stay() -> None:
    layers = LayerWise(plain())
    residual, given = layers.enter(ids(2, 40))
    before = layers.z(0, residual, given)
    layers.z(0, residual, given, Window(3))
    assert torch.equal(layers.z(0, residual, given), before)


@families
@pytest.mark.parametrize("layer", [0, 1])
def test_a_block_with_its_own_z_gives_what_the_block_gives(family: str, layer: int) -> None:
    layers = LayerWise(plain(family))
    residual, given = upto(layers, layer, ids(2, 40))
    found = layers.block_with_z(layer, residual, given, layers.z(layer, residual, given))
    assert close(found, layers.block(layer, residual, given))


@families
def test_what_the_heads_write_adds_up_to_the_output_projection_without_its_bias(family: str) -> None:
    model = plain(family)
    layers, output = LayerWise(model), layer_of(model, 0).output
    z = layers.z(0, *layers.enter(ids(2, 20)))
    written = sum(layers.write(0, z[:, :, head], head) for head in range(4))
    assert close(written, z.flatten(-2) @ output.weight.T)  # type: ignore[arg-type]


@families
@settings(max_examples=10, deadline=None)
@given(
    wish=st.dictionaries(st.sampled_from(HEADS), st.sampled_from(["zero", "mean", "random", "window:3", "window:5+0"]))
)
def test_going_on_under_a_plan_gives_the_logits_of_the_model_under_the_plan(family: str, wish: dict[str, str]) -> None:
    model, tokens = plain(family), ids(2, 20)
    layers, plan = LayerWise(model), plan_of(model, wish)
    with torch.no_grad():
        found = layers.unembedding(layers.on_with(plan, 0, *layers.enter(tokens)))
        with plan_on_plain(model, plan):
            assert close(found, model(tokens))


# What is refused.


@families
def test_models_that_do_nothing_between_their_blocks_are_taken(family: str) -> None:
    LayerWise(plain(family)).check(ids(1, 40))


class ScaledLogits(GPTNeoXForCausalLM):
    """As Cohere and Granite do it."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        found = super().forward(*arguments, **keywords)
        found.logits = found.logits * 0.5
        return found


def with_scaled_logits() -> PlainModel:
    model = ScaledLogits(tiny_neox().config).eval()
    model.load_state_dict(tiny_neox().state_dict())
    return PlainModel(model, "scaled logits")


def with_a_scaled_final_state() -> PlainModel:
    model = new_plain()

    def scale(module: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = 2 * output.last_hidden_state
        return output

    model.huggingface.base_model.register_forward_hook(scale)
    return model


def with_another_mask_in_its_second_block() -> PlainModel:
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=24, max_window_layers=1)
    assert config.layer_types == ["full_attention", "sliding_attention"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PlainModel(Qwen2ForCausalLM(config).eval(), "planted")


def with_a_weight_that_is_not_a_number() -> PlainModel:
    model = new_plain()
    model.huggingface.lm_head.weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    "make",
    [
        with_scaled_logits,
        with_a_scaled_final_state,
        with_another_mask_in_its_second_block,
        with_a_weight_that_is_not_a_number,
    ],
)
def test_models_that_do_something_between_their_blocks_are_refused(make: Any) -> None:
    with pytest.raises(ModelError, match='layer by layer gives other logits than in one piece: use engine="hooks"'):
        LayerWise(make()).check(ids(1, 40))


def test_a_model_whose_final_norm_is_not_known_is_refused() -> None:
    sizes = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    model = OPTForCausalLM(OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=32)).eval()
    with pytest.raises(ModelError, match='no final norm that headspec knows: use engine="hooks"'):
        LayerWise(PlainModel(model, "opt"))


# Nothing stays behind.


@contextmanager
def hooks_as_before(model: PlainModel) -> Iterator[None]:
    def count() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.huggingface.modules())

    before = count()
    yield
    assert count() == before


@families
def test_no_hook_stays_in_the_model(family: str) -> None:
    model = plain(family)
    with hooks_as_before(model):
        layers = LayerWise(model)
        residual, given = layers.enter(ids(2, 20))
        layers.check(ids(1, 20))
        layers.block_with_z(0, residual, given, layers.z(0, residual, given, Window(3)))
        layers.on_with(plan_of(model, {"L0H1": "mean", "L1H0": "window:3"}), 0, residual, given)


def test_no_hook_stays_in_the_model_after_an_error() -> None:
    model = plain()
    layers = LayerWise(model)
    residual, given = layers.enter(ids(2, 20))
    with hooks_as_before(model):
        with pytest.raises(IndexError, match="index out of range"):
            layers.enter(torch.full((1, 8), VOCABULARY))
        with pytest.raises(RuntimeError, match=r"shape|size"):
            layers.block_with_z(0, residual, given, torch.zeros(2, 20, 3, 8))
        with pytest.raises(RuntimeError, match=r"shape|size"):
            layers.z(0, residual[..., :8], given)


def test_the_model_gives_the_same_logits_afterwards() -> None:
    model, tokens = plain(), ids(2, 20)
    before, layers = model(tokens), LayerWise(model)
    residual, given = layers.enter(tokens)
    layers.z(0, residual, given, Window(2, 0))
    layers.on_with(plan_of(model, {"L0H1": "zero"}), 0, residual, given)
    assert torch.equal(model(tokens), before)
