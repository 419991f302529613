"""Two models on the same tokens: loss, KL, top-1, one number a window.

Takes anything that turns token ids into logits: a TransformerBridge (hooked or not), a PlainModel, a Hugging Face
model, an exported one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import ModelError
from headspec.measure.texts import ScoredText

Logits = Float[Tensor, "window query _"]
"""Over the vocabulary; two models' need not fit, which is checked."""
QUERIES_AT_ONCE = 256
"""Queries whose log-probabilities over the vocabulary are in memory together."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """`[window]` each: means over the queries of a window that count."""

    loss_original: np.ndarray
    """Nats a token."""
    loss: np.ndarray
    kl: np.ndarray
    """KL(original ‖ treated) of the next-token distributions, nats a token; 0 where they agree."""
    top1_agreement: np.ndarray
    """Share of queries at which both find the same token most likely."""
    accuracy_original: np.ndarray
    """Share of tokens predicted as the most likely one."""
    accuracy: np.ndarray


def compare(
    original: Callable[[Tensor], Any],
    treated: Callable[[Tensor], Any],
    text: ScoredText,
    step: Callable[[], object] = lambda: None,
) -> Comparison:
    """Run both on every window of a text, one window at a time. `step` is called after each."""
    parts = []
    for window in text.tokens.split(1):
        with torch.no_grad():
            before, after = logits_of(original, window), logits_of(treated, window)
        parts.append(compare_logits(before[:, text.first : -1], after[:, text.first : -1], window[:, text.first + 1 :]))
        step()
    return joined(parts)


def joined(parts: Sequence[Comparison]) -> Comparison:
    """Comparisons of some windows each as one of all of them; windows are the last axis."""
    names = [field.name for field in fields(Comparison)]
    return Comparison(**{name: np.concatenate([getattr(part, name) for part in parts], -1) for name in names})


def logits_of(model: Callable[[Tensor], Any], tokens: Int[Tensor, "window token"]) -> Tensor:
    """The logits of whatever was given: a tensor, or an output that has them."""
    parameter = next(_parameters(model), None)
    found = model(tokens if parameter is None else tokens.to(parameter.device))
    logits = getattr(found, "logits", found)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise ModelError(f"{type(model).__name__} gave no logits [window, token, vocabulary] for token ids.")
    return logits


def compare_logits(before: Logits, after: Logits, targets: Int[Tensor, "window query"]) -> Comparison:
    """Compare the logits of two models for the same tokens, a few queries at a time, in float32."""
    if before.shape != after.shape:
        raise ModelError(f"the models give logits of {tuple(before.shape)} and {tuple(after.shape)}: not comparable.")
    sums = torch.zeros(6, len(targets), dtype=torch.float64)
    targets = targets.to(before.device)
    for start in range(0, targets.shape[1], QUERIES_AT_ONCE):
        piece = slice(start, start + QUERIES_AT_ONCE)
        sums += _sums(before[:, piece], after[:, piece].to(before.device), targets[:, piece])
    return Comparison(*(sums / targets.shape[1]).numpy())


def _sums(before: Logits, after: Logits, targets: Int[Tensor, "window query"]) -> Float[Tensor, "6 window"]:
    p, q = before.float().log_softmax(-1), after.float().log_softmax(-1)
    wanted = targets[..., None]
    top_p, top_q = p.argmax(-1), q.argmax(-1)
    kl = torch.where(p.isneginf(), 0, p.exp() * (p - q)).sum(-1)  # 0 · ∞ counts as 0
    per_query = torch.stack([
        -p.gather(-1, wanted)[..., 0], -q.gather(-1, wanted)[..., 0], kl,
        (top_p == top_q).float(), (top_p == targets).float(), (top_q == targets).float(),
    ])  # fmt: skip
    return per_query.double().sum(-1).cpu()


def _parameters(model: Any) -> Iterator[Any]:
    inner = getattr(model, "huggingface", model)
    return inner.parameters() if hasattr(inner, "parameters") else iter(())
