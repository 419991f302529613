"""Tiny models of other families than Pythia's and Llama's, each with one trait that attention may have."""

from typing import Any

import torch
from tiny_models import VOCABULARY
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "attn_implementation": "eager",
}
SLIDING_WINDOW = 24


def sliding_mistral(context: int = 256) -> PreTrainedModel:
    """A query sees no key that is `SLIDING_WINDOW` or more tokens back."""
    return _random(
        MistralForCausalLM,
        MistralConfig(
            **SIZES, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=context,
            sliding_window=SLIDING_WINDOW, initializer_range=0.2,
        ),
    )  # fmt: skip


def softcapped_gemma() -> PreTrainedModel:
    """Scores are squeezed by a tanh before the softmax."""
    return _random(
        Gemma2ForCausalLM,
        Gemma2Config(
            **SIZES, num_key_value_heads=2, head_dim=8, intermediate_size=64, max_position_embeddings=128,
            attn_logit_softcapping=50.0,
        ),
    )  # fmt: skip


def gpt2() -> PreTrainedModel:
    """Projections with names of their own, transposed."""
    return _random(GPT2LMHeadModel, GPT2Config(**SIZES, n_positions=128))


def falcon() -> PreTrainedModel:
    """Named like GPT-NeoX, but its attention is not looked up in transformers' registry."""
    return _random(FalconForCausalLM, FalconConfig(**SIZES))


def bloom() -> PreTrainedModel:
    """No context in its configuration."""
    return _random(BloomForCausalLM, BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))


def _random(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()
