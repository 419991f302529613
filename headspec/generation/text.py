"""Letting a model of headspec's runtime go on with a prompt: the text, its times, and what became of the heads."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from headspec.errors import HeadspecError, ModelError, TextError
from headspec.generation.model import origin_of
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.record import LiveRecord
from headspec.runtime.thresholds import RoleThresholds

WARM_UP = 8
"""Tokens read before the clock starts: the first call lays weights out."""


def policy_of(settings: Mapping[str, Any]) -> AdaptivePolicy:
    """An AdaptivePolicy from its fields, with errors that say which there are."""
    known = [field.name for field in fields(AdaptivePolicy)]
    if unknown := sorted(set(settings) - set(known)):
        raise HeadspecError(f"live treatment has no setting {', '.join(unknown)}: there are {', '.join(known)}.")
    try:
        cut_offs = settings.get("thresholds", {})
        cut_offs = cut_offs if isinstance(cut_offs, RoleThresholds) else RoleThresholds(**cut_offs)
        return AdaptivePolicy(**{**settings, "thresholds": cut_offs})
    except (TypeError, ValueError) as error:
        raise HeadspecError(f"live treatment: {error}") from error


@dataclass(frozen=True)
class Generation:
    """A text that was generated, and how long it took."""

    prompt: str
    continuation: str
    n_prompt: int
    """Tokens."""
    seconds: tuple[float, ...]
    """For each new token, from the one before (the first: from when the prompt was handed over) until it was chosen."""
    record: LiveRecord | None
    """Of the heads, if they were treated live."""

    @property
    def first_ms(self) -> float:
        """Time to the first token: the prompt is read, and under a policy heads are classified and treated."""
        return 1000 * self.seconds[0]

    @property
    def token_ms(self) -> float | None:
        """Median time of a later token; None if there is none."""
        return 1000 * statistics.median(self.seconds[1:]) if len(self.seconds) > 1 else None

    @property
    def tokens_per_second(self) -> float | None:
        """Later tokens by the time they took; None if there are none."""
        return (len(self.seconds) - 1) / sum(self.seconds[1:]) if len(self.seconds) > 1 else None


@torch.no_grad()
def generate_text(
    model: Any,
    tokenizer: Any,
    prompt: str,
    policy: AdaptivePolicy | None = None,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Generation:
    """Let a model go on with a prompt.

    Args:
        model, tokenizer: From `runtime_model`. Random weights without a tokenizer read the bytes of the prompt, and the
            continuation is token ids.
        prompt: A text.
        policy: Heads are watched and treated by it while the text is written; None: every head is as the model has it.
        max_new_tokens: Tokens to write; fewer if the text ends.
        temperature: 0 takes the likeliest token, more than that draws.
        top_p: Draw from the likeliest tokens that have this probability together.
        seed: Of drawing.

    Raises:
        TextError: An empty prompt, or more tokens than the context holds.
        ModelError: No tokenizer.
        HeadspecError: A setting out of its range.
    """
    how = sampling(max_new_tokens, temperature, top_p)
    ids = _ids_of(model, tokenizer, prompt)[None].to(model.device)
    _check_length(ids.shape[1], max_new_tokens, model.config.max_position_embeddings)
    model(ids[:, :WARM_UP], use_cache=False)
    cache = None if policy is None else model.make_cache(policy)
    clock = _Clock()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=max_new_tokens,
            streamer=clock, pad_token_id=_padding(model), **how,
        )  # fmt: skip
    new = written[0, ids.shape[1] :]
    return Generation(
        prompt, _words(new, tokenizer), ids.shape[1], clock.seconds, None if cache is None else cache.record()
    )


class _Clock(BaseStreamer):
    """Notes when the prompt is handed over and when tokens are chosen."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        """The prompt, then token by token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """The text is whole."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Between one and the next."""
        return tuple(after - before for before, after in zip(self.times, self.times[1:], strict=False))


def sampling(max_new_tokens: int, temperature: float, top_p: float) -> dict[str, Any]:
    """The settings for transformers' `generate`; an error if they make no sense."""
    if max_new_tokens < 1:
        raise HeadspecError(f"{max_new_tokens} new tokens: want 1 or more.")
    if not 0 <= temperature < float("inf"):
        raise HeadspecError(f"temperature {temperature}: want 0 (the likeliest token) or more.")
    if not 0 < top_p <= 1:
        raise HeadspecError(f"top_p {top_p}: want a share of the probability, more than 0 and at most 1.")
    if not temperature:
        if top_p < 1:
            raise HeadspecError(f"top_p {top_p} says how to draw, and at temperature 0 nothing is drawn: give one.")
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}


def _ids_of(model: Any, tokenizer: Any, prompt: str) -> Tensor:
    if tokenizer is not None:
        ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    elif origin_of(model).startswith("random:"):
        ids = [*prompt.encode()]
    else:
        raise ModelError(
            f"{origin_of(model)} has no tokenizer, so it can neither read a prompt nor write text: put tokenizer.json "
            "and tokenizer_config.json beside its weights, or call model.generate with token ids."
        )
    if not ids:
        raise TextError("the prompt is empty: give some text to go on with.")
    return torch.tensor(ids, dtype=torch.int64)


def _check_length(n_prompt: int, n_new: int, context: int) -> None:
    if n_prompt + n_new - 1 > context:  # the last new token is not read
        raise TextError(
            f"{n_prompt} tokens of the prompt and {n_new} new ones are more than the model's context of {context}: "
            "shorten the prompt, or ask for fewer new tokens."
        )


def _padding(model: Any) -> int:
    """Any token, as a single text needs no padding; named, because transformers warns otherwise."""
    end = model.generation_config.eos_token_id
    return (end[0] if isinstance(end, list) else end) or 0


def _words(new: Tensor, tokenizer: Any) -> str:
    if tokenizer is None:
        return "".join(f" {token}" for token in new.tolist())
    return tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
