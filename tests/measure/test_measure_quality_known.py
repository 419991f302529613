"""What a treatment costs where the figures are known, what may be left out, and seeds."""

import math
from collections.abc import Callable

import pytest
from measure_oracles import Copier, filler, finder
from quality_figures import FEW, NONE, OF_NEEDLES, OF_REPEATS, OF_TEXT, value
from torch import Tensor

from headspec.errors import TextError
from headspec.load.model import reinitialised
from headspec.load.plain import PlainModel
from headspec.measure.estimate import Estimate
from headspec.measure.quality import QualityReport, measure_plan, measure_quality
from headspec.plan.make import plan_heads

# Models whose figures are known.


@pytest.fixture(scope="module")
def nearsighted() -> QualityReport:
    """A perfect copier beside one that sees 30 tokens: no repeats (31 back), and one needle of four (20 back)."""
    return measure_quality(finder(64), finder(64, reach=30), filler(64), n_repeats=3, n_needles=4)


def test_a_copier_has_perfect_induction_and_a_nearsighted_one_none(nearsighted: QualityReport) -> None:
    assert nearsighted.induction_accuracy_original == Estimate(1.0, 1.0, 1.0)
    assert value(nearsighted, "induction_accuracy") < 0.1


def test_a_copier_finds_all_needles_and_a_nearsighted_one_the_near_one(nearsighted: QualityReport) -> None:
    assert nearsighted.needle_accuracy_original == Estimate(1.0, 1.0, 1.0)
    assert nearsighted.needle_accuracy == Estimate(0.25, 0.0, 0.75)


def test_on_text_without_repetition_copiers_agree(nearsighted: QualityReport) -> None:
    assert value(nearsighted, "kl") == 0
    assert value(nearsighted, "top1_agreement") == 1


def test_needles_that_the_original_finds_to_a_half_are_reported() -> None:
    report = measure_quality(finder(64, reach=40), finder(64), filler(64), n_repeats=0, n_needles=2)
    assert value(report, "needle_accuracy_original") == 0.5
    assert value(report, "needle_accuracy") == 1


@pytest.mark.parametrize(("n_needles", "found"), [(4, 1), (5, 2)])
def test_needles_that_the_original_mostly_misses_are_not_applicable(n_needles: int, found: int) -> None:
    report = measure_quality(finder(64, reach=30), finder(64), filler(64), n_repeats=0, n_needles=n_needles)
    assert value(report, "needle_accuracy_original") == found / n_needles
    assert report.needle_accuracy is None


def test_needles_are_not_applicable_to_random_weights(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    report = measure_plan(tiny_plain, plan_heads(tiny_plain, {}), tiny_ids, **FEW)
    assert value(report, "needle_accuracy_original") < 0.5
    assert dict(report.rows())["needle accuracy"] == "n/a"


def test_treated_copiers_are_given_every_window_once() -> None:
    treated = Copier(finder(64).known)
    measure_quality(finder(64), treated, filler(64), n_repeats=2, n_needles=3)
    assert [tuple(window.shape) for window in treated.seen] == [(1, 64)] + [(1, 63)] * 2 + [(1, 64)] * 3


# What is left out.


def test_without_repeats_their_figures_are_none(measure: Callable[..., QualityReport]) -> None:
    report = measure(n_repeats=0, n_needles=2)
    assert [getattr(report, name) for name in OF_REPEATS] == [None] * 5
    assert report.needle_accuracy_original is not None


def test_without_needles_their_figures_are_none(measure: Callable[..., QualityReport]) -> None:
    report = measure(n_repeats=2, n_needles=0)
    assert [getattr(report, name) for name in OF_NEEDLES] == [None] * 2
    assert report.repeats_kl is not None


def test_without_either_the_text_alone_is_measured_with_the_same_figures(measure: Callable[..., QualityReport]) -> None:
    alone, all_of_it = measure(**NONE), measure(**FEW)
    assert [getattr(alone, name) for name in OF_TEXT] == [getattr(all_of_it, name) for name in OF_TEXT]


def test_windows_too_short_for_needles_have_none(measure: Callable[..., QualityReport], tiny_ids: Tensor) -> None:
    report = measure(tiny_ids[:, :31], **FEW)
    assert report.needle_accuracy_original is None
    assert report.repeats_kl is not None


@pytest.mark.parametrize("options", [{"n_repeats": -1}, {"n_needles": -1}])
def test_less_than_nothing_is_refused(measure: Callable[..., QualityReport], options: dict[str, int]) -> None:
    with pytest.raises(TextError, match=r"n_.*=-1.*: want 0 or more"):
        measure(**options)


def test_one_window_has_no_limits(measure: Callable[..., QualityReport], tiny_ids: Tensor) -> None:
    report = measure(tiny_ids[:1], n_repeats=1, n_needles=1)
    for name in (*OF_TEXT, *OF_REPEATS, OF_NEEDLES[0]):
        found = getattr(report, name)
        assert math.isfinite(found.value)
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_step_is_called_after_every_window_of_every_text(measure: Callable[..., QualityReport]) -> None:
    steps: list[int] = []
    measure(n_repeats=4, n_needles=5, step=lambda: steps.append(1))
    assert len(steps) == 3 + 4 + 5


# Seeds.


def test_the_same_seed_gives_the_same_report(measure: Callable[..., QualityReport]) -> None:
    assert measure(seed=3, **FEW) == measure(seed=3, **FEW)


def test_another_seed_draws_other_repeats_and_other_intervals(measure: Callable[..., QualityReport]) -> None:
    one, other = measure(seed=1, **FEW), measure(seed=2, **FEW)
    assert (one.seed, other.seed) == (1, 2)
    assert value(one, "repeats_loss_original") != value(other, "repeats_loss_original")
    assert value(one, "loss") == value(other, "loss")


def test_another_seed_draws_other_repeats_and_other_needles() -> None:
    def seen(seed: int) -> list[list[list[int]]]:
        model = finder(64)
        measure_quality(model, model, filler(64), n_repeats=1, n_needles=1, seed=seed)
        return [window.tolist() for window in model.seen[::2]]

    (text, repeats, needles), (same_text, other_repeats, other_needles) = seen(0), seen(1)
    assert text == same_text
    assert repeats != other_repeats
    assert needles != other_needles


# Random weights.


def test_a_report_on_random_weights_says_so(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    random = reinitialised(tiny_plain)
    report = measure_plan(random, plan_heads(random, {}), tiny_ids, **NONE)
    assert report.model == "random:tiny"
    assert report.random_weights


def test_a_report_on_other_weights_does_not(measure: Callable[..., QualityReport]) -> None:
    assert not measure(**NONE).random_weights
