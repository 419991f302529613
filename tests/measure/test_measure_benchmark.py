"""Nothing that a benchmark has measured is lost, and what cannot be measured is left out or refused at once."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from contender_makers import MIXED, ids, plan_of, tiny
from tiny_models import tiny_neox

from headspec.errors import HeadspecError, RecordError
from headspec.load.model import load_shape
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows, load_text
from headspec.measure import benchmark, memory_cells
from headspec.measure.benchmark import Grid, run_benchmark
from headspec.measure.bound import Rates
from headspec.measure.contenders import Contender, fixed, references
from headspec.measure.hypothetical import hypothetical_plan
from headspec.measure.report import BENCHMARK, TABLE, BenchmarkReport
from headspec.measure.systems.planned import planned
from headspec.measure.systems.system import Standing
from headspec.plan.make import plan_heads
from headspec.plan.size import kv_bytes_held, plan_size
from headspec.plan.workload import Workload
from headspec.rowlog import LOG

GRID = Grid(batches=(1, 2), memory_batch=0, contexts=(40, 60), prompts=(33,), n_new=6, openings=1, rounds=2,
            workload=Workload(40, 40), n_repeats=2, n_needles=2)  # fmt: skip
SMALL = replace(GRID, batches=(1,), contexts=(40,), n_repeats=0, n_needles=0)
TEXT = TokenWindows(ids(2), "ids")
RATES = Rates(1e10, 1e11)
CELLS = ["size", "prefill batch 1 context 33", "decode batch 1 context 40"]
QUALITY = ["quality context 40 V", "quality context 40 P0"]


@pytest.fixture
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates are not measured."""
    monkeypatch.setattr(benchmark, "measure_rates", lambda *_: RATES)


def two() -> list[Contender]:
    """V and P0."""
    first, _, last = references(tiny())
    return [first, last]


def mine(wish: Any, name: str = "mine", timed: bool = True) -> Contender:
    return fixed(planned(tiny(), plan_of(wish), name, f"plan {name}", Standing.HYPOTHETICAL), timed)


def run(out: Path, grid: Grid = SMALL, contenders: list[Contender] | None = None, **more: Any) -> BenchmarkReport:
    return run_benchmark(tiny(), contenders or two(), grid, TEXT, out, **more)


def told(out: Path, **more: Any) -> tuple[BenchmarkReport, list[str]]:
    """The report, and the cells that were measured for it."""
    lines: list[str] = []
    report = run(out, stage=lines.append, **more)
    return report, [line for line in lines if line in [*CELLS, *QUALITY]]


def rows_of(report: BenchmarkReport, measure: str, **where: Any) -> list[Any]:
    return [row for row in report.rows if row["measure"] == measure and all(row[k] == v for k, v in where.items())]


# The folder.


@pytest.mark.usefixtures("quick_rates")
def test_the_folder_holds_settings_rows_and_a_table(tmp_path: Path) -> None:
    report = run(tmp_path / "a/b", seed=3)
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == {BENCHMARK.settings, LOG, TABLE}
    assert BenchmarkReport.load(tmp_path / "a/b") == report
    assert report.settings["seed"] == 3
    assert report.settings["systems"] == ["V", "P0"]
    assert report.settings["text_digest"] == TEXT.digest
    assert report.settings["workload"] == {"n_prompt": 40, "n_new": 40}
    frame = pandas.read_csv(tmp_path / "a/b" / TABLE)
    assert len(frame) == len(report)
    assert frame.value.tolist() == pytest.approx([row["value"] for row in report.rows], rel=1e-6)


@pytest.mark.usefixtures("quick_rates")
def test_without_resume_the_rows_that_are_there_are_replaced(tmp_path: Path) -> None:
    run(tmp_path, seed=1)
    report, measured = told(tmp_path, seed=2)
    assert measured == [*CELLS, *QUALITY]
    assert {row["seed"] for row in report.rows} == {2}


# Interrupted and resumed.


def stopping(at: str) -> Callable[[str], object]:
    def stage(message: str) -> None:
        if message == at:
            raise KeyboardInterrupt

    return stage


@pytest.mark.usefixtures("quick_rates")
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_run_that_was_interrupted_goes_on_where_it_was(tmp_path: Path, number: int) -> None:
    every = [*CELLS, *QUALITY]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage=stopping(every[number]))
    before = (tmp_path / LOG).read_bytes()
    assert [json.loads(line)["key"] for line in before.splitlines()] == every[:number]
    report, measured = told(tmp_path, resume=True)
    assert measured == every[number:]
    assert (tmp_path / LOG).read_bytes().startswith(before)
    assert list(dict.fromkeys(row["part"] for row in report.rows)) == ["size", "prefill", "decode", "quality"]


@pytest.mark.usefixtures("quick_rates")
def test_a_cell_that_breaks_off_leaves_no_row_and_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(cell: Any, *_: Any) -> Any:
        yield {"measure": "tpot_ms"}
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "decode_rows", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(tmp_path)
    assert {row["part"] for row in BenchmarkReport.load(tmp_path).rows} == {"size", "prefill"}
    assert told(tmp_path, resume=True)[1] == [CELLS[2], *QUALITY]


@pytest.mark.usefixtures("quick_rates")
def test_a_finished_run_measures_nothing_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = (tmp_path / LOG).read_bytes()
    report, measured = told(tmp_path, resume=True)
    assert measured == []
    assert report == first
    more = (tmp_path / LOG).read_bytes().removeprefix(before).splitlines()
    assert [json.loads(line)["key"] for line in more] == ["paired"]


@pytest.mark.usefixtures("quick_rates")
def test_to_resume_where_nothing_is_begins(tmp_path: Path) -> None:
    assert told(tmp_path, resume=True)[1] == [*CELLS, *QUALITY]


@pytest.mark.usefixtures("quick_rates")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "seed 0 there, 5 now"), ({"grid": replace(SMALL, n_new=7)}, "n_new 6 there, 7 now"),
        ({"grid": replace(SMALL, workload=Workload(41, 39))}, "workload .*40.* there, .*41.* now"),
        ({"contenders": []}, r"systems \['V', 'P0'\] there, \['V', 'P0', 'mine'\] now"),
    ],
)  # fmt: skip
def test_to_resume_with_other_settings_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    run(tmp_path)
    before = (tmp_path / LOG).read_bytes()
    if "contenders" in change:
        change = {"contenders": [*two(), mine(MIXED)]}
    with pytest.raises(RecordError, match=f"holds a bench of another configuration .*{named}.*: choose another folder"):
        run(tmp_path, resume=True, **change)
    assert (tmp_path / LOG).read_bytes() == before


@pytest.mark.usefixtures("quick_rates")
def test_to_resume_with_another_plan_of_the_same_name_is_refused(tmp_path: Path) -> None:
    run(tmp_path, contenders=[*two(), mine(MIXED)])
    with pytest.raises(RecordError, match=r"plans .*'mine'"):
        run(tmp_path, contenders=[*two(), mine("window:6")], resume=True)


def test_a_folder_without_a_benchmark_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no bench in .*: `headspec bench MODEL --out .*` makes one"):
        BenchmarkReport.load(tmp_path)


# What is left out.


def little_room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The prompt and one row fit, 64 rows do not; what was asked for."""
    asked: list[int] = []

    def fits(wanted: int, device: str) -> bool:
        asked.append(wanted)
        return len(asked) <= 2

    monkeypatch.setattr(benchmark, "fits", fits)
    return asked


@pytest.mark.usefixtures("quick_rates")
def test_a_cell_that_does_not_fit_is_skipped_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = little_room(monkeypatch)
    report = run(tmp_path, replace(SMALL, batches=(1, 64)))
    [row] = rows_of(report, "skipped")
    assert (row["part"], row["batch"], row["context"], row["value"], row["system"]) == ("decode", 64, 40, None, "")
    assert re.fullmatch(r"2 systems with their caches need about \d+\.\d GB, which are not free", row["note"])
    assert {(row["batch"]) for row in rows_of(report, "tpot_ms")} == {1}
    assert len(rows_of(report, "kl")) == 2
    assert asked[2] > 2 * 64 * kv_bytes_held(plan_of({}), 40, 6) > asked[1] > 2 * kv_bytes_held(plan_of({}), 40, 6)


@pytest.mark.usefixtures("quick_rates")
def test_a_cell_that_was_skipped_is_tried_again_when_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = replace(SMALL, batches=(1, 64))
    with monkeypatch.context() as patch:
        little_room(patch)
        run(tmp_path, grid)
    lines: list[str] = []
    report = run(tmp_path, grid, resume=True, stage=lines.append)
    assert [line for line in lines if "context" in line and "NOISY" not in line] == ["decode batch 64 context 40"]
    assert rows_of(report, "skipped") == []
    assert {row["batch"] for row in rows_of(report, "tpot_ms")} == {1, 64}


# Certified systems against the others, window by window.


def certified(wish: Any, name: str) -> Contender:
    return fixed(planned(tiny(), plan_of(wish), name, "", Standing.CERTIFIED))


@pytest.mark.usefixtures("quick_rates")
def test_the_kl_of_a_certified_system_is_compared_with_that_of_every_other(tmp_path: Path) -> None:
    report = run(tmp_path, replace(SMALL, contexts=(), prompts=()), [*two(), certified(MIXED, "best"), mine("zero")])
    [row] = rows_of(report, "kl_difference")
    assert (row["system"], row["against"], row["n"]) == ("best", "mine", 2)
    best, worst = report.value("best", "kl"), report.value("mine", "kl")
    assert best is not None
    assert worst is not None
    assert row["value"] == pytest.approx(best - worst)


@pytest.mark.usefixtures("quick_rates")
def test_one_window_of_text_gives_differences_without_intervals(tmp_path: Path) -> None:
    contenders = [certified(MIXED, "best"), mine("zero")]
    report = run_benchmark(tiny(), contenders, replace(SMALL, contexts=(), prompts=()), TokenWindows(ids(1), "one"),
                           tmp_path)  # fmt: skip
    [row] = rows_of(report, "kl_difference")
    assert (row["low"], row["high"], row["n"]) == (None, None, 1)


@pytest.mark.usefixtures("quick_rates")
def test_random_weights_have_no_rows_of_quality(tmp_path: Path) -> None:
    model = PlainModel(tiny_neox(), "random:tiny")
    report = run_benchmark(model, references(model), SMALL, None, tmp_path)
    assert report.random_weights
    assert {row["part"] for row in report.rows} == {"size", "prefill", "decode"}
    assert (report.settings["text"], report.settings["text_digest"]) == ("", "")


@pytest.mark.usefixtures("quick_rates")
def test_trained_weights_are_not_random(tmp_path: Path) -> None:
    assert not run(tmp_path).random_weights


@pytest.mark.usefixtures("quick_rates")
def test_an_empty_list_leaves_a_part_out(tmp_path: Path) -> None:
    report = run(tmp_path, replace(SMALL, contexts=(), prompts=()))
    assert {row["part"] for row in report.rows} == {"size", "quality"}


# Refused.


def measures_nothing(*_: Any) -> Any:
    raise AssertionError("nothing is to be measured")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"contexts": (40, 123)}, "a context of 123 and 6 new tokens: beyond the model's context of 128"),
        ({"prompts": (128, 129)}, "a prompt of 129 tokens: beyond"),
        ({"workload": Workload(100, 29)}, r"text of 100 \+ 29 tokens: beyond"),
        ({"contexts": (200,), "prompts": (201,)}, "a context of 200 .*; a prompt of 201 tokens: beyond"),
        ({"n_new": 3}, "4 new tokens"), ({"rounds": 0}, "openings of 1 or more"), ({"batches": (1, 0)}, "want batches"),
        ({"contexts": (0,)}, "openings of 1"), ({"prompts": (-1,)}, "openings of 1"),
        ({"memory_batch": -1}, "counts of 0 or more"), ({"n_needles": -1}, "counts of 0 or more"),
        ({"workload": Workload(40)}, "openings of 1"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_measured_is_refused_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(benchmark, "measure_rates", measures_nothing)
    with pytest.raises(HeadspecError, match=said):
        run(tmp_path / "out", replace(SMALL, **change))
    assert not (tmp_path / "out").exists()


def test_lengths_up_to_the_context_are_allowed() -> None:
    replace(SMALL, contexts=(122,), prompts=(128,), workload=Workload(100, 28)).check(128)


def test_a_grid_of_empty_lists_is_allowed() -> None:
    replace(SMALL, batches=(), contexts=(), prompts=()).check(128)


def test_two_systems_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadspecError, match="two systems are called mine: give them other folders or names"):
        run(tmp_path / "out", contenders=[*two(), mine(MIXED), mine("window:6")])
    assert not (tmp_path / "out").exists()


# The grid.


def test_by_hand_the_default_grid_within_a_context_of_512() -> None:
    grid = Grid().within(512)
    assert (grid.contexts, grid.prompts, grid.n_new, grid.workload) == ((498,), (512,), 14, Workload(256, 256))


def test_by_hand_the_default_grid_within_a_context_of_64() -> None:
    grid = Grid(contexts=(20, 2000, 3000)).within(64)
    assert (grid.contexts, grid.prompts, grid.n_new, grid.workload) == ((20, 50), (64,), 14, Workload(32, 32))


def test_within_a_large_context_a_grid_stays_as_it_is() -> None:
    assert Grid().within(2048) == Grid()


@pytest.mark.parametrize("context", [17, 64, 128, 512, 2048])
def test_a_grid_within_a_context_is_allowed_there(context: int) -> None:
    Grid().within(context).check(context)


# Peak memory, each system in a process of its own.


@pytest.mark.usefixtures("quick_rates")
def test_peak_memory_has_a_row_a_system(tmp_path: Path, plain_demo: PlainModel) -> None:
    plan = fixed(planned(plain_demo, hypothetical_plan(plain_demo, "c"), "plan c", "", Standing.HYPOTHETICAL))
    grid = replace(SMALL, prompts=(), batches=(), memory_batch=2, contexts=(400,))
    text = load_text(plain_demo, "certify", n_tokens=80, window=80)
    report = run_benchmark(
        plain_demo, [references(plain_demo)[1], plan], grid, text, tmp_path, load={"device": "cpu"}
    )  # fmt: skip
    found = rows_of(report, "peak_bytes")
    assert [(row["system"], row["batch"], row["context"], row["unit"]) for row in found] == [
        ("S", 2, 400, "bytes"), ("plan c", 2, 400, "bytes")]  # fmt: skip
    full = plan_size(plan_heads(plain_demo, {}), 406).kv_bytes
    assert found[0]["value"] > 2 * full


@pytest.mark.usefixtures("quick_rates")
def test_what_fails_in_its_own_process_is_a_row_that_says_why(tmp_path: Path) -> None:
    grid = replace(SMALL, prompts=(), batches=(), memory_batch=1)
    report = run(tmp_path, grid, two())
    rows = rows_of(report, "skipped")
    assert [(row["part"], row["system"], row["value"]) for row in rows] == [
        ("memory", name.name, None) for name in two()
    ]
    assert all("failed in its own process" in row["note"] for row in rows)
    assert rows_of(report, "kl"), "the run goes on"


@pytest.mark.usefixtures("quick_rates")
def test_a_system_alone_has_its_peak_measured_in_this_process(tmp_path: Path) -> None:
    grid = replace(SMALL, prompts=(), batches=(), memory_batch=1)
    [row] = rows_of(run(tmp_path, grid, two()[:1]), "peak_bytes")
    assert (row["part"], row["system"]) == ("memory", "V")
    assert row["value"] >= 0


def test_work_in_its_own_process_reads_a_prompt_and_every_new_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_cells, "load_plain", lambda name, **_: {"tiny": tiny()}[name])
    seen: list[tuple[int, ...]] = []
    for name, plan in (("V", None), ("S", None), ("P0", None), ("mine", plan_of(MIXED))):
        with monkeypatch.context() as patch:
            patch.setattr("headspec.measure.systems.reading.Reading.read",
                          lambda self, tokens, n_last=1: seen.append(tuple(tokens.shape)))  # fmt: skip
            memory_cells.prepare("tiny", {}, name, plan, Workload(30, 3), 2)()
    assert seen == 4 * [(2, 16), (2, 1), (2, 1), (2, 30), (2, 1), (2, 1), (2, 1)]


# Weights on no device.


@pytest.mark.usefixtures("quick_rates")
def test_with_random_weights_the_original_need_not_be_in_memory(tmp_path: Path) -> None:
    shape = load_shape("random:pythia-14m")
    [size] = shape.huggingface.get_output_embeddings().weight.shape[:1]
    export = fixed(planned(tiny(), plan_of(MIXED), "export", "as if loaded from its folder", Standing.CERTIFIED))
    report = run_benchmark(shape, [export], replace(SMALL, contexts=(40,)), None, tmp_path)
    assert size > 50_000
    assert report.settings["model"] == "random:pythia-14m"
    assert {row["system"] for row in report.rows} == {"", "export"}
