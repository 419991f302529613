"""The figure of a sweep: every case in its place, its numbers and their meaning where one points, menus that work."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.graph_objects import Figure, Heatmap, Scatter
from sweep_tables import case, curve, everything, grid, single, singles, table

from headspec import show
from headspec.classify.head_map import HeadMap
from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.plan.treatments import Window
from headspec.search.table import MEASURES
from headspec.show.style import ROLE_ORDER, SORT_ABOVE
from headspec.show.sweep_image import draw_sweep, sweep_png
from headspec.show.sweep_page import sweep
from headspec.show.sweep_parts import CHOICES


def heat(figure: Figure, treatment: str) -> Any:
    return next(trace for trace in figure.data if isinstance(trace, Heatmap) and trace.name == treatment)


def line(figure: Figure, name: str) -> Any:
    return next(trace for trace in figure.data if isinstance(trace, Scatter) and trace.name == name)


def pointed(trace: Any, *place: int) -> str:
    """What one reads where one points."""
    own = trace.customdata
    for index in place:
        own = own[index]
    filled = re.sub(r"%\{customdata\[(\d+)\]\}", lambda gap: own[int(gap[1])], trace.hovertemplate)
    return "\n".join(re.sub("<[^>]*>", "", part) for part in filled.removesuffix("<extra></extra>").split("<br>"))


def button(figure: Figure, menu: int, label: str) -> Any:
    return next(each for each in figure.layout.updatemenus[menu].buttons if each.label == label)


def title(figure: Figure) -> str:
    return str(figure.layout.title.text)


# The heat map


def test_every_head_has_the_colour_of_its_kl() -> None:
    z = np.array(heat(sweep(table(singles("mean"))), "mean").z)
    np.testing.assert_allclose(10**z, [[0.001, 0.002, 0.003], [0.004, 0.005, 0.006]], rtol=1e-3)


def test_pointing_at_a_head_tells_what_was_done_and_every_number_with_its_meaning() -> None:
    words = pointed(heat(sweep(table(singles("window:8"))), "window:8"), 1, 2)
    assert words.startswith("L1H2\nwindow:8: sees its last 8 keys and the first 4 tokens (sinks)\n")
    assert "kl 0.006 ± 0.0006 (standard error over windows) KL(original ‖ treated), nats a token" in words
    for name in set(MEASURES) - {"kl_se", "kl"}:
        assert re.search(rf"\n{name} -?[\d.]+ {re.escape(MEASURES[name])}(\n|$)", words), name


def test_with_a_head_map_pointing_tells_the_role(demo_map: HeadMap) -> None:
    known = table(singles("mean", n_layers=4, n_heads=8), model="demo", n_layers=4, n_heads=8)
    assert pointed(heat(sweep(known, head_map=demo_map), "mean"), 1, 7).startswith("L1H7 positional, window of")


def test_heads_of_layers_that_were_not_probed_have_no_role(demo_map: HeadMap) -> None:
    some = replace(demo_map, about=replace(demo_map.about, layers=(1,)), verdicts=demo_map.verdicts[8:16])
    drawn = heat(sweep(table(singles("mean", 1e-3, 4, 8), model="demo", n_layers=4, n_heads=8), head_map=some), "mean")
    assert pointed(drawn, 0, 7).startswith("L0H7\n")
    assert pointed(drawn, 1, 7).startswith("L1H7 positional")


def test_a_head_map_of_another_model_is_refused(demo_map: HeadMap) -> None:
    with pytest.raises(RecordError, match=r"made for demo .* not for made-up"):
        sweep(everything(), head_map=demo_map)


def test_heads_that_were_not_swept_are_gaps() -> None:
    drawn = heat(sweep(table([single("L1H2", "mean", 0.01)])), "mean")
    assert np.argwhere(~np.isnan(np.array(drawn.z))).tolist() == [[1, 2]]
    assert drawn.hoverongaps is False


def test_treatments_share_one_scale_and_a_menu_chooses_among_them() -> None:
    figure = sweep(table([*singles("mean"), *singles("window:8", 0.1)]))
    assert [trace.visible for trace in figure.data] == [True, False]
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-3, 0)
    assert button(figure, 1, "one head: window:8").args == ({"visible": [False, True]}, (0, 1))


def test_many_heads_are_sorted_by_role_and_keep_their_numbers(demo_map: HeadMap) -> None:
    n_layers, n_heads = 4, SORT_ABOVE // 2
    verdicts = tuple(
        replace(demo_map[f"L{layer}H{head % 8}"], head=HeadId(layer, head))
        for layer in range(n_layers) for head in range(n_heads)
    )  # fmt: skip
    many = replace(demo_map, about=replace(demo_map.about, n_heads=n_heads), verdicts=verdicts)
    rows = singles("mean", 1e-4, n_layers, n_heads)
    drawn = heat(sweep(table(rows, model="demo", n_layers=n_layers, n_heads=n_heads), head_map=many), "mean")
    kl = {row["heads"]: row["kl"] for row in rows}
    for row in range(n_layers):
        names = [re.sub("<[^>]*>", "", cell[0].split("</b>")[0]) for cell in drawn.customdata[row]]
        places = [ROLE_ORDER.index(many[name].role) for name in names]
        assert places == sorted(places)
        np.testing.assert_allclose(10 ** np.array(drawn.z[row]), [kl[name] for name in names], rtol=1e-3)


# Curves and plans


def test_a_ranking_is_a_line_over_the_number_of_heads() -> None:
    drawn = line(sweep(table(curve())), "mean by spread")
    assert list(zip(drawn.x, drawn.y, strict=True)) == [(1, 0.01), (2, 0.02), (4, 0.04)]


def test_its_random_controls_are_crosses_of_the_same_colour() -> None:
    figure = sweep(table(curve(controls=2)))
    drawn, random = line(figure, "mean by spread"), line(figure, "mean by spread: random heads")
    assert list(zip(random.x, random.y, strict=True)) == [(x, pytest.approx(0.03 * x)) for x in (1, 1, 2, 2, 4, 4)]
    assert (random.mode, random.marker.color) == ("markers", drawn.line.color)


def test_pointing_at_a_group_names_its_heads() -> None:
    words = pointed(line(sweep(table(curve())), "mean by spread"), 2)
    assert words.startswith("mean by spread, 4 heads\n4 heads: L0H0 L0H1 L0H2 L1H0\nmean: not computed; its mean")


def test_plans_are_points_over_the_bytes_they_leave() -> None:
    figure = sweep(table(grid(controls=1)))
    assert list(line(figure, "plans of other cut-offs").x) == pytest.approx([4 / 6, 3 / 6])
    assert list(line(figure, "random plans of the same make").y) == [0.5, 0.5]
    assert figure.layout.xaxis.title.text.startswith("KV bytes left")


def test_a_treatment_leaves_only_what_was_treated_so() -> None:
    figure = sweep(everything(), "mean")
    assert [trace.name for trace in figure.data] == ["mean", "mean by spread", "mean by spread: random heads"]
    assert [trace.name for trace in sweep(everything(), Window(8)).data] == ["window:8"]


def test_an_unknown_treatment_names_those_there_are() -> None:
    with pytest.raises(HeadspecError, match=r"no case of zero alone: choose one of mean, window:8"):
        sweep(everything(), "zero")
    with pytest.raises(HeadspecError, match="'often' is no treatment"):
        sweep(everything(), "often")


def test_a_sweep_without_rows_is_refused() -> None:
    with pytest.raises(HeadspecError, match="this sweep of made-up holds no rows yet"):
        sweep(table([]))


def test_rows_of_another_version_are_refused() -> None:
    row = {name: value for name, value in single("L0H0", "mean", 0.1).items() if name != "kv_share"}
    with pytest.raises(RecordError, match="a row of this sweep of made-up has no kv_share"):
        sweep(table([row]))


# Measures


def test_a_menu_offers_the_measures_that_have_numbers() -> None:
    assert [each.label for each in sweep(everything()).layout.updatemenus[0].buttons] == [each.name for each in CHOICES]
    alone = [row | {"repeats_kl": None, "induction_accuracy": None} for row in singles("mean")]
    assert [each.label for each in sweep(table(alone)).layout.updatemenus[0].buttons] == ["kl", "perplexity_increase"]
    assert "induction" not in heat(sweep(table(alone)), "mean").hovertemplate


def test_a_measure_changes_every_trace_the_axes_and_the_title() -> None:
    figure = sweep(everything())
    traces, layout = button(figure, 0, "induction_accuracy").args
    assert len(traces["z"]) == len(traces["y"]) == len(figure.data)
    np.testing.assert_allclose(traces["z"][0], [[0.899, 0.898, 0.897], [0.896, 0.895, 0.894]])
    place = [trace.name for trace in figure.data].index("mean by spread")
    assert traces["y"][place] == pytest.approx([0.89, 0.88, 0.86])
    assert (layout["yaxis2.type"], layout["yaxis3.type"]) == ("linear", "linear")
    assert MEASURES["induction_accuracy"] in layout["title.text"]


def test_bright_is_harm_whether_harm_raises_a_measure_or_lowers_it() -> None:
    reverse = {
        each.label: each.args[1]["coloraxis.reversescale"] for each in sweep(everything()).layout.updatemenus[0].buttons
    }
    assert reverse == {"kl": False, "perplexity_increase": False, "repeats_kl": False, "induction_accuracy": True}


def test_gains_are_drawn_at_the_bottom_and_the_title_says_so() -> None:
    better = case("grid", "better", "L0H0 L0H1", "mean", 0.01, perplexity_increase=-0.01)
    figure = sweep(table([better, case("grid", "worse", "L0H0 L0H1", "mean", 0.02)]))
    traces, layout = button(figure, 0, "perplexity_increase").args
    assert traces["y"][0] == [pytest.approx(0.001), 0.02]
    assert "a gain, is drawn at its bottom" in layout["title.text"]
    assert "is drawn at its bottom" not in title(figure)
    assert "perplexity_increase -0.01" in pointed(figure.data[0], 0)


# Words


def test_the_title_names_model_text_and_random_weights() -> None:
    assert "made-up · 4 × 64 tokens of numbers · random tokens twice" in title(sweep(everything()))
    assert "RANDOM WEIGHTS" in title(sweep(table(singles("mean"), model="random:pythia-14m")))
    assert "RANDOM WEIGHTS" not in title(sweep(everything()))


def test_tags_in_a_record_are_shown_as_text() -> None:
    nasty = "</script><b>&"
    rows = [case("curve", f"{nasty}, 1 heads", "L0H0", "mean", 0.1), case(nasty, nasty, "L0H0 L0H1", nasty, 0.1)]
    figure = sweep(table(rows, model=nasty, text=nasty))
    shown = [title(figure), *(trace.name for trace in figure.data), *(trace.customdata[0][0] for trace in figure.data)]
    assert all("&lt;/script&gt;&lt;b&gt;&amp;" in words and "</script>" not in words for words in shown)


# The PNG


def test_the_png_shows_every_part() -> None:
    drawn = draw_sweep(everything())
    titles = [axes.get_title(loc="left") for half in drawn.subfigs for axes in half.axes]
    assert [words for words in titles if words] == ["one head at a time: mean", "one head at a time: window:8",
                                                    "more and more heads together", "plans"]  # fmt: skip


def test_the_png_has_the_numbers_of_the_table() -> None:
    axes = draw_sweep(table(singles("mean"))).subfigs[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.001, 0.002, 0.003], [0.004, 0.005, 0.006]])
    assert [text.get_text() for text in axes.texts] == ["0.001", "0.002", "0.003", "0.004", "0.005", "0.006"]


def test_too_many_treatments_for_the_png_are_counted() -> None:
    rows = [row for size in range(1, 9) for row in singles(f"window:{size}")]
    assert "2 more treatments of single heads" in draw_sweep(table(rows))._suptitle.get_text()  # type: ignore[union-attr]


def test_a_png_is_written_and_is_the_twin_of_the_figure(tmp_path: Path) -> None:
    path = sweep_png(everything(), tmp_path / "sweep.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert sweep(everything()).save_png(tmp_path / "twin.png").read_bytes() == path.read_bytes()


def test_names_with_formula_signs_are_drawn() -> None:
    rows = [case("curve", f"_$a_$ & {number}, 1 heads", "L0H0", "mean", 0.1) for number in range(2)]
    draw_sweep(table([*rows, case("$x_", "y", "L0H0 L0H1", "zero", 0.1)], text="$a_")).draw_without_rendering()


def test_a_sweep_is_drawn_without_torch() -> None:
    code = "import sys, headspec.show.sweep_page, headspec.show.sweep_image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert callable(show.sweep)
