"""What a treatment costs in quality: loss, perplexity, KL, top-1, induction and needles, each with its interval."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from torch import Tensor

from headspec.errors import RecordError, TextError
from headspec.files import write_whole
from headspec.intervene.ablate import apply_plan
from headspec.load.identity import identify
from headspec.load.text import TokenWindows, as_windows
from headspec.measure.compare import Comparison, compare
from headspec.measure.estimate import Estimate, estimate, increase, mean, perplexity, perplexity_increase
from headspec.measure.texts import ScoredText, needles_text, repeats_text, scored_text
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress
from headspec.plan.workload import Workload, halves

SCHEMA = "headspec.QualityReport/1"
LEAST_NEEDLE_ACCURACY = 0.5
"""Where the original finds fewer of the needles than this, the task says nothing about a treatment."""


@dataclass(frozen=True)
class QualityReport:
    """A treated model beside its original. Intervals are 95 %, paired bootstrap over windows."""

    model: str
    text: str
    text_digest: str
    n_windows: int
    window: int
    seed: int
    loss_original: Estimate
    """Nats a token."""
    loss: Estimate
    loss_increase: Estimate
    perplexity_original: Estimate
    perplexity: Estimate
    perplexity_increase: Estimate
    """Relative: 0.02 is 2 % more. Hides lost retrieval: read it beside KL and induction."""
    kl: Estimate
    """KL(original ‖ treated), nats a token. Unlike the loss, never better than the original by chance."""
    top1_agreement: Estimate
    """Share of tokens, in [0, 1]."""
    repeats_loss_original: Estimate | None
    """Nats a token on the second copy of repeated random tokens; None where they were not run."""
    repeats_loss_increase: Estimate | None
    repeats_kl: Estimate | None
    induction_accuracy_original: Estimate | None
    """Share of the second copy's tokens that are the most likely one."""
    induction_accuracy: Estimate | None
    needle_accuracy_original: Estimate | None
    """Share of the needles' value tokens that are the most likely one; None where they were not run."""
    needle_accuracy: Estimate | None
    """None ("n/a") where the original finds fewer than half: then the task cannot show a loss."""

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: then no number here is one of quality."""
        return self.model.startswith("random:")

    def rows(self) -> list[tuple[str, str]]:
        """(name, value with interval) of every measure, for printing."""
        estimates = {name: value for name, value in vars(self).items() if isinstance(value, Estimate | None)}
        return [(name.replace("_", " "), "n/a" if value is None else str(value)) for name, value in estimates.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; limits that do not exist become null, infinity a word."""
        values = vars(self).items()
        return {"schema": SCHEMA} | {
            name: value.to_dict() if isinstance(value, Estimate) else value for name, value in values
        }

    def save(self, path: Path | str) -> Path:
        """Write the report as JSON."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        return write_whole(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path | str) -> "QualityReport":
        """Read a saved report; a damaged or foreign file is a RecordError."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("schema", None) != SCHEMA:
                raise RecordError(f"{path} is not a {SCHEMA}.")
            return _checked(cls(**{name: _estimate(value) for name, value in values.items()}))
        except RecordError:
            raise
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} is no readable report ({type(error).__name__}: {error}).") from error


def measure_plan(
    model: Any,
    plan: HeadPlan,
    tokens: Any,
    *,
    workload: Workload | None = None,
    n_repeats: int = 8,
    n_needles: int = 16,
    seed: int = 0,
    step: Callable[[], object] = lambda: None,
) -> QualityReport:
    """What a plan costs on a live model: the model without and with the plan.

    Args:
        model: A TransformerBridge, or a PlainModel (quicker).
        plan: Made for this model.
        tokens: Text, token ids or TokenWindows, not used to choose the plan.
        workload: With one, each window is a prompt, after which compressed heads choose their keys, and its
            continuation, which alone counts; of repeated tokens the first copy is the prompt, of needles all up to the
            key at the end. Without, a text is all prompt, of which compressed heads lose nothing: so, if there are
            any, the first half of each window is taken for the prompt.
        n_repeats, n_needles, seed, step: As for `measure_quality`.
    """

    windows = as_windows(tokens, model)
    if workload is None and plan.heads(Compress):
        workload = halves(windows.tokens.shape[1])

    def find(kind: str, text: ScoredText) -> Comparison:
        def treated(window: Tensor) -> Any:
            with apply_plan(model, plan, prompt=text.n_prompt if workload else 0):
                return model(window)

        return compare(model, treated, text, step)

    with apply_plan(model, plan):
        pass  # a plan that cannot be applied is refused before anything is computed
    return quality_report(model, windows, find, n_repeats, n_needles, seed, workload)


def measure_quality(
    original: Any,
    treated: Callable[[Tensor], Any],
    tokens: Any,
    *,
    n_repeats: int = 8,
    n_needles: int = 16,
    seed: int = 0,
    step: Callable[[], object] = lambda: None,
) -> QualityReport:
    """Compare a treated model with its original on the same tokens.

    Args:
        original: A TransformerBridge or PlainModel.
        treated: Anything that turns token ids into logits (`.logits` will do): a hooked or an exported model.
        tokens: Text, token ids or TokenWindows. Intervals want ten windows or more.
        n_repeats: Sequences of repeated random tokens; 0 leaves them out.
        n_needles: Needles to find; 0 leaves them out.
        seed: Draws repeats, needles and the bootstrap's windows.
        step: Called after every window.

    Raises:
        TextError: No text, or windows beyond the context.
        ModelError: A model that gives no logits, or another vocabulary.
    """
    windows = as_windows(tokens, original)

    def find(kind: str, text: ScoredText) -> Comparison:
        return compare(original, treated, text, step)

    return quality_report(original, windows, find, n_repeats, n_needles, seed)


def quality_report(
    original: Any,
    windows: TokenWindows,
    find: Callable[[str, ScoredText], Comparison],
    n_repeats: int,
    n_needles: int,
    seed: int,
    workload: Workload | None = None,
) -> QualityReport:
    """The report of whatever `find` compares with the original on text, repeated tokens and needles.

    Args:
        original: A TransformerBridge or PlainModel.
        windows: The text.
        find: Compares on one text; its kind is `text`, `repeats` or `needles`.
        n_repeats, n_needles, seed: As for `measure_quality`.
        workload: Of the text, as for `measure_plan`.
    """
    identity = identify(original)
    if n_repeats < 0 or n_needles < 0:
        raise TextError(f"n_repeats={n_repeats}, n_needles={n_needles}: want 0 or more.")
    texts = {
        "text": scored_text(original, windows, workload),
        "repeats": repeats_text(identity, n_repeats, seed),
        "needles": needles_text(original, windows, n_needles, seed),
    }
    found = {kind: find(kind, text) for kind, text in texts.items() if text is not None}
    return QualityReport(
        model=identity.name, text=windows.source, text_digest=windows.digest, n_windows=len(windows.tokens),
        window=windows.tokens.shape[1], seed=seed, **_on_text(found["text"], seed),
        **_on_repeats(found.get("repeats"), seed), **_on_needles(found.get("needles"), seed),
    )  # fmt: skip


def _on_text(found: Comparison, seed: int) -> dict[str, Any]:
    before, after = found.loss_original, found.loss
    return {
        "loss_original": estimate(mean, before, seed=seed),
        "loss": estimate(mean, after, seed=seed),
        "loss_increase": estimate(increase, before, after, seed=seed),
        "perplexity_original": estimate(perplexity, before, seed=seed),
        "perplexity": estimate(perplexity, after, seed=seed),
        "perplexity_increase": estimate(perplexity_increase, before, after, seed=seed),
        "kl": estimate(mean, found.kl, seed=seed),
        "top1_agreement": estimate(mean, found.top1_agreement, seed=seed),
    }


def _on_repeats(found: Comparison | None, seed: int) -> dict[str, Any]:
    names = ("repeats_loss_original", "repeats_loss_increase", "repeats_kl", "induction_accuracy_original",
             "induction_accuracy")  # fmt: skip
    if found is None:
        return dict.fromkeys(names)
    values = (
        estimate(mean, found.loss_original, seed=seed),
        estimate(increase, found.loss_original, found.loss, seed=seed),
        estimate(mean, found.kl, seed=seed),
        estimate(mean, found.accuracy_original, seed=seed),
        estimate(mean, found.accuracy, seed=seed),
    )
    return dict(zip(names, values, strict=True))


def _on_needles(found: Comparison | None, seed: int) -> dict[str, Any]:
    if found is None:
        return {"needle_accuracy_original": None, "needle_accuracy": None}
    before = estimate(mean, found.accuracy_original, seed=seed)
    able = before.value >= LEAST_NEEDLE_ACCURACY
    return {
        "needle_accuracy_original": before,
        "needle_accuracy": estimate(mean, found.accuracy, seed=seed) if able else None,
    }


def _estimate(value: Any) -> Any:
    return Estimate.from_dict(value) if isinstance(value, dict) else value


def _checked(report: QualityReport) -> QualityReport:
    """Refuse a report whose values are not what the fields say."""
    for field, kind in get_type_hints(QualityReport).items():
        value = getattr(report, field)
        if not isinstance(value, kind):
            raise TypeError(f"{field} is {value!r}")
    return report
