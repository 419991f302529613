"""Measures whole plans, one after the other, on text and on repeated random tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from headspec.load.plain import as_plain
from headspec.measure.compare import Comparison
from headspec.measure.estimate import Statistic, estimate, mean, perplexity_increase
from headspec.measure.texts import repeats_text, scored_text
from headspec.plan.plan import HeadPlan
from headspec.search.cases import Case
from headspec.search.fast import Stream, check_layer_by_layer
from headspec.search.point import Point

LEAST_INDUCTION = 0.1
"""An original that predicts fewer of the repeated tokens than this does no induction that could be lost."""


class Evaluator:
    """Holds what all plans share: the original's predictions, and the texts on their way into the first layer."""

    def __init__(self, model: Any, tokens: Any, n_repeats: int, seed: int) -> None:
        self.model, self.seed = as_plain(model), seed
        texts = [scored_text(self.model, tokens), repeats_text(self.model.identity, n_repeats, seed)]
        self.texts = [text for text in texts if text is not None]
        layers = check_layer_by_layer(self.model, self.texts)
        with torch.no_grad():
            self.streams = [Stream(layers, text) for text in self.texts]
        self.n_measured = 0

    def measure(self, plan: HeadPlan) -> Point:
        """Measure one plan."""
        self.n_measured += 1
        with torch.no_grad():
            found = [stream.measure_alone(Case("plan", "", plan)) for stream in self.streams]
        return self._point(plan, found)

    def _point(self, plan: HeadPlan, found: Sequence[Comparison]) -> Point:
        text, seed = found[0], self.seed
        repeats = found[1] if len(found) > 1 else None
        able = repeats is not None and float(repeats.accuracy_original.mean()) >= LEAST_INDUCTION
        return Point(
            plan=plan,
            kl=estimate(mean, text.kl, seed=seed),
            perplexity_increase=estimate(perplexity_increase, text.loss_original, text.loss, seed=seed),
            repeats_kl=None if repeats is None else estimate(mean, repeats.kl, seed=seed),
            induction_accuracy=None if repeats is None else estimate(mean, repeats.accuracy, seed=seed),
            induction_kept=estimate(_kept, repeats.accuracy_original, repeats.accuracy, seed=seed)
            if able and repeats is not None
            else None,
        )


def _kept(before: np.ndarray, after: np.ndarray, axis: int = -1) -> Statistic:
    return after.mean(axis) / np.maximum(before.mean(axis), np.finfo(float).tiny)
