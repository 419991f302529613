"""Benchmarks of single systems become one report, with ratios that say how they came about."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from headspec.errors import RecordError
from headspec.measure.merge import APART, merge_reports
from headspec.measure.report import BENCHMARK, COLUMNS, MEASURES, TABLE, BenchmarkReport
from headspec.rowlog import LOG

SETTINGS = {"model": "big", "seed": 0, "n_new": 6}


def row(system: str, measure: str, value: float, part: str = "decode", **more: Any) -> dict[str, Any]:
    found = dict.fromkeys(COLUMNS) | {"part": part, "system": system, "batch": 1, "context": 40, "measure": measure,
                                      "value": value, "unit": MEASURES[measure][0], "n": 4}  # fmt: skip
    return found | {"processor": "one"} | more


def of(system: str, *rows: dict[str, Any], **changes: Any) -> BenchmarkReport:
    return BenchmarkReport(SETTINGS | {"systems": [system], "plans": {system: f"digest of {system}"}} | changes, rows)


def two() -> list[BenchmarkReport]:
    return [
        of("V", row("V", "tpot_ms", 10.0), row("V", "tpot_cpu_ms", 20.0), row("V", "kv_bytes", 1000.0),
           row("V", "ttft_ms", 90.0, "prefill")),
        of("mine", row("mine", "tpot_ms", 4.0), row("mine", "tpot_cpu_ms", 5.0), row("mine", "kv_bytes", 100.0),
           row("mine", "ttft_ms", 30.0, "prefill")),
    ]  # fmt: skip


def test_by_hand_ratios_are_those_of_the_medians(tmp_path: Path) -> None:
    merged = merge_reports(two(), tmp_path)
    assert merged.value("mine", "speedup", part="decode", against="V") == 2.5
    assert merged.value("mine", "speedup_cpu", part="decode", against="V") == 4
    assert merged.value("mine", "speedup", part="prefill", against="V") == 3


def test_a_ratio_says_that_it_is_of_separate_runs_and_has_no_interval(tmp_path: Path) -> None:
    merged = merge_reports(two(), tmp_path)
    ratios = [found for found in merged.rows if found["measure"].startswith("speedup")]
    assert len(ratios) == 3
    for found in ratios:
        assert (found["note"], found["low"], found["high"], found["unit"]) == (APART, None, None, "×")
        assert (found["system"], found["batch"], found["processor"]) == ("mine", 1, "one")


def test_every_row_is_kept_as_it_was(tmp_path: Path) -> None:
    reports = two()
    merged = merge_reports(reports, tmp_path)
    assert merged.rows[:8] == (*reports[0].rows, *reports[1].rows)


def test_other_batches_and_contexts_are_not_compared(tmp_path: Path) -> None:
    first, second = two()
    for place, changed in (("batch", 2), ("context", 41)):
        others = replace(second, rows=tuple(found | {place: changed} for found in second.rows))
        merged = merge_reports([first, others], tmp_path)
        assert merged.value("mine", "speedup") is None, place


def test_only_v_s_and_p0_are_compared_with(tmp_path: Path) -> None:
    systems = ("V", "S", "P0", "mine", "other")
    reports = [of(name, row(name, "tpot_ms", 10.0 + number)) for number, name in enumerate(systems)]
    merged = merge_reports(reports, tmp_path)
    for name in systems:
        bases = [found["against"] for found in merged.rows if found["system"] == name and found["measure"] == "speedup"]
        assert bases == [base for base in ("V", "S", "P0") if base != name]


def test_settings_are_those_that_all_share_and_every_system(tmp_path: Path) -> None:
    settings = merge_reports(two(), tmp_path).settings
    assert settings == SETTINGS | {"systems": ["V", "mine"],
                                   "plans": {"V": "digest of V", "mine": "digest of mine"}}  # fmt: skip


def test_the_folder_holds_what_was_merged(tmp_path: Path) -> None:
    merged = merge_reports(two(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {BENCHMARK.settings, LOG, TABLE}
    assert BenchmarkReport.load(tmp_path) == merged
    assert len(pandas.read_csv(tmp_path / TABLE)) == len(merged) == 11


def test_what_was_merged_before_is_replaced(tmp_path: Path) -> None:
    merge_reports(two(), tmp_path)
    assert merge_reports(two()[:1], tmp_path).settings["systems"] == ["V"]
    assert len(BenchmarkReport.load(tmp_path)) == 4


def test_one_report_alone_has_no_ratios(tmp_path: Path) -> None:
    assert merge_reports(two()[:1], tmp_path).rows == two()[0].rows


@pytest.mark.parametrize("change", [{"seed": 1}, {"model": "another"}, {"n_new": 7}])
def test_reports_of_different_settings_are_refused_and_nothing_is_written(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    reports = [two()[0], of("mine", row("mine", "tpot_ms", 4.0), **change)]
    with pytest.raises(RecordError, match="benchmarks of different settings cannot be merged"):
        merge_reports(reports, tmp_path)
    assert list(tmp_path.iterdir()) == []
