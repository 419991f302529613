"""What a comparison of two models is, as a textbook writes it: float64, one query after the other, no tricks."""

import math
from typing import Any

import numpy as np
from torch import Tensor

MEASURES = ("loss_original", "loss", "kl", "top1_agreement", "accuracy_original", "accuracy")


def textbook_comparison(before: Tensor, after: Tensor, tokens: Tensor, first: int = 0) -> dict[str, np.ndarray]:
    """Every measure, `[window]`, of logits `[window, token, vocabulary]` for whole windows of tokens."""
    rows = []
    for window in range(len(tokens)):
        found = []
        for query in range(first, tokens.shape[1] - 1):
            target = int(tokens[window, query + 1])
            found.append(_one_query(before[window, query].tolist(), after[window, query].tolist(), target))
        rows.append(np.mean(found, axis=0))
    return dict(zip(MEASURES, np.array(rows).T, strict=True))


def _one_query(before: list[float], after: list[float], target: int) -> tuple[float, ...]:
    log_p, log_q = _log_probabilities(before), _log_probabilities(after)
    kl = math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    top_p, top_q = log_p.index(max(log_p)), log_q.index(max(log_q))
    return -log_p[target], -log_q[target], kl, top_p == top_q, top_p == target, top_q == target


def _log_probabilities(logits: list[float]) -> list[float]:
    largest = max(logits)
    log_z = largest + math.log(math.fsum(math.exp(logit - largest) for logit in logits))
    return [logit - log_z for logit in logits]


def assert_comparison(found: Any, expected: dict[str, np.ndarray], *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=rtol, atol=atol, err_msg=name)
