"""The figures one can point at: true to their records, self-explaining, escaped, and pages that fetch nothing."""

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.graph_objects import Figure, Heatmap

import headspec.show
from headspec.classify.clustering import cluster_heads
from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.record_html import ROLE_MEANINGS
from headspec.show import groups, interactive, page, reach
from headspec.show.style import LINE_COLORS, ROLE_COLORS, ROLE_SYMBOLS, SORT_ABOVE

NASTY = "</script><b>&\"'"
DRAWERS: dict[str, Callable[[HeadProfile, HeadMap], Figure]] = {
    "roles": lambda profile, head_map: interactive.roles(head_map, profile),
    "statistic": lambda profile, head_map: interactive.statistic(profile, None, head_map),
    "all offsets": lambda profile, head_map: reach.offsets(profile, None, head_map),
    "few offsets": lambda profile, head_map: reach.offsets(profile, ["L1H7", "L2H3"], head_map),
    "by position": groups.by_position,
    "clusters": lambda profile, head_map: groups.clusters(cluster_heads(profile), head_map),
}
each_figure = pytest.mark.parametrize("draw", DRAWERS.values(), ids=DRAWERS)


@pytest.fixture(scope="module")
def many(demo_profile: HeadProfile, enlarge: Callable[[HeadProfile, int, int], HeadProfile]) -> HeadProfile:
    return enlarge(demo_profile, 32, 32)


@pytest.fixture(scope="module")
def many_map(many: HeadProfile) -> HeadMap:
    assert len(many.about.heads()) == 1024 > SORT_ABOVE
    return classify_heads(many)


def hover(trace: Any, row: int, column: int) -> str:
    """What plotly shows when one points at a cell: the template with its gaps filled."""
    own = trace.customdata[row][column]
    words = {"text": trace.text[row][column] if trace.text is not None else "", "customdata": own}
    words |= {f"customdata[{i}]": word for i, word in enumerate(own if not isinstance(own, str) else [])}
    words |= {"x": trace.x[column] if trace.x is not None else column}
    return re.sub(r"%\{(.*?)\}", lambda gap: str(words[gap[1]]), trace.hovertemplate)


def named(words: str) -> HeadId:
    """The head that a hover text is about."""
    found = re.match(r"<b>(L\d+H\d+)</b>", words)
    assert found is not None, words
    return HeadId.parse(found[1])


def role_cells(figure: Figure) -> dict[HeadId, tuple[str, int]]:
    """Colour and layer row of every coloured cell of a role map, by the head its hover names."""
    cells: dict[HeadId, tuple[str, int]] = {}
    for trace in figure.data:
        for row, column in np.argwhere(np.array(trace.z, dtype=float) == 1):
            cells[named(hover(trace, row, column))] = trace.colorscale[0][1], int(row)
    return cells


def test_every_head_has_the_colour_of_its_role(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    drawn = role_cells(interactive.roles(demo_map, demo_profile))
    assert {head: color for head, (color, _) in drawn.items()} == {v.head: ROLE_COLORS[v.role] for v in demo_map}


def test_the_legend_counts_the_heads_of_each_role(demo_map: HeadMap) -> None:
    traces = interactive.roles(demo_map).data
    assert all(isinstance(trace, Heatmap) and trace.showlegend for trace in traces)
    assert [trace.name for trace in traces] == [f"{role} ({len(demo_map.heads(role))})" for role in ROLE_COLORS]


def test_after_sorting_1024_heads_each_cell_still_names_its_own_head(many: HeadProfile, many_map: HeadMap) -> None:
    drawn = role_cells(interactive.roles(many_map, many))
    assert len(drawn) == 1024
    assert all(row == head.layer for head, (_, row) in drawn.items())
    assert all(color == ROLE_COLORS[many_map[head].role] for head, (color, _) in drawn.items())


def test_after_sorting_1024_heads_each_value_is_that_of_the_head_named(many: HeadProfile, many_map: HeadMap) -> None:
    distinct = replace(many, grids={**many.grids, "output_norm": np.arange(1024.0).reshape(32, 32)})
    trace = interactive.statistic(distinct, "output_norm", many_map).data[0]
    for (row, column), value in np.ndenumerate(np.array(trace.z)):
        assert distinct["output_norm"][many.about.cell(named(trace.customdata[row][column]))] == value
    assert not np.array_equal(trace.z, distinct["output_norm"])


def test_heads_that_are_not_sorted_are_numbered(many: HeadProfile) -> None:
    figure = interactive.statistic(many, "output_norm")
    np.testing.assert_array_equal(figure.data[0].z, many["output_norm"])
    assert figure.layout.xaxis.title.text == "head"


def test_pointing_at_a_head_tells_role_reason_margin_traits_value_and_meaning(
    demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    words = hover(interactive.roles(demo_map, demo_profile).data[0], 1, 7)
    plain = html.unescape(re.sub("<[^>]*>", " ", words.replace("<br>", " ")))
    verdict = demo_map["L1H7"]
    assert "L1H7" in plain
    assert f"positional, window of {verdict.window} keys" in plain
    assert verdict.reason in plain
    assert f"margin {verdict.margin:.3g}" in plain
    assert "traits: previous-token" in plain
    assert f"previous-token score {demo_profile['previous_token_score'][1, 7]:.3g} (share)" in " ".join(plain.split())
    for name in interactive.MAIN_NUMBERS:
        assert STATISTICS[name].meaning in plain


def test_a_dead_head_is_called_a_candidate(demo_map: HeadMap) -> None:
    assert "dead (candidate)" in hover(interactive.roles(demo_map).data[2], 0, 0)


def test_without_a_profile_the_map_s_evidence_gives_the_numbers(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    with_profile, without = interactive.roles(demo_map, demo_profile), interactive.roles(demo_map)
    assert [trace.customdata for trace in with_profile.data] == [trace.customdata for trace in without.data]


def test_a_statistic_is_drawn_with_its_values_unit_meaning_and_caution(demo_profile: HeadProfile) -> None:
    trace = interactive.statistic(demo_profile, "output_norm").data[0]
    np.testing.assert_array_equal(trace.z, demo_profile["output_norm"])
    words = html.unescape(hover(trace, 2, 3).replace("<br>", " "))
    known = STATISTICS["output_norm"]
    assert trace.colorbar.title.text == known.unit
    assert f"{demo_profile['output_norm'][2, 3]:.3g} ({known.unit})" in words
    assert known.meaning in words
    assert known.caution in words


def test_the_menu_lists_the_measured_statistics_only(demo_profile: HeadProfile) -> None:
    missing = np.full_like(demo_profile["induction_score"], np.nan)
    profile = replace(demo_profile, grids={**demo_profile.grids, "induction_score": missing})
    figure = interactive.statistic(profile)
    buttons = figure.layout.updatemenus[0].buttons
    assert {button.label for button in buttons} == {
        known.label for name, known in STATISTICS.items() if name != "induction_score"
    }
    assert buttons[0].label == STATISTICS["normalized_entropy"].label
    np.testing.assert_array_equal(figure.data[0].z, profile["normalized_entropy"])


def test_the_menu_shows_the_values_of_the_statistic_it_names(demo_profile: HeadProfile) -> None:
    for button in interactive.statistic(demo_profile).layout.updatemenus[0].buttons:
        name = next(name for name, known in STATISTICS.items() if known.label == button.label)
        np.testing.assert_array_equal(button.args[0]["z"][0], demo_profile[name])
        assert button.args[0]["colorbar.title.text"] == [STATISTICS[name].unit]
        assert STATISTICS[name].label in button.args[0]["hovertemplate"][0]


def test_a_head_without_a_number_is_called_not_measured(demo_profile: HeadProfile) -> None:
    grid = demo_profile["output_norm"].copy()
    grid[0, 0] = np.nan
    figure = interactive.statistic(
        replace(demo_profile, grids={**demo_profile.grids, "output_norm": grid}), "output_norm"
    )
    assert "not measured" in hover(figure.data[0], 0, 0)


def test_a_head_s_offsets_add_up_to_those_of_the_profile(demo_profile: HeadProfile) -> None:
    line = reach.offsets(demo_profile, "L1H7").data[0]
    width = np.diff([*demo_profile.offset_edges, demo_profile.about.window])
    assert width[-1] > 1
    np.testing.assert_allclose(line.y * width, demo_profile.offset_mass[1, 7], rtol=1e-6)
    np.testing.assert_array_equal(line.x - 1, demo_profile.offset_edges)
    assert "64–127 tokens back" in line.text[64]


def test_the_offsets_of_all_heads_are_the_profile_s_and_each_row_names_its_head(
    demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    trace = reach.offsets(demo_profile, None, demo_map).data[0]
    heads = [named(row[0]) for row in trace.customdata]
    assert sorted(heads) == demo_profile.about.heads()
    for head, row in zip(heads, np.array(trace.z), strict=True):
        single = demo_profile.offset_mass[demo_profile.about.cell(head)][:8]
        np.testing.assert_allclose(10 ** row[:8], np.maximum(single, reach.FAINTEST), rtol=1e-5)


def test_all_heads_are_grouped_by_role_with_a_band_of_its_colour(many: HeadProfile, many_map: HeadMap) -> None:
    figure = reach.offsets(many, None, many_map)
    heads = [named(row[0]) for row in figure.data[0].customdata]
    for band in figure.layout.shapes:
        rows = heads[round(band.y0 + 0.5) : round(band.y1 + 0.5)]
        assert {ROLE_COLORS[many_map[head].role] for head in rows} == {band.fillcolor}
    assert sum(band.y1 - band.y0 for band in figure.layout.shapes) == 1024


def test_position_curves_are_medians_over_the_heads_of_a_role(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    figure = groups.by_position(demo_profile, demo_map)
    rows, columns = np.array([demo_profile.about.cell(head) for head in demo_map.heads("gathering")]).T
    shown = demo_profile.position_edges >= 1
    lines = {trace.name: index for index, trace in enumerate(figure.data) if trace.name}
    index = lines[f"gathering ({len(rows)})"]
    for button in figure.layout.updatemenus[0].buttons:
        name = next(name for name, known in STATISTICS.items() if known.label == button.label)
        median = np.median(demo_profile.by_position[name][:, rows, columns], axis=1)
        np.testing.assert_allclose(button.args[0]["y"][index], median[shown], rtol=1e-5)
    assert len(figure.layout.updatemenus[0].buttons) == len(demo_profile.by_position)


def test_the_queries_left_out_of_averages_are_shaded(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    (shade,) = groups.by_position(demo_profile, demo_map).layout.shapes
    assert (shade.x0, shade.x1) == (1, demo_profile.about.first_query)


def test_every_head_is_one_point_with_the_colour_of_its_cluster_and_the_shape_of_its_role(
    demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    found = cluster_heads(demo_profile, demo_map)
    figure = groups.clusters(found, demo_map)
    drawn = {
        named(words): (x, y, trace.marker.color, trace.marker.symbol)
        for trace in figure.data
        for words, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    assert drawn == {
        head: (*place, LINE_COLORS[found[head]], ROLE_SYMBOLS[demo_map[head].role])
        for head, place in zip(found.about.heads(), found.coordinates, strict=True)
    }
    assert sum(len(trace.x) for trace in figure.data) == len(demo_map)


def test_pointing_at_a_head_tells_what_its_cluster_is_and_why_it_has_its_role(
    demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    found = cluster_heads(demo_profile, demo_map)
    figure = groups.clusters(found, demo_map)
    words = next(words for trace in figure.data for words in trace.customdata if named(words) == HeadId(1, 7))
    plain = re.sub(" +", " ", html.unescape(re.sub("<[^>]*>", " ", words)))
    assert demo_map["L1H7"].reason in plain
    assert f"cluster {found['L1H7']} {found.descriptions[found['L1H7']]}" in plain
    assert found.sentence in html.unescape(figure.layout.title.text.replace("<br>", " "))


@each_figure
def test_random_weights_are_named_in_every_figure(
    draw: Callable[[HeadProfile, HeadMap], Figure], demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    about = replace(demo_profile.about, model="random:demo")
    figure = draw(replace(demo_profile, about=about), replace(demo_map, about=about))
    assert "RANDOM WEIGHTS" in figure.layout.title.text


@each_figure
def test_names_and_reasons_cannot_become_tags(
    draw: Callable[[HeadProfile, HeadMap], Figure], demo_profile: HeadProfile, demo_map: HeadMap, tmp_path: Path
) -> None:
    about = replace(demo_profile.about, model=f"model{NASTY}", text=f"text{NASTY}")
    verdicts = tuple(replace(verdict, reason=f"reason{NASTY}") for verdict in demo_map)
    nasty_map = replace(demo_map, about=about, verdicts=verdicts)
    figure = draw(replace(demo_profile, about=about), nasty_map)
    assert "model&lt;/script&gt;&lt;b&gt;&amp;\"'" in figure.layout.title.text
    written = json.dumps(figure.to_plotly_json(), default=lambda array: array.tolist())
    assert NASTY[:12] not in written
    saved = page.save_page(figure, tmp_path / "nasty.html").read_text(encoding="utf-8")
    assert saved.count("</script>") == saved.count("<script")


@each_figure
def test_a_page_is_whole_and_fetches_nothing(
    draw: Callable[[HeadProfile, HeadMap], Figure], demo_profile: HeadProfile, demo_map: HeadMap, tmp_path: Path
) -> None:
    text = page.save_page(draw(demo_profile, demo_map), tmp_path / "page.html").read_text(encoding="utf-8")
    head = text[: text.index("<script")]
    assert head.startswith('<!doctype html>\n<html lang="en">')
    assert '<meta charset="utf-8">' in head
    assert re.search("<title>[A-Z][^<]+</title>", head)
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)\s*=", text)
    assert "@import" not in text
    assert "MathJax.js" not in text.rsplit("<script", 1)[1]
    assert '"showSendToCloud":false' in text.replace(" ", "").replace("\\u002f", "/")


def test_all_pages_of_an_analysis_are_named_as_the_pngs(
    demo_profile: HeadProfile, demo_map: HeadMap, tmp_path: Path
) -> None:
    paths = page.save_all(demo_profile, demo_map, tmp_path, cluster_heads(demo_profile))
    assert [path.name for path in paths] == [
        "head_roles.html", "entropy_heatmap.html", "position_preference.html", "temporal_evolution.html",
        "head_clusters.html",
    ]  # fmt: skip
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@each_figure
def test_pages_of_1024_heads_stay_small(
    draw: Callable[[HeadProfile, HeadMap], Figure], many: HeadProfile, many_map: HeadMap, tmp_path: Path
) -> None:
    assert page.save_page(draw(many, many_map), tmp_path / "many.html").stat().st_size < 7_000_000


def test_unknown_statistics_and_heads_are_named(demo_profile: HeadProfile) -> None:
    with pytest.raises(RecordError, match="no statistic 'entropie': choose one of attention_entropy"):
        interactive.statistic(demo_profile, "entropie")
    with pytest.raises(RecordError, match="unknown head L1H99: demo has heads 0–7"):
        reach.offsets(demo_profile, "L1H99")
    with pytest.raises(RecordError, match="layer 9 was not probed"):
        reach.offsets(demo_profile, ["L1H7", "L9H0"])


def test_a_statistic_that_was_not_measured_is_refused(demo_profile: HeadProfile) -> None:
    missing = np.full_like(demo_profile["induction_score"], np.nan)
    profile = replace(demo_profile, grids={**demo_profile.grids, "induction_score": missing})
    with pytest.raises(
        RecordError, match="induction_score was not measured for demo: choose one of normalized_entropy"
    ):
        interactive.statistic(profile, "induction_score")


@pytest.mark.parametrize("heads", [[], ["L1H7"] * (len(LINE_COLORS) + 1)])
def test_no_line_and_too_many_lines_are_refused(heads: list[str], demo_profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match=f"{len(heads)} heads for one figure: name 1 to 9"):
        reach.offsets(demo_profile, heads)


@each_figure
def test_a_map_of_another_model_is_refused(
    draw: Callable[[HeadProfile, HeadMap], Figure], demo_profile: HeadProfile, demo_map: HeadMap
) -> None:
    other = replace(demo_map, about=replace(demo_map.about, model="other"))
    with pytest.raises(RecordError, match=r"made for demo .* not for other"):
        draw(demo_profile, other)


def test_figures_come_by_name_without_torch_or_matplotlib() -> None:
    names = ["roles", "statistic", "offsets", "by_position", "clusters", "save_page", "save_all"]
    code = f"""import sys, headspec.show as show
assert 'plotly' not in sys.modules
assert all(callable(getattr(show, name)) for name in {names})
sys.exit(bool({{'torch', 'matplotlib'}} & set(sys.modules)))"""
    assert subprocess.run([sys.executable, "-c", code], env={"PATH": "", "DISPLAY": ""}, check=False).returncode == 0
    assert set(names) <= set(headspec.show.__all__)


def test_pointing_at_a_head_says_what_its_role_means(demo_map: HeadMap) -> None:
    for trace in interactive.roles(demo_map).data:
        for row, column in np.argwhere(np.array(trace.z, dtype=float) == 1):
            words = hover(trace, row, column)
            assert ROLE_MEANINGS[demo_map[named(words)].role] in words


def test_pointing_at_an_offset_says_that_it_is_a_share_and_when_it_misleads(demo_profile: HeadProfile) -> None:
    every = reach.offsets(demo_profile).data[0]
    for words in (hover(every, 0, 0), *reach.offsets(demo_profile, "L3H7").data[0].text):
        assert "a share of 1: mean over the queries; few queries see far back" in words


def test_pointing_at_a_curve_says_what_the_statistic_means(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    figure = groups.by_position(demo_profile, demo_map)
    meanings = {STATISTICS[name].label: STATISTICS[name].meaning for name in STATISTICS}
    for button in figure.layout.updatemenus[0].buttons:
        texts = [text for text in button.args[0]["text"] if text is not None]
        assert texts
        meaning = html.escape(meanings[button.label], quote=False)
        assert all(meaning in text.replace("<br>", " ") for words in texts for text in words)
