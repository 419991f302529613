"""The pages of a benchmark: they show what the PNGs show, say more to who points, and need no network."""

import re
from pathlib import Path
from typing import Any

import pytest
from benchmark_reports import full_report, quality, report, row, times

import headspec.show
from headspec.errors import HeadspecError
from headspec.show.benchmark_bars_page import roofline_figure, speed_figure
from headspec.show.benchmark_curves import bytes_curves, time_curves
from headspec.show.benchmark_folder import benchmark_figures, save_figures
from headspec.show.benchmark_look import HIGHLIGHT
from headspec.show.benchmark_quality_page import quality_figure
from headspec.show.benchmark_rows import Numbers, Place
from headspec.show.benchmark_words import RANDOM


def titles(figure: Any) -> str:
    return str(figure.layout.title.text)


def test_the_public_names_are_there() -> None:
    assert headspec.show.quality_figure is quality_figure
    assert headspec.show.benchmark_figures is benchmark_figures
    assert {"speed_figure", "roofline_figure"} <= set(headspec.show.__all__)


def test_every_system_is_a_point_of_both_views() -> None:
    known = full_report(hypothetical=True)
    numbers = Numbers(known)
    wanted = [*bytes_curves(numbers), *time_curves(numbers, Place("decode", 16, 2000))]
    drawn = quality_figure(known).data
    assert [list(trace.x) for trace in drawn] == [[spot.x for spot in curve.spots] for curve in wanted]


def test_the_menu_shows_one_view_at_a_time() -> None:
    figure = quality_figure(full_report())
    first, second = (button.args[0]["visible"] for button in figure.layout.updatemenus[0].buttons)
    assert [trace.visible for trace in figure.data] == first
    assert [not shown for shown in first] == second
    assert "batch 16, context 2000" in figure.layout.updatemenus[0].buttons[1].args[1]["title.text"]


def test_without_times_there_is_no_menu() -> None:
    figure = quality_figure(report(quality("a", "certified", 0.5, 0.01)))
    assert not figure.layout.updatemenus
    assert [list(trace.x) for trace in figure.data] == [[0.5]]


def test_a_point_says_what_is_known_of_its_system() -> None:
    words = quality_figure(report(quality("a", "certified", 0.5, 0.01))).data[0].text[0]
    for known in ("<b>a</b>", "what a is", "50.0 %", "KL 0.0100 [0.00800, 0.0125]", "induction accuracy 0.892"):
        assert known in words


def test_intervals_reach_from_low_to_high() -> None:
    trace = quality_figure(report(quality("a", "baseline", 0.5, 0.04))).data[0]
    assert trace.y[0] == pytest.approx(0.04)
    assert trace.y[0] - trace.error_y.arrayminus[0] == pytest.approx(0.032)
    assert trace.y[0] + trace.error_y.array[0] == pytest.approx(0.05)


def test_every_cell_is_a_panel_of_bars() -> None:
    figure = speed_figure(full_report())
    assert len(figure.data) == 4
    assert list(figure.data[0].x)[:2] == [pytest.approx(900), pytest.approx(900 / 1.35)]
    notes = [note.text for note in figure.layout.annotations]
    assert "<b>TPOT, batch 16, context 2000</b>" in notes
    assert "<b>at most 1.60×</b>" in notes


def test_certified_bars_alone_have_the_highlight() -> None:
    figure = roofline_figure(full_report(hypothetical=True))
    for trace, axis in zip(figure.data, ("yaxis", "yaxis2", "yaxis3"), strict=True):
        names = figure.layout[axis].ticktext
        found = [name for name, color in zip(names, trace.marker.color, strict=True) if color == HIGHLIGHT]
        assert found == ["<b>pruned</b>", "<b>head map 25 %</b>"]


def test_a_bar_says_what_pruning_alone_could_give() -> None:
    words = "\n".join(speed_figure(full_report()).data[1].hovertext)
    assert "pruning alone could make it 1.60 times as fast as P0 at most" in words
    assert "KV cache 37.5 MB" in words


def test_names_are_no_tags() -> None:
    name = "<script>alert(1)</script>"
    rows = [*quality(name, "certified", 0.5, 0.01), *times_of(name)]
    for figure in benchmark_figures(report(rows, model=name)).values():
        text = figure.to_json()
        assert "<script" not in text.replace("\\u003c", "<")
        assert "&lt;script" in text.replace("\\u0026", "&")


def times_of(name: str) -> list[dict[str, Any]]:
    return [{**each, "system": name} for each in times("V", "certified", "decode", 1, 100)]


@pytest.mark.parametrize("model", ["pythia-160m", "random:pythia-1b"])
def test_random_weights_are_in_the_title(model: str) -> None:
    figures = benchmark_figures(full_report(model=model))
    assert len(figures) == (2 if model.startswith("random:") else 3)
    assert all((RANDOM in titles(figure)) == model.startswith("random:") for figure in figures.values())


def test_model_and_machine_are_on_every_page() -> None:
    for figure in benchmark_figures(full_report()).values():
        assert "pythia-160m" in titles(figure)
        assert "AMD EPYC" in titles(figure)


def test_quality_of_random_weights_is_refused() -> None:
    with pytest.raises(HeadspecError, match="trained weights"):
        quality_figure(full_report(model="random:pythia-1b"))


@pytest.mark.parametrize("draw", [speed_figure, roofline_figure])
def test_a_report_without_times_is_refused(draw: Any) -> None:
    with pytest.raises(HeadspecError, match="no times to draw"):
        draw(report([row("V", "kl", 0.1)]))


def test_pages_are_whole_without_a_network(tmp_path: Path) -> None:
    pages = [path for path in save_figures(full_report(), tmp_path) if path.suffix == ".html"]
    for path in pages:
        page = path.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
        assert "AMD EPYC" in page
