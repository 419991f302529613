"""What `load_plain` refuses, and that it says what `load_model` says."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headspec.errors import ModelError
from headspec.load.model import load_model, load_plain


@pytest.fixture
def copied(neox_folder: Path, tmp_path: Path) -> Path:
    """The hub layout, to be damaged."""
    return shutil.copytree(neox_folder, tmp_path / "copied")


def refusal(load: Callable[..., Any], name: str, match: str) -> str:
    with pytest.raises(ModelError, match=match) as refused:
        load(name, device="cpu")
    return str(refused.value)


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has a config.json but no weights"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json: a model directory is what"),
    "config is no json": (lambda folder: (folder / "config.json").write_text("{"), "cannot load .*JSON"),
    "tokenizer is no json": (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot load .*copied"),
    "weights cut off": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:20_000]),
        "the weights in .*copied are damaged or cut off: .*Copy them anew",
    ),
    "other sizes": (
        lambda folder: (folder / "config.json").write_text(
            json.dumps(json.loads((folder / "config.json").read_text()) | {"hidden_size": 64})
        ),
        "cannot load .*copied",
    ),
}


@pytest.mark.parametrize(("damage", "match"), REFUSALS.values(), ids=REFUSALS)
def test_a_damaged_directory_is_refused_as_by_load_model(
    copied: Path, damage: Callable[[Path], object], match: str
) -> None:
    damage(copied)
    assert refusal(load_plain, str(copied), match) == refusal(load_model, str(copied), match)


@pytest.mark.parametrize("missing", ["gpt_neox.layers.1.attention.query_key_value.weight", "embed_out.weight"])
def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(copied: Path, missing: str) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors[missing]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    name = re.escape(missing.replace("embed_out", "lm_head"))
    with pytest.raises(ModelError, match=rf"the weights of .*copied lack {name}\. Copy them anew"):
        load_plain(str(copied), device="cpu")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("pythia-71m", r"unknown model 'pythia-71m'\. Did you mean pythia-"),
        ("random:pythia-71m", "pythia-71m"),
        ("no-such-org/no-such-model", r"cannot load no-such-org/no-such-model: .* Is the name right"),
        ("no-such-org/no-such-model@v9", r"cannot load no-such-org/no-such-model at revision v9: "),
    ],
)
def test_a_name_that_is_unknown_is_refused_as_by_load_model(name: str, match: str) -> None:
    assert refusal(load_plain, name, match) == refusal(load_model, name, match)


@pytest.mark.parametrize("dtype", ["int8", torch.int64])
def test_what_is_no_dtype_to_compute_in_is_refused(dtype: Any) -> None:
    with pytest.raises(ModelError, match=rf"dtype '?{dtype}'?: choose float32, bfloat16 or float16"):
        load_plain("demo", dtype=dtype)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="device 'cuda' is not available here: choose --device auto"):
        load_plain("demo", device="cuda")
