"""Figures with a static twin: a notebook keeps both, nothing is fetched, and nothing floods the cell."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.io
import pytest
from benchmark_reports import full_report
from live_records import by_hand
from matplotlib.figure import Figure as StaticFigure
from PIL import Image
from plotly.graph_objects import Figure
from sweep_tables import everything

from headspec import show
from headspec.classify.clustering import cluster_heads
from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.errors import HeadspecError
from headspec.probe.profile import HeadProfile
from headspec.show.style import NO_CLOUD
from headspec.show.twin import LARGEST, TwinFigure, small_png, with_twin

Draw = Callable[[HeadProfile, HeadMap], TwinFigure]
FIGURES: dict[str, Draw] = {
    "roles": lambda profile, head_map: show.roles(head_map),
    "statistic": lambda profile, head_map: show.statistic(profile, "attention_entropy"),
    "statistic, sorted": lambda profile, head_map: show.statistic(profile, None, head_map),
    "offsets of a head": lambda profile, head_map: show.offsets(profile, "L3H7"),
    "offsets of some": lambda profile, head_map: show.offsets(profile, ["L1H7", "L2H3"], head_map),
    "offsets of all": lambda profile, head_map: show.offsets(profile),
    "offsets of all, grouped": lambda profile, head_map: show.offsets(profile, None, head_map),
    "by position": lambda profile, head_map: show.by_position(profile, head_map),
    "clusters": lambda profile, head_map: show.clusters(cluster_heads(profile, head_map), head_map),
    "sweep": lambda profile, head_map: show.sweep(everything()),
    "quality": lambda profile, head_map: show.benchmark(full_report()),
    "speed": lambda profile, head_map: show.benchmark(full_report(), "speed"),
    "roofline": lambda profile, head_map: show.benchmark(full_report(), "roofline"),
    "timeline": lambda profile, head_map: show.timeline(by_hand()),
}
each_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture
def renderer() -> Iterator[Callable[[str], None]]:
    """Chooses how plotly shows itself, as a notebook does; put back afterwards."""
    before = plotly.io.renderers.default

    def choose(name: str) -> None:
        plotly.io.renderers.default = name

    yield choose
    plotly.io.renderers.default = before


def square() -> StaticFigure:
    figure = StaticFigure(figsize=(2, 2))
    figure.add_subplot().plot([0, 1])
    return figure


def picture(bundle: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))


@each_figure
def test_a_notebook_keeps_the_figure_and_a_small_png(
    draw: Draw, demo_profile: HeadProfile, demo_map: HeadMap, renderer: Callable[[str], None]
) -> None:
    renderer("plotly_mimetype")
    bundle = draw(demo_profile, demo_map)._repr_mimebundle_()
    assert set(bundle) == {PLOTLY, "image/png", "text/plain"}
    assert len(base64.b64decode(bundle["image/png"])) <= LARGEST
    assert min(picture(bundle).size) > 200
    assert NO_CLOUD.items() <= bundle[PLOTLY]["config"].items()


@pytest.mark.parametrize(
    "name", ["roles", "statistic, sorted", "offsets of all", "offsets of all, grouped", "clusters"]
)
def test_a_thousand_heads_are_small_too(
    name: str, demo_profile: HeadProfile, enlarge: Callable[[HeadProfile, int, int], HeadProfile]
) -> None:
    profile = enlarge(demo_profile, 32, 32)
    bundle = FIGURES[name](profile, classify_heads(profile))._repr_mimebundle_()
    assert len(base64.b64decode(bundle["image/png"])) <= LARGEST


def test_a_picture_full_of_detail_loses_dots_until_it_is_small() -> None:
    figure = StaticFigure(figsize=(12, 12))
    figure.add_axes((0, 0, 1, 1)).imshow(np.random.default_rng(0).random((1400, 1400, 3)), interpolation="nearest")
    sharp = Image.open(io.BytesIO(small_png(square()))).size
    assert sharp == (220, 220)
    assert Image.open(io.BytesIO(small_png(figure))).size == (720, 720)


def test_html_for_old_notebooks_fetches_nothing(renderer: Callable[[str], None], demo_map: HeadMap) -> None:
    renderer("notebook")
    body = show.roles(demo_map)._interactive()["text/html"]
    assert "Plotly.newPlot" in body
    assert "http" not in body
    assert '"showSendToCloud": false' in body


def test_text_is_one_line(demo_map: HeadMap) -> None:
    for words in (repr(show.roles(demo_map)), show.roles(demo_map)._repr_mimebundle_()["text/plain"]):
        assert words == "<figure 'What every head does': save_png(path), or headspec.show.save_page(figure, path)>"


@pytest.mark.parametrize("display", [lambda figure: figure._ipython_display_(), lambda figure: figure.show()])
def test_jupyter_displays_both(
    display: Callable[[TwinFigure], None], renderer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    renderer("plotly_mimetype")
    display(with_twin(Figure(layout_title_text="a <b>square</b>"), square))
    assert [set(bundle) for bundle in shown] == [{PLOTLY, "image/png", "text/plain"}]
    assert picture(shown[0]).size == (220, 220)


def test_in_a_terminal_there_is_a_line_and_nothing_is_drawn(
    renderer: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    renderer("")
    with_twin(Figure(layout_title_text="a <b>square</b>"), lambda: pytest.fail("drawn"))._ipython_display_()
    assert capsys.readouterr().out.startswith("<figure 'a square'")


def test_a_twin_is_drawn_only_when_it_is_shown() -> None:
    figure = with_twin(Figure(), lambda: pytest.fail("drawn"))
    figure.update_layout(height=300)
    assert figure.layout.height == 300
    assert "'no title'" in repr(figure)


def test_the_twin_can_be_saved(tmp_path: Path) -> None:
    path = with_twin(Figure(), square).save_png(tmp_path / "folder" / "square.png")
    assert Image.open(path).size == (300, 300)


def test_a_copy_has_no_twin_and_says_so(tmp_path: Path) -> None:
    copied = TwinFigure(with_twin(Figure(layout_title_text="one"), square))
    assert copied.layout.title.text == "one"
    assert "image/png" not in copied._repr_mimebundle_()
    with pytest.raises(HeadspecError, match="no static twin"):
        copied.save_png(tmp_path / "nothing.png")


def test_clusters_that_were_not_compared_with_roles_have_no_twin(demo_profile: HeadProfile, demo_map: HeadMap) -> None:
    assert "image/png" not in show.clusters(cluster_heads(demo_profile), demo_map)._repr_mimebundle_()
