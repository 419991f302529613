"""Names of the figures of a report, and how to read them."""

from typing import Any

from headspec.measure.estimate import Estimate
from headspec.measure.quality import QualityReport

FEW: dict[str, Any] = {"n_repeats": 2, "n_needles": 2}
NONE: dict[str, Any] = {"n_repeats": 0, "n_needles": 0}
OF_REPEATS = ("repeats_loss_original", "repeats_loss_increase", "repeats_kl", "induction_accuracy_original",
              "induction_accuracy")  # fmt: skip
OF_NEEDLES = ("needle_accuracy_original", "needle_accuracy")
OF_TEXT = ("loss_original", "loss", "loss_increase", "perplexity_original", "perplexity", "perplexity_increase", "kl",
           "top1_agreement")  # fmt: skip


def value(report: QualityReport, name: str) -> float:
    found = getattr(report, name)
    assert isinstance(found, Estimate)
    return found.value
