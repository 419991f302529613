"""The PNGs: they appear, tell the truth of their records, and stay readable for many heads."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from headspec.classify.clustering import cluster_heads
from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.heads import HeadId
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.show import static
from headspec.show.cells import statistic_heatmap
from headspec.show.hover import role_words
from headspec.show.reach_image import head_offsets, position_preference
from headspec.show.style import ROLE_ORDER, SORT_ABOVE, caption, head_order, role_grid

DRAWERS = (static.head_roles, static.entropy_heatmap, static.position_preference, static.temporal_evolution)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def test_every_png_is_written(demo_profile: HeadProfile, demo_map: HeadMap, tmp_path: Path) -> None:
    paths = static.draw_all(demo_profile, demo_map, tmp_path, cluster_heads(demo_profile, demo_map))
    assert {path.name for path in paths} == {
        "head_roles.png", "roles_by_layer.png", "entropy_heatmap.png", "position_preference.png",
        "temporal_evolution.png", "head_clusters.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(PNG_SIGNATURE) and path.stat().st_size > 10_000 for path in paths)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("draw", DRAWERS)
def test_random_weights_are_named_in_every_figure(
    draw: Callable[[HeadProfile, HeadMap], Figure], demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    about = replace(demo_profile.about, model="random:pythia-70m")
    figure = draw(replace(demo_profile, about=about), replace(demo_map, about=about))
    assert "RANDOM WEIGHTS" in figure.get_suptitle()


def test_role_map_colours_each_head_by_its_role(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    drawn = static.head_roles(demo_profile, demo_map).axes[0].images[0].get_array()
    assert drawn is not None
    for verdict in demo_map:
        assert ROLE_ORDER[int(drawn[demo_map.about.cell(verdict.head)])] == verdict.role


def test_role_map_writes_the_window_of_a_positional_head(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    texts = {t.get_position(): t.get_text() for t in static.head_roles(demo_profile, demo_map).axes[0].texts}
    assert texts[(7, 1)] == f"{demo_map['L1H7'].window}\np"
    assert texts[(3, 2)] == "i"


def test_entropy_heatmap_shows_the_profile_s_numbers(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    drawn = static.entropy_heatmap(demo_profile, demo_map).axes[0].images[0].get_array()
    np.testing.assert_array_equal(drawn, demo_profile["normalized_entropy"])


def test_many_heads_are_sorted_by_role_within_each_layer(
    demo_profile: HeadProfile, enlarge: Callable[[HeadProfile, int, int], HeadProfile]
) -> None:
    many = classify_heads(enlarge(demo_profile, 32, 32))
    assert len(many) == 1024 > SORT_ABOVE
    roles = np.take_along_axis(role_grid(many), head_order(many), axis=1)
    assert (np.diff(roles, axis=1) >= 0).all()


@pytest.mark.parametrize("draw", DRAWERS)
def test_figures_of_1024_heads_are_drawn(
    draw: Callable[[HeadProfile, HeadMap], Figure],
    demo_profile: HeadProfile,
    enlarge: Callable[[HeadProfile, int, int], HeadProfile],
    tmp_path: Path,
) -> None:
    many = enlarge(demo_profile, 32, 32)
    path = static.save_png(draw(many, classify_heads(many)), tmp_path / "many.png")
    assert path.stat().st_size > 10_000


def test_a_figure_of_some_layers_names_those_layers(demo_profile: HeadProfile) -> None:
    profile = replace(demo_profile, about=replace(demo_profile.about, layers=(1, 3, 5, 7), n_layers=8))
    axes = static.head_roles(profile, classify_heads(profile)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "3", "5", "7"]


def test_a_long_source_is_shortened_in_the_caption(demo_map: HeadMap) -> None:
    assert "…" in caption(replace(demo_map.about, text="/a/very/long/path" * 10))


def test_drawing_needs_no_torch_and_no_display() -> None:
    code = "import sys, headspec.show.static, headspec.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PATH": "", "DISPLAY": ""}, check=False).returncode == 0


def test_one_statistic_is_drawn_with_its_meaning(demo_profile: HeadProfile) -> None:
    axes = statistic_heatmap(demo_profile, "attention_entropy").axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), demo_profile["attention_entropy"])
    assert axes.images[0].get_clim() == (0, pytest.approx(demo_profile["attention_entropy"].max()))
    known = STATISTICS["attention_entropy"]
    assert axes.get_xlabel().replace("\n", " ") == f"head {known.meaning} {known.caution}"


def test_heads_that_were_not_measured_are_a_dash(demo_profile: HeadProfile) -> None:
    grid = demo_profile["induction_score"].copy()
    grid[0, 0] = np.nan
    known = replace(demo_profile, grids=demo_profile.grids | {"induction_score": grid})
    axes = statistic_heatmap(known, "induction_score").axes[0]
    assert [axes.texts[0].get_text(), axes.texts[1].get_text()[0]] == ["–", "."]


def test_a_line_shows_where_a_head_looks(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    axes = head_offsets(demo_profile, [HeadId(1, 7), HeadId(2, 3)], demo_map).axes[0]
    assert [line.get_label() for line in axes.lines] == [f"L1H7 {role_words(demo_map['L1H7'])}", "L2H3 gathering"]
    x, y = axes.lines[0].get_data()
    assert x[np.nanargmax(y)] == 2  # drawn one to the right, as a logarithmic axis has no zero
    assert np.nanmax(y) == pytest.approx(demo_profile.offset_mass[1, 7, 1])


def test_without_a_map_heads_stand_layer_by_layer(demo_profile: HeadProfile) -> None:
    strip, axes = position_preference(demo_profile).axes[:2]
    assert [label.get_text() for label in strip.get_yticklabels()] == [str(head) for head in demo_profile.about.heads()]
    assert axes.images[0].get_array().shape[0] == 32
