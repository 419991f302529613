"""The whole chain: what it leaves in its folder, and that it goes on where it was stopped, never with stale parts."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headspec import chain
from headspec.chain import ANALYSIS, BENCHMARK, FOUND, PRUNED, RUN, SWEEP, ChainResult, run_chain
from headspec.errors import HeadspecError, RecordError
from headspec.measure.report import TABLE
from headspec.pipeline import PROFILE
from headspec.plan.plan import HeadPlan
from headspec.results import report
from headspec.search.budget import Budget
from headspec.search.record import SEARCH
from headspec.search.table import TABLE as SWEEP_TABLE

PRODUCTS = {ANALYSIS: PROFILE, FOUND: SEARCH, PRUNED: "config.json", BENCHMARK: TABLE, SWEEP: SWEEP_TABLE}
ORDER = [ANALYSIS, FOUND, PRUNED, BENCHMARK]


class StoppedError(Exception):
    """The process is killed."""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages write nothing but the file that tells they are done; the list says which have run."""
    log: list[str] = []

    def pretend(name: str) -> Callable[[Any], None]:
        def do(self: Any) -> None:
            log.append(name)
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / PRODUCTS[name]).write_text(f"{len(log)}")

        return do

    for name, method in zip(ORDER, ("_analyse", "_search", "_export", "_benchmark"), strict=True):
        monkeypatch.setattr(chain._Chain, method, pretend(name))
    monkeypatch.setattr(chain._Chain, "_result", lambda self: object.__new__(ChainResult))
    return log


def test_all_stages_run_in_order(done: list[str], tmp_path: Path) -> None:
    run_chain("demo", out=tmp_path)
    assert done == ORDER


def test_a_finished_run_does_nothing_again(done: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        run_chain("demo", out=tmp_path, stage=said.append)
    assert done == ORDER
    assert said == [f"{name}: there already" for name in ORDER]


def test_a_stopped_run_goes_on(done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Any) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(chain._Chain, "_export", stop)
        with pytest.raises(StoppedError):
            run_chain("demo", out=tmp_path)
    run_chain("demo", out=tmp_path)
    assert done == ORDER


@pytest.mark.parametrize("lost", ORDER)
def test_what_follows_a_lost_stage_is_done_anew(lost: str, done: list[str], tmp_path: Path) -> None:
    run_chain("demo", out=tmp_path)
    (tmp_path / lost / PRODUCTS[lost]).unlink()
    done.clear()
    run_chain("demo", out=tmp_path)
    assert done == ORDER[ORDER.index(lost) :]


def test_a_stop_after_a_stage_was_done_anew_leaves_nothing_stale(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Any) -> None:
        raise StoppedError

    run_chain("demo", out=tmp_path)
    (tmp_path / FOUND / SEARCH).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(chain._Chain, "_export", stop)
        with pytest.raises(StoppedError):
            run_chain("demo", out=tmp_path)
    done.clear()
    run_chain("demo", out=tmp_path)
    assert done == [PRUNED, BENCHMARK]  # the export of the earlier search is not taken for this one's


def test_other_settings_are_refused_with_what_differs(done: list[str], tmp_path: Path) -> None:
    run_chain("demo", out=tmp_path)
    with pytest.raises(RecordError, match=r"holds a run of another configuration \(n_tokens 8192 there, 4096 now\)"):
        run_chain("demo", out=tmp_path, n_tokens=4096)
    with pytest.raises(RecordError, match="max_kl"):
        run_chain("demo", out=tmp_path, budget=Budget(max_kl=0.1))
    assert done == ORDER


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "headspec.Run/0"}'])
def test_a_damaged_or_foreign_run_is_refused(text: str, done: list[str], tmp_path: Path) -> None:
    (tmp_path / RUN.settings).write_text(text)
    with pytest.raises(RecordError, match=r"run\.json is"):
        run_chain("demo", out=tmp_path)
    assert not done


def test_bad_input_is_refused_before_anything_is_written(done: list[str], tmp_path: Path) -> None:
    for wrong in ({"model": "pythia-7b"}, {"model": "demo", "sweep": "magic"}):
        with pytest.raises(HeadspecError):
            run_chain(out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


# The real thing, on a tiny model


@pytest.fixture(scope="module")
def finished(neox_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ChainResult, list[str]]:
    said: list[str] = []
    out = tmp_path_factory.mktemp("run") / "out"
    found = run_chain(
        str(neox_folder), out=out, sweep="mean", stage=said.append, n_tokens=512, max_evaluations=9, n_controls=1,
        device="cpu", budget=Budget(max_kv_share=0.8),
    )  # fmt: skip
    return found, said


def test_every_stage_leaves_its_results(finished: tuple[ChainResult, list[str]]) -> None:
    found, _ = finished
    for name, product in PRODUCTS.items():
        assert (found.folder / name / product).is_file(), name
    assert found.report == found.folder / "report.html"
    assert found.report.stat().st_size > 1e6


def test_the_report_leaves_nothing_out(finished: tuple[ChainResult, list[str]], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what cannot be shown is a warning
        report(finished[0].folder, tmp_path / "page.html")


def test_what_was_exported_is_the_plan_that_was_found(finished: tuple[ChainResult, list[str]]) -> None:
    found, _ = finished
    plan, exported = (HeadPlan.load(found.folder / name) for name in (f"{FOUND}/plan.json", f"{PRUNED}/plan.json"))
    assert plan.digest == exported.digest
    assert found.search.chosen.counts == dict(sorted(plan.counts().items()))


def test_the_benchmark_has_the_exported_model(finished: tuple[ChainResult, list[str]]) -> None:
    found, _ = finished
    assert PRUNED in set(found.benchmark.to_frame().system)


def test_a_second_run_only_writes_the_report(finished: tuple[ChainResult, list[str]], neox_folder: Path) -> None:
    found, _ = finished
    said: list[str] = []
    times = {path: path.stat().st_mtime_ns for path in found.folder.rglob("*") if path.suffix not in (".html",)}
    run_chain(
        str(neox_folder), out=found.folder, sweep="mean", stage=said.append, n_tokens=512, max_evaluations=9,
        n_controls=1, device="cpu", budget=Budget(max_kv_share=0.8),
    )  # fmt: skip
    assert said == [*(f"{name}: there already" for name in (*ORDER, SWEEP)), "writing the report"]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path.is_file())


def test_the_settings_are_on_the_disk(finished: tuple[ChainResult, list[str]]) -> None:
    values = json.loads((finished[0].folder / RUN.settings).read_text())
    assert values["n_tokens"] == 512
    assert values["finished"] == sorted([*ORDER, f"{SWEEP} mean"])
