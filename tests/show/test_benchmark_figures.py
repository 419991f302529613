"""The figures of a benchmark: what the rows allow and no more, every number in its place, standings told apart."""

import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmark_reports import full_report, quality, rates, report, row, times
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from headspec.measure.report import BenchmarkReport
from headspec.measure.systems.system import Standing
from headspec.show.benchmark_bars import PALENESS, roofline, speed
from headspec.show.benchmark_curves import Curve, bytes_curves, least_drawn, reach, time_place
from headspec.show.benchmark_folder import PAGES, PNGS, save_figures
from headspec.show.benchmark_look import HIGHLIGHT, STANDING_COLORS, STANDING_ORDER
from headspec.show.benchmark_panels import MEANINGS, roofline_panels, speed_panels
from headspec.show.benchmark_quality import quality_vs_bytes, quality_vs_time
from headspec.show.benchmark_rows import Numbers, Place
from headspec.show.benchmark_words import RANDOM

ODD = "_<b>$a_$ & $b|*</b>"
"""A folder may be called so."""


def only(keep: Callable[[Mapping[str, Any]], bool], known: BenchmarkReport | None = None) -> BenchmarkReport:
    known = known or full_report(hypothetical=True)
    return replace(known, rows=tuple(each for each in known.rows if keep(each)))


def all_words(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text")))


def curves() -> dict[str, Curve]:
    return {curve.label: curve for curve in bytes_curves(Numbers(full_report(hypothetical=True)))}


def test_a_full_report_makes_every_figure(tmp_path: Path) -> None:
    written = save_figures(full_report(), tmp_path)
    assert [path.name for path in written] == [*PNGS, *PAGES]
    assert {path.name for path in tmp_path.iterdir()} == {*PNGS, *PAGES}
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in written[: len(PNGS)])


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        (lambda each: each["part"] == "prefill", ["speed.png", "speed.html"]),
        (lambda each: each["part"] in ("size", "prefill"), ["speed.png", "speed.html"]),
        (lambda each: each["part"] == "quality", ["quality_vs_bytes.png", "quality.html"]),
        (lambda each: each["part"] == "size", []),
        (lambda each: each["system"] == "pruned", [*PNGS, *PAGES]),
    ],
    ids=["only prefill", "killed after two cells", "only quality", "killed after one cell", "one system"],
)
def test_rows_that_are_missing_make_no_figure(
    keep: Callable[[Mapping[str, Any]], bool], names: list[str], tmp_path: Path
) -> None:
    assert [path.name for path in save_figures(only(keep), tmp_path)] == names


def test_random_weights_have_no_quality(tmp_path: Path) -> None:
    written = save_figures(full_report(model="random:pythia-1b"), tmp_path)
    assert [path.name for path in written] == ["speed.png", "roofline.png", "speed.html", "roofline.html"]


def test_figures_of_an_earlier_run_that_are_not_made_anew_are_deleted(tmp_path: Path) -> None:
    for name in ("quality_vs_bytes.png", "quality.html", "mine.png"):
        (tmp_path / name).write_text("old")
    save_figures(only(lambda each: each["part"] == "prefill"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"speed.png", "speed.html", "mine.png"}


@pytest.mark.parametrize("model", ["pythia-160m", "random:pythia-1b"])
def test_random_weights_are_in_the_title(model: str) -> None:
    numbers = Numbers(full_report(model=model))
    assert all((RANDOM in all_words(draw(numbers))) == model.startswith("random:") for draw in (speed, roofline))


def test_model_and_machine_are_under_every_figure() -> None:
    numbers = Numbers(full_report())
    place = time_place(numbers)
    assert place is not None
    figures = [quality_vs_bytes(numbers), quality_vs_time(numbers, place), speed(numbers), roofline(numbers)]
    wanted = ("pythia-160m", "AMD EPYC", "1 thread", "torch 2.13.0+cpu", "transformers 5.23.0", "headspec 0.1.0")
    assert all(word in all_words(figure) for figure in figures for word in wanted)


def test_by_hand_a_method_is_a_line_over_its_shares() -> None:
    spots = curves()["SnapKV"].spots
    assert [spot.x for spot in spots] == [0.12, 0.25, 0.5]
    assert [spot.kl.value for spot in spots] == [pytest.approx(0.009 / share**1.5) for share in (0.12, 0.25, 0.5)]


def test_every_system_with_a_quality_is_drawn_once() -> None:
    known = full_report(hypothetical=True)
    drawn = [spot.entrant.name for curve in bytes_curves(Numbers(known)) for spot in curve.spots]
    assert sorted(drawn) == sorted(known.settings["systems"])


def test_only_certified_systems_have_the_highlight() -> None:
    highlighted = {label for label, curve in curves().items() if curve.look.color == HIGHLIGHT}
    assert highlighted == {"pruned (certified)", "head map (certified)"}


def test_there_are_eight_colours_at_most() -> None:
    assert len({curve.look.color for curve in curves().values()}) <= 8


def test_hypothetical_is_hollow_and_control_dashed() -> None:
    assert [label for label, curve in curves().items() if not curve.look.filled] == ["plan c (hypothetical)"]
    assert curves()["random keys (control)"].look.dash == "dash"


def test_variants_have_the_colour_of_their_method_and_another_line() -> None:
    found = curves()
    for method, variant in (("SnapKV", "Ada-SnapKV"), ("StreamingLLM", "StreamingLLM, dense prefill")):
        assert found[method].look.color == found[variant].look.color
        assert found[method].look.dash != found[variant].look.dash


def test_no_two_methods_look_the_same() -> None:
    looks = [curve.look for curve in curves().values()]
    assert len(set(looks)) == len(looks)


def test_certified_is_bold_in_the_legend_and_nothing_else() -> None:
    legend = quality_vs_bytes(Numbers(full_report(hypothetical=True))).axes[0].get_legend()
    assert legend is not None
    bold = [text.get_text() for text in legend.get_texts() if text.get_fontweight() == "bold"]
    assert bold == ["pruned (certified)", "head map (certified)"]


def test_by_hand_the_axis_begins_a_decade_below_the_least_kl() -> None:
    rows = [*quality("V", "reference", 1.0, 0.0), *quality("a", "baseline", 0.5, 0.03)]
    assert least_drawn(bytes_curves(Numbers(report(rows)))) == pytest.approx(0.01)


def test_by_hand_a_value_below_the_axis_is_drawn_where_it_begins() -> None:
    (curve,) = bytes_curves(Numbers(report([row("a", "kl", -1e-9, low=-1e-8, high=0.1), row("a", "kv_share", 0.5)])))
    assert reach(curve.spots[0], 0.01) == (0.01, 0.01, 0.1)


def test_a_kl_without_an_interval_is_drawn() -> None:
    rows = [row("a", "kl", 0.1, standing="baseline"), row("a", "kv_share", 0.5, standing="baseline")]
    (curve,) = bytes_curves(Numbers(report(rows)))
    assert reach(curve.spots[0], 0.01) == (0.1, 0.1, 0.1)


def test_the_time_is_that_of_the_largest_batch_and_of_it_the_longest_context() -> None:
    cells = ((1, 4000), (4, 500), (4, 2000))
    rows = [each for batch, context in cells for each in times("V", "reference", "decode", batch, context)]
    numbers = Numbers(report([*rows, *quality("V", "reference", 1.0, 0.0)]))
    assert time_place(numbers) == Place("decode", 4, 2000)


def test_a_cell_in_which_no_judged_system_was_timed_is_not_taken() -> None:
    rows = [*times("V", "reference", "decode", 1, 2000), *times("S", "reference", "decode", 4, 2000)]
    numbers = Numbers(report([*rows, *quality("V", "reference", 1.0, 0.0)]))
    assert time_place(numbers) == Place("decode", 1, 2000)


def test_the_cell_is_named_in_the_title_of_the_figure_over_time() -> None:
    assert "batch 16, context 2000" in all_words(quality_vs_time(Numbers(full_report()), Place("decode", 16, 2000)))


def test_there_is_a_panel_for_every_cell() -> None:
    titles = [panel.title for panel in speed_panels(Numbers(full_report()))]
    assert titles == ["TTFT, batch 1, prompt 2048", *(f"TPOT, batch {batch}, context 2000" for batch in (1, 4, 16))]


def test_a_single_batch_has_one_panel_of_tpot() -> None:
    assert len(speed_panels(Numbers(full_report(batches=(1,))))) == 2


def test_by_hand_a_bar_is_the_median_and_its_words_the_speed_ups() -> None:
    about = {"part": "decode", "standing": "certified", "batch": 1, "context": 100}
    rows = [
        row("a", "tpot_ms", 8.0, **about), row("a", "tpot_p95_ms", 9.5, **about),
        row("a", "speedup", 1.5, low=1.25, high=2.0, against="S", **about),
        row("a", "speedup", 1.1, low=0.9, high=1.3, against="P0", **about),
        row("a", "pruning_bound", 1.9, against="P0", **about),
    ]  # fmt: skip
    ((bar,),) = (panel.bars for panel in speed_panels(Numbers(report(rows))))
    assert (bar.length, bar.whisker) == (8.0, 9.5)
    assert bar.beside == ("8.00", "1.50 [1.25, 2.00]", "1.10 [0.900, 1.30]", "at most 1.90×")


def test_bars_are_as_long_as_they_should_be() -> None:
    numbers = Numbers(full_report(batches=(4,)))
    figure, panels = speed(numbers), speed_panels(numbers)
    for axes, panel in zip(figure.axes, panels, strict=True):
        assert [patch.get_width() for patch in axes.patches] == [bar.length for bar in panel.bars]
        assert [label.get_text() for label in axes.get_yticklabels()] == [bar.entrant.shown for bar in panel.bars]


def test_by_hand_the_roofline_tells_the_bound_and_the_cpu_time_of_a_core() -> None:
    about = {"part": "decode", "batch": 1, "context": 100}
    rows = [row("V", "roofline_share", 0.25, **about), row("V", "bound_ms", 2.0, **about)]
    ((bar,),) = (panel.bars for panel in roofline_panels(Numbers(report(rows))))
    assert bar.length == 0.25
    assert bar.beside == ("25.0 %", "2.00 of 8.00")


def test_the_rates_of_the_machine_are_in_the_title_of_the_roofline() -> None:
    words = all_words(roofline(Numbers(report([*rates(), *times("V", "reference", "decode", 1, 100)]))))
    assert "24.8 GB/s" in words
    assert "99.0 GFLOP/s" in words


def test_only_certified_bars_have_the_highlight() -> None:
    figure = speed(Numbers(full_report(hypothetical=True)))
    for axes in figure.axes:
        names = [label.get_text() for label in axes.get_yticklabels()]
        colors = [to_hex(patch.get_facecolor()).upper() for patch in axes.patches]
        found = [name for name, color in zip(names, colors, strict=True) if color == HIGHLIGHT]
        assert found == ["pruned", "head map 25 %"]


def test_values_that_are_none_leave_gaps_and_no_errors(tmp_path: Path) -> None:
    known = full_report(hypothetical=True)
    holes = (math.nan, None)
    rows = tuple({**each, "value": holes[n % 2] if n % 3 else each["value"], "low": holes[n % 2]}
                 for n, each in enumerate(known.rows))  # fmt: skip
    assert save_figures(replace(known, rows=rows), tmp_path)


def test_odd_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    known = full_report(model=ODD)
    rows = tuple({**each, "system": ODD if each["system"] == "pruned" else each["system"]} for each in known.rows)
    numbers = Numbers(replace(known, rows=rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in (quality_vs_bytes, speed, roofline):
            assert ODD in all_words(draw(numbers)).replace(r"\$", "$")


def test_a_long_name_leaves_room_for_the_bars() -> None:
    figure = speed(Numbers(report(times("n" * 200, "baseline", "decode", 1, 100))))
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.2


def test_a_cell_of_which_nothing_but_zeros_is_known_is_drawn() -> None:
    figure = roofline(Numbers(report([row("V", "roofline_share", 0.0, "decode", batch=1, context=10)])))
    assert figure.axes[0].get_xlim()[1] > 1


def test_figures_and_table_start_without_torch() -> None:
    code = "import sys, headspec.show.benchmark_folder, headspec.show.benchmark_table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Other engines.


def with_peers() -> BenchmarkReport:
    known = full_report(hypothetical=True)
    return replace(known, rows=(*known.rows, *times("P0 OpenVINO", "peer", "decode", 4, 2000)))


def test_a_legend_explains_peers_only_where_there_are_some() -> None:
    words = "peer: on another engine, or with rounded weights"
    assert words in all_words(speed(Numbers(with_peers())))
    assert words not in all_words(speed(Numbers(full_report(hypothetical=True))))


def test_peers_have_a_colour_and_a_face_of_their_own() -> None:
    colors = list(STANDING_COLORS.values())
    assert colors.count(STANDING_COLORS["peer"]) == 1
    assert list(PALENESS.values()).count(PALENESS["peer"]) == 1


def test_every_standing_has_a_colour_a_place_and_a_meaning() -> None:
    names = {str(standing) for standing in Standing}
    assert set(STANDING_COLORS) == set(STANDING_ORDER) == set(MEANINGS) == names


def test_peers_are_in_the_figures_and_on_the_pages(tmp_path: Path) -> None:
    save_figures(with_peers(), tmp_path)
    assert "P0 OpenVINO" in (tmp_path / "speed.html").read_text()
    assert "P0 OpenVINO" in all_words(speed(Numbers(with_peers())))
