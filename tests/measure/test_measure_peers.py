"""Who takes part on other engines and with other weights, who cannot and why, and which cells they are in."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contender_makers import ids, plan_of, tiny
from tiny_models import tiny_neox

from headspec.comparison import MARKDOWN, Lineup
from headspec.comparison import benchmark as compare
from headspec.errors import HeadspecError
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows
from headspec.measure import benchmark, cell, cells
from headspec.measure.benchmark import Grid, run_benchmark
from headspec.measure.bound import Rates
from headspec.measure.contenders import fixed
from headspec.measure.peers import Absent, peers, reduced
from headspec.measure.report import BenchmarkReport
from headspec.measure.systems.planned import planned
from headspec.measure.systems.system import Standing, System
from headspec.measure.systems.unpruned import unpruned
from headspec.measure.timing import Lap
from headspec.plan.workload import Workload

WINDOWS = {"L0H0": "mean", "L0H2": "window:5+2"}
PACKAGES = ("openvino", "nncf", "ctranslate2")
GRID = Grid(batches=(1,), memory_batch=0, contexts=(20,), prompts=(20,), n_new=4, openings=1, rounds=1,
            workload=Workload(20, 20), n_repeats=0, n_needles=0)  # fmt: skip
NOTHING = replace(GRID, contexts=(), prompts=())
"""Only checks, sizes and quality."""
TEXT = TokenWindows(ids(2, 40), "ids")


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates are not measured."""
    monkeypatch.setattr(benchmark, "measure_rates", lambda *_: Rates(1e10, 1e11))


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the optional packages is installed."""
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def all_packages() -> None:
    for name in PACKAGES:
        pytest.importorskip(name)


def mine(wish: Any = WINDOWS, standing: Standing = Standing.CERTIFIED) -> System:
    return planned(tiny(), plan_of(wish), "mine", "my plan", standing)


def compressed() -> System:
    return mine({"L0H0": "compress:snapkv:0.25"})


def elsewhere(own: System, exact: bool = True) -> System:
    """The same system, which says that it is on another engine."""
    return own.elsewhere("abacus", "on an abacus", engine="abacus", exact=exact)


def names(found: Iterator[System | Absent]) -> list[str]:
    return [each.name for each in found if isinstance(each, System)]


def absent(found: Iterator[System | Absent]) -> dict[str, str]:
    return {each.name: each.why for each in found if isinstance(each, Absent)}


def run(out: Path, systems: Sequence[System], grid: Grid = GRID, tokens: Any = None, **more: Any) -> BenchmarkReport:
    return run_benchmark(tiny(), list(map(fixed, systems)), grid, tokens, out, **more)


def rows_of(report: BenchmarkReport, measure: str) -> list[Any]:
    return [row for row in report.rows if row["measure"] == measure]


# Who takes part.


@pytest.mark.usefixtures("all_packages")
def test_the_original_p0_and_a_plan_take_part_on_every_engine() -> None:
    found = list(peers(tiny(), [unpruned(tiny()), mine()]))
    assert names(iter(found)) == ["S compiled", "CTranslate2", "P0 OpenVINO stateful", "P0 compiled", "P0 OpenVINO",
                                  "mine compiled", "mine OpenVINO"]  # fmt: skip
    assert absent(iter(found)) == {}


@pytest.mark.usefixtures("all_packages")
def test_peers_are_peers_but_for_plans_that_nobody_has_judged() -> None:
    found = peers(tiny(), [unpruned(tiny()), mine(standing=Standing.HYPOTHETICAL)])
    standings = {each.name: each.standing for each in found if isinstance(each, System)}
    assert {name for name, standing in standings.items() if standing is Standing.HYPOTHETICAL} == {
        "mine compiled", "mine OpenVINO"}  # fmt: skip
    assert {standing for name, standing in standings.items() if "mine" not in name} == {Standing.PEER}


@pytest.mark.usefixtures("all_packages")
def test_compressed_heads_can_take_part_on_no_other_engine() -> None:
    found = list(peers(tiny(), [unpruned(tiny()), compressed()]))
    assert not [name for name in names(iter(found)) if name.startswith("mine")]
    why = "compressed heads choose their keys, which no graph can do"
    assert absent(iter(found)) == {"mine compiled": why, "mine OpenVINO": why}


@pytest.mark.usefixtures("no_packages")
def test_who_lacks_a_package_is_absent_and_says_what_would_help() -> None:
    found = list(peers(tiny(), [unpruned(tiny())]))
    assert names(iter(found)) == ["S compiled", "P0 compiled"]
    assert absent(iter(found)) == {
        "CTranslate2": "ctranslate2 is not installed: pip install 'headspec[peers]'.",
        **dict.fromkeys(
            ("P0 OpenVINO stateful", "P0 OpenVINO"), "openvino is not installed: pip install 'headspec[openvino]'."
        ),
    }


def test_in_half_precision_no_engine_takes_part() -> None:
    source = PlainModel(tiny_neox().bfloat16(), "tiny")
    found = list(peers(source, [unpruned(source)]))
    assert names(iter(found)) == []
    assert absent(iter(found)) == {
        "peers": "engines are compared in float32 on a CPU; this is bfloat16 on cpu"}  # fmt: skip


@pytest.mark.usefixtures("all_packages")
def test_other_weights_are_those_asked_for() -> None:
    own = [unpruned(tiny()), mine()]
    assert names(reduced(own, ["bfloat16"], engines=True)) == ["P0 bf16", "mine bf16"]
    assert names(reduced(own, ["int8"], engines=False)) == ["P0 int8", "mine int8"]
    assert names(reduced(own[:1], ["bfloat16", "int8"], engines=True)) == ["P0 bf16", "P0 int8", "P0 OpenVINO int8"]
    assert names(reduced(own, [], engines=True)) == []


@pytest.mark.usefixtures("all_packages")
def test_compressed_heads_have_other_weights_in_torch_only() -> None:
    assert names(reduced([compressed()], ["bfloat16", "int8"], engines=True)) == ["mine bf16", "mine int8"]


def test_integers_on_openvino_need_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "nncf", None)
    found = list(reduced([unpruned(tiny())], ["int8"], engines=True))
    assert names(iter(found)) == ["P0 int8"]
    assert absent(iter(found)) == {"P0 OpenVINO int8": "nncf is not installed: pip install 'headspec[openvino]'."}


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(HeadspecError, match="weights 'int4': choose of bfloat16, int8"):
        list(reduced([unpruned(tiny())], ["int4"], engines=False))


# In a report.


def test_the_absent_are_skipped_rows(tmp_path: Path) -> None:
    report = run(tmp_path, [unpruned(tiny())], NOTHING, absent=[Absent("CTranslate2", "it is not installed")])
    [row] = rows_of(report, "skipped")
    assert (row["part"], row["system"], row["value"]) == ("check", "", None)
    assert row["note"] == "CTranslate2: it is not installed"


def test_the_absent_are_noted_once_however_often_a_run_is_resumed(tmp_path: Path) -> None:
    for _ in range(3):
        report = run(tmp_path, [unpruned(tiny())], NOTHING, absent=[Absent("a", "gone")], resume=True)
    assert len(rows_of(report, "skipped")) == 1


def test_who_is_back_when_a_run_is_resumed_is_absent_no_more(tmp_path: Path) -> None:
    run(tmp_path, [unpruned(tiny())], NOTHING, absent=[Absent("a", "gone")])
    assert rows_of(run(tmp_path, [unpruned(tiny())], NOTHING, resume=True), "skipped") == []


def test_exact_engines_are_not_judged_again(tmp_path: Path) -> None:
    own = mine()
    systems = [own, elsewhere(own), replace(elsewhere(own, exact=False), name="rounded")]
    report = run(tmp_path, systems, NOTHING, TEXT)
    assert [row["system"] for row in rows_of(report, "kl")] == ["mine", "rounded"]


def test_all_but_torch_in_the_original_s_numbers_are_checked(tmp_path: Path) -> None:
    own = mine()
    report = run(tmp_path, [own, elsewhere(own), replace(elsewhere(own, exact=False), name="rounded")], NOTHING)
    assert [row["system"] for row in rows_of(report, "logits_difference")] == ["mine abacus", "rounded"]


def test_memory_is_measured_of_torch_in_the_original_s_numbers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(benchmark, "memory_rows", lambda cell, source, those, load: seen.append(
        [each.name for each in those]) or iter(()))  # fmt: skip
    grid = replace(GRID, prompts=(), batches=(), memory_batch=1)
    run(tmp_path, [unpruned(tiny()), mine(), elsewhere(mine())], grid)
    assert seen == [["P0", "mine"]]


def test_the_whole_model_on_the_same_engine_is_what_a_plan_is_compared_with(tmp_path: Path) -> None:
    own, whole = mine(), unpruned(tiny())
    report = run(tmp_path, [whole, own, elsewhere(whole), elsewhere(own)])
    found = rows_of(report, "engine_speedup")
    assert [(row["part"], row["system"], row["against"]) for row in found] == [
        ("prefill", "mine abacus", "P0 abacus"), ("decode", "mine abacus", "P0 abacus")]  # fmt: skip
    assert all(row["value"] > 0 and row["unit"] == "×" for row in found)


def test_by_hand_the_speed_up_on_an_engine_is_the_ratio_of_times() -> None:
    own, whole = elsewhere(mine()), elsewhere(unpruned(tiny()))
    systems = {each.name: each for each in (whole, own)}
    laps = {"P0 abacus": [Lap(6.0, 6.0)] * 4, "mine abacus": [Lap(4.0, 4.0)] * 4}
    bounds, devices = dict.fromkeys(systems, 1.0), dict.fromkeys(systems, "cuda")
    rows = list(cells._times(cell.Cell("decode", 1, 20), systems, [laps], "tpot", bounds, devices, 0))
    assert [(row["system"], row["value"]) for row in rows if row["measure"] == "engine_speedup"] == [
        ("mine abacus", pytest.approx(1.5))]  # fmt: skip


def test_without_the_whole_model_there_is_no_such_speed_up(tmp_path: Path) -> None:
    assert rows_of(run(tmp_path, [unpruned(tiny()), elsewhere(mine())]), "engine_speedup") == []


# A whole comparison.


def comparing(out: Path, lineup: Lineup, grid: Grid = GRID) -> BenchmarkReport:
    return compare(PlainModel(tiny().huggingface, "random:tiny"), lineup, grid, out=out)[0]


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures are drawn."""
    monkeypatch.setattr("headspec.show.benchmark_folder.save_figures", lambda *_: [])


@pytest.mark.usefixtures("no_packages", "quick_figures")
def test_the_absent_are_in_the_report_and_in_the_markdown(tmp_path: Path) -> None:
    only = ("P0", "CTranslate2", "P0 OpenVINO")
    report = comparing(tmp_path, Lineup(peers=True, only=only), NOTHING)
    assert report.settings["systems"] == ["P0"]
    assert [row["note"].split(":")[0] for row in rows_of(report, "skipped")] == list(only[1:])
    text = (tmp_path / MARKDOWN).read_text()
    for words in ("ctranslate2 is not installed: pip install 'headspec[peers]'", "pip install 'headspec[openvino]'"):
        assert words in text


@pytest.mark.usefixtures("no_packages", "quick_figures")
def test_only_the_absent_is_a_report_that_says_so_and_no_error(tmp_path: Path) -> None:
    report = comparing(tmp_path, Lineup(peers=True, only=("CTranslate2",)))
    assert [row["note"].split(":")[0] for row in rows_of(report, "skipped")] == ["CTranslate2"]
    assert "ctranslate2 is not installed" in (tmp_path / MARKDOWN).read_text()


@pytest.mark.usefixtures("no_packages", "quick_figures")
def test_without_asking_nobody_is_absent(tmp_path: Path) -> None:
    assert rows_of(comparing(tmp_path, Lineup(only=("P0",)), NOTHING), "skipped") == []


@pytest.mark.usefixtures("no_packages")
def test_a_peer_that_was_not_asked_for_is_nobody(tmp_path: Path) -> None:
    with pytest.raises(HeadspecError, match="no system is called CTranslate2: there are V, S, P0"):
        comparing(tmp_path, Lineup(only=("CTranslate2",)))


@pytest.mark.usefixtures("quick_figures")
def test_ctranslate2_is_timed_beside_torch(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    report = comparing(tmp_path, Lineup(peers=True, weights=("bfloat16",), only=("P0", "P0 bf16", "CTranslate2")))
    for name in ("P0", "P0 bf16", "CTranslate2"):
        assert report.value(name, "tpot_ms", part="decode") is not None, name
        assert report.value(name, "ttft_ms", part="prefill") is not None, name
        assert report.value(name, "weight_bytes", part="size") is not None, name
    difference = report.value("CTranslate2", "logits_difference")
    assert difference is not None
    assert difference < 1e-4
    standings = {row["system"]: row["standing"] for row in report.rows if row["part"] == "decode"}
    assert standings == {"P0": "reference", "P0 bf16": "peer", "CTranslate2": "peer"}
    assert "## Logits, beside those of torch in float32" in (tmp_path / MARKDOWN).read_text()
