"""The numbers of a benchmark, looked up: what is known is found, what is none is missing, nothing is mixed up."""

import math

import pytest
from benchmark_reports import full_report, report, row, skipped

from headspec.measure.systems.system import Standing
from headspec.show import benchmark_rows
from headspec.show.benchmark_rows import QUALITY, SIZE, Entrant, Numbers, Place

DECODE = Place("decode", 4, 2000)


def test_by_hand_a_number_is_found_by_place_system_and_measure() -> None:
    rows = [row("V", "tpot_ms", value, "decode", batch=batch, context=2000) for batch, value in ((1, 5.0), (4, 7.0))]
    numbers = Numbers(report([*rows, row("S", "tpot_ms", 6.0, "decode", batch=4, context=2000)]))
    assert numbers.value(DECODE, "V", "tpot_ms") == 7.0
    assert numbers.value(DECODE, "S", "tpot_ms") == 6.0
    assert numbers.value(Place("decode", 1, 2000), "S", "tpot_ms") is None


def test_by_hand_speed_ups_are_told_apart_by_what_they_are_against() -> None:
    about = {"part": "decode", "batch": 4, "context": 2000}
    rows = [row("P0", "speedup", value, against=base, **about) for base, value in (("V", 2.0), ("S", 1.5))]
    numbers = Numbers(report(rows))
    assert numbers.value(DECODE, "P0", "speedup", "V") == 2.0
    assert numbers.value(DECODE, "P0", "speedup", "S") == 1.5


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_number_is_missing(value: float | None) -> None:
    assert Numbers(report([row("V", "kl", value)])).at(QUALITY, "V", "kl") is None


def test_limits_that_are_missing_are_nan() -> None:
    found = Numbers(report([row("V", "kl", 0.5)])).at(QUALITY, "V", "kl")
    assert found is not None
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_systems_stand_in_the_order_of_the_settings() -> None:
    rows = [row(name, "kl", 0.1) for name in ("b", "unknown", "a")]
    assert [each.name for each in Numbers(report(rows, systems=["a", "missing", "b"])).entrants] == [
        "a",
        "b",
        "unknown",
    ]


def test_rows_of_the_machine_and_skipped_cells_are_no_systems() -> None:
    machine = row("", "flops", 1e9, "size", "")
    assert Numbers(report([machine, skipped("decode", "too large", 16, 2000)])).entrants == ()


def test_places_go_from_short_contexts_and_small_batches_up() -> None:
    cells = ((16, 100), (1, 2000), (1, 100))
    rows = [row("V", "tpot_ms", 1.0, "decode", batch=batch, context=context) for batch, context in cells]
    places = Numbers(report(rows)).places("decode", "tpot_ms")
    assert [(place.batch, place.context) for place in places] == [(1, 100), (16, 100), (1, 2000)]


def test_two_machines_are_both_named() -> None:
    numbers = Numbers(report([row("V", "kl", 0.0), row("S", "kl", 0.0, processor="Xeon")]))
    assert numbers.machine("processor") == "AMD EPYC / Xeon"


@pytest.mark.parametrize(
    ("name", "method"),
    [("SnapKV 25 %", "SnapKV"), ("expected attention 12.5 %", "expected attention"), ("plan c", "plan c"),
     ("25 %", "25 %")],
)  # fmt: skip
def test_a_method_is_the_name_without_its_share(name: str, method: str) -> None:
    assert Entrant(name, "baseline", "").method == method


def test_only_hypothetical_systems_are_marked_in_their_name() -> None:
    shown = [each.shown for each in Numbers(full_report(hypothetical=True)).entrants]
    assert [name for name in shown if "(" in name] == ["plan c (hypothetical)"]


def test_standings_are_those_that_systems_have() -> None:  # written out there, as figures start without torch
    names = ("REFERENCE", "BASELINE", "CERTIFIED", "HYPOTHETICAL", "CONTROL", "PEER")
    assert {getattr(benchmark_rows, name) for name in names} == {str(standing) for standing in Standing}


def test_whole_numbers_are_read_as_numbers() -> None:  # JSON makes no difference, bytes are whole
    assert Numbers(report([row("V", "weight_bytes", 8_692_248, "size")])).value(SIZE, "V", "weight_bytes") == 8692248.0
