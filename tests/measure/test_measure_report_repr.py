"""How a benchmark shows itself: one line of text; in a notebook a row a system."""

import re
from typing import Any

from headspec.measure.report import COLUMNS, MEASURES, BenchmarkReport


def row(system: str, measure: str, value: float | None, standing: str = "baseline") -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {"system": system, "standing": standing, "measure": measure, "value": value}


def report(*rows: dict[str, Any], model: str = "made-up") -> BenchmarkReport:
    return BenchmarkReport({"model": model}, rows)


KNOWN = report(
    row("", "flops", 1e9, ""), row("a", "kl", 0.1234), row("a", "tpot_ms", 2.5), row("<b>", "kl", None, "control")
)


def test_text_is_one_line() -> None:
    assert repr(KNOWN) == "BenchmarkReport(made-up: 4 measurements of 2 systems)"


def test_by_hand_every_system_is_a_row() -> None:
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", found) for found in re.findall("<tr>(.*?)</tr>", KNOWN._repr_html_())
    ]
    assert rows[1:] == [
        ["a", "baseline", "0.123", "–", "–", "–", "–", "–", "2.5"],
        ["&lt;b&gt;", "control", *["–"] * 7],
    ]


def test_columns_tell_unit_and_meaning() -> None:
    assert f'title="{": ".join(MEASURES["tpot_ms"])}"' in KNOWN._repr_html_()


def test_an_empty_report_is_shown_and_random_weights_are_named() -> None:
    body = report(model="random:pythia-14m")._repr_html_()
    assert "0 measurements" in body
    assert "RANDOM WEIGHTS: timing and tests only" in body
    assert "<table" not in body
