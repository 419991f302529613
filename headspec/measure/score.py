"""How likely a model finds a continuation of a prompt, teacher-forced: hooked, exported or cache-compressed models.

The prompt goes in first and fills the cache, then the continuation is read through it, as in generation; so a policy
that compresses the cache after the prompt is in force where it matters.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headspec.errors import ModelError, TextError
from headspec.load.text import as_ids, tokenize


@dataclass(frozen=True, eq=False)
class Score:
    """Log-probabilities of the tokens of a continuation, in nats."""

    log_probabilities: Float[Tensor, "batch token"]
    greedy: Bool[Tensor, "batch token"]
    """Whether each token is the most likely one."""

    @property
    def loss(self) -> float:
        """Mean of −log p, nats a token."""
        return float(-self.log_probabilities.mean())

    @property
    def accuracy(self) -> float:
        """Share of the tokens that are the most likely one."""
        return float(self.greedy.float().mean())


def score(model: Any, prompt: Any, continuation: Any, *, cache: Any = None) -> Score:
    """Score a continuation under a model.

    Args:
        model: A TransformerBridge (within `apply_plan` or not), a PlainModel, or a Hugging Face model.
        prompt: Text, or token ids `[batch, token]` or `[token]`; rows of one length.
        continuation: The same; with text it is tokenised on its own.
        cache: The KV cache to read through: one with a policy, say; a fresh DynamicCache by default.

    Raises:
        TextError: Nothing to score, shapes that do not fit, unknown ids, or more tokens than the context.
    """
    front, rest = _ids(model, prompt), _ids(model, continuation)
    if len(front) != len(rest) or 0 in (*front.shape, *rest.shape):
        raise TextError(f"prompt {tuple(front.shape)} and continuation {tuple(rest.shape)}: want [batch, token] each.")
    if cache is None:
        from transformers import DynamicCache

        cache = DynamicCache()
    inner = getattr(model, "huggingface", model)
    _check_ids(inner, torch.cat([front, rest], dim=1))
    device = next(inner.parameters()).device
    front, rest = front.to(device), rest.to(device)
    # Told, not counted from the cache: one that drops keys is shorter than what was read.
    positions = torch.arange(front.shape[1], front.shape[1] + rest.shape[1] - 1, device=device)[None]
    with torch.no_grad():
        logits = [_logits(inner(front, past_key_values=cache))[:, -1:]]
        if rest.shape[1] > 1:
            logits.append(_logits(inner(rest[:, :-1], past_key_values=cache, position_ids=positions)))
    log_p = torch.cat(logits, dim=1).float().log_softmax(-1)
    return Score(log_p.gather(-1, rest[..., None])[..., 0], log_p.argmax(-1) == rest)


def _logits(output: Any) -> Tensor:
    return getattr(output, "logits", output)


def _ids(model: Any, text: Any) -> Int[Tensor, "batch token"]:
    if isinstance(text, str):
        if not hasattr(model, "tokenizer"):
            raise ModelError(f"{type(model).__name__} has no tokenizer: give token ids.")
        return tokenize(model, text)[None]
    return torch.atleast_2d(as_ids(text))


def _check_ids(model: Any, ids: Int[Tensor, "batch token"]) -> None:
    """Refuse ids beyond the vocabulary, and more tokens than the context, where the model says what these are."""
    config = getattr(model, "config", None) or getattr(getattr(model, "original_model", None), "config", None)
    vocabulary, context = getattr(config, "vocab_size", None), getattr(config, "max_position_embeddings", None)
    if vocabulary is not None and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise TextError(f"token ids from {int(ids.min())} to {int(ids.max())}: this model knows 0–{vocabulary - 1}.")
    if context is not None and ids.shape[1] > context:
        raise TextError(f"{ids.shape[1]} tokens are beyond the model's context of {context}: shorten the prompt.")
