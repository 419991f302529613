"""Which cheap number predicts which harm: rank correlations of tables made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sweep_makers import HEADS, ids, plain, profile_of

from headspec.probe.profile import HeadProfile
from headspec.search.attribution import attribute_heads
from headspec.search.cases import curve_cases, single_cases
from headspec.search.evidence import STATISTICS, predictors
from headspec.search.importance import HeadImportance
from headspec.search.sweep import sweep
from headspec.search.table import SweepTable

RISING = np.arange(8.0)


def table(kl: Any, repeats_kl: Any = None, treatment: str = "mean", heads: Any = HEADS) -> SweepTable:
    repeats = [None] * len(heads) if repeats_kl is None else list(repeats_kl)
    rows = [
        {"kind": "single", "heads": head, "treatment": treatment, "kl": value, "repeats_kl": other, "key": head}
        for head, value, other in zip(heads, kl, repeats, strict=True)
    ]
    return SweepTable({}, tuple(rows))


def profile_with(**grids: np.ndarray) -> HeadProfile:
    profile = profile_of(plain())
    return replace(profile, grids=profile.grids | {name: grid.reshape(2, 4) for name, grid in grids.items()})


def forecast(fisher: np.ndarray, treatments: tuple[str, ...] = ("mean",)) -> HeadImportance:
    grid = np.sqrt(fisher).reshape(1, 2, 4).repeat(len(treatments), 0)
    return HeadImportance("planted", "numbers", "abc", treatments, 1, grid, grid, grid[None])


def found(rows: Any, predictor: str, effect: str = "kl", treatment: str = "mean") -> float:
    row = rows[(rows.predictor == predictor) & (rows.treatment == treatment)]
    assert len(row) == 1
    return float(row.iloc[0][effect])


def test_a_number_that_rises_with_the_harm_has_correlation_one() -> None:
    rows = predictors(table(RISING**3), profile_with(output_spread=RISING))
    assert found(rows, "output_spread") == pytest.approx(1)


def test_a_number_that_falls_with_the_harm_has_correlation_minus_one() -> None:
    rows = predictors(table(RISING), profile_with(induction_score=np.exp(-RISING)))
    assert found(rows, "induction_score") == pytest.approx(-1)


def test_a_constant_number_predicts_nothing() -> None:
    rows = predictors(table(RISING), profile_with(output_norm=np.ones(8)))
    assert np.isnan(found(rows, "output_norm"))


def test_a_statistic_that_was_not_measured_predicts_nothing() -> None:
    rows = predictors(table(RISING), profile_with(repeat_deviation=np.full(8, np.nan)))
    assert np.isnan(found(rows, "repeat_deviation"))


def test_by_hand_two_heads_changed_places() -> None:
    kl = np.array([0, 1, 2, 3, 4, 5, 7, 6.0])  # 1 − 6 Σd² / (n³ − n), Σd² = 2
    assert found(predictors(table(kl), profile_with(output_spread=RISING)), "output_spread") == pytest.approx(
        1 - 12 / 504
    )


def test_text_and_repeats_are_two_effects() -> None:
    rows = predictors(table(RISING, RISING[::-1]), profile_with(output_spread=RISING))
    assert found(rows, "output_spread", "kl") == pytest.approx(1)
    assert found(rows, "output_spread", "repeats_kl") == pytest.approx(-1)


def test_a_sweep_without_repeats_has_nothing_to_say_of_them() -> None:
    rows = predictors(table(RISING), profile_with(output_spread=RISING))
    assert np.isnan(found(rows, "output_spread", "repeats_kl"))


def test_heads_are_compared_by_name_whatever_their_order() -> None:
    shuffled = [5, 0, 7, 2, 1, 6, 3, 4]
    some = table(RISING[shuffled], heads=[HEADS[number] for number in shuffled])
    assert found(predictors(some, profile_with(output_spread=RISING)), "output_spread") == pytest.approx(1)


def test_two_heads_are_too_few() -> None:
    rows = predictors(table([1, 2], heads=HEADS[:2]), profile_with(output_spread=RISING))
    assert np.isnan(found(rows, "output_spread"))


def test_only_single_heads_count() -> None:
    singles = table(RISING)
    other = {**singles.rows[0], "kind": "curve", "heads": "L0H0 L0H1", "kl": 99.0, "treatment": "mean"}
    rows = predictors(SweepTable({}, (*singles.rows, other)), profile_with(output_spread=RISING))
    assert found(rows, "output_spread") == pytest.approx(1)
    assert set(rows.n_heads) == {8}


def test_every_statistic_has_a_row_a_treatment() -> None:
    both = SweepTable({}, table(RISING).rows + table(RISING, treatment="zero").rows)
    rows = predictors(both, profile_of(plain()))
    assert sorted(rows.predictor) == sorted(2 * STATISTICS)
    assert set(rows.treatment) == {"mean", "zero"}


def test_forecasts_on_both_texts_stand_beside_each_other() -> None:
    rows = predictors(table(RISING, RISING), profile_of(plain()), forecast(RISING), forecast(RISING[::-1]))
    assert found(rows, "fisher on text") == pytest.approx(1)
    assert found(rows, "fisher on repeats") == pytest.approx(-1)
    assert found(rows, "output_error on repeats", "repeats_kl") == pytest.approx(-1)


def test_a_treatment_that_was_not_attributed_has_no_forecast() -> None:
    rows = predictors(table(RISING), profile_of(plain()), forecast(RISING, ("zero",)))
    assert not any(name.endswith("on text") for name in rows.predictor)


def test_windows_are_also_predicted_by_the_attention_they_hold() -> None:
    profile = profile_of(plain())
    mass = np.zeros((1, 2, 4, 64), np.float32)
    mass[0, :, :, 0] = (8 - RISING).reshape(2, 4) / 8  # all on the own key; the more there, the less harm
    profile = replace(profile, near_mass=mass, position_edges=np.array([16]))
    rows = predictors(table(RISING, treatment="window:8"), profile)
    assert found(rows, "attention mass in window + sinks", treatment="window:8") == pytest.approx(-1)
    assert "attention mass in window + sinks" not in set(predictors(table(RISING), profile).predictor)


def test_a_real_sweep_can_be_explained() -> None:
    model, text = plain(), ids(2, 20)
    profile = profile_of(model)
    cases = single_cases(profile, ("mean", "window:3")) + curve_cases(profile, ["L0H0", "L1H1"], "mean", "hand")
    measured = sweep(model, cases, text, n_repeats=1, progress=False)
    rows = predictors(measured, profile, attribute_heads(model, text, profile, ("mean", "window:3")))
    strength = rows[rows.predictor == "fisher on text"].kl
    assert len(strength) == 2
    assert (strength > 0.3).all()
