"""A mean over windows of text, with how sure of it we are. Numbers only: no model."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

Statistic = np.ndarray | np.floating
"""A statistic along an axis: one number for one sample, an array for many."""
CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % bootstrap interval over windows; NaN limits where one window gives none."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain values for JSON, which has no NaN (null) and no infinity (a word)."""
        return {
            name: None if math.isnan(value) else value if math.isfinite(value) else str(value)
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, float | str | None]) -> "Estimate":
        """Read back what `to_dict` wrote."""
        return cls(**{name: cls.number(value) for name, value in values.items()})

    @staticmethod
    def number(value: float | str | None) -> float:
        """One of the values that `to_dict` wrote."""
        return math.nan if value is None else float(value)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def estimate(statistic: Callable[..., Statistic], *samples: np.ndarray, seed: int = 0) -> Estimate:
    """A statistic of samples with one number a window, and its percentile bootstrap interval (Efron 1979).

    Windows are drawn together from all samples (a *paired* bootstrap): what one window adds to both sides cancels.
    With few windows intervals are too narrow: under about ten take them as a hint.

    Args:
        statistic: Takes arrays and `axis`, such as a difference of means.
        *samples: `[window]` each, all of one length.
        seed: Draws the windows.
    """
    value = float(statistic(*samples, axis=-1))
    if len(samples[0]) < 2:
        return Estimate(value, math.nan, math.nan)
    if all(np.ptp(sample) == 0 for sample in samples):
        return Estimate(value, value, value)
    found = bootstrap(
        samples, statistic, paired=True, vectorized=True, axis=-1, n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(value, float(found.low), float(found.high))


def mean(sample: np.ndarray, axis: int = -1) -> Statistic:
    """The mean of a sample."""
    return sample.mean(axis)


def increase(before: np.ndarray, after: np.ndarray, axis: int = -1) -> Statistic:
    """How much larger the mean of `after` is."""
    return after.mean(axis) - before.mean(axis)


def perplexity(losses: np.ndarray, axis: int = -1) -> Statistic:
    """exp of the mean loss in nats a token."""
    return np.exp(losses.mean(axis))


def perplexity_increase(before: np.ndarray, after: np.ndarray, axis: int = -1) -> Statistic:
    """Relative increase of the perplexity: 0.02 is 2 % more."""
    return np.expm1(increase(before, after, axis))
