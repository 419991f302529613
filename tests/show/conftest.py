"""An analysis of the demo model that the figure tests share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.load.text import load_text
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="session")
def demo_profile(demo: Any) -> HeadProfile:
    return probe_heads(demo, load_text(demo, "probe", n_tokens=1024), progress=False)


@pytest.fixture(scope="session")
def demo_map(demo_profile: HeadProfile) -> HeadMap:
    return classify_heads(demo_profile)


@pytest.fixture(scope="session")
def enlarge() -> Callable[[HeadProfile, int, int], HeadProfile]:
    """Repeat a profile's heads until it has as many layers and heads as asked for."""

    def larger(profile: HeadProfile, n_layers: int, n_heads: int) -> HeadProfile:
        def grow(array: np.ndarray, axis: int) -> np.ndarray:
            rows = np.resize(np.arange(array.shape[axis]), n_layers)
            columns = np.resize(np.arange(array.shape[axis + 1]), n_heads)
            return array.take(rows, axis=axis).take(columns, axis=axis + 1)

        about = replace(profile.about, n_layers=n_layers, n_heads=n_heads, layers=tuple(range(n_layers)))
        by_head = ("offset_mass", "max_attention_position", "max_attention_histogram", "mean_z")
        return replace(
            profile,
            about=about,
            grids={name: grow(grid, 0) for name, grid in profile.grids.items()},
            by_position={name: grow(values, 1) for name, values in profile.by_position.items()},
            by_window={name: grow(values, 1) for name, values in profile.by_window.items()},
            near_mass=grow(profile.near_mass, 1),
            **{name: grow(getattr(profile, name), 0) for name in by_head},
        )

    return larger
