"""Measures whole plans, one after the other, on text and on repeated random tokens."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from headspec.load.plain import PlainModel, as_plain
from headspec.measure.bound import measure_rates, plan_decode_ms
from headspec.measure.compare import Comparison
from headspec.measure.estimate import Statistic, estimate, mean, perplexity_increase
from headspec.measure.texts import repeats_text, scored_text
from headspec.plan.plan import HeadPlan
from headspec.plan.workload import Workload
from headspec.search.cases import Case
from headspec.search.fast import Stream, check_layer_by_layer
from headspec.search.point import Point

LEAST_INDUCTION = 0.1
"""An original that predicts fewer of the repeated tokens than this does no induction that could be lost."""


class Evaluator:
    """Holds what all plans share: the original's predictions, and the texts on their way into the first layer."""

    def __init__(
        self, model: Any, tokens: Any, n_repeats: int, seed: int, workload: Workload | None = None,
        decode_ms: Callable[[HeadPlan], float | None] = lambda plan: None,
    ) -> None:  # fmt: skip
        """Prepare.

        Args:
            model: What is treated.
            tokens: The text.
            n_repeats: Sequences of repeated random tokens.
            seed: Draws them.
            workload: With one, the first tokens of each window are the prompt, after which compressed heads choose
                their keys, and only what follows counts; of repeated tokens the first copy is the prompt.
            decode_ms: Estimates the time per token under a plan.
        """
        self.model, self.seed, self.workload = as_plain(model), seed, workload
        texts = [scored_text(self.model, tokens, workload), repeats_text(self.model.identity, n_repeats, seed)]
        self.texts = [text for text in texts if text is not None]
        layers = check_layer_by_layer(self.model, self.texts)
        with torch.no_grad():
            self.streams = [Stream(layers, text, continued=workload is not None) for text in self.texts]
        self.n_measured = 0
        self.decode_ms = decode_ms

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
            workload=self.workload,
            decode_ms=self.decode_ms(plan),
        )


def decode_time(model: PlainModel, workload: Workload | None) -> Callable[[HeadPlan], float | None]:
    """The least time per token under a plan, by the roofline of this machine, which is measured here."""
    config, known = model.huggingface.config, model.identity
    d_mlp = getattr(config, "intermediate_size", None)
    if d_mlp is None:
        return lambda plan: None
    parameter = next(model.huggingface.parameters())
    rates = measure_rates(known.device, parameter.dtype)
    used = workload or Workload(known.context)
    width = parameter.element_size()
    return lambda plan: plan_decode_ms(
        plan, d_mlp, config.vocab_size, 1, used.n_prompt, rates, bytes_per_number=width, n_new=used.n_new
    )


def _kept(before: np.ndarray, after: np.ndarray, axis: int = -1) -> Statistic:
    return after.mean(axis) / np.maximum(before.mean(axis), np.finfo(float).tiny)
