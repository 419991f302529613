"""The overviews: they tell the truth of their records, name what they show, and stay readable for many heads."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from headspec.classify.clustering import cluster_heads
from headspec.classify.clusters import HeadClusters
from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.classify.thresholds import Thresholds
from headspec.errors import RecordError
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile
from headspec.show.overview import CLUSTER_COLORS, cluster_color, head_clusters, roles_by_layer
from headspec.show.static import save_png
from headspec.show.style import ROLE_COLORS, ROLE_ORDER


@pytest.fixture(scope="session")
def demo_clusters(demo_profile: HeadProfile, demo_map: HeadMap) -> HeadClusters:
    return cluster_heads(demo_profile, demo_map)


@pytest.fixture(scope="session")
def drawn(demo_clusters: HeadClusters, demo_map: HeadMap) -> Figure:
    return head_clusters(demo_clusters, demo_map)


@pytest.fixture(scope="session")
def by_layer(demo_profile: HeadProfile, demo_map: HeadMap) -> Figure:
    return roles_by_layer(demo_profile, demo_map)


def keys(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_head_is_a_point_of_its_cluster_s_colour(drawn: Figure, demo_clusters: HeadClusters) -> None:
    color_at = {}
    for points in drawn.axes[0].collections:
        for (x, y), color in zip(np.asarray(points.get_offsets()), points.get_facecolors(), strict=True):
            color_at[round(x, 6), round(y, 6)] = to_hex(color).upper()
    for (x, y), cluster in zip(demo_clusters.coordinates, demo_clusters.assignment, strict=True):
        assert color_at[round(x, 6), round(y, 6)] == cluster_color(cluster)


def test_heads_of_each_role_have_a_shape_of_their_own(drawn: Figure, demo_map: HeadMap) -> None:
    shapes = {len(points.get_paths()[0].vertices): len(points.get_offsets()) for points in drawn.axes[0].collections}
    assert sorted(shapes.values()) == sorted(demo_map.counts().values())


def test_every_head_of_a_small_model_is_named(drawn: Figure, demo_map: HeadMap) -> None:
    assert {text.get_text() for text in drawn.axes[0].texts} == {str(verdict.head) for verdict in demo_map}


def test_names_of_heads_do_not_overlap(drawn: Figure) -> None:
    drawn.draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    assert not any(box.count_overlaps(boxes[:index]) for index, box in enumerate(boxes))


def test_the_silhouette_of_every_number_is_drawn_and_the_chosen_one_ringed(
    drawn: Figure, demo_clusters: HeadClusters
) -> None:
    curve, ring = drawn.axes[1].lines[-2:]
    np.testing.assert_array_equal(curve.get_xydata(), demo_clusters.silhouettes)
    assert ring.get_xdata() == [len(demo_clusters.centres)]
    assert ring.get_ydata() == [demo_clusters.silhouette]


def test_the_table_holds_the_counts_of_roles_and_clusters(drawn: Figure, demo_clusters: HeadClusters) -> None:
    axes = drawn.axes[2]
    assert demo_clusters.contingency is not None
    for row, role in enumerate(axes.get_yticklabels()):
        counts = demo_clusters.contingency[list(HeadRole).index(HeadRole(role.get_text()))]
        written = {t.get_position()[0]: t.get_text() for t in axes.texts if t.get_position()[1] == row}
        assert [written[column] for column in range(len(counts))] == [str(count) for count in counts]


def test_the_title_says_how_far_clusters_and_roles_agree(drawn: Figure) -> None:
    assert "adjusted Rand ." in drawn.get_suptitle()
    assert "demo · 2 × 512 tokens" in drawn.get_suptitle()


def test_each_cluster_is_described_beside_its_colour(drawn: Figure, demo_clusters: HeadClusters) -> None:
    for cluster, words in enumerate(demo_clusters.descriptions):
        assert f"{cluster} ({demo_clusters.sizes[cluster]} heads): {words}" in keys(drawn)


def test_colours_of_clusters_are_not_those_of_roles_and_the_key_says_so(drawn: Figure) -> None:
    assert not set(CLUSTER_COLORS) & set(ROLE_COLORS.values())
    assert any("not the colours of roles" in legend.get_title().get_text() for legend in drawn.legends)


def test_more_clusters_than_colours_are_drawn(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    figure = head_clusters(cluster_heads(demo_profile, demo_map, n_clusters=12), demo_map)
    assert len(figure.axes[2].get_xticklabels()) == 12
    assert figure.axes[1].get_title().endswith("(ring: asked for)")


def test_clusters_that_were_not_compared_are_refused(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    with pytest.raises(RecordError, match=r"not compared with this head map.*cluster_heads\(profile, head_map\)"):
        head_clusters(cluster_heads(demo_profile), demo_map)


def test_clusters_that_were_compared_with_other_roles_are_refused(
    demo_clusters: HeadClusters, demo_profile: HeadProfile
) -> None:
    with pytest.raises(RecordError, match="not compared with this head map"):
        head_clusters(demo_clusters, classify_heads(demo_profile, Thresholds(windowed_mass=1.0)))


def test_clusters_of_another_model_are_refused(demo_clusters: HeadClusters, demo_map: HeadMap) -> None:
    other = replace(demo_clusters, about=replace(demo_clusters.about, model="pythia-70m"))
    with pytest.raises(RecordError, match="not for pythia-70m"):
        head_clusters(other, demo_map)


def test_bars_add_up_to_the_roles_of_each_layer(by_layer: Figure, demo_map: HeadMap) -> None:
    for role, bars in zip(ROLE_ORDER, by_layer.axes[0].containers, strict=True):
        heights = [bar.get_height() for bar in bars]
        assert heights == [demo_map.counts(layer)[role] for layer in range(4)]
        assert {to_hex(bar.get_facecolor()).upper() for bar in bars} == {ROLE_COLORS[role]}
    assert [bar.get_y() + bar.get_height() for bar in by_layer.axes[0].containers[-1]] == [8] * 4


def test_lines_are_medians_over_the_heads_of_a_role(
    by_layer: Figure, demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    for role, line in zip(ROLE_ORDER, by_layer.axes[1].lines, strict=True):
        for layer, drawn_value in enumerate(np.asarray(line.get_ydata())):
            cells = [demo_profile.about.cell(head) for head in demo_map.heads(role) if head.layer == layer]
            values = [demo_profile["relative_output_norm"][cell] for cell in cells]
            np.testing.assert_allclose(drawn_value, np.median(values) if values else np.nan, rtol=1e-6)


def test_another_statistic_can_be_drawn_by_layer(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    figure = roles_by_layer(demo_profile, demo_map, "normalized_entropy")
    assert figure.axes[1].get_ylabel().startswith("normalised entropy")
    with pytest.raises(RecordError, match="no statistic 'colour'"):
        roles_by_layer(demo_profile, demo_map, "colour")


def test_layers_are_named_as_they_were_probed(demo_profile: HeadProfile) -> None:
    profile = replace(demo_profile, about=replace(demo_profile.about, layers=(1, 3, 5, 7), n_layers=8))
    axes = roles_by_layer(profile, classify_heads(profile)).axes[1]
    assert [(x, label.get_text()) for x, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)] == [
        (0, "1"), (1, "3"), (2, "5"), (3, "7"),
    ]  # fmt: skip


@pytest.mark.parametrize(("n_layers", "step"), [(6, 1), (36, 1), (64, 2)])
def test_layers_are_named_without_crowding(
    demo_profile: HeadProfile, enlarge: Callable[[HeadProfile, int, int], HeadProfile], n_layers: int, step: int
) -> None:
    profile = enlarge(demo_profile, n_layers, 8)
    labels = roles_by_layer(profile, classify_heads(profile)).axes[1].get_xticklabels()
    assert [label.get_text() for label in labels] == [str(layer) for layer in range(0, n_layers, step)]


def test_random_weights_are_named_in_both_figures(
    demo_profile: HeadProfile, demo_map: HeadMap, demo_clusters: HeadClusters
) -> None:
    about = replace(demo_profile.about, model="random:pythia-70m")
    roles = replace(demo_map, about=about)
    for figure in (
        head_clusters(replace(demo_clusters, about=about), roles),
        roles_by_layer(replace(demo_profile, about=about), roles),
    ):
        assert "RANDOM WEIGHTS" in figure.get_suptitle()


def test_1024_heads_are_drawn_without_names(
    demo_profile: HeadProfile, enlarge: Callable[[HeadProfile, int, int], HeadProfile], tmp_path: Path
) -> None:
    many = enlarge(demo_profile, 32, 32)
    roles = classify_heads(many)
    clusters = head_clusters(cluster_heads(many, roles), roles)
    assert sum(len(points.get_offsets()) for points in clusters.axes[0].collections) == 1024
    assert not clusters.axes[0].texts
    for name, figure in {"clusters.png": clusters, "layers.png": roles_by_layer(many, roles)}.items():
        assert save_png(figure, tmp_path / name).stat().st_size > 10_000


def test_drawing_needs_no_torch_and_no_scikit_learn() -> None:
    code = "import sys, headspec.show.overview; sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    environment = {"PATH": "", "DISPLAY": ""}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
