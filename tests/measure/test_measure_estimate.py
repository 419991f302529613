"""Means over windows and how sure of them we are."""

import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headspec.measure.estimate import Estimate, estimate, increase, mean, perplexity, perplexity_increase

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
LN2 = math.log(2)


def noise(n_windows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 1, n_windows)


# The statistics, worked by hand.
#


def test_a_mean_is_a_mean() -> None:
    assert mean(np.array([1.0, 2.0, 6.0])) == 3


def test_an_increase_is_after_minus_before() -> None:
    assert increase(np.array([1.0, 2.0]), np.array([4.0, 3.0])) == 2


def test_a_perplexity_is_exp_of_the_mean_loss_not_the_mean_of_exp() -> None:
    assert perplexity(np.array([0.0, 2 * LN2])) == pytest.approx(2)


def test_a_perplexity_increase_is_relative() -> None:
    before, after = np.array([1.0, 3.0]), np.array([1.0, 3.0]) + math.log(1.02)
    assert perplexity_increase(before, after) == pytest.approx(0.02)


def test_a_perplexity_that_falls_by_half_increases_by_minus_one_half() -> None:
    assert perplexity_increase(np.array([LN2, LN2]), np.array([0.0, 0.0])) == pytest.approx(-0.5)


def test_a_perplexity_increase_is_that_of_the_perplexities() -> None:
    before, after = noise(20, 1), noise(20, 2)
    assert perplexity_increase(before, after) == pytest.approx(perplexity(after) / perplexity(before) - 1)


def test_a_tiny_perplexity_increase_is_not_lost_in_rounding() -> None:
    assert perplexity_increase(np.array([0.0, 0.0]), np.array([1e-18, 1e-18])) == pytest.approx(1e-18, abs=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("statistic", [mean, perplexity])
def test_statistics_of_one_sample_go_along_any_axis(statistic: Callable[..., np.ndarray], axis: int) -> None:
    table = noise(12).reshape(3, 4)
    rows = table if axis in (1, -1) else table.T
    np.testing.assert_allclose(statistic(table, axis=axis), [statistic(row) for row in rows])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("statistic", [increase, perplexity_increase])
def test_statistics_of_two_samples_go_along_any_axis(statistic: Callable[..., np.ndarray], axis: int) -> None:
    one, other = noise(12, 1).reshape(3, 4), noise(12, 2).reshape(3, 4)
    rows = zip(one, other, strict=True) if axis in (1, -1) else zip(one.T, other.T, strict=True)
    np.testing.assert_allclose(statistic(one, other, axis=axis), [statistic(a, b) for a, b in rows])


# The interval.


def test_the_value_is_the_statistic_of_the_sample() -> None:
    assert estimate(perplexity, np.array([0.0, 2 * LN2])).value == pytest.approx(2)


def test_of_two_windows_the_limits_are_the_two_windows() -> None:
    # A resample's mean is 1, 2 or 3 with chances ¼, ½, ¼: both 2.5 % tails lie at the windows themselves.
    assert estimate(mean, np.array([1.0, 3.0])) == Estimate(2.0, 1.0, 3.0)


def test_the_interval_is_that_of_the_normal_law_for_many_windows() -> None:
    sample = noise(400)
    found, half = estimate(mean, sample), 1.96 * sample.std() / math.sqrt(400)
    assert found.low == pytest.approx(sample.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(sample.mean() + half, abs=0.15 * half)


def test_the_interval_covers_the_truth_in_about_95_of_100_cases() -> None:
    found = [estimate(mean, noise(40, seed), seed=seed) for seed in range(300)]
    assert 0.90 <= np.mean([each.low <= 3 <= each.high for each in found]) <= 0.98


def test_the_interval_of_a_paired_increase_covers_the_truth_in_about_95_of_100_cases() -> None:
    def covered(seed: int) -> bool:
        before = 10 * noise(40, seed)
        found = estimate(increase, before, before + 0.1 * noise(40, seed + 1000), seed=seed)
        return found.low <= 0.3 <= found.high

    assert 0.90 <= np.mean([covered(seed) for seed in range(300)]) <= 0.98


def test_misses_are_as_often_above_as_below() -> None:
    found = [estimate(mean, noise(40, seed), seed=seed) for seed in range(300)]
    assert sum(each.low > 3 for each in found) > 0
    assert sum(each.high < 3 for each in found) > 0


def test_four_times_the_windows_make_half_the_interval() -> None:
    widths = [np.mean([_width(mean, noise(n, seed)) for seed in range(20)]) for n in (50, 200)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.1)


# Windows are drawn together.


@pytest.mark.parametrize(("statistic", "value"), [(increase, 0.25), (perplexity_increase, math.expm1(0.25))])
def test_a_constant_difference_of_noisy_samples_has_no_width(statistic: Any, value: float) -> None:
    before = noise(30)
    found = estimate(statistic, before, before + 0.25)
    assert _width(mean, before) > 0.5
    assert (found.low, found.high) == pytest.approx((value, value), abs=1e-12)


def test_the_same_differences_in_other_windows_have_a_width() -> None:
    before = noise(30)
    assert _width(increase, before, np.roll(before, 1) + 0.25) > 0.5


def test_a_model_compared_with_itself_has_an_increase_of_exactly_nothing() -> None:
    assert estimate(increase, noise(30), noise(30)) == Estimate(0.0, 0.0, 0.0)


# Few windows, constant ones.


def test_one_window_gives_no_limits() -> None:
    found = estimate(mean, np.array([3.0]))
    assert found.value == 3
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_one_window_of_two_models_gives_no_limits() -> None:
    found = estimate(increase, np.array([3.0]), np.array([4.0]))
    assert found.value == 1
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_constant_samples_have_an_interval_without_width() -> None:
    assert estimate(increase, np.full(8, 1.0), np.full(8, 3.0)) == Estimate(2.0, 2.0, 2.0)


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e-30])
def test_the_limits_of_constant_samples_are_the_value_to_the_last_digit(number: float) -> None:
    found = estimate(mean, np.full(7, number))
    assert found.low == found.value == found.high


def test_one_constant_sample_beside_a_noisy_one_keeps_the_width() -> None:
    assert _width(increase, np.full(30, 1.0), noise(30)) > 0.5


def test_a_window_that_is_not_a_number_leaves_none() -> None:
    with pytest.warns(RuntimeWarning):
        found = estimate(mean, np.array([1.0, 2.0, math.nan]))
    assert np.isnan([found.value, found.low, found.high]).all()


def test_samples_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        estimate(increase, noise(5), noise(6))


# Seeds and print.


def test_the_seed_decides() -> None:
    one, same, other = (estimate(mean, noise(30), seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert (one.low, one.high) != (other.low, other.high)
    assert one.value == other.value


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    one = estimate(mean, noise(30))
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(1)
    assert estimate(mean, noise(30)) == one


def test_samples_are_left_alone() -> None:
    sample = noise(30)
    estimate(perplexity, sample)
    assert (sample == noise(30)).all()


def test_estimates_are_plain_numbers() -> None:
    found = estimate(mean, noise(30).astype(np.float32))
    assert [type(number) for number in (found.value, found.low, found.high)] == [float] * 3


def test_an_estimate_prints_its_interval() -> None:
    assert str(Estimate(1.23456, 1.0, math.nan)) == "1.235 [1, nan]"


def test_the_oldest_scipy_allowed_has_a_bootstrap_that_takes_rng() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    floor = next(match for line in dependencies if (match := re.fullmatch(r"scipy>=(\d+)\.(\d+).*", line)))
    assert (int(floor[1]), int(floor[2])) >= (1, 15)


def _width(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> float:
    found = estimate(statistic, *samples)
    return found.high - found.low
