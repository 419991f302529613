"""`headspec export`: what it prints and writes, and how it refuses. Runs in this process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run, one_line
from safetensors.torch import load_file
from tiny_models import CONTEXT

from headspec.classify.head_map import HeadMap, HeadVerdict
from headspec.classify.thresholds import Thresholds
from headspec.heads import HeadId
from headspec.load.pythia import SHAPES
from headspec.pipeline import HEAD_MAP
from headspec.plan.about import PlanAbout
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import parse_treatment
from headspec.probe.about import ProbeAbout
from headspec.runtime.functional import layout_of


def plan_for(folder: Path | str) -> HeadPlan:
    about = PlanAbout(str(folder), n_layers=2, n_heads=4, d_head=8, d_model=32, context=CONTEXT)
    return plan_by_hand(about, {"L0H1": "zero", "L1H0": "window:4"})


def plan_by_hand(about: PlanAbout, wish: dict[str, str]) -> HeadPlan:
    fills = {HeadId.parse(head): np.zeros(about.d_head, np.float32) for head, what in wish.items() if what == "zero"}
    return HeadPlan(about, {HeadId.parse(head): parse_treatment(what) for head, what in wish.items()}, fills)


def map_for(about: PlanAbout) -> HeadMap:
    known = ProbeAbout(
        model=about.model, n_layers=about.n_layers, n_heads=about.n_heads, d_head=about.d_head, d_model=about.d_model,
        context=about.context, layers=tuple(range(about.n_layers)), text="t", text_digest="d", n_windows=1, window=32,
        segment=32,
    )  # fmt: skip
    values = {"role": "gathering", "margin": 1.0, "window": None, "status": None, "traits": [], "evidence": {}}
    verdicts = (HeadVerdict.from_dict({"head": str(head), **values, "reason": ""}) for head in about.heads)
    return HeadMap(known, Thresholds(), "default", tuple(verdicts))


@pytest.fixture
def plan(neox_folder: Path, tmp_path: Path) -> Path:
    """A plan for the tiny GPT-NeoX, saved."""
    (tmp_path / "search").mkdir()
    return plan_for(neox_folder).save(tmp_path / "search/plan.json")


def exporting(run: Run, model: Any, plan: Path, *more: Any) -> tuple[int, str, str]:
    return run("export", model, "--plan", plan, "--out", "o", *more)


def test_the_demo_is_exported(run: Run, demo: Any, tmp_path: Path) -> None:
    plan_heads(demo, {"L0H1": "zero", "L2H3": "window:8"}).save(tmp_path / "plan.json")
    code, printed, said = exporting(run, "demo", tmp_path / "plan.json")
    assert code == 0, said
    assert "exporting demo" in said
    assert (tmp_path / "o/config.json").is_file()
    assert "RANDOM" not in printed


def test_every_file_is_printed(run: Run, neox_folder: Path, plan: Path, tmp_path: Path) -> None:
    code, printed, said = exporting(run, neox_folder, plan)
    assert code == 0, said
    lines = printed.splitlines()
    start = lines.index("Files: o/")
    assert {line.strip() for line in lines[start + 1 :]} == {path.name for path in (tmp_path / "o").iterdir()}


def test_the_saving_is_said(run: Run, neox_folder: Path, plan: Path) -> None:
    said = exporting(run, neox_folder, plan)[2]
    assert "12.5% of the attention weights removed; KV cache of 128 tokens: 75.8% of the original's" in said


@pytest.mark.parametrize("name", [HEAD_MAP, "head_map.json"])
def test_the_head_map_beside_the_plan_comes_along(
    run: Run, neox_folder: Path, plan: Path, tmp_path: Path, name: str
) -> None:
    known = map_for(HeadPlan.load(plan).about)
    known.save(plan.with_name(name))
    code, _, said = exporting(run, neox_folder, plan)
    assert code == 0, said
    assert list(HeadMap.load(tmp_path / "o/head_map.json")) == list(known)


def test_the_plan_of_an_export_brings_its_head_map_to_the_next(
    run: Run, neox_folder: Path, plan: Path, tmp_path: Path
) -> None:
    map_for(HeadPlan.load(plan).about).save(plan.with_name(HEAD_MAP))
    assert exporting(run, neox_folder, plan)[0] == 0
    assert run("export", neox_folder, "--plan", "o/plan.json", "--out", "p")[0] == 0
    assert (tmp_path / "p/head_map.json").is_file()


def test_a_head_map_from_elsewhere_can_be_named(run: Run, neox_folder: Path, plan: Path, tmp_path: Path) -> None:
    map_for(HeadPlan.load(plan).about).save(tmp_path / "elsewhere.json")
    code, _, said = exporting(run, neox_folder, plan, "--head-map", "elsewhere.json")
    assert code == 0, said
    assert (tmp_path / "o/head_map.json").is_file()


def test_without_a_head_map_there_is_none(run: Run, neox_folder: Path, plan: Path, tmp_path: Path) -> None:
    exporting(run, neox_folder, plan)
    assert not (tmp_path / "o/head_map.json").exists()


def test_a_dense_twin_has_no_code(run: Run, neox_folder: Path, plan: Path, tmp_path: Path) -> None:
    code, _, said = exporting(run, neox_folder, plan, "--to", "dense-twin")
    assert code == 0, said
    assert json.loads((tmp_path / "o/config.json").read_text())["model_type"] == "gpt_neox"
    assert not list((tmp_path / "o").glob("*.py"))


def test_a_dense_twin_warns_of_windows_and_boasts_of_nothing(run: Run, neox_folder: Path, plan: Path) -> None:
    _, printed, said = exporting(run, neox_folder, plan, "--to", "dense-twin")
    warning = "warning: a dense twin cannot hold windows or compressed caches: the 1 windowed and 0 compressed heads"
    assert warning in said
    assert "removed; KV cache" not in printed + said


def test_overwrite_replaces_an_earlier_export(run: Run, neox_folder: Path, plan: Path, tmp_path: Path) -> None:
    assert exporting(run, neox_folder, plan)[0] == 0
    assert exporting(run, neox_folder, plan, "--to", "dense-twin")[0] == 2
    code, _, said = exporting(run, neox_folder, plan, "--to", "dense-twin", "--overwrite")
    assert code == 0, said
    assert not list((tmp_path / "o").glob("*.py"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_have_the_dtype_asked_for(run: Run, neox_folder: Path, plan: Path, tmp_path: Path, dtype: str) -> None:
    assert exporting(run, neox_folder, plan, "--dtype", dtype)[0] == 0
    found = {tensor.dtype for tensor in load_file(tmp_path / "o/model.safetensors").values()}
    assert found == {getattr(torch, dtype)}


def test_random_weights_say_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["pythia-14m"].config()
    about = PlanAbout(
        "random:pythia-14m", n_layers=shape["num_hidden_layers"], n_heads=shape["num_attention_heads"],
        d_head=shape["hidden_size"] // shape["num_attention_heads"], d_model=shape["hidden_size"],
        context=shape["max_position_embeddings"],
    )  # fmt: skip
    plan_by_hand(about, {"L0H1": "zero"}).save(tmp_path / "plan.json")
    code, printed, said = exporting(run, "random:pythia-14m", tmp_path / "plan.json", "--dtype", "float16")
    assert code == 0, said
    assert "RANDOM WEIGHTS" in printed
    assert "**RANDOM WEIGHTS**" in (tmp_path / "o/README.md").read_text()
    assert "tokenizer.json" not in printed


# For OpenVINO


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Nothing is converted, which takes long; what would have been."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    calls: list[tuple[Any, ...]] = []

    def save(model: Any, folder: Path, *more: Any, origin: dict[str, Any]) -> None:
        calls.append((model, *more, origin))
        (folder / "openvino_model.xml").write_text("a graph")
        layers = [[group._asdict() for group in layer] for layer in layout_of(model.config, together=True)]
        (folder / "openvino_config.json").write_text(json.dumps({"layers": layers}))

    monkeypatch.setattr("headspec.export.openvino.save_openvino", save)
    return calls


def test_a_graph_is_written_with_its_plan_and_tokenizer(
    run: Run, neox_folder: Path, plan: Path, tmp_path: Path, converted: list[tuple[Any, ...]]
) -> None:
    code, printed, said = exporting(run, neox_folder, plan, "--to", "openvino")
    assert code == 0, said
    assert "12.5% of the attention weights removed; KV cache of 128 tokens: 75.8% of the original's" in said
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names >= {"openvino_model.xml", "plan.json", "tokenizer.json", "README.md"}
    assert "model.safetensors" not in names
    assert all(name in printed for name in names)
    [(model, weights, *_, origin)] = converted
    assert (model.dtype, weights, origin["table"]) == (torch.float32, "float32", False)


def test_integers_and_a_table_are_for_the_asking(
    run: Run, neox_folder: Path, plan: Path, converted: list[tuple[Any, ...]]
) -> None:
    code, _, said = exporting(run, neox_folder, plan, "--to", "openvino", "--weights", "int8", "--table")
    assert code == 0, said
    [(model, weights, *_, origin)] = converted
    assert (weights, origin["table"]) == ("int8", True)
    assert model.gpt_neox.layers[0].table is not None


def test_overwrite_puts_a_graph_in_place_of_weights_and_back(
    run: Run, neox_folder: Path, plan: Path, tmp_path: Path, converted: list[tuple[Any, ...]]
) -> None:
    assert exporting(run, neox_folder, plan)[0] == 0
    before = {path.name for path in (tmp_path / "o").iterdir()}
    assert exporting(run, neox_folder, plan, "--to", "openvino")[0] == 2
    assert exporting(run, neox_folder, plan, "--to", "openvino", "--overwrite")[0] == 0
    assert not (tmp_path / "o/config.json").exists()
    assert not (tmp_path / "o/model.safetensors").exists()
    assert exporting(run, neox_folder, plan, "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "o").iterdir()} == before
    assert len(converted) == 1


@pytest.mark.parametrize(("missing", "weights"), [("openvino", "float32"), ("nncf", "int8")])
def test_without_the_package_the_extra_is_named_and_nothing_is_written(
    run: Run, neox_folder: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, weights: str
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, said = exporting(run, neox_folder, plan, "--to", "openvino", "--weights", weights)
    assert code == 2
    assert f"{missing} is not installed: pip install 'headspec[openvino]'" in one_line(said)
    assert not (tmp_path / "o").exists()


# Refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pythia-71m", "--plan", "PLAN"], "Did you mean pythia-70m"),
        (["./nowhere", "--plan", "PLAN"], "no such directory"),
        (["demo", "--plan", "PLAN"], "this plan was made for .*, not for demo"),
        (["demo", "--plan", "missing.json"], "no plan at missing.json"),
        (["demo", "--plan", "plan.txt"], "a plan is saved as NAME.json"),
        (["NEOX", "--plan", "PLAN", "--head-map", "missing.json"], "missing.json"),
        (["NEOX", "--plan", "PLAN", "--dtype", "float9"], "dtype 'float9': choose float32"),
        (["NEOX", "--plan", "PLAN", "--weights", "int8"], "to='openvino'"),
        (["NEOX", "--plan", "PLAN", "--table", "--to", "dense-twin"], "to='openvino'"),
        (["NEOX", "--plan", "PLAN", "--to", "openvino", "--weights", "int4"], "weights='int4': .* float32 or int8"),
        (["NEOX", "--plan", "PLAN", "--to", "openvino", "--dtype", "float16"], "starts from float32"),
        (["LLAMA", "--plan", "LLAMAPLAN"], "[Ll]lama.* cannot be exported"),
        (["NEOX", "--plan", "PLAN", "--out", "search"], "search is not empty: choose another folder, or --overwrite"),
        (["NEOX", "--plan", "PLAN", "--out", "search", "--overwrite"], "search was not written by headspec"),
        (["NEOX", "--plan", "PLAN", "--out", "search/plan.json"], "plan.json is a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, neox_folder: Path, llama_folder: Path, plan: Path, arguments: list[str], message: str
) -> None:
    about = PlanAbout(str(llama_folder), n_layers=2, n_heads=4, d_head=8, d_model=32, context=CONTEXT)
    names = {"PLAN": plan, "NEOX": neox_folder, "LLAMA": llama_folder, "LLAMAPLAN": plan.with_name("llama.json")}
    plan_by_hand(about, {"L0H1": "zero"}).save(names["LLAMAPLAN"])
    given = [names.get(part, part) for part in arguments]
    code, _, said = run("export", *given, *(() if "--out" in arguments else ("--out", "o")))
    assert code == 2, said
    assert re.search(message, one_line(said)), said


def test_an_unknown_target_is_a_usage_error(run: Run, neox_folder: Path, plan: Path) -> None:
    code, _, said = exporting(run, neox_folder, plan, "--to", "onnx")
    assert code == 2
    assert "onnx" in said


@pytest.mark.parametrize("missing", ["--plan", "--out"])
def test_plan_and_folder_must_be_named(run: Run, neox_folder: Path, plan: Path, missing: str) -> None:
    given = {"--plan": plan, "--out": "o"}
    del given[missing]
    code, _, said = run("export", neox_folder, *(part for pair in given.items() for part in pair))
    assert code == 2
    assert missing in said


@pytest.mark.parametrize("command", ["analyze", "ablate", "search", "export"])
def test_an_exported_model_is_refused(run: Run, neox_folder: Path, plan: Path, tmp_path: Path, command: str) -> None:
    assert exporting(run, neox_folder, plan)[0] == 0
    plan_for("o").save(tmp_path / "again.json")
    more = {"analyze": ["--tokens", "128", "--device", "cpu"], "ablate": ["L0H0=zero", "--tokens", "128"],
            "search": ["--max-kl", "1", "--tokens", "128"],
            "export": ["--plan", "again.json", "--out", "p"]}[command]  # fmt: skip
    code, _, said = run(command, "o", *more)
    assert code == 2, said
    assert "use the original model" in one_line(said)


def test_a_wrong_name_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, headspec.cli\n"
        "try: headspec.cli.main()\n"
        "except SystemExit as done: sys.exit(9 if 'torch' in sys.modules else done.code)"
    )
    done = subprocess.run([sys.executable, "-c", code, "export", "pythia-71m", "--plan", "p.json", "--out", "o"],
                          cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
                          check=False)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Did you mean pythia-70m" in done.stderr
    assert list(tmp_path.iterdir()) == []


# search without a limit


@pytest.mark.parametrize(
    ("arguments", "limit", "announced"),
    [([], 0.02, True), (["--max-ppl-increase", "5%"], 0.05, False), (["--max-kl", "0.1"], None, False)],
)
def test_a_search_without_a_limit_takes_two_percent(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], limit: float | None, announced: bool
) -> None:
    budgets = []

    class StoppedError(Exception):
        pass

    def search_plan(model: Any, budget: Any, **_: Any) -> None:
        budgets.append(budget)
        raise StoppedError

    monkeypatch.setattr("headspec.search.search_plan.search_plan", search_plan)
    monkeypatch.setattr("headspec.load.text.load_text", lambda *_, **__: None)
    monkeypatch.setattr("headspec.cli.search.load_to_measure", lambda *_, **__: SimpleNamespace(name="demo"))
    monkeypatch.setattr("headspec.cli.search.profile_of", lambda *_, **__: None)
    code, _, said = run("search", "demo", *arguments)
    assert (code, len(budgets)) == (1, 1), said
    assert budgets[0].max_ppl_increase == limit
    assert ("no limit given: --max-ppl-increase 2%" in said) is announced
