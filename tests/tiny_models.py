"""Models of a few thousand weights, made on the spot: as folders in the layouts people have, or for planted weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

TOKENIZER_SIZE = 258
"""Ids that `save_byte_tokenizer` knows: <|endoftext|> = 0, <|padding|> = 1, then one for each byte."""
VOCABULARY = 272
"""Rows of the tiny models' embeddings: more than the tokenizer knows, as in Pythia."""
CONTEXT = 128


def tiny_neox(
    seed: int = 0,
    *,
    n_layers: int = 2,
    n_heads: int = 4,
    d_model: int = 32,
    context: int = CONTEXT,
    vocabulary: int = VOCABULARY,
    spread: float = 0.2,
    rotary_share: float = 0.25,
    parallel: bool = True,
) -> GPTNeoXForCausalLM:
    """A GPT-NeoX with random float32 weights; `spread` is their standard deviation. Leaves the global RNG alone."""
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=4 * d_model,
        max_position_embeddings=context,
        initializer_range=spread,
        use_parallel_residual=parallel,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": rotary_share},
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config).eval()


def tiny_llama(seed: int = 0, *, n_heads: int = 4, n_key_value_heads: int = 2) -> LlamaForCausalLM:
    """A Llama with grouped-query attention and random float32 weights. Leaves the global RNG alone."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=n_heads,
        num_key_value_heads=n_key_value_heads,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def bridge_of(hf_model: PreTrainedModel) -> TransformerBridge:
    """A TransformerBridge around `hf_model`, which it changes in place: plant the weights first. No tokenizer."""
    return build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config, model_name="planted")


def save_neox_hub_layout(folder: Path, seed: int = 0, *, tokenizer: bool = True, **sizes: Any) -> Path:
    """Write `tiny_neox(seed, **sizes)` as Pythia lies on the hub: fp16, old key names, old buffers, old config."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_neox(seed, **sizes)
    tensors = {_hub_name(name): tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    for layer in range(model.config.num_hidden_layers):
        tensors |= _legacy_buffers(f"gpt_neox.layers.{layer}.attention", model.config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_hub_config(model.config), indent=2))
    if tokenizer:
        save_byte_tokenizer(folder, tokenizer_class="GPTNeoXTokenizer")
    return folder


def save_llama(folder: Path, seed: int = 0, *, tokenizer: bool = True) -> Path:
    """Write `tiny_llama(seed)` with `save_pretrained`, in float32."""
    tiny_llama(seed).save_pretrained(folder)
    if tokenizer:
        save_byte_tokenizer(folder)
    return folder


def save_byte_tokenizer(
    folder: Path, *, tokenizer_class: str = "PreTrainedTokenizerFast", special_tokens: bool = True
) -> None:
    """Write a tokenizer that makes one token of each byte: a text of ASCII has as many tokens as characters.

    Without `special_tokens` it knows the 256 bytes and nothing else: no token starts or ends a text.
    """
    special = ["<|endoftext|>", "<|padding|>"] if special_tokens else []
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    uses = {f"{use}_token": special[0] for use in ("bos", "eos", "unk") if special}
    settings = {"tokenizer_class": tokenizer_class, "add_prefix_space": False, **uses}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def _hub_name(name: str) -> str:
    return name.replace("lm_head.", "embed_out.")


def _legacy_buffers(prefix: str, config: GPTNeoXConfig) -> dict[str, torch.Tensor]:
    context = config.max_position_embeddings
    rotary = int(config.hidden_size // config.num_attention_heads * config.rope_parameters["partial_rotary_factor"])
    return {
        f"{prefix}.bias": torch.ones(1, 1, context, context, dtype=torch.bool).tril(),
        f"{prefix}.masked_bias": torch.tensor(-1e9),
        f"{prefix}.rotary_emb.inv_freq": config.rope_parameters["rope_theta"] ** -(torch.arange(0, rotary, 2) / rotary),
    }


def _hub_config(config: GPTNeoXConfig) -> dict[str, object]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "gpt_neox",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "rotary_emb_base": int(config.rope_parameters["rope_theta"]),
        "rotary_pct": config.rope_parameters["partial_rotary_factor"],
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": config.use_parallel_residual,
        "vocab_size": config.vocab_size,
    }
