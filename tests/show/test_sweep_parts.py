"""What the rows of a sweep are for a figure, and from where to where their numbers are drawn."""

import math
from dataclasses import replace

import pytest
from sweep_tables import case, everything, single, table

from headspec.heads import HeadId
from headspec.show.sweep_parts import CHOICES, COLOR_DECADES, LEAST, curve_name, scale_of, sweep_parts

KL = CHOICES[0]


def test_by_hand_rows_are_sorted_by_what_they_are() -> None:
    parts = sweep_parts(everything())
    assert {name: list(rows) for name, rows in parts.singles.items()} == {
        treatment: [HeadId(layer, head) for layer in range(2) for head in range(3)]
        for treatment in ("mean", "window:8")
    }
    assert [row["n_heads"] for row in parts.curves["mean by spread"]] == [1, 2, 4]
    assert [row["n_heads"] for row in parts.random["mean by spread"]] == [1, 1, 2, 2, 4, 4]
    assert {kind: len(rows) for kind, rows in parts.plans.items()} == {"grid": 2, "control": 2}


def test_a_kind_of_ones_own_is_a_plan() -> None:
    parts = sweep_parts(table([case("by hand", "mine", "L0H1", "zero", 0.1)]))
    assert list(parts.plans) == ["by hand"]
    assert not parts.singles


@pytest.mark.parametrize(
    ("label", "name"),
    [("mean by a, b, 4 heads", "mean by a, b"), ("mean by a, 4 heads, random 12", "mean by a"), ("mine", "mine")],
)
def test_the_cases_of_a_curve_share_their_name(label: str, name: str) -> None:
    assert curve_name({"case": label}) == name


def test_of_a_head_that_was_swept_twice_the_later_row_counts() -> None:
    parts = sweep_parts(table([single("L0H0", "mean", 0.1), single("L0H0", "mean", 0.2)]))
    assert parts.singles["mean"][HeadId(0, 0)]["kl"] == 0.2


def test_a_table_without_sizes_is_as_large_as_its_rows() -> None:
    assert sweep_parts(replace(table([single("L4H2", "mean", 0.1)]), settings={})).shape == (5, 3)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.002, 0.3], 0.001, 1.0), ([0.3], 0.1, 1.0), ([1.0], 0.1, 1.0), ([1e-6, 50.0], 1e-3, 100.0),
     ([1e-9, 0.05], LEAST, 0.1), ([0.3, 0.0], 0.01, 1.0), ([0.3, -0.2], 0.01, 1.0)],
)  # fmt: skip
def test_a_logarithmic_scale_has_whole_decades_and_not_too_many(values: list[float], low: float, high: float) -> None:
    scale = scale_of(KL, [{"kl": value} for value in values], COLOR_DECADES)
    assert (scale.low, scale.high) == pytest.approx((low, high))


def test_what_lies_below_a_scale_is_drawn_at_its_bottom() -> None:
    scale = scale_of(KL, [{"kl": 0.01}, {"kl": 0.5}])
    assert [scale.place(value) for value in (-1.0, 0.0, 0.02)] == [scale.low, scale.low, 0.02]
    assert math.isnan(scale.place(None))
    assert scale.clips([0.02, -1.0])
    assert not scale.clips([0.02, None])
