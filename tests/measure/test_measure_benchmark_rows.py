"""Rows of a whole benchmark of the demo model are tidy, say what they are, and agree with each other."""

from typing import Any

import pytest

from headspec.load.plain import PlainModel
from headspec.load.text import load_text
from headspec.measure import benchmark
from headspec.measure.benchmark import Grid, run_benchmark
from headspec.measure.bound import Rates, pruning_bound
from headspec.measure.contenders import fixed, matched, references
from headspec.measure.hypothetical import hypothetical_plan
from headspec.measure.report import COLUMNS, MEASURES, BenchmarkReport
from headspec.measure.systems.planned import planned
from headspec.measure.systems.registry import BASELINES
from headspec.measure.systems.system import Standing
from headspec.plan.make import plan_heads
from headspec.plan.workload import Workload
from headspec.probe.collect import probe_heads

GRID = Grid(batches=(1, 2), memory_batch=0, contexts=(40, 60), prompts=(33,), n_new=6, openings=1, rounds=2,
            workload=Workload(40, 40), n_repeats=2, n_needles=2)  # fmt: skip
RATES = Rates(1e10, 1e11)


@pytest.fixture(scope="module")
def full(plain_demo: PlainModel, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkReport:
    text = {name: load_text(plain_demo, name, n_tokens=240, window=80) for name in ("probe", "certify")}
    known = probe_heads(plain_demo, text["probe"], engine="fast", query_statistics=True, n_repeats=0, progress=False)
    plan = plan_heads(known, {
        "L0H1": "mean", "L0H2": "window:6", "L1H0": "compress:expected_attention:20:latest10", "L2H5": "window:9+0",
        "L3H7": "compress:snapkv:0.5",
    })  # fmt: skip
    methods = [matched(plain_demo, known, each, 0.25, GRID.workload, text["certify"]) for each in BASELINES]
    plans = {"mine": plan, "plan c": hypothetical_plan(plain_demo, "c")}
    own = [fixed(planned(plain_demo, plan, name, "", Standing.HYPOTHETICAL)) for name, plan in plans.items()]
    untimed = fixed(planned(plain_demo, plan, "untimed", "", Standing.CERTIFIED), timed=False)
    out = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measure_rates", lambda *_: RATES)
        return run_benchmark(plain_demo, [*references(plain_demo), *own, *methods, untimed], GRID, text["certify"], out)


def rows_of(report: BenchmarkReport, measure: str, **where: Any) -> list[Any]:
    return [row for row in report.rows if row["measure"] == measure and all(row[k] == v for k, v in where.items())]


def test_every_row_has_every_column_and_the_machine(full: BenchmarkReport) -> None:
    machine = {"processor", "cores", "threads", "platform", "torch", "headspec", "seed", "model", "dtype"}
    names = {tuple(row) for row in full.rows}
    assert len(names) == 1
    assert names.pop()[: len(COLUMNS)] == COLUMNS
    assert machine <= set(full.rows[0])
    assert list(full.to_frame().columns)[: len(COLUMNS)] == list(COLUMNS)


def test_every_row_is_a_number_with_the_unit_of_its_measure(full: BenchmarkReport) -> None:
    for row in full.rows:
        assert isinstance(row["value"], float | int), row
        assert row["unit"] == MEASURES[row["measure"]][0]
        assert row["part"] in ("size", "prefill", "decode", "quality")
        assert row["low"] is None or row["low"] <= row["value"] + 1e-12


def test_no_measurement_stands_twice(full: BenchmarkReport) -> None:
    where = ("part", "system", "batch", "context", "measure", "against")
    keys = [tuple(row[name] for name in where) for row in full.rows]
    assert len(set(keys)) == len(keys)


def test_every_cell_has_every_timed_system(full: BenchmarkReport) -> None:
    systems = [name for name in full.settings["systems"] if name != "untimed"]
    assert len(systems) == 12
    for batch in (1, 2):
        for context in (40, 60):
            for measure in ("tpot_ms", "tpot_p95_ms", "tpot_cpu_ms", "throughput", "kv_bytes", "bound_ms"):
                found = rows_of(full, measure, part="decode", batch=batch, context=context)
                assert [row["system"] for row in found] == systems, measure
    assert [row["system"] for row in rows_of(full, "ttft_ms", part="prefill", context=33)] == systems
    assert [row["system"] for row in rows_of(full, "weight_bytes")] == systems


def test_what_is_not_timed_has_quality_only(full: BenchmarkReport) -> None:
    assert {row["part"] for row in full.rows if row["system"] == "untimed"} == {"quality"}
    assert full.value("untimed", "kl") == full.value("mine", "kl")


def test_speed_ups_are_against_v_s_and_p0_and_never_against_oneself(full: BenchmarkReport) -> None:
    for system, against in (("V", ["S", "P0"]), ("P0", ["V", "S"]), ("mine", ["V", "S", "P0"])):
        for measure in ("speedup", "speedup_cpu"):
            found = rows_of(full, measure, system=system, part="decode", batch=2, context=60)
            assert [row["against"] for row in found] == against
            assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 4 for row in found)


def test_the_speed_up_against_each_other_is_the_inverse(full: BenchmarkReport) -> None:
    [one] = rows_of(full, "speedup", system="S", against="V", part="decode", batch=1, context=40)
    [other] = rows_of(full, "speedup", system="V", against="S", part="decode", batch=1, context=40)
    assert one["value"] * other["value"] == pytest.approx(1)


def test_throughput_is_the_batch_over_the_time_per_token(full: BenchmarkReport) -> None:
    for row in rows_of(full, "throughput"):
        time = full.value(row["system"], "tpot_ms", batch=row["batch"], context=row["context"])
        assert time is not None
        assert row["value"] == pytest.approx(1e3 * row["batch"] / time)


def test_what_pruning_alone_can_give_is_the_ratio_of_the_bounds(full: BenchmarkReport) -> None:
    for row in rows_of(full, "pruning_bound", part="decode", batch=2, context=60):
        p0, own = (full.value(name, "bound_ms", part="decode", batch=2, context=60) for name in ("P0", row["system"]))
        assert p0 is not None
        assert own is not None
        assert row["value"] == pytest.approx(pruning_bound(p0, own))
        assert row["against"] == "P0"
    assert full.value("P0", "pruning_bound", part="prefill") == 1
    bound = full.value("plan c", "pruning_bound", part="decode", batch=2, context=60)
    assert bound is not None
    assert bound > 1


def test_bytes_held_are_those_of_the_formula(full: BenchmarkReport) -> None:
    for row in rows_of(full, "kv_bytes"):
        formula = full.value(row["system"], "kv_bytes_formula", batch=row["batch"], context=row["context"])
        assert row["value"] == pytest.approx(formula, rel=0.02), (row["system"], row["batch"], row["context"])


def test_by_hand_the_bytes_of_the_original(full: BenchmarkReport) -> None:
    # 2 rows of 66 tokens, 4 layers, 8 heads, key and value of 24 numbers
    assert full.value("V", "kv_bytes", batch=2, context=60) == 2 * 66 * 4 * 8 * 2 * 24 * 4


def test_the_original_loses_no_quality(full: BenchmarkReport) -> None:
    for name in ("V", "S", "P0"):
        assert full.value(name, "kl") == pytest.approx(0, abs=1e-6)
        assert full.value(name, "top1_agreement") == 1
        assert full.value(name, "kv_share", part="quality") == full.value(name, "kv_share", part="decode") == 1


def test_methods_hold_as_many_bytes_as_each_other(full: BenchmarkReport) -> None:
    # 15 of 60.5 keys; with all that follows kept, the mean is half a key more
    shares = [row["value"] for row in rows_of(full, "kv_share", part="quality") if row["system"].endswith("25 %")]
    assert len(shares) == len(BASELINES)
    assert all(share == pytest.approx(0.25, abs=1 / 60.5) for share in shares)


def test_quality_is_against_the_original_with_its_number_of_windows(full: BenchmarkReport) -> None:
    found = rows_of(full, "kl")
    assert [row["system"] for row in found] == full.settings["systems"]
    assert {(row["against"], row["n"], row["context"], row["n_new"]) for row in found} == {("the original", 3, 40, 40)}
    assert all(row["value"] > 1e-4 for row in found[3:])


def test_the_machine_s_rates_are_rows_of_no_system(full: BenchmarkReport) -> None:
    assert full.value("", "read_bytes_s") == RATES.read_bytes_s
    assert full.value("", "flops") == RATES.flops_s


def test_values_are_found_by_where_they_stand(full: BenchmarkReport) -> None:
    one, other = (full.value("V", "kv_bytes", batch=batch, context=40) for batch in (1, 2))
    assert one is not None
    assert other == 2 * one
    assert full.value("V", "kv_bytes", batch=3) is None
    assert full.value("nobody", "kl") is None


def test_every_measure_that_rows_can_have_is_explained(full: BenchmarkReport) -> None:
    elsewhere = {"peak_bytes", "skipped", "needle_accuracy", "logits_difference", "engine_speedup"}
    assert {row["measure"] for row in full.rows} | elsewhere >= set(MEASURES)
    assert all(meaning for _, meaning in MEASURES.values())
