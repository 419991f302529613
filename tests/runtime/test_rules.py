"""The rules between a head's numbers and its role: margins are 0 at the cut-off and change sign there."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headspec.runtime.rules import LEAST_OUTSIDE, above, below, dead_margins, window_margins, window_share
from headspec.runtime.thresholds import RoleThresholds

CUT = RoleThresholds(
    windowed_mass=0.75, windowed_share=0.5, dead_spread=0.125, dead_spread_p95=0.25, dead_repeat_deviation=0.5,
    protected_induction=0.125,
)  # fmt: skip
shares = st.floats(0, 1)
limits = st.floats(0.01, 1)


@pytest.mark.parametrize(("value", "margin"), [(0.0, 1), (0.25, 0.5), (0.5, 0), (0.75, -0.5), (1.0, -1)])
def test_below_by_hand(value: float, margin: float) -> None:
    assert below(value, 0.5) == margin


@pytest.mark.parametrize(("value", "margin"), [(0.0, -1), (0.25, -0.5), (0.5, 0), (0.75, 0.5), (1.0, 1)])
def test_above_by_hand(value: float, margin: float) -> None:
    assert above(value, 0.5) == margin


@given(value=shares, limit=limits)
def test_margins_are_0_or_more_exactly_where_the_rule_holds(value: float, limit: float) -> None:
    assert (below(value, limit) >= 0) == (value <= limit)
    assert (above(value, limit) >= 0) == (value >= limit)


@given(value=shares, limit=limits)
def test_one_sides_margin_is_the_others_negative(value: float, limit: float) -> None:
    assert above(value, limit) == -below(value, limit)


def test_a_cut_off_of_0_divides_by_nothing() -> None:
    assert (below(0.0, 0.0), above(0.0, 0.0), below(0.5, 0.0), above(0.5, 0.0)) == (0, 0, -0.5, 0.5)


def test_dead_margins_at_the_cut_offs_are_all_0() -> None:
    assert dead_margins(0.125, 0.25, 0.5, 0.125, CUT) == [0, 0, 0, 0]


@pytest.mark.parametrize("condition", range(4))
def test_each_of_the_four_conditions_of_dead_has_its_own_margin(condition: int) -> None:
    numbers = [0.0, 0.0, 0.0, 0.0]
    numbers[condition] = 1.0
    assert [margin < 0 for margin in dead_margins(*numbers, CUT)] == [index == condition for index in range(4)]


def test_window_margins_at_the_cut_offs_are_all_0() -> None:
    assert window_margins(0.75, 0.5, 0.125, CUT) == [0, 0, 0]


@pytest.mark.parametrize(("condition", "value"), [(0, 0.5), (1, 0.25), (2, 0.5)])
def test_each_of_the_three_conditions_of_a_window_has_its_own_margin(condition: int, value: float) -> None:
    numbers = [1.0, 1.0, 0.0]
    numbers[condition] = value
    assert [margin < 0 for margin in window_margins(*numbers, CUT)] == [index == condition for index in range(3)]


def test_arrays_and_tensors_get_the_same_margins_as_numbers() -> None:
    generator = np.random.default_rng(0)
    grids = generator.random((4, 2, 3))
    arrays, tensors = (
        dead_margins(*grids, CUT), dead_margins(*torch.as_tensor(grids), CUT)
    )  # fmt: skip
    for index in np.ndindex(2, 3):
        alone = dead_margins(*(float(grid[index]) for grid in grids), CUT)
        assert [float(margin[index]) for margin in arrays] == alone
        assert [float(margin[index]) for margin in tensors] == alone


def test_what_was_not_measured_passes_no_rule() -> None:
    assert not dead_margins(0.0, 0.0, float("nan"), 0.0, CUT)[2] >= 0
    assert not above(np.array([np.nan]), 0.5)[0] >= 0


@pytest.mark.parametrize(
    ("inside", "sink", "share"),
    [(0.25, 0.5, 0.5), (0.5, 0.5, 1.0), (0.0, 0.0, 0.0), (0.3, 0.0, 0.3), (0.0, 1.0, 0.0), (1e-6, 1 - 1e-6, 0.0)],
)
def test_window_share_by_hand(inside: float, sink: float, share: float) -> None:
    for array in (np.array, torch.tensor):
        assert float(window_share(array([inside]), array([sink]))[0]) == pytest.approx(share)


@given(inside=shares, sink=shares)
def test_a_window_share_is_a_share(inside: float, sink: float) -> None:
    assert 0 <= window_share(np.array(inside), np.array(sink)) <= 1


@pytest.mark.parametrize(("outside", "counts"), [(LEAST_OUTSIDE * 0.99, False), (LEAST_OUTSIDE * 1.01, True)])
def test_with_hardly_anything_outside_the_sinks_a_share_means_nothing(outside: float, counts: bool) -> None:
    assert (window_share(np.array(outside), np.array(1 - outside)) > 0.9) == counts
