"""tools/verify_export.py: accepts an export that computes what its plan says, and no other. Runs without headspec."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_vectors
from safetensors.numpy import save_file as save_vectors
from safetensors.torch import load_file, save_file
from tiny_models import save_neox_hub_layout

from headspec.export.export import export_model
from headspec.heads import HeadId
from headspec.load.model import load_plain
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Remove, Window

TOOL = Path(__file__).parents[2] / "tools" / "verify_export.py"
WITHOUT_HEADSPEC = """
import contextlib, importlib.abc, io, json, runpy, sys


class NoHeadspec(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "headspec":
            raise ImportError("headspec is not installed here")


sys.meta_path.insert(0, NoHeadspec())
tool, original, *folders = sys.argv[1:]
for folder in folders:
    sys.argv = [tool, original, folder, "--tokens", "80", "--new", "30"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(tool, run_name="__main__")
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    except Exception as error:
        code = repr(error)
    print(json.dumps([code, said.getvalue()]))
"""


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def treatments(folder: Path, **changes: str | None) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    plan["treatments"] = {head: what for head, what in {**plan["treatments"], **changes}.items() if what is not None}
    (folder / "plan.json").write_text(json.dumps(plan))


def other_fill(folder: Path) -> None:
    vectors = load_vectors(folder / "plan.safetensors")
    save_vectors({name: vector + 0.1 for name, vector in vectors.items()}, folder / "plan.safetensors")


def other_window_in_the_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["head_groups"][1][1]["window"] == 5
    config["head_groups"][1][1]["window"] = 6
    (folder / "config.json").write_text(json.dumps(config))


BIAS = "gpt_neox.layers.0.attention.dense.bias"
GOOD = ("as exported", "a dense twin", "a dense twin without its windows")
BAD: dict[str, Callable[[Path], Any]] = {
    "a bias is off": lambda folder: weights(folder, lambda tensors: tensors[BIAS][3].add_(0.01)),
    "a number is not one": lambda folder: weights(folder, lambda tensors: tensors[BIAS].fill_(float("nan"))),
    "a window is longer in the plan": lambda folder: treatments(folder, L1H0="window:9+1"),
    "a window is gone from the plan": lambda folder: treatments(folder, L1H0=None),
    "a removed head has a window in the plan": lambda folder: treatments(folder, L0H1="window:2"),
    "a removed head is kept in the plan": lambda folder: treatments(folder, L0H1=None),
    "a kept head is zero in the plan": lambda folder: treatments(folder, L0H0="zero"),
    "the fill is another": other_fill,
    "a window is longer in the configuration": other_window_in_the_configuration,
}


class Verdict(NamedTuple):
    code: int | str
    printed: str


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    place = tmp_path_factory.mktemp("verify")
    source = save_neox_hub_layout(place / "source")
    about = about_of(load_plain(str(source), device="cpu"))
    plan = HeadPlan(
        about,
        {HeadId(0, 1): Remove("mean"), HeadId(1, 0): Window(5, 1), HeadId(1, 3): Remove("zero")},
        {HeadId(0, 1): np.linspace(-1, 1, 8, dtype=np.float32), HeadId(1, 3): np.zeros(8, np.float32)},
    )
    export_model(str(source), plan, place / "as exported")
    export_model(str(source), plan.without(["L1H0"]), place / "a dense twin", to="dense-twin")
    with pytest.warns(UserWarning, match="cannot hold windows"):
        export_model(str(source), plan, place / "a dense twin without its windows", to="dense-twin")
    export_model(str(source), plan, place / "in halves", dtype="bfloat16")
    for name, change in BAD.items():
        shutil.copytree(place / "as exported", place / name)
        change(place / name)
    names = [*GOOD, *BAD, "in halves"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEADSPEC, str(TOOL), str(source), *(str(place / name) for name in names)],
        capture_output=True, text=True, check=False, cwd=place,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: Verdict(*json.loads(line)) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("name", GOOD)
def test_an_export_is_accepted(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].code == 0, verdicts[name]


def test_rounded_weights_are_not_judged(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["in halves"].code == 2
    assert "the weights are bfloat16, rounded" in verdicts["in halves"].printed


def test_it_says_how_far_apart_they_are(verdicts: dict[str, Verdict]) -> None:
    printed = verdicts["as exported"].printed
    assert "logits of 160 random tokens: largest difference " in printed
    assert "greedy decoding: 30 of 30 tokens equal" in printed


@pytest.mark.parametrize("name", BAD)
def test_a_tampered_export_is_not_accepted(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].code == 1, verdicts[name]


def test_it_imports_nothing_of_headspec() -> None:
    lines = TOOL.read_text().splitlines()
    assert not [line for line in lines if line.lstrip().startswith(("import headspec", "from headspec"))]
