"""What a forward gives besides logits: parts of them, hidden states, loss, gradients; and in other number formats."""

import copy
from typing import Any

import pytest
import torch
from runtime_makers import (
    KINDS,
    hooked,
    in_chunks,
    keep_all,
    left_padded,
    mixed,
    plan_of,
    pruned,
    random_ids,
    same,
    source,
)
from tiny_models import tiny_neox
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from headspec.export.surgery import pruned_model
from headspec.load.plain import PlainModel
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.runtime.layers import PIECE

TOKENS = random_ids(2, 60)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@torch.no_grad()
def outputs(model: Any, tokens: Tensor = TOKENS, **options: Any) -> Any:
    return model(tokens, **options)


def original(**sizes: Any) -> GPTNeoXForCausalLM:
    """A model of one's own, to train."""
    model = tiny_neox(7, n_layers=2, **sizes)
    model.set_attn_implementation("sdpa")
    return model


def kept(model: GPTNeoXForCausalLM) -> Any:
    """All its heads in a pruned model, with weights of its own."""
    plan = HeadPlan(about_of(PlainModel(model, "own")), {})
    return copy.deepcopy(pruned_model(model, plan))


def by_original_name(model: Any, layer: int) -> dict[str, Tensor]:
    """Gradients of a pruned layer that keeps all heads, arranged as transformers' query_key_value is."""
    attention, n_heads = model.gpt_neox.layers[layer].attention, model.config.num_attention_heads
    return {
        f"query_key_value.{name}": parameter.grad.unflatten(0, (3, n_heads, -1)).transpose(0, 1).flatten(0, 2)
        for name, parameter in attention.qkv.named_parameters()
    } | {f"dense.{name}": parameter.grad for name, parameter in attention.dense.named_parameters()}


# Parts of the logits.


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("n_last", [1, 2, 31, 33, 59, 60])
def test_logits_to_keep_gives_the_last_logits(kind: str, n_last: int, cached: bool) -> None:
    found = outputs(pruned(kind=kind), logits_to_keep=n_last, use_cache=cached).logits
    same(found, hooked(mixed(kind), TOKENS)[:, -n_last:])


def test_logits_to_keep_of_0_gives_all(kind: str) -> None:
    same(outputs(pruned(kind=kind), logits_to_keep=0).logits, hooked(mixed(kind), TOKENS))


def test_logits_to_keep_beyond_the_text_gives_all(kind: str) -> None:
    same(outputs(pruned(kind=kind), logits_to_keep=99).logits, hooked(mixed(kind), TOKENS))


def test_logits_to_keep_takes_places(kind: str) -> None:
    places = torch.tensor([3, 0, 59])
    same(outputs(pruned(kind=kind), logits_to_keep=places).logits, hooked(mixed(kind), TOKENS)[:, places])


@pytest.mark.parametrize("n_last", [1, 5, 64])
def test_logits_to_keep_leaves_a_whole_cache_behind(kind: str, n_last: int) -> None:
    tokens, model = random_ids(2, 100), pruned(kind=kind)
    parts = [in_chunks(model, tokens, [50, 1, 20, 29], cache=model.make_cache(), logits_to_keep=n_last)]
    expected = hooked(mixed(kind), tokens)
    wanted = [expected[:, end - min(n, n_last) : end] for n, end in ((50, 50), (1, 51), (20, 71), (29, 100))]
    same(torch.cat(parts, 1), torch.cat(wanted, 1))


def test_logits_to_keep_of_a_padded_batch_are_those_of_each_row_alone(kind: str) -> None:
    texts, lengths = random_ids(2, 60), [60, 9]
    tokens, mask = left_padded(texts, lengths)
    found = outputs(pruned(kind=kind), tokens, attention_mask=mask, logits_to_keep=2).logits
    for row, length in enumerate(lengths):
        same(found[row], hooked(mixed(kind), texts[row : row + 1, :length])[0, -2:])


# Hidden states and the form of the output.


def test_hidden_states_are_those_of_the_original(kind: str) -> None:
    found = outputs(pruned(keep_all(kind), kind), output_hidden_states=True).hidden_states
    expected = outputs(source(kind).huggingface, output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == len(source(kind).huggingface.gpt_neox.layers) + 1
    for mine, theirs in zip(found, expected, strict=True):
        same(mine, theirs)


@pytest.mark.parametrize("n_last", [1, 7])
def test_hidden_states_are_of_all_tokens_whatever_logits_are_kept(kind: str, n_last: int) -> None:
    options = {"output_hidden_states": True, "logits_to_keep": n_last}
    found = outputs(pruned(keep_all(kind), kind), **options).hidden_states
    expected = outputs(source(kind).huggingface, **options).hidden_states
    assert [tuple(state.shape) for state in found] == [tuple(state.shape) for state in expected]


def test_hidden_states_leave_the_logits_as_they_are(kind: str) -> None:
    found = outputs(pruned(kind=kind), output_hidden_states=True, logits_to_keep=3).logits
    same(found, hooked(mixed(kind), TOKENS)[:, -3:])


def test_hidden_states_are_not_given_unasked() -> None:
    assert outputs(pruned()).hidden_states is None


def test_return_dict_false_gives_the_logits_first() -> None:
    found = outputs(pruned(), return_dict=False, use_cache=False)
    assert isinstance(found, tuple)
    same(found[0], hooked(mixed(), TOKENS))


def test_return_dict_false_gives_as_many_things_as_the_original() -> None:
    options = {"return_dict": False, "use_cache": True, "labels": TOKENS, "output_hidden_states": True}
    assert len(outputs(pruned(), **options)) == len(outputs(source().huggingface, **options)) == 4


def test_no_cache_comes_back_where_none_is_used() -> None:
    assert outputs(pruned(), use_cache=False).past_key_values is None


def test_the_config_decides_about_a_cache() -> None:
    model = pruned()
    assert outputs(model).past_key_values.get_seq_length() == 60
    model.config.use_cache = False
    assert outputs(model).past_key_values is None


def test_embeddings_may_come_instead_of_tokens(kind: str) -> None:
    model = pruned(kind=kind)
    embedded = model.get_input_embeddings()(TOKENS).detach()
    same(outputs(model, None, inputs_embeds=embedded).logits, hooked(mixed(kind), TOKENS))


# Loss and gradients.


def test_the_loss_is_that_of_the_original(kind: str) -> None:
    labels = TOKENS.clone()
    labels[:, ::7] = -100
    found = outputs(pruned(keep_all(kind), kind), labels=labels).loss
    torch.testing.assert_close(found, outputs(source(kind).huggingface, labels=labels).loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("way", ["train", "eval", "checkpointed"])
@pytest.mark.parametrize("parallel", [True, False])
def test_gradients_are_those_of_the_original(parallel: bool, way: str) -> None:
    theirs = original(parallel=parallel)
    mine = kept(theirs)
    theirs(TOKENS, labels=TOKENS).loss.backward()
    mine.train(way != "eval")
    if way == "checkpointed":
        mine.gradient_checkpointing_enable()
    mine(TOKENS, labels=TOKENS).loss.backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in mine.named_parameters():
        if ".attention." not in name:
            same(parameter.grad, expected[name].grad, 1e-5)
    for layer in range(2):
        for name, gradient in by_original_name(mine, layer).items():
            same(gradient, expected[f"gpt_neox.layers.{layer}.attention.{name}"].grad, 1e-5)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradients_reach_every_parameter_that_is_used(kind: str, mode: str, cached: bool) -> None:
    model = copy.deepcopy(pruned(kind=kind)).train(mode == "train")
    model(TOKENS, labels=TOKENS, use_cache=cached).loss.backward()
    unreached = [name for name, it in model.named_parameters() if it.grad is None or not it.grad.any()]
    norm = "gpt_neox.layers.2.input_layernorm"  # of the layer without heads: nothing reads it
    assert unreached == [f"{norm}.weight", f"{norm}.bias"]


def test_checkpointing_leaves_the_gradients_of_a_pruned_model_as_they_are(kind: str) -> None:
    plain, saving = (copy.deepcopy(pruned(kind=kind)).train() for _ in range(2))
    saving.gradient_checkpointing_enable()
    for model in (plain, saving):
        model(TOKENS, labels=TOKENS).loss.backward()
    for mine, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        same(mine.grad, theirs.grad, 1e-6)


def test_a_model_can_be_trained_after_it_has_computed_in_inference_mode() -> None:
    model, untouched = copy.deepcopy(pruned()), copy.deepcopy(pruned())
    with torch.inference_mode():
        model(TOKENS)
        model(TOKENS[:1, :1])
    for each in (model, untouched):
        each.train()(TOKENS, labels=TOKENS).loss.backward()
    for mine, theirs in zip(model.parameters(), untouched.parameters(), strict=True):
        same(mine.grad, theirs.grad, 1e-5)


# Number formats, copies, long texts.


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_half_precision_is_close_to_float32(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model, expected = copy.deepcopy(pruned(kind=kind)).to(dtype), hooked(mixed(kind), TOKENS)
    for found in (outputs(model, use_cache=False).logits, in_chunks(model, TOKENS, [30, 1, 1, 28])):
        assert found.dtype == dtype
        assert (found.float() - expected).norm() < tolerance * expected.norm()


def test_float64_gives_the_logits_of_the_hooked_model() -> None:
    found = in_chunks(copy.deepcopy(pruned()).double(), TOKENS, [30, 1, 29])
    same(found.float(), hooked(mixed(), TOKENS))


def test_a_copy_gives_the_same_logits_and_shares_no_switch() -> None:
    model = pruned()
    twin = copy.deepcopy(model)
    twin.tricks.bands = False
    assert model.tricks.bands
    assert twin.gpt_neox.layers[0].mlp.tricks is twin.tricks is twin.lm_head.tricks
    same(outputs(twin).logits, outputs(model).logits)


def test_inference_mode_gives_the_same_logits() -> None:
    with torch.inference_mode():
        found = pruned()(TOKENS).logits
    same(found, hooked(mixed(), TOKENS))


def test_a_text_longer_than_a_piece_of_the_mlp_gives_the_logits_of_the_hooked_model() -> None:
    model = original(context=2048)
    plain = PlainModel(model, "long")
    plan = HeadPlan(about_of(plain), {})
    tokens = random_ids(2, PIECE // 2 + 77)
    same(outputs(pruned_model(model, plan), tokens).logits, outputs(model, tokens).logits)


def test_weights_are_shared_with_the_source_and_the_source_stays_as_it_is() -> None:
    before = copy.deepcopy(source().huggingface.state_dict())
    model = pruned()
    mine, theirs = model.gpt_neox.layers[0].mlp, source().huggingface.gpt_neox.layers[0].mlp
    assert mine.dense_4h_to_h.weight.data_ptr() == theirs.dense_4h_to_h.weight.data_ptr()
    outputs(model)
    for name, tensor in source().huggingface.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_tied_embeddings_stay_tied_and_give_the_same_logits() -> None:
    model = original()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    twin = kept(model)
    assert twin.lm_head.weight is twin.gpt_neox.embed_in.weight
    for _ in range(2):
        same(outputs(twin).logits, outputs(model).logits)


def test_removed_heads_take_no_weights() -> None:
    model = pruned(plan_of({"L0H0": "zero", "L0H2": "mean", "L1H0": "window:4"}))
    widths = [layer.attention.qkv.out_features for layer in model.gpt_neox.layers]
    assert widths == [3 * 2 * 8, 3 * 4 * 8, 3 * 4 * 8, 3 * 4 * 8]
