"""The fast engine and the model it is given: nothing is copied, nothing changes, and nothing is overlooked."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from accounts import random_ids
from comparing import difference
from tiny_models import bridge_of, tiny_llama, tiny_neox
from torch import Tensor
from transformers import PreTrainedModel
from watching import hook_count, interrupted, logits

from headspec.errors import ModelError
from headspec.load.model import load_model
from headspec.load.plain import PlainModel, as_plain
from headspec.probe.collect import probe_heads
from headspec.probe.fast import _readers
from headspec.probe.profile import HeadProfile

IDS = random_ids(2, 60)
OTHER_LOGITS = r'planted: .*gives other logits than its Hugging Face model .*use engine="hooks"'


def fast_probe(model: Any, **settings: Any) -> HeadProfile:
    return probe_heads(model, IDS, engine="fast", progress=False, **settings)


def with_attention(implementation: str) -> Callable[[], PreTrainedModel]:
    def make() -> PreTrainedModel:
        model = tiny_neox()
        model.set_attn_implementation(implementation)
        return model

    return make


GIVEN: dict[str, Callable[[], Any]] = {
    "eager": with_attention("eager"),
    "sdpa": with_attention("sdpa"),
    "bridge": lambda: bridge_of(tiny_neox()),
    "grouped-query-bridge": lambda: bridge_of(tiny_llama()),
}


@pytest.fixture(params=GIVEN)
def given(request: pytest.FixtureRequest) -> Any:
    return GIVEN[request.param]()


def attention_implementation(model: Any) -> str:
    return getattr(model, "original_model", model).config._attn_implementation


# A twin of a bridge.


@pytest.mark.parametrize("make", [tiny_neox, tiny_llama])
def test_the_twin_of_a_bridge_shares_its_tensors(make: Callable[[], PreTrainedModel]) -> None:
    bridge = bridge_of(make())
    shared = {tensor.data_ptr() for tensor in (*bridge.original_model.parameters(), *bridge.original_model.buffers())}
    twin = as_plain(bridge).huggingface
    own = {name: tensor.data_ptr() for name, tensor in (*twin.named_parameters(), *twin.named_buffers())}
    assert {name for name, place in own.items() if place not in shared} == set()


def test_the_twin_of_a_bridge_has_every_weight_of_the_model() -> None:
    expected = {name: tensor.clone() for name, tensor in tiny_neox(2).state_dict().items()}
    found = as_plain(bridge_of(tiny_neox(2))).huggingface.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_the_twin_of_a_bridge_is_called_as_the_bridge() -> None:
    assert fast_probe(bridge_of(tiny_neox())).about.model == "planted"


def test_the_twin_of_a_bridge_does_not_train() -> None:
    assert not as_plain(bridge_of(tiny_neox())).huggingface.training


def test_a_plain_model_is_taken_as_it_is() -> None:
    plain = PlainModel(tiny_neox(), "plain")
    assert as_plain(plain) is plain


# Nothing changes.


@pytest.mark.parametrize("call", [None, 1, 2, 3])
def test_attention_hooks_and_logits_are_as_before_even_after_an_interruption(given: Any, call: int | None) -> None:
    before, hooks, implementation = logits(given, IDS), hook_count(given), attention_implementation(given)
    with nullcontext() if call is None else interrupted(call):
        fast_probe(given, query_statistics=True)
    assert attention_implementation(given) == implementation
    assert hook_count(given) == hooks
    torch.testing.assert_close(logits(given, IDS), before, rtol=0, atol=0)


def test_no_reader_listens_afterwards(given: Any) -> None:
    fast_probe(given)
    assert len(_readers) == 0


def test_no_parameter_changes_or_gathers_gradients(given: Any) -> None:
    before = {name: parameter.clone() for name, parameter in given.named_parameters()}
    fast_probe(given)
    assert [name for name, parameter in given.named_parameters() if not torch.equal(parameter, before[name])] == []
    assert all(parameter.grad is None for parameter in given.parameters())


def test_the_hooks_engine_reads_a_bridge_as_before_afterwards() -> None:
    bridge = bridge_of(tiny_llama())
    before = probe_heads(bridge, IDS, progress=False)
    fast_probe(bridge)
    assert difference(before, probe_heads(bridge, IDS, progress=False)) == 0


def test_the_random_number_generator_of_the_user_is_left_alone(given: Any) -> None:
    before = torch.random.get_rng_state()
    fast_probe(given)
    assert torch.equal(torch.random.get_rng_state(), before)


# Nothing is overlooked.


def no_output_of_head_2(z: Tensor, hook: Any) -> Tensor:
    z = z.clone()
    z[:, :, 2] = 0
    return z


def no_output_from_token_40_on(z: Tensor, hook: Any) -> Tensor:
    z = z.clone()
    z[:, 40:] = 0
    return z


@pytest.mark.parametrize("ablate", [no_output_of_head_2, no_output_from_token_40_on])
def test_a_bridge_whose_hooks_change_activations_is_refused(ablate: Callable[[Tensor, Any], Tensor]) -> None:
    bridge = bridge_of(tiny_neox())
    bridge.add_hook("blocks.0.attn.hook_z", ablate)
    with pytest.raises(ModelError, match=OTHER_LOGITS):
        fast_probe(bridge)


def test_a_bridge_whose_hooks_only_look_on_is_taken() -> None:
    bridge, seen = bridge_of(tiny_neox()), list[Tensor]()
    bridge.add_hook("blocks.0.attn.hook_z", lambda z, hook: seen.append(z))
    assert difference(fast_probe(bridge), fast_probe(tiny_neox())) == 0


@pytest.mark.parametrize("factor", [0, 1.1])
@pytest.mark.parametrize("projection", ["q", "v", "qkv"])
def test_a_bridge_of_which_only_one_copy_of_a_weight_was_edited_is_refused(projection: str, factor: float) -> None:
    bridge = bridge_of(tiny_neox())
    with torch.no_grad():
        getattr(bridge.blocks[1].attn, projection).weight[8:16] *= factor
    with pytest.raises(ModelError, match=OTHER_LOGITS):
        fast_probe(bridge)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_bridge_is_not_refused_for_the_rounding_of_half_precision(dtype: str) -> None:
    assert fast_probe(load_model("demo", device="cpu", dtype=dtype)).about.dtype == dtype


def test_an_edited_weight_that_bridge_and_twin_share_is_obeyed() -> None:
    bridge = bridge_of(tiny_neox())
    with torch.no_grad():
        bridge.blocks[1].attn.o.weight[:, 8:16] = 0
    profile = fast_probe(bridge)
    assert profile["output_norm"][1, 1] == 0
    assert np.delete(profile["output_norm"][1], 1).min() > 0
