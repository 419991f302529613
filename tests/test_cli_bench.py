"""`headspec bench`: who takes part, what it prints and writes, how it goes on, and how it refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas
import pytest
import torch
from command_line import Run, one_line

from headspec.measure import benchmark
from headspec.measure.bound import Rates
from headspec.measure.merge import APART
from headspec.measure.report import BenchmarkReport
from headspec.plan.plan import HeadPlan
from headspec.rowlog import LOG

TINY = ("--quick", "--batches", "1", "--contexts", "40", "--prompts", "40", "--new-tokens", "6", "--workload", "40+40",
        "--tokens", "400", "--rounds", "2", "--memory-batch", "0")  # fmt: skip
WISH = {"L0H1": "zero", "L1H1": "compress:snapkv:0.5", "L2H3": "window:8", "L2H4": "window:8", "L3H0": "zero"}
PAGES = {"benchmark.csv", "benchmark.md"}
ROWS = {"benchmark.json", LOG}
METHODS = ("StreamingLLM", "SnapKV", "expected attention", "random keys")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """`--threads` is for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Without measuring the machine each time (`done` does)."""
    monkeypatch.setattr(benchmark, "measure_rates", lambda *_: Rates(1e10, 1e11))
    return run


def export(model: str, wish: dict[str, str], out: Path, to: str = "hf") -> Path:
    from headspec.export.export import export_model
    from headspec.load.model import load_plain
    from headspec.plan.make import plan_heads

    loaded = load_plain(model, device="cpu")
    export_model(loaded, plan_heads(loaded, wish), out, to=to)
    return out


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, exported with five heads treated. Shared: leave it as it is."""
    return export("demo", WISH, tmp_path_factory.mktemp("exports") / "pruned")


@pytest.fixture(scope="module")
def random_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a real shape, exported. Shared: leave it as it is."""
    return export("random:pythia-14m", {"L0H1": "zero", "L1H0": "window:8"}, tmp_path_factory.mktemp("exports") / "cut")


@dataclass(frozen=True)
class Done:
    """A finished command."""

    folder: Path
    printed: str
    said: str
    report: BenchmarkReport


@pytest.fixture(scope="module")
def done(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One whole benchmark of the demo model, as a user runs it."""
    here = tmp_path_factory.mktemp("bench")
    command = [
        sys.executable,
        "-m",
        "headspec",
        "bench",
        "demo",
        str(pruned),
        *TINY,
        "--hypothetical",
        "c",
        "--out",
        "b",
    ]
    found = subprocess.run(command, cwd=here, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
                           check=False)  # fmt: skip
    assert found.returncode == 0, found.stderr
    return Done(here / "b", found.stdout, found.stderr, BenchmarkReport.load(here / "b"))


def quality_of(report: BenchmarkReport) -> list[str]:
    return [row["system"] for row in report.rows if row["measure"] == "kl"]


# A whole benchmark.


def test_the_original_the_export_the_plan_and_the_methods_take_part(done: Done) -> None:
    systems = done.report.settings["systems"]
    assert systems[:5] == ["V", "S", "P0", "pruned", "plan c"]
    assert quality_of(done.report) == systems
    assert {name.rsplit(" ", 2)[0] for name in systems[5:]} == set(METHODS)


def test_without_budgets_methods_hold_as_much_as_the_export_and_the_plan(done: Done) -> None:
    for mine in ("pruned", "plan c"):
        share = done.report.value(mine, "kv_share", part="quality")
        assert share is not None
        for method in METHODS:
            found = done.report.value(f"{method} {100 * round(share, 3):.3g} %", "kv_share", part="quality")
            assert found == pytest.approx(share, abs=1.1 / 60.5), method


def test_every_file_is_printed_and_written(done: Done) -> None:
    lines = done.printed.splitlines()
    start = lines.index("Files: b/")
    printed = {line.strip() for line in lines[start + 1 :]}
    assert printed >= PAGES | {"quality_vs_bytes.png", "speed.html"}
    assert printed | ROWS == {path.name for path in done.folder.iterdir()}
    assert all((done.folder / name).stat().st_size > 100 for name in printed)


def test_the_table_is_that_of_the_rows(done: Done) -> None:
    assert len(pandas.read_csv(done.folder / "benchmark.csv")) == len(done.report)


def test_quality_and_speed_are_printed(done: Done) -> None:
    for part in ("quality", "prefill", "decode"):
        assert re.search(rf"^ +{part}(, batch \d+, context \d+)? +$", done.printed, re.MULTILINE), part
    for word in ("KV share", "needles", "TTFT ms", "TPOT ms", "CPU ms", "× P0", "bound", "plan c"):
        assert word in done.printed, word
    assert "RANDOM" not in done.printed


def test_what_is_asked_for_is_what_is_measured(done: Done) -> None:
    settings = done.report.settings
    asked = {"batches": [1], "contexts": [40], "prompts": [40], "n_new": 6, "rounds": 2, "memory_batch": 0,
             "workload": {"n_prompt": 40, "n_new": 40}, "model": "demo", "text": "packaged certify.txt"}  # fmt: skip
    assert {name: settings[name] for name in asked} == asked
    assert {row["n"] for row in done.report.rows if row["measure"] == "kl"} == {5}


def test_plans_that_nobody_has_judged_say_so(done: Done) -> None:
    standings = {row["system"]: row["standing"] for row in done.report.rows if row["part"] == "quality"}
    assert (standings["pruned"], standings["plan c"], standings["V"]) == ("hypothetical", "hypothetical", "reference")
    assert {standing for name, standing in standings.items() if name.startswith("random keys")} == {"control"}
    label = next(row["label"] for row in done.report.rows if row["system"] == "plan c")
    assert label == "25% of the heads removed, 50% windowed; nobody knows which heads could be"


def test_the_export_holds_the_bytes_of_its_plan(done: Done, pruned: Path) -> None:
    from headspec.plan.size import kv_bytes_held

    held = done.report.value("pruned", "kv_bytes")
    assert held == pytest.approx(kv_bytes_held(HeadPlan.load(pruned / "plan.json"), 40, 6), rel=0.02)


def test_every_stage_is_said(done: Done) -> None:
    for words in ("loading demo", "probing", "SnapKV at ", "decode batch 1 context 40", "quality context 40 pruned"):
        assert words in done.said, words


# Some systems only, and going on.

FEW = ("--only", "V, pruned")


def test_only_the_named_systems_take_part_and_nothing_is_made_for_others(run: Run, pruned: Path) -> None:
    code, printed, said = run("bench", "demo", pruned, *TINY, *FEW, "--out", "o")
    assert code == 0, said
    assert BenchmarkReport.load("o").settings["systems"] == ["V", "pruned"]
    assert "probing" not in said
    assert "SnapKV" not in said + printed
    assert "speedup S" not in printed


def test_an_interrupted_benchmark_goes_on(run: Run, pruned: Path, tmp_path: Path) -> None:
    assert run("bench", "demo", pruned, *TINY, *FEW, "--out", "o")[0] == 0
    log = tmp_path / "o" / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-2]) + lines[-2][:50])  # the last compares systems
    code, _, said = run("bench", "demo", pruned, *TINY, *FEW, "--out", "o", "--resume")
    assert code == 0, said
    assert [line for line in said.splitlines() if "context 40" in line] == ["quality context 40 pruned"]
    assert [json.loads(line)["key"] for line in log.read_bytes().splitlines()] == [
        json.loads(line)["key"] for line in lines]  # fmt: skip
    assert quality_of(BenchmarkReport.load("o")) == ["V", "pruned"]


def test_to_go_on_with_other_settings_is_refused(run: Run, pruned: Path) -> None:
    assert run("bench", "demo", pruned, *TINY, "--only", "V", "--out", "o")[0] == 0
    code, _, said = run("bench", "demo", pruned, *TINY, "--only", "V", "--out", "o", "--resume", "--rounds", "3")
    assert code == 2
    assert "rounds 2 there, 3 now): choose another folder" in one_line(said)


def test_a_saved_plan_is_called_like_its_folder(run: Run, pruned: Path, tmp_path: Path) -> None:
    HeadPlan.load(pruned / "plan.json").certified({"kl": 0.1}).save(tmp_path / "mine/plan.json")
    code, _, said = run("bench", "demo", "--plan", "mine/plan.json", *TINY, "--only", "mine", "--out", "o")
    assert code == 0, said
    report = BenchmarkReport.load("o")
    assert report.settings["systems"] == ["mine"]
    assert {row["standing"] for row in report.rows if row["system"] == "mine"} == {"certified"}


def test_lengths_are_cut_to_a_model_s_context(run: Run, neox_folder: Path) -> None:
    code, _, said = run("bench", neox_folder, "--quick", "--rounds", "1", "--tokens", "256", "--only", "V,P0",
                        "--threads", "1", "--out", "o")  # fmt: skip
    assert code == 0, said
    settings = BenchmarkReport.load("o").settings
    assert (settings["contexts"], settings["prompts"], settings["n_new"]) == ([102], [128], 26)
    assert settings["workload"] == {"n_prompt": 64, "n_new": 64}
    assert settings["threads"] == 1


def test_a_head_map_is_searched_for_a_budget(run: Run, neox_folder: Path) -> None:
    code, printed, said = run("bench", neox_folder, *TINY, "--budgets", "50%", "--head-maps", "--only",
                              "head map 50 %,SnapKV 50 %", "--out", "o")  # fmt: skip
    assert code == 0, said
    assert "searching a head map that holds 50% of the KV bytes" in said
    report = BenchmarkReport.load("o")
    share = report.value("head map 50 %", "kv_share", part="quality")
    assert share is not None
    assert share <= 0.5
    assert report.value("SnapKV 50 %", "kv_share", part="quality") == pytest.approx(0.5, abs=1 / 60.5)
    assert "head map 50 %" in printed


# Other engines, other weights.


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the optional packages is installed."""
    for name in ("openvino", "nncf", "ctranslate2"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("only", ["P0,CTranslate2,P0 OpenVINO", "CTranslate2,P0 OpenVINO"])
def test_engines_that_are_not_installed_are_noted_and_no_error(
    run: Run, neox_folder: Path, tmp_path: Path, only: str
) -> None:
    code, printed, said = run("bench", neox_folder, *TINY, "--peers", "--only", only, "--out", "o")
    assert code == 0, said
    text = (tmp_path / "o/benchmark.md").read_text()
    for name, extra in (("CTranslate2", "peers"), ("P0 OpenVINO", "openvino")):
        line = next(line for line in printed.splitlines() if line.startswith("skipped: check") and f": {name}:" in line)
        assert f"is not installed: pip install 'headspec[{extra}]'" in line
        assert line.split(f": {name}: ")[1] in text


def test_other_engines_and_weights_are_checked_timed_and_judged(run: Run, neox_folder: Path) -> None:
    pytest.importorskip("ctranslate2")
    names = ["P0", "CTranslate2", "P0 bf16", "P0 int8"]
    code, printed, said = run("bench", neox_folder, *TINY, "--peers", "--weights", "bfloat16,int8", "--only",
                              ",".join(names), "--out", "o")  # fmt: skip
    assert code == 0, said
    report = BenchmarkReport.load("o")
    assert report.settings["systems"] == names
    assert [row["system"] for row in report.rows if row["measure"] == "logits_difference"] == names[1:]
    assert [row["system"] for row in report.rows if row["measure"] == "tpot_ms"] == names
    assert quality_of(report) == ["P0", "P0 bf16", "P0 int8"]
    assert re.search(r"^ +check +$", printed, re.MULTILINE)
    assert "largest difference of a logit" in printed


def test_without_asking_there_are_no_checks(done: Done) -> None:
    assert "check" not in {row["part"] for row in done.report.rows}
    assert "largest difference" not in done.printed


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-NeoX that is converted quickly. Shared: leave it as it is."""
    from tiny_models import save_neox_hub_layout

    return save_neox_hub_layout(tmp_path_factory.mktemp("neox") / "one", n_layers=1)


@pytest.fixture(scope="module")
def graph(one_layer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for OpenVINO. Shared: copy it to change it."""
    pytest.importorskip("openvino")
    out = tmp_path_factory.mktemp("exports") / "graph"
    return export(str(one_layer), {"L0H1": "zero", "L0H2": "window:8"}, out, to="openvino")


def test_an_openvino_export_is_compared_with_the_whole_model_on_openvino(
    run: Run, one_layer: Path, graph: Path
) -> None:
    code, printed, said = run("bench", one_layer, graph, *TINY, "--peers", "--only", "P0 OpenVINO,graph", "--out", "o")
    assert code == 0, said
    report = BenchmarkReport.load("o")
    found = [(row["part"], row["system"], row["against"]) for row in report.rows if row["measure"] == "engine_speedup"]
    assert found == [("prefill", "graph", "P0 OpenVINO"), ("decode", "graph", "P0 OpenVINO")]
    assert "× whole" in printed
    assert quality_of(report) == []
    for name in ("P0 OpenVINO", "graph"):
        difference = report.value(name, "logits_difference")
        assert difference is not None
        assert difference < 1e-4


def test_an_openvino_export_with_another_plan_beside_it_is_refused(
    run: Run, one_layer: Path, graph: Path, tmp_path: Path
) -> None:
    from headspec.load.model import load_plain
    from headspec.plan.make import plan_heads

    shutil.copytree(graph, tmp_path / "graph")
    plan_heads(load_plain(str(one_layer), device="cpu"), {"L0H3": "zero"}).save(tmp_path / "graph/plan.json")
    code, _, said = run("bench", one_layer, tmp_path / "graph", *TINY, "--only", "graph", "--out", "o")
    assert code == 2, said
    assert "its plan.json is not the one that this graph was made by. Export it anew" in one_line(said)


# One by one.

ALONE = ("--one-by-one", *TINY, "--out", "o")


def test_systems_one_by_one_become_one_report(run: Run, random_export: Path, tmp_path: Path) -> None:
    code, printed, said = run("bench", "random:pythia-14m", random_export, *ALONE, "--only", "V,cut")
    assert code == 0, said
    assert "V, in its own process" in said
    report = BenchmarkReport.load("o")
    assert report.settings["systems"] == ["V", "cut"]
    ratios = [row for row in report.rows if row["measure"] == "speedup"]
    assert [(row["part"], row["system"], row["against"], row["note"]) for row in ratios] == [
        ("prefill", "cut", "V", APART), ("decode", "cut", "V", APART)]  # fmt: skip
    alone = [BenchmarkReport.load(tmp_path / "o" / name) for name in ("V", "cut")]
    assert report.rows[: len(alone[0]) + len(alone[1])] == alone[0].rows + alone[1].rows
    assert quality_of(report) == []
    assert "RANDOM WEIGHTS" in printed
    assert {path.name for path in (tmp_path / "o").iterdir()} >= PAGES | ROWS | {"V", "cut", "speed.png"}


def test_one_by_one_wants_names(run: Run) -> None:
    code, _, said = run("bench", "demo", *ALONE)
    assert code == 2
    assert "--one-by-one: name the systems with --only, such as --only V,big" in one_line(said)


def test_a_system_that_fails_in_its_own_process_is_named(run: Run, random_export: Path) -> None:
    code, _, said = run("bench", "random:pythia-14m", random_export, *ALONE, "--only", "nobody")
    assert code == 2
    assert "nobody failed in its own process (exit code 2); the others' rows are in o" in said


# Refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pythia-71m"], "Did you mean pythia-70m"),
        (["demo", "nowhere"], r"nowhere: no such directory\. Give one that export_model has written"),
        (["NEOX", "EXPORT"], "was made from demo, not from .*: compare it with demo"),
        (["demo", "NEOX"], "holds a gpt_neox model and no pruned one"),
        (["EXPORT"], "use the original model"),
        (["demo", "--plan", "missing.json"], "no plan at missing.json"),
        (["demo", "--only", "W"], r"no system is called W: there are V, S, P0, StreamingLLM 25 %, SnapKV 25 %, exp"),
        (["demo", "--weights", "int4"], "weights 'int4': choose of bfloat16, int8"),
        (["demo", "--only", "CTranslate2"], "no system is called CTranslate2"),
        (["demo", "--hypothetical", "z"], "hypothetical plan 'z': choose of b, c, d, e"),
        (["demo", "--budgets", "half"], "--budgets 'half': write a share like 2% or 0.02"),
        (["demo", "--budgets", "0%"], "--budgets 0%: want shares of the KV bytes, more than 0 % and at most 100 %"),
        (["demo", "--budgets", "50%,101%"], "--budgets 50%,101%: want shares"),
        (["demo", "--budgets", "nan"], "--budgets nan: want shares"),
        (["demo", "--budgets", "0.5%"], r"SnapKV at 0\.50% of the KV bytes: 1 key a head .* Take a larger share"),
        (["demo", "--batches", "1,x"], "--batches '1,x': write whole numbers like 256,256,256"),
        (["demo", "--contexts", "1.5"], "--contexts '1.5': write whole numbers"),
        (["demo", "--workload", "40"], r"--workload '40': write whole numbers like 256\+256"),
        (["demo", "--workload", "1+2+3"], "--workload '1.2.3': write whole numbers"),
        (["demo", "--workload", "0+40"], "want a prompt of 1 token or more"),
        (["demo", "--contexts", "600"], "a context of 600 and 6 new tokens: beyond the model's context of 512"),
        (["demo", "--batches", "0"], "want batches, lengths, rounds and openings of 1 or more"),
        (["demo", "--rounds", "0"], "rounds and openings of 1 or more"),
        (["demo", "--new-tokens", "3"], "4 new tokens"),
        (["demo", "--threads", "0"], "--threads 0: want 1 or more"),
        (["demo", "--tokens", "5"], "5 tokens are too few"),
        (["random:pythia-14m", "--head-maps"], "head maps cannot be searched for random weights"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, pruned: Path, neox_folder: Path, arguments: list[str], message: str
) -> None:
    names = {"EXPORT": str(pruned), "NEOX": str(neox_folder)}
    model, *more = [names.get(part, part) for part in arguments]
    code, _, said = run("bench", model, *TINY, "--out", "o", *more)
    assert code == 2, said
    assert re.search(message, one_line(said)), said


def test_two_exports_of_one_name_are_refused(run: Run, pruned: Path) -> None:
    code, _, said = run("bench", "demo", pruned, pruned, *TINY, "--only", "V,pruned", "--out", "o")
    assert code == 2
    assert "two systems are called pruned: give them other folders or names" in one_line(said)


def test_a_name_that_is_nobody_s_is_refused_before_anything_is_measured(run: Run, tmp_path: Path) -> None:
    _, _, said = run("bench", "demo", *TINY, "--only", "W", "--out", "o")
    assert "probing" not in said
    assert "SnapKV at" not in said
    assert list((tmp_path / "o").iterdir()) == []


def test_a_budget_refused_leaves_the_rows_that_are_there(run: Run, tmp_path: Path) -> None:
    assert run("bench", "demo", *TINY, "--only", "V", "--out", "o")[0] == 0
    before = (tmp_path / "o" / LOG).read_bytes()
    assert run("bench", "demo", *TINY, "--budgets", "0%", "--out", "o")[0] == 2
    assert (tmp_path / "o" / LOG).read_bytes() == before


def test_head_maps_without_budgets_are_refused(run: Run) -> None:
    code, _, said = run("bench", "demo", "--quick", "--head-maps", "--out", "o")
    assert code == 2
    assert "head maps are searched for shares of the KV bytes: give --budgets" in said
