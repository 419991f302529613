"""How likely a model finds a continuation of a prompt, teacher-forced: hooked, exported or cache-compressed models.

The prompt goes in first and fills the cache, then the continuation is read through it, as in generation; so a policy
that compresses the cache after the prompt is in force where it matters.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headspec.errors import TextError
from headspec.load.text import tokenize


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
        TextError: Nothing to score, or shapes that do not fit.
    """
    front, rest = _ids(model, prompt), _ids(model, continuation)
    if len(front) != len(rest) or 0 in (front.shape[1], rest.shape[1]):
        raise TextError(f"prompt {tuple(front.shape)} and continuation {tuple(rest.shape)}: want [batch, token] each.")
    if cache is None:
        from transformers import DynamicCache

        cache = DynamicCache()
    inner = getattr(model, "huggingface", model)
    device = next(inner.parameters()).device
    front, rest = front.to(device), rest.to(device)
    with torch.no_grad():
        logits = [_logits(inner(front, past_key_values=cache))[:, -1:]]
        if rest.shape[1] > 1:
            logits.append(_logits(inner(rest[:, :-1], past_key_values=cache)))
    log_p = torch.cat(logits, dim=1).float().log_softmax(-1)
    return Score(log_p.gather(-1, rest[..., None])[..., 0], log_p.argmax(-1) == rest)


def _logits(output: Any) -> Tensor:
    return getattr(output, "logits", output)


def _ids(model: Any, text: Any) -> Int[Tensor, "batch token"]:
    ids = tokenize(model, text) if isinstance(text, str) else torch.as_tensor(text)
    if ids.is_floating_point() or ids.ndim not in (1, 2):
        raise TextError(f"token ids of shape {tuple(ids.shape)}, {ids.dtype}: want whole numbers, [batch, token].")
    return torch.atleast_2d(ids)
