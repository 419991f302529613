"""Exported models that were edited or cut off: refused with words, never loaded with made-up weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_makers import MIXED, in_fresh_process, loads_registered, plan_of, random_ids
from safetensors.torch import load_file, save_file
from tiny_models import tiny_neox

from headspec.errors import ModelError
from headspec.export.export import export_model
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel

Groups = list[list[dict[str, Any]]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer 0 keeps H1 and has windows on H2 and H3, layer 1 keeps H0 and H2. Shared: copy it to change it."""
    out = tmp_path_factory.mktemp("whole") / "o"
    model = PlainModel(tiny_neox(), "tiny")
    export_model(model, plan_of(model, MIXED), out)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "o")
    return tmp_path / "o"


def edit(folder: Path, change: Callable[[Groups], Any]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    change(config["head_groups"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def more_heads(groups: Groups) -> None:
    groups[0][0]["heads"] = [0, 1]


def fewer_heads(groups: Groups) -> None:
    groups[1][0]["heads"] = [0]


def no_heads(groups: Groups) -> None:
    groups[0].clear()


def one_window_gone(groups: Groups) -> None:
    del groups[0][1]


def head_in_another_layer(groups: Groups) -> None:
    groups[0][0]["heads"], groups[1][0]["heads"] = [0, 1], [0]


DISAGREE = [more_heads, fewer_heads, no_heads, one_window_gone, head_in_another_layer]
INVALID: list[tuple[Callable[[Groups], Any], str]] = [
    (lambda groups: groups.pop(), "head_groups has 1 layers, the model 2"),
    (lambda groups: groups.append([]), "head_groups has 3 layers, the model 2"),
    (lambda groups: groups[0][0].update(heads=[9]), "from 0 to 3"),
    (lambda groups: groups[0][0].update(heads=[2]), "each at most once"),
    (lambda groups: groups[0][1].update(window=-1), "needs heads, a window of 1 or more keys"),
    (lambda groups: groups[0][1].update(sinks=-1), "0 or more sinks"),
    (lambda groups: groups[0][0].update(heads=[]), "needs heads"),
]


@pytest.mark.parametrize("change", DISAGREE, ids=lambda change: change.__name__)
def test_a_configuration_for_other_weights_is_refused(copy: Path, change: Any) -> None:
    with pytest.raises(ValueError, match=r"config\.json and weights of .* disagree .*export the model anew"):
        loads_registered(edit(copy, change))


@pytest.mark.parametrize("change", DISAGREE, ids=lambda change: change.__name__)
def test_load_plain_turns_it_into_a_model_error(copy: Path, change: Any) -> None:
    with pytest.raises(ModelError, match=r"config\.json and weights of .* disagree"):
        load_plain(str(edit(copy, change)), device="cpu")


def test_no_head_groups_at_all_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config["head_groups"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="disagree"):
        loads_registered(copy)


@pytest.mark.parametrize(("change", "words"), INVALID, ids=[words for _, words in INVALID])
def test_head_groups_that_no_model_has_are_refused(copy: Path, change: Any, words: str) -> None:
    with pytest.raises(Exception, match=words):
        loads_registered(edit(copy, change))
    with pytest.raises(ModelError, match=words):
        load_plain(str(copy), device="cpu")


@pytest.mark.parametrize("groups", ["window", 3, [3, 4], [[{"window": 3}], []], [["a"], []], [[{"heads": 3}], []]])
def test_head_groups_that_are_none_are_a_model_error(copy: Path, groups: Any) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "head_groups": groups}))
    with pytest.raises(ModelError):
        load_plain(str(copy), device="cpu")


@pytest.mark.parametrize("wanting", ["gpt_neox.layers.0.attention.dense.bias", "lm_head.weight"])
def test_a_missing_tensor_is_refused(copy: Path, wanting: str) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights[wanting]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"disagree .*missing: {wanting}"):
        loads_registered(copy)


def test_a_tensor_too_many_is_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["gpt_neox.layers.0.attention.more"] = weights["lm_head.weight"].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"disagree .*unexpected: gpt_neox\.layers\.0\.attention\.more"):
        loads_registered(copy)


def test_weights_that_are_cut_off_are_a_model_error(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged or cut off"):
        load_plain(str(copy), device="cpu")


def test_a_missing_code_file_does_not_matter_where_headspec_is(copy: Path) -> None:
    (copy / "stores.py").unlink()
    assert loads_registered(copy)


def test_of_the_code_in_the_folder_the_check_holds_as_well(whole: Path, tmp_path: Path) -> None:
    jobs = []
    for change in (more_heads, no_heads):
        shutil.copytree(whole, tmp_path / change.__name__)
        edit(tmp_path / change.__name__, change)
        jobs.append({"folder": tmp_path / change.__name__, "options": {"trust_remote_code": True},
                     "tokens": random_ids().tolist(), "greedy": {}})  # fmt: skip
    for found in in_fresh_process(jobs, tmp_path / "fresh"):
        assert "config.json and weights of" in found["error"]
        assert "disagree" in found["error"]
