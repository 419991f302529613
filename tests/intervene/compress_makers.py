"""Models and plans for tests of live compression, and the reference: the pruned model, whose cache drops the keys."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from plan_references import logits, random_ids
from tiny_models import bridge_of, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from headspec.export.surgery import pruned_model
from headspec.heads import HeadId
from headspec.intervene.ablate import apply_plan
from headspec.load.plain import PlainModel
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Remove, Treatment, parse_treatment

CONTEXT, N_TOKENS, N_PROMPT = 256, 80, 48
TOKENS = random_ids(3, N_TOKENS)
POLICIES = (
    "compress:snapkv:0.25", "compress:snapkv:24:latest12", "compress:snapkv:0.5:adakv",
    "compress:snapkv:24:latest8:adakv", "compress:expected_attention:0.3", "compress:expected_attention:24:latest8",
    "compress:expected_attention:0.3:adakv", "compress:expected_attention:24:latest8:adakv", "compress:streaming:16",
    "compress:random:0.5", "compress:random:24:latest8:adakv",
)  # fmt: skip
MIXED = {
    "L0H0": "compress:snapkv:0.25", "L0H1": "window:4+1", "L0H2": "compress:snapkv:0.25", "L0H3": "mean",
    "L1H0": "compress:expected_attention:24:latest12", "L1H1": "compress:random:16", "L1H2": "compress:streaming:12",
}  # fmt: skip
"""In layer 1 every compressed head has a policy of its own, and one head is kept."""
SIZES: dict[str, dict[str, Any]] = {
    "parallel": {"seed": 5, "d_model": 64, "rotary_share": 0.25},
    "sequential": {"seed": 6, "rotary_share": 1.0, "parallel": False},
}
FORMS = ("bridge", "sdpa", "eager")


@dataclass(frozen=True)
class Compressible:
    """One GPT-NeoX of 2 layers with 4 heads in every form."""

    bridge: TransformerBridge
    sdpa: PlainModel
    eager: PlainModel

    def form(self, name: str) -> Any:
        return getattr(self, name)

    def plan(self, wish: str | dict[str, str]) -> HeadPlan:
        """A plan of treatments in short text (one text: for every head), with made-up fills and query statistics."""
        about = about_of(self.sdpa)
        wish = wish if isinstance(wish, dict) else {str(head): wish for head in about.heads}
        chosen: dict[HeadId, Treatment] = {HeadId.parse(name): parse_treatment(what) for name, what in wish.items()}
        fills = {head: _drawn(head, about.d_head)[0] for head, what in chosen.items() if isinstance(what, Remove)}
        return HeadPlan(about, chosen, fills, queries={head: query_facts(head, about.d_head) for head in chosen})

    @torch.no_grad()
    def expected(self, plan: HeadPlan, tokens: Tensor, n_prompt: int) -> Tensor:
        """Logits of every token by the pruned model: the prompt in one piece, then the rest."""
        model = pruned_model(self.sdpa.huggingface, plan)
        past = model.make_cache(expected=tokens.shape[1], prompt=n_prompt)
        pieces = [n_prompt, tokens.shape[1] - n_prompt]
        return torch.cat([model(part, past_key_values=past).logits for part in tokens.split(pieces, 1)], 1)


def _drawn(head: HeadId, d_head: int) -> np.ndarray:
    return np.random.default_rng((head.layer, head.head)).standard_normal((21, d_head)).astype(np.float32)


def query_facts(head: HeadId, d_head: int) -> np.ndarray:
    """A mean, and the covariance of twenty vectors."""
    drawn = _drawn(head, d_head)
    return np.concatenate([drawn[:1], np.cov(drawn[1:].T).astype(np.float32)])


@cache
def compressible(kind: str = "parallel") -> Compressible:
    """Shared: leave it as it is."""

    def make(attention: str) -> Any:
        model = tiny_neox(context=CONTEXT, **SIZES[kind])
        model.set_attn_implementation(attention)
        return model

    return Compressible(bridge_of(make("eager")), PlainModel(make("sdpa"), "planted"),
                        PlainModel(make("eager"), "planted"))  # fmt: skip


def callable_of(model: Any) -> Any:
    """What takes a cache and a mask."""
    return model.huggingface if isinstance(model, PlainModel) else model


def whole(model: Any, plan: HeadPlan, tokens: Tensor, prompt: int = 0, **settings: Any) -> Tensor:
    """Logits of a text that is read at once, without a cache."""
    with apply_plan(model, plan, prompt):
        return logits(callable_of(model), tokens, use_cache=False, **settings)


def new_cache() -> DynamicCache:
    return DynamicCache(config=compressible().sdpa.huggingface.config)


def read(model: Any, tokens: Tensor, pieces: list[int], past: Any = None, mask: Tensor | None = None) -> Tensor:
    """Logits of a text that is read in pieces, through a cache."""
    past, parts = new_cache() if past is None else past, []
    for part in tokens.split(pieces, 1):
        seen = {} if mask is None else {"attention_mask": mask[:, : past.get_seq_length() + part.shape[1]]}
        parts.append(logits(callable_of(model), part, past_key_values=past, use_cache=True, **seen))
    return torch.cat(parts, 1)


def in_pieces(
    model: Any, plan: HeadPlan, tokens: Tensor, pieces: list[int], prompt: int = 0, mask: Tensor | None = None
) -> Tensor:
    """The same under a plan."""
    with apply_plan(model, plan, prompt):
        return read(model, tokens, pieces, mask=mask)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def seen_by(bridge: TransformerBridge, head: str, read_text: Callable[[], object]) -> list[Tensor]:
    """`[query, key]`: what a head sees of the first row in every call of `read_text`."""
    place, patterns = HeadId.parse(head), list[Tensor]()

    def keep(pattern: Tensor, hook: Any = None) -> None:
        patterns.append(pattern[0, place.head] > 0)

    with bridge.hooks(fwd_hooks=[(f"blocks.{place.layer}.attn.hook_pattern", keep)]):
        read_text()
    return patterns
