"""Generating text with a hooked model while its heads are watched, classified and treated: `live_generate`.

The runtime's decisions (`model.make_cache(policy)` there) by hooks, so that all else which TransformerLens shows can be
looked at beside them. What the hooks of a layer do: `live_layer.py`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.classify.head_map import HeadMap
from headspec.classify.live_facts import head_facts
from headspec.errors import HeadspecError, ModelError, RecordError, TextError
from headspec.intervene.compress import rotary_frequencies
from headspec.intervene.live_layer import LiveLayer
from headspec.load.identity import huggingface_config, identify, prepends_bos
from headspec.load.text import as_ids, tokenize
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.evidence import KnownHeads
from headspec.runtime.record import Held, LiveLog, LiveRecord

Tokens = Int[Tensor, "batch token"]
_NEEDED = ("hook_resid_pre", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z")


@dataclass(frozen=True, eq=False)
class LiveGeneration:
    """A text that a hooked model has gone on with, and what happened to its heads meanwhile."""

    tokens: Tokens
    """Prompt and new tokens. Rows that end before others are filled up with the token that ends a text."""
    n_prompt: int
    """Of these, the tokens of the prompt."""
    texts: tuple[str, ...]
    """Each row, prompt included; none without a tokenizer."""
    record: LiveRecord
    """Roles and treatments over time. Its bytes are computed, not measured: what the runtime has to hold for these
    treatments (the hooked model keeps every key)."""

    @property
    def text(self) -> str | None:
        """The first row; None without a tokenizer."""
        return self.texts[0] if self.texts else None


@torch.no_grad()
def live_generate(
    model: Any,
    prompt: Any,
    policy: Any = None,
    *,
    head_map: HeadMap | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> LiveGeneration:
    """Let a TransformerBridge go on with a prompt, its heads treated by what they do meanwhile.

    For looking closer, in notebooks: heads are decided upon as in headspec's runtime, but still computed, and their
    keys hidden, not freed. It saves neither time nor memory. Hooks of your own stay in force, and see what the heads
    do under treatment; none of these hooks is left when it returns.

    In `record.held` a head counts the keys that its treatment needs: sinks and window, a budget and what follows it,
    none if it is dead, all otherwise; each head by itself, also where heads share keys (grouped-query attention). The
    runtime's buffers may have room for more.

    Args:
        model: A TransformerBridge from `load_model`. Compression needs a GPT-NeoX (Pythia).
        prompt: A text, or token ids `[batch, token]` or `[token]`: rows of one length, without padding.
        policy: An AdaptivePolicy, or its settings as a dictionary; its defaults if None.
        head_map: Of this model: which heads may be called dead; without one none may.
        max_new_tokens: Tokens to write; fewer if every row ends before.
        temperature: 0 takes the likeliest token, more than that draws.
        seed: Of drawing.

    Raises:
        ModelError: No TransformerBridge, no tokenizer for a text, or attention that cannot be treated.
        RecordError: A head map of another model, or not of all its layers.
        TextError: Rows of several lengths, nothing to read, unknown ids, more tokens than the context.
        HeadspecError: A setting out of its range.
    """
    policy = _policy(policy)
    _check_model(model, policy)
    facts = _facts(model, head_map)
    _check_settings(max_new_tokens, temperature)
    ids = _ids(model, prompt, max_new_tokens)
    run = _Run(model, policy, facts, ids)
    hooks = [hook for layer in run.layers for hook in layer.hooks()]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), model.hooks(fwd_hooks=hooks):
        torch.manual_seed(seed)
        tokens = _go_on(run, ids, max_new_tokens, temperature)
    texts = () if model.tokenizer is None else tuple(model.tokenizer.batch_decode(tokens))
    return LiveGeneration(tokens, ids.shape[1], texts, run.record())


class _Run:
    """One text through the hooked model: the layers with what they remember, the KV cache, the log."""

    def __init__(self, model: Any, policy: AdaptivePolicy, facts: dict[str, Any] | None, ids: Tokens) -> None:
        from transformers import DynamicCache

        self.model, self.policy, self.past, known = model, policy, DynamicCache(), identify(model)
        self.log = LiveLog(known.name, known.n_layers, known.n_heads, policy.to_dict())
        self.log.n_rows, self.log.n_prompt = ids.shape
        self.n_read = self.n_classified = 0
        item_bytes = getattr(torch, known.dtype).itemsize
        self._key_bytes, self._n_heads = 2 * known.d_head * item_bytes, known.n_layers * known.n_heads
        frequencies = rotary_frequencies(model) if _is_neox(model) else None
        heads = range(known.n_heads)
        self.layers = [
            LiveLayer(
                layer, policy, KnownHeads.of(facts, layer, heads, policy.dead), self.log,
                partial(_w_o, model, layer), self.past, frequencies,
            )
            for layer in range(known.n_layers)
        ]  # fmt: skip

    def read(self, tokens: Tokens) -> Float[Tensor, "batch vocabulary"]:
        """The logits of what comes next."""
        logits = self.model(tokens, past_key_values=self.past)[:, -1].float()
        n_new, every = tokens.shape[1], self.policy.every
        self.n_read += n_new
        after, classified = self.n_read - self.log.n_prompt, self.log.n_classifications > self.n_classified
        self.n_classified = self.log.n_classifications
        if classified or not after or after // every > (after - n_new) // every:
            self.log.held.append(self._held())
        return logits

    def record(self) -> LiveRecord:
        return self.log.record(self._held())

    def _held(self) -> Held:
        n_rows = self.log.n_rows
        n_keys = sum(layer.keys_held(self.n_read, n_rows) for layer in self.layers)
        return Held(self.n_read, self._key_bytes * n_keys, self._key_bytes * self._n_heads * n_rows * self.n_read)


def _go_on(run: _Run, tokens: Tokens, n_new: int, temperature: float) -> Int[Tensor, "batch longer"]:
    """Token after token, until every row has ended; the last one is not read."""
    ends = _ends(run.model)
    ended, new = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device), tokens
    for _ in range(n_new):
        logits = run.read(new)
        drawn = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0] if temperature else logits.argmax(-1)
        drawn = drawn.to(tokens)
        if ends:
            drawn = drawn.masked_fill(ended, ends[0])
            ended = ended | torch.isin(drawn, torch.tensor(ends, device=drawn.device))
        new = drawn[:, None]
        tokens = torch.cat((tokens, new), dim=1)
        if ended.all():
            break
    return tokens


def _ends(model: Any) -> list[int]:
    """The tokens that end a text."""
    end = getattr(getattr(model.original_model, "generation_config", None), "eos_token_id", None)
    return [] if end is None else list(end) if isinstance(end, list | tuple) else [end]


def _w_o(model: Any, layer: int) -> Float[Tensor, "head d_head d_model"]:
    return model.blocks[layer].attn.W_O


def _is_neox(model: Any) -> bool:
    return huggingface_config(model).model_type == "gpt_neox"


def _policy(policy: Any) -> AdaptivePolicy:
    try:
        policy = AdaptivePolicy(**(policy or {})) if policy is None or isinstance(policy, dict) else policy
    except (TypeError, ValueError) as error:
        raise HeadspecError(f"live treatment: {error}") from error
    if not isinstance(policy, AdaptivePolicy):
        raise HeadspecError(f"policy {policy!r}: want an AdaptivePolicy or a dictionary of its settings.")
    return policy


def _check_model(model: Any, policy: AdaptivePolicy) -> None:
    """Refuse what cannot be treated by hooks before anything is hooked."""
    if not hasattr(model, "blocks") or not hasattr(model, "cfg"):
        raise ModelError(
            f"{type(model).__name__} has no hooks: load a TransformerBridge with headspec.load_model(name). To treat a "
            "GPT-NeoX without one, generate in headspec's runtime, with the make_cache(policy) of a runtime_model."
        )
    known, kind = identify(model), huggingface_config(model).model_type
    if policy.policy and not _is_neox(model):
        raise ModelError(
            f"policy {policy.policy!r}: headspec compresses heads of GPT-NeoX models (Pythia) only, not of "
            f"{known.name} ({kind}). Leave policy empty: windows and dead heads work."
        )
    own = getattr(huggingface_config(model), "sliding_window", None)
    if own is not None and own < known.context:
        raise ModelError(
            f"{known.name} has a sliding window of {own} keys of its own: headspec treats live only models whose heads "
            "all have full attention."
        )
    for layer, block in enumerate(model.blocks):
        missing = [name for name in _NEEDED if f"blocks.{layer}.{name}" not in model.hook_dict]
        if missing:
            raise ModelError(
                f"layer {layer} of {known.name} has no {', '.join(missing)}: headspec treats decoders with ordinary "
                "softmax attention."
            )
        if type(block.attn).__name__ == "AttentionBridge":  # which attends first, and only shows its scores
            raise ModelError(
                f"TransformerLens computes the attention of {known.name} without heeding hook_attn_scores, so a window "
                "would do nothing."
            )


def _facts(model: Any, head_map: HeadMap | None) -> dict[str, Any] | None:
    """What the head map says, if it is of this model."""
    if head_map is None:
        return None
    if not isinstance(head_map, HeadMap):
        raise RecordError(f"head_map {head_map!r}: want a HeadMap, from classify_heads or HeadMap.load(path).")
    known = identify(model)
    head_map.about.check_model(known.name, known.n_layers, known.n_heads)
    if len(head_map.about.layers) != known.n_layers:
        raise RecordError(
            f"this head map knows {len(head_map.about.layers)} of the {known.n_layers} layers of {known.name}: probe "
            "all of them."
        )
    return head_facts(head_map)


def _check_settings(max_new_tokens: int, temperature: float) -> None:
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise HeadspecError(f"{max_new_tokens!r} new tokens: want a whole number, 1 or more.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise HeadspecError(f"temperature {temperature}: want 0 (the likeliest token) or more.")


def _ids(model: Any, prompt: Any, n_new: int) -> Tokens:
    """The prompt as token ids on the model's device, if the model can read it and go on for so long."""
    known = identify(model)
    ids = _from_text(model, prompt) if isinstance(prompt, str) else _from_ids(prompt)
    n_prompt = ids.shape[1]
    if not ids.numel():
        raise TextError(f"the prompt is empty (token ids of shape {tuple(ids.shape)}): give some text to go on with.")
    if not 0 <= int(ids.min()) <= int(ids.max()) < known.d_vocab:
        raise TextError(f"token ids from {int(ids.min())} to {int(ids.max())}: this model knows 0–{known.d_vocab - 1}.")
    if n_prompt + n_new - 1 > known.context:  # the last new token is not read
        raise TextError(
            f"{n_prompt} tokens of the prompt and {n_new} new ones are more than the model's context of "
            f"{known.context}: shorten the prompt, or ask for fewer new tokens."
        )
    return ids.to(known.device)


def _from_text(model: Any, prompt: str) -> Tokens:
    known = identify(model)
    if model.tokenizer is None:
        raise ModelError(f"{known.name} has no tokenizer, so it cannot read a text: give token ids, [batch, token].")
    front = [known.bos] if prepends_bos(model) and known.bos is not None and prompt else []
    return torch.cat([torch.tensor(front, dtype=torch.int64), tokenize(model, prompt)])[None]


def _from_ids(prompt: Any) -> Tokens:
    try:
        return torch.atleast_2d(as_ids(prompt))
    except TextError as error:
        raise TextError(f"{error} All rows of a prompt are of one length here, as nothing is padded.") from error
