"""A profile as one flat dictionary of arrays, and how two of them differ."""

from dataclasses import fields

import numpy as np
from reference import Array

from headspec.probe.catalogue import BY_POSITION, BY_WINDOW, GRIDS
from headspec.probe.profile import HeadProfile

EDGES = ("position_edges", "queries_per_position", "offset_edges")
COUNTS = ("max_attention_position", "max_attention_histogram")
"""Shares of queries: one query whose two largest weights are equal but for rounding moves them by 1 / queries."""
MEASURED = (
    *(f"grids.{name}" for name in GRIDS),
    *(f"by_position.{name}" for name in BY_POSITION),
    *(f"by_window.{name}" for name in BY_WINDOW),
    "offset_mass",
    "near_mass",
    "mean_z",
    "z_norm",
)


def flat(profile: HeadProfile) -> dict[str, Array]:
    """Every array of a profile by name: `grids.attention_entropy`, `mean_z`, …"""
    arrays: dict[str, Array] = {}
    for field in fields(profile):
        value = getattr(profile, field.name)
        if isinstance(value, dict):
            arrays |= {f"{field.name}.{name}": array for name, array in value.items()}
        elif isinstance(value, np.ndarray):
            arrays[field.name] = value
    return arrays


def difference(one: HeadProfile, other: HeadProfile, names: tuple[str, ...] = MEASURED) -> float:
    """The largest absolute difference of any number in `names`; NaN only agrees with NaN."""
    first, second = flat(one), flat(other)
    for name in names:
        np.testing.assert_array_equal(np.isnan(first[name]), np.isnan(second[name]), err_msg=name)
    return max(float(np.nanmax(np.abs(first[name] - second[name]), initial=0)) for name in names)
