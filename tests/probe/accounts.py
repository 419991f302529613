"""Three models with both accounts of them: what `probe_heads` says (by either engine), and what the textbook says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reference import Array, reference_profile, run_once
from tiny_models import VOCABULARY, bridge_of, tiny_llama, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedModel

import headspec.load
from headspec.load.text import load_text
from headspec.probe.collect import ENGINES, probe_heads
from headspec.probe.profile import HeadProfile
from headspec.probe.repeats import repeated_tokens

N_REPEATS = 2


@dataclass(frozen=True)
class Accounts:
    """A profile, the arrays it should hold, and the share of queries whose maximum rounding could move."""

    profile: HeadProfile
    expected: dict[str, Array]
    doubtful: Array


def both_accounts(
    bridge: TransformerBridge, plain: PreTrainedModel, tokens: Tensor, front: int | None
) -> dict[str, Accounts]:
    """Probe `bridge` with each engine; run `plain`, the same model as transformers has it, by the book, once."""
    length = (tokens.shape[1] - 1) // 2
    words = range(2, 1024) if bridge.tokenizer else range(VOCABULARY)
    repeats = repeated_tokens(words, length, N_REPEATS, front, 0)
    expected, doubtful = reference_profile(run_once(plain, tokens), run_once(plain, repeats))
    settings: dict[str, Any] = {"segment": 48, "batch_size": 2, "n_repeats": N_REPEATS, "progress": False}
    profiles = {engine: probe_heads(bridge, tokens, engine=engine, **settings) for engine in ENGINES}
    return {engine: Accounts(profile, expected, doubtful) for engine, profile in profiles.items()}


def random_ids(n_windows: int, window: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (n_windows, window), generator=torch.Generator().manual_seed(seed))


def make_demo(demo: TransformerBridge) -> dict[str, Accounts]:
    folder = Path(headspec.load.__file__).parent / "demo"
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokens = load_text(demo, "select", n_tokens=3 * 260, window=260, seed=1).tokens
    return both_accounts(demo, plain, tokens, front=demo.tokenizer.bos_token_id)


def make_neox(demo: TransformerBridge) -> dict[str, Accounts]:
    return both_accounts(bridge_of(tiny_neox(3)), tiny_neox(3), random_ids(4, 101), front=None)


def make_llama(demo: TransformerBridge) -> dict[str, Accounts]:
    return both_accounts(bridge_of(tiny_llama(5)), tiny_llama(5), random_ids(3, 90), front=None)


MAKERS: dict[str, Callable[[TransformerBridge], dict[str, Accounts]]] = {
    "demo": make_demo,
    "neox": make_neox,
    "grouped-query-llama": make_llama,
}
