"""Plans on families other than Pythia's and Llama's: GPT-2 by its own reference; what cannot be treated is refused."""

import pytest
import torch
from plan_references import logits, random_ids, sees
from tiny_models import VOCABULARY, bridge_of
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from headspec.errors import ModelError
from headspec.intervene.ablate import apply_plan
from headspec.plan.make import plan_heads
from headspec.plan.treatments import Window

TOKENS = random_ids(2, 30)
EAGER = {"vocab_size": VOCABULARY, "attn_implementation": "eager"}


def seeded(kind: type[PreTrainedModel], config: object) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return seeded(GPT2LMHeadModel, GPT2Config(**sizes, initializer_range=0.2, **EAGER))


def gemma2() -> PreTrainedModel:
    """Scores squeezed by a tanh; a sliding window that is longer than the context."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"head_dim": 8, "intermediate_size": 64, "max_position_embeddings": 128, "initializer_range": 0.2}
    return seeded(Gemma2ForCausalLM, Gemma2Config(**sizes, **more, **EAGER))


def opt() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
    return seeded(
        OPTForCausalLM,
        OPTConfig(**sizes, max_position_embeddings=128, word_embed_proj_dim=32, init_std=0.2, **EAGER),
    )


def gpt_neo() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64}
    more = {"attention_types": [[["global", "local"], 1]], "window_size": 12, "max_position_embeddings": 128}
    return seeded(GPTNeoForCausalLM, GPTNeoConfig(**sizes, **more, initializer_range=0.2, **EAGER))


def seen_with(model: PreTrainedModel, text: str) -> Tensor:
    """`[query, key]`: what L1H2 of the first row sees under a window."""
    bridge = bridge_of(model)
    with apply_plan(bridge, plan_heads(bridge, {"L1H2": text})):
        _, cache = bridge.run_with_cache(TOKENS)
    return cache["blocks.1.attn.hook_pattern"][0, 2] > 0


def test_a_removed_head_of_gpt2_is_cut_out_of_its_weights() -> None:
    bridge, reference = bridge_of(gpt2()), gpt2()
    with torch.no_grad():
        reference.transformer.h[1].attn.c_proj.weight[16:24] = 0  # [in, out]: the third head of 8
    with apply_plan(bridge, plan_heads(bridge, {"L1H2": "zero"})):
        torch.testing.assert_close(logits(bridge, TOKENS), logits(reference, TOKENS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", ["window:3+1", "window:1+0", "window:8"])
@pytest.mark.parametrize("make", [gpt2, gemma2], ids=["gpt2", "gemma2"])
def test_a_windowed_head_sees_its_window_and_its_sinks(make: object, text: str) -> None:
    model = make()  # type: ignore[operator]
    window, keys = plan_heads(bridge_of(model), {"L1H2": text})["L1H2"], range(30)
    assert isinstance(window, Window)
    expected = torch.tensor([[sees(query, key, window) for key in keys] for query in keys])
    assert torch.equal(seen_with(make(), text), expected)  # type: ignore[operator]


@pytest.mark.parametrize("make", [opt, gpt_neo], ids=["opt", "gpt-neo"])
def test_a_removed_head_of_a_model_that_attends_by_itself_is_removed(make: object) -> None:
    bridge = bridge_of(make())  # type: ignore[operator]
    before = logits(bridge, TOKENS)
    with apply_plan(bridge, plan_heads(bridge, {"L1H2": "zero"})):
        assert (logits(bridge, TOKENS) - before).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:A hook on:UserWarning")
@pytest.mark.parametrize("make", [opt, gpt_neo], ids=["opt", "gpt-neo"])
def test_a_window_that_the_models_attention_would_not_heed_is_refused(make: object) -> None:
    bridge = bridge_of(make())  # type: ignore[operator]
    before = logits(bridge, TOKENS)
    try:
        with apply_plan(bridge, plan_heads(bridge, {"L1H2": "window:1+0"})):
            moved = (logits(bridge, TOKENS) - before).abs().max()
    except ModelError:
        return
    assert moved > 1e-3
