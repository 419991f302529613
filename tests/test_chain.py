"""The whole chain: what it leaves in its folder, and that it goes on where it was stopped, never with stale parts."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import runner

from headspec import chain
from headspec.chain import ANALYSIS, BENCHMARK, FOUND, PRUNED, SWEEP, ChainResult, run_chain
from headspec.chain_log import RUN
from headspec.classify.head_map import HEAD_MAP, HeadMap
from headspec.errors import HeadspecError, RecordError, TextError
from headspec.heads import HeadRole
from headspec.load.model import load_plain
from headspec.measure.report import BENCHMARK as ROWS
from headspec.measure.report import TABLE
from headspec.pipeline import PROFILE
from headspec.plan.plan import HeadPlan
from headspec.results import report
from headspec.search.budget import Budget
from headspec.search.record import SEARCH
from headspec.search.table import TABLE as SWEEP_TABLE

PRODUCTS = {ANALYSIS: PROFILE, FOUND: SEARCH, PRUNED: "config.json", BENCHMARK: TABLE, SWEEP: SWEEP_TABLE}
ORDER = [ANALYSIS, FOUND, PRUNED, BENCHMARK]
SOURCE = {"weights": "w", "select": "s"}


class StoppedError(Exception):
    """The process is killed."""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages write nothing but one file, which must be there to count; the list says which have run."""
    log: list[str] = []

    def pretend(name: str) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
        def do(self: Any) -> None:
            log.append(name)
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / PRODUCTS[name]).write_text(f"{len(log)}")

        def read(self: Any) -> None:
            (self.folder / name / PRODUCTS[name]).read_text()

        return do, read

    methods = {ANALYSIS: "analyse analysis", FOUND: "search search", PRUNED: "export export",
               BENCHMARK: "benchmark benchmark"}  # fmt: skip
    for name, (do, read) in {name: pretend(name) for name in methods}.items():
        doing, reading = methods[name].split()
        monkeypatch.setattr(chain._Chain, f"_{doing}", do)
        monkeypatch.setattr(chain._Chain, f"_read_{reading}", read)
    monkeypatch.setattr(chain._Chain, "_check_source", lambda self: self.log.check_source(SOURCE))
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
        run_chain("demo", Budget(max_kl=0.1), out=tmp_path)
    assert done == ORDER


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"schema": "headspec.Run/0"}', '{"schema": "headspec.Run/1"}',
     '{"schema": "headspec.Run/1", "finished": 5, "source": {}}',
     '{"schema": "headspec.Run/1", "finished": [["x"]], "source": {}}',
     '{"schema": "headspec.Run/1", "finished": [], "source": 5}'],
)  # fmt: skip
def test_a_damaged_or_foreign_run_is_refused(text: str, done: list[str], tmp_path: Path) -> None:
    (tmp_path / RUN.settings).write_text(text)
    with pytest.raises(RecordError, match=r"run\.json is"):
        run_chain("demo", out=tmp_path)
    assert not done


def test_bad_input_is_refused_before_anything_is_written(done: list[str], tmp_path: Path) -> None:
    for wrong in (
        {"model": "pythia-7b"}, {"model": "demo", "sweep": "magic"}, {"model": "demo", "select": "-"},
        {"model": "demo", "sweep": "compress:snapkv:0.5"},
    ):  # fmt: skip
        with pytest.raises(HeadspecError):
            run_chain(out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_the_same_model_by_another_name_goes_on(done: list[str], tmp_path: Path) -> None:
    run_chain("pythia-70m", out=tmp_path)
    run_chain("EleutherAI/pythia-70m", out=tmp_path)
    assert done == ORDER


def test_other_weights_under_the_same_name_are_refused(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_chain("demo", out=tmp_path)
    (tmp_path / FOUND / SEARCH).unlink()
    monkeypatch.setattr(chain._Chain, "_check_source", lambda self: self.log.check_source(SOURCE | {"weights": "new"}))
    with pytest.raises(RecordError, match="a run whose weights were others than today's"):
        run_chain("demo", out=tmp_path)
    assert done == ORDER


def test_the_full_benchmark_may_follow_the_quick_one_and_is_enough(done: list[str], tmp_path: Path) -> None:
    for full in (False, True, True, False):
        run_chain("demo", out=tmp_path, full=full)
    assert done == [*ORDER, BENCHMARK]


def test_a_full_benchmark_that_is_lost_is_done_again_in_full(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_chain("demo", out=tmp_path, full=True)
    (tmp_path / BENCHMARK / TABLE).unlink()
    fullness: list[bool] = []
    monkeypatch.setattr(chain._Chain, "_benchmark", lambda self: fullness.append(self.full))
    run_chain("demo", out=tmp_path)
    assert fullness == [True]


@pytest.mark.parametrize(("lost", "again"), [(ANALYSIS, True), (FOUND, False)])
def test_a_sweep_is_forgotten_with_the_analysis(lost: str, again: bool, done: list[str], tmp_path: Path) -> None:
    run_chain("demo", out=tmp_path)
    log = chain.ChainLog(chain.Settings("demo"), tmp_path)
    log.finish(f"{SWEEP} mean")
    (tmp_path / lost / PRODUCTS[lost]).unlink()
    run_chain("demo", out=tmp_path)
    assert (f"{SWEEP} mean" not in chain.ChainLog(chain.Settings("demo"), tmp_path).finished) is again


# The real thing, on a tiny model

SMALL: dict[str, Any] = {
    "budget": Budget(max_kv_share=0.8), "sweep": "mean", "n_tokens": 512, "max_evaluations": 9, "n_controls": 1,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(neox_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ChainResult, list[str]]:
    said: list[str] = []
    out = tmp_path_factory.mktemp("run") / "out"
    return run_chain(str(neox_folder), out=out, stage=said.append, **SMALL), said


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
    run_chain(str(neox_folder), out=found.folder, stage=said.append, **SMALL)
    assert said == [*(f"{name}: there already" for name in (*ORDER, f"{SWEEP} mean")), "writing the report"]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path.is_file())


def test_the_command_says_what_was_found(
    copied: Path, neox_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--max-kv-share", "80%", "--tokens", "512", "--max-evaluations", "9", "--controls", "1")
    code, printed, said = runner(monkeypatch, capsys)(
        "run", neox_folder, *options, "--sweep", "mean", "--device", "cpu", "--out", copied
    )
    assert code == 0, said
    counts = HeadMap.load(copied / FOUND / HEAD_MAP).counts()
    words = ", ".join(f"{counts[role]} {role}" for role in (HeadRole.POSITIONAL, HeadRole.GATHERING, HeadRole.DEAD))
    assert f"8 heads: {words} (0 confirmed)." in printed
    assert "at most 80 % of the KV bytes" in printed
    assert f"Report: {copied / 'report.html'}" in printed
    assert "searching" not in said


def test_the_settings_are_on_the_disk(finished: tuple[ChainResult, list[str]]) -> None:
    values = json.loads((finished[0].folder / RUN.settings).read_text())
    assert values["n_tokens"] == 512
    assert values["finished"] == sorted([*ORDER, f"{SWEEP} mean"])


@pytest.fixture
def copied(finished: tuple[ChainResult, list[str]], tmp_path: Path) -> Path:
    """A finished run to damage."""
    shutil.copytree(finished[0].folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("file", "first"),
    [(f"{FOUND}/{HEAD_MAP}", FOUND), (f"{FOUND}/{SEARCH}", FOUND), (f"{PRUNED}/config.json", PRUNED),
     (f"{PRUNED}/model.safetensors", PRUNED), (f"{BENCHMARK}/{ROWS.settings}", BENCHMARK)],
)  # fmt: skip
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")], ids=["lost", "damaged"])
def test_a_stage_with_a_lost_or_damaged_file_is_done_again(
    file: str, first: str, damage: Callable[[Path], object], copied: Path, neox_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if file.endswith("safetensors") and damage is not Path.unlink:
        pytest.skip("weights are not read again: they may be large")
    started: list[str] = []

    def stop(self: Any, names: list[str]) -> list[str]:
        started.append(names[0])
        raise StoppedError

    monkeypatch.setattr(chain._Chain, "_depending", stop)
    damage(copied / file)
    with pytest.raises(StoppedError):
        run_chain(str(neox_folder), out=copied, **SMALL)
    assert started == [first]


def test_weights_that_changed_are_refused_before_they_are_exported(
    copied: Path, neox_folder: Path, tmp_path: Path
) -> None:
    model = load_plain(str(neox_folder), device="cpu")
    with torch.no_grad():
        next(model.huggingface.parameters()).add_(0.1)
    changed = tmp_path / "model"
    shutil.copytree(neox_folder, changed)
    model.huggingface.save_pretrained(changed)
    values = json.loads((copied / RUN.settings).read_text())
    (copied / RUN.settings).write_text(json.dumps(values | {"model": str(changed)}))
    (copied / PRUNED / "config.json").unlink()
    with pytest.raises(RecordError, match="a run whose weights were others"):
        run_chain(str(changed), out=copied, **SMALL)


def test_judging_on_the_text_that_chose_is_refused_first(neox_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="judge on text that chose nothing"):
        run_chain(str(neox_folder), out=tmp_path, select="certify", **SMALL)
    assert not (tmp_path / ANALYSIS).exists()


def test_a_sweep_that_fails_leaves_a_report(copied: Path, neox_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise HeadspecError("no room")

    (copied / "report.html").unlink()
    monkeypatch.setattr(chain, "run_sweep", fail)
    with pytest.raises(HeadspecError, match="no room"):
        run_chain(str(neox_folder), out=copied, **SMALL | {"sweep": "zero"})
    assert (copied / "report.html").is_file()
