"""The command line as a shell sees it: outputs, files, exit codes, and errors in one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from headspec.classify.head_map import HeadMap
from headspec.pipeline import CLUSTERS, HEAD_MAP, PROFILE, SAMPLE, SPECIALISATION, STATISTICS

DRAWN = ("head_roles", "entropy_heatmap", "position_preference", "temporal_evolution", "head_clusters")
FIGURES = {f"{name}.{kind}" for name in DRAWN for kind in ("png", "html")} | {"roles_by_layer.png"}
QUICK = ("--tokens", "512", "--no-controls", "--device", "cpu")


def headspec(*arguments: str, folder: Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, as a user would."""
    done = subprocess.run(
        [sys.executable, "-m", "headspec", *arguments], cwd=folder, input=stdin, capture_output=True, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("run")
    done = headspec("analyze", "demo", "--tokens", "1024", "--device", "cpu", folder=folder)
    return folder / "results" / "attention_analysis_demo", done


def test_analyze_writes_every_file(analysed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = analysed
    assert done.returncode == 0, done.stderr
    records = {PROFILE, HEAD_MAP, STATISTICS, SPECIALISATION, CLUSTERS, SAMPLE}
    assert {path.name for path in folder.iterdir()} == FIGURES | records


def test_analyze_prints_roles_per_layer_and_a_verdict(
    analysed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = analysed
    assert "Heads of demo" in done.stdout
    assert "Heads specialise" in done.stdout
    assert "loading demo" in done.stderr
    assert "loading demo" not in done.stdout


def test_the_tables_agree_with_each_other(analysed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    import pandas

    folder, _ = analysed
    table = pandas.read_csv(folder / STATISTICS, keep_default_na=False)
    heads = json.loads((folder / HEAD_MAP).read_text(encoding="utf-8"))["heads"]
    assert [head["head"] for head in heads] == list(table["head"])
    assert [head["role"] for head in heads] == list(table["role"])
    assert set(table["model"]) == {"demo"}


def test_plot_draws_again_from_the_files(analysed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = analysed
    (folder / "head_roles.png").unlink()
    assert headspec("plot", str(folder), folder=folder).returncode == 0
    assert (folder / "head_roles.png").is_file()


def test_models_lists_the_names(tmp_path: Path) -> None:
    done = headspec("models", folder=tmp_path)
    assert "pythia-2.8b" in done.stdout
    assert "2,775 M" in done.stdout


def test_help_imports_no_torch() -> None:
    code = "import sys, headspec.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_text_comes_from_standard_input(tmp_path: Path) -> None:
    text = b"The harbour was quiet, and the lamp was lit. " * 60
    done = headspec("analyze", "demo", *QUICK, "--text", "-", "--out", "o", folder=tmp_path, stdin=text)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "o" / HEAD_MAP).read_text(encoding="utf-8"))["about"]
    assert (about["text"], about["window"]) == ("-", 512)


def test_random_weights_say_so(run: Run, tmp_path: Path) -> None:
    code, printed, said = run("analyze", "random:pythia-14m", "--tokens", "64", "--device", "cpu")
    assert code == 0, said
    assert "Random weights" in printed
    table = (tmp_path / "results" / "attention_analysis_random-14m" / STATISTICS).read_text(encoding="utf-8")
    assert table.count("random:pythia-14m") == 24


def test_hub_layout_is_analysed(run: Run, neox_folder: Path, tmp_path: Path) -> None:
    code, _, said = run("analyze", str(neox_folder), *QUICK, "--out", "o")
    assert code == 0, said
    assert json.loads((tmp_path / "o" / HEAD_MAP).read_text(encoding="utf-8"))["about"]["dtype"] == "float32"


def test_llama_is_analysed(run: Run, llama_folder: Path, tmp_path: Path) -> None:
    code, _, said = run("analyze", str(llama_folder), *QUICK, "--out", "o")
    assert code == 0, said
    assert len(json.loads((tmp_path / "o" / HEAD_MAP).read_text(encoding="utf-8"))["heads"]) == 8


def test_thresholds_and_layers_are_options(run: Run, tmp_path: Path) -> None:
    code, _, said = run("analyze", "demo", *QUICK, "--layers", "1,3", "--threshold", "dead_spread=0", "--threshold",
                    "windows=4,8", "--out", "o")  # fmt: skip
    assert code == 0, said
    saved = json.loads((tmp_path / "o" / HEAD_MAP).read_text(encoding="utf-8"))
    assert saved["about"]["layers"] == [1, 3]
    assert saved["thresholds"]["windows"] == [4, 8]
    assert {head["role"] for head in saved["heads"]} == {"positional", "gathering"}


def test_token_ids_can_be_given(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(100))
    code, _, said = run("analyze", "demo", *QUICK, "--token-ids", "ids.npy", "--out", "o")
    assert code == 0, said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "pythia-71m"], "Did you mean"),
        (["analyze", "./nowhere"], "no such directory"),
        (["analyze", "demo", "--text", "missing.txt"], "cannot read the text missing.txt"),
        (["analyze", "demo", "--text", "empty.txt"], "is empty"),
        (["analyze", "demo", "--text", "binary.txt"], "binary"),
        (["analyze", "demo", "--text", "short.txt"], "17 or more are needed"),
        (["analyze", "demo", "--window", "4096"], "takes 17 to 512"),
        (["analyze", "demo", "--layers", "9"], "layers 0–3"),
        (["analyze", "demo", "--layers", "a"], "write layer numbers"),
        (["analyze", "demo", "--threshold", "dead_spred=1"], "unknown threshold dead_spred"),
        (["analyze", "demo", "--threshold", "windowed_mass=2"], r"share in \[0, 1\]"),
        (["analyze", "demo", "--rules", "mine"], "choose one of default, naive"),
        (["analyze", "demo", "--dtype", "int8"], "choose float32"),
        (["analyze", "demo", "--device", "tpu"], "choose one of auto"),
        (["analyze", "demo", "--out", "short.txt/results"], "cannot write into"),
        (["plot", "nowhere"], "no such folder"),
        (["plot", "."], "no profile at"),
        (["analyze", "demo", "--every", "0"], "every=0"),
        (["analyze", "demo", "--engine", "slow"], "choose one of hooks, fast"),
        (["analyze", "random:pythia-12b", "--batch-size", "1000000"], "random:pythia-12b needs about"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    code, _, said = run(*arguments)
    assert code == 2
    assert "Traceback" not in said
    assert re.search(message, said), said


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = headspec("analyze", "pythia-71m", "--debug", folder=tmp_path)
    assert "Traceback" in done.stderr


def test_a_damaged_profile_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_bytes(b"not a safetensors file")
    code, _, said = run("plot", str(tmp_path))
    assert code == 2
    assert "damaged" in said


def test_unknown_options_are_usage_errors(tmp_path: Path) -> None:
    assert headspec("analyze", "demo", "--nonsense", folder=tmp_path).returncode == 2


def test_an_interrupt_is_exit_code_130_and_a_word(tmp_path: Path) -> None:
    code = (
        "import headspec.pipeline, headspec.cli, sys\n"
        "def interrupted(*_, **__): raise KeyboardInterrupt\n"
        "headspec.pipeline.analyze = interrupted\n"
        "sys.argv = ['headspec', 'analyze', 'demo']\n"
        "headspec.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "interrupted" in done.stderr


def test_both_engines_give_the_same_roles(run: Run, tmp_path: Path) -> None:
    for engine in ("hooks", "fast"):
        code, _, said = run("analyze", "demo", *QUICK, "--engine", engine, "--out", engine)
        assert code == 0, said
    hooks, fast = (HeadMap.load(tmp_path / engine / HEAD_MAP) for engine in ("hooks", "fast"))
    assert hooks.agreement(fast) == 1.0


def test_figures_of_an_earlier_run_do_not_stay(run: Run, tmp_path: Path) -> None:
    stale = [tmp_path / "o" / name for name in ("head_roles.html", "head_clusters.html")]
    stale[0].parent.mkdir()
    for path in stale:
        path.write_text("of another run")
    assert run("analyze", "demo", *QUICK, "--no-pages", "--out", "o")[0] == 0
    assert not any(path.exists() for path in stale)
    assert (tmp_path / "o" / "head_roles.png").is_file()


def test_an_interrupted_analysis_is_resumed(run: Run, tmp_path: Path) -> None:
    die = (
        "import os, sys, headspec.cli\n"
        "from headspec.probe import checkpoint, reader\n"
        "checkpoint.SAVE_EVERY_S = 0\n"
        "calls, on_z = iter(range(10**6)), reader.LayerReader.on_z\n"
        "reader.LayerReader.on_z = lambda *a, **k: os._exit(9) if next(calls) == 11 else on_z(*a, **k)\n"
        "headspec.cli.main()"
    )
    arguments = ("analyze", "demo", "--tokens", "1024", "--no-controls", "--device", "cpu")
    killed = subprocess.run([sys.executable, "-c", die, *arguments, "--out", "o"], cwd=tmp_path, check=False)
    assert killed.returncode == 9
    assert [path.name for path in (tmp_path / "o" / "unfinished").iterdir()] == ["text.safetensors"]
    code, _, said = run(*arguments[:-2], "--seed", "1", "--out", "o", "--resume")
    assert code == 2
    assert re.search("cannot resume: .* is of demo on .*seed 0 there, 1 now", said), said
    assert run(*arguments, "--out", "o", "--resume")[0] == 0
    assert run(*arguments, "--out", "whole")[0] == 0
    assert not (tmp_path / "o" / "unfinished").exists()
    assert (tmp_path / "o" / STATISTICS).read_text() == (tmp_path / "whole" / STATISTICS).read_text()


def test_resuming_over_another_model_s_results_is_refused(run: Run, tmp_path: Path) -> None:
    arguments = ("--tokens", "64", "--no-controls", "--out", "o")
    assert run("analyze", "random:pythia-14m", *arguments)[0] == 0
    code, _, said = run("analyze", "demo", *arguments, "--resume")
    assert code == 2
    assert "holds a run of random:pythia-14m, not one of demo" in said


def test_a_wrong_name_or_rule_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    run("analyze", "pythia-71m")
    run("analyze", "demo", "--rules", "mine")
    assert list(tmp_path.iterdir()) == []


def test_square_brackets_in_a_name_are_no_markup(run: Run, tmp_path: Path) -> None:
    code, _, said = run("analyze", "./[/x]")
    assert code == 2
    assert "./[/x]: no such directory" in said
