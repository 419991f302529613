"""What cut-offs may be, and the margins that they give."""

import ast
import itertools
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import headspec.runtime
from headspec.runtime.rules import above, below, dead_margins, window_margins
from headspec.runtime.thresholds import RoleThresholds

SHARES = ("windowed_mass", "windowed_share", "protected_induction")
SIZES = ("dead_spread", "dead_spread_p95", "dead_repeat_deviation")
CUT = RoleThresholds(
    windowed_mass=0.8, windowed_share=0.5, dead_spread=0.1, dead_spread_p95=0.2, dead_repeat_deviation=0.4,
    protected_induction=0.25,
)  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_share_outside_0_to_1_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is a share in \[0, 1\], got {value}"):
        RoleThresholds(**{name: value})


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_may_be_0_or_1(name: str, value: float) -> None:
    assert getattr(RoleThresholds(**{name: value}), name) == value


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [-0.01, float("nan")])
def test_a_negative_size_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is a size relative to the residual, 0 or more, got {value}"):
        RoleThresholds(**{name: value})


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_size_may_be_0_or_above_1(name: str, value: float) -> None:
    assert getattr(RoleThresholds(**{name: value}), name) == value


@pytest.mark.parametrize("windows", [(), (0, 4), (-1,), (4, 3), (3, 3, 4)], ids=str)
def test_windows_that_do_not_rise_from_1_are_refused(windows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="windows are rising numbers of keys from 1 on, got"):
        RoleThresholds(windows=windows)


def test_windows_read_from_json_equal_those_written() -> None:
    record = json.loads(json.dumps(asdict(RoleThresholds())))
    assert RoleThresholds(**record) == RoleThresholds()


def test_a_change_of_one_cut_off_is_checked_too() -> None:
    with pytest.raises(ValueError, match="windowed_mass is a share"):
        replace(RoleThresholds(), windowed_mass=2.0)


def test_every_cut_off_says_its_unit_or_source() -> None:
    tree = ast.parse(Path(headspec.runtime.thresholds.__file__).read_text())
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    documented = [
        before.target.id
        for before, after in itertools.pairwise(body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(before.target, ast.Name)
    ]
    assert documented == [field.name for field in fields(RoleThresholds)]


@pytest.mark.parametrize("file", ["thresholds.py", "rules.py", "statistics.py"])
def test_the_ground_floor_imports_no_other_room(file: str) -> None:
    tree = ast.parse((Path(headspec.runtime.__file__).parent / file).read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    rooms = [module for module in modules if module.startswith("headspec")]
    assert all(module.startswith("headspec.runtime.") for module in rooms)


@pytest.mark.parametrize(("value", "margin"), [(0.0, 1.0), (0.1, 0.5), (0.2, 0.0), (0.3, -0.5)])
def test_the_margin_below_a_cut_off_of_a_fifth(value: float, margin: float) -> None:
    assert below(value, 0.2) == pytest.approx(margin)


@pytest.mark.parametrize(("value", "margin"), [(0.4, -0.5), (0.8, 0.0), (1.0, 0.25)])
def test_the_margin_above_a_cut_off_of_four_fifths(value: float, margin: float) -> None:
    assert above(value, 0.8) == pytest.approx(margin)


def test_a_cut_off_of_0_is_met_by_0_and_missed_by_anything_above() -> None:
    assert [below(0.0, 0.0), below(0.5, 0.0), above(0.0, 0.0), above(0.5, 0.0)] == [0.0, -0.5, 0.0, 0.5]


def test_the_dead_margins_worked_by_hand() -> None:
    margins = dead_margins(spread=0.05, spread_p95=0.3, repeat_deviation=0.4, induction=0.0, cut=CUT)
    assert margins == pytest.approx([0.5, -0.5, 0.0, 1.0])


def test_the_window_margins_worked_by_hand() -> None:
    margins = window_margins(window_mass=1.0, window_share=0.25, induction=0.5, cut=CUT)
    assert margins == pytest.approx([0.25, -0.5, -1.0])


def test_margins_of_numpy_grids_and_torch_tensors_are_the_same() -> None:
    grid = np.array([[0.1, 0.9], [0.8, 0.0]])
    of_numpy = window_margins(grid, grid, grid, CUT)
    of_torch = window_margins(*[torch.from_numpy(grid)] * 3, CUT)
    np.testing.assert_array_equal(np.stack(of_numpy), torch.stack(of_torch).numpy())


def test_a_number_that_was_not_measured_meets_no_cut_off() -> None:
    margins = np.array(dead_margins(*[float("nan")] * 4, CUT) + window_margins(*[float("nan")] * 3, CUT))
    assert not (margins >= 0).any()
