"""The folder of an export: what is in it, and that it is written whole or not at all."""

import ast
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from export_makers import plan_of
from tiny_models import save_neox_hub_layout, tiny_neox

from headspec.classify.head_map import HeadMap, HeadVerdict
from headspec.classify.thresholds import Thresholds
from headspec.errors import HeadspecError, RecordError
from headspec.export.export import export_model
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.probe.about import ProbeAbout

CODE = {"adaptive.py", "attention.py", "cache.py", "compressed.py", "configuration.py", "evidence.py", "layers.py",
        "compiled.py", "faster.py", "functional.py", "looking.py", "packing.py", "table.py",
        "linear.py", "live.py", "modeling.py", "parts.py", "policies.py", "pretrained.py", "record.py", "rules.py",
        "sampled.py", "selection.py", "slices.py", "statistics.py", "step.py", "stores.py", "thresholds.py",
        "tricks.py"}  # fmt: skip
DATA = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "plan.json", "plan.safetensors", "README.md", "headspec_export.json"}  # fmt: skip
CERTIFICATE = {"kv_share": 0.5, "quality": {"kl": {"value": 0.1, "low": 0.05, "high": 0.2}}}


def map_of(plan: HeadPlan, **changes: Any) -> HeadMap:
    about = plan.about
    known = ProbeAbout(
        model=about.model, n_layers=about.n_layers, n_heads=about.n_heads, d_head=about.d_head, d_model=about.d_model,
        context=about.context, layers=tuple(range(about.n_layers)), text="t", text_digest="d", n_windows=1, window=32,
        segment=32, **changes,
    )  # fmt: skip
    values = {"role": "gathering", "margin": 1.0, "window": None, "status": None, "traits": [], "evidence": {}}
    verdicts = (HeadVerdict.from_dict({"head": str(head), **values, "reason": ""}) for head in about.heads)
    return HeadMap(known, Thresholds(), "default", tuple(verdicts))


class Exported(NamedTuple):
    folder: Path
    files: list[str]
    plan: HeadPlan
    head_map: HeadMap


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export of a directory, with a certificate and a head map. Shared: leave it as it is."""
    place = tmp_path_factory.mktemp("export")
    source = str(save_neox_hub_layout(place / "source"))
    plan = plan_of(load_plain(source, device="cpu")).certified(CERTIFICATE)
    head_map = map_of(plan)
    files = export_model(source, plan, place / "deep/er/out", head_map=head_map)
    return Exported(place / "deep/er/out", files, plan, head_map)


@pytest.fixture
def model() -> PlainModel:
    return PlainModel(tiny_neox(), "tiny")


@pytest.fixture
def plan(model: PlainModel) -> HeadPlan:
    return plan_of(model, {"L0H1": "mean"})


def test_it_has_weights_code_tokenizer_plan_map_and_card(exported: Exported) -> None:
    assert {path.name for path in exported.folder.iterdir()} == CODE | DATA | {"head_map.json"}


def test_the_answer_names_every_file(exported: Exported) -> None:
    assert sorted(exported.files) == sorted(path.name for path in exported.folder.iterdir())


def test_the_manifest_names_every_file(exported: Exported) -> None:
    manifest = json.loads((exported.folder / "headspec_export.json").read_text())
    assert manifest["schema"] == "headspec.Export/1"
    assert sorted(manifest["files"]) == sorted(exported.files)


def test_the_configuration_names_the_code(exported: Exported) -> None:
    config = json.loads((exported.folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration.PrunedGPTNeoXConfig",
        "AutoModelForCausalLM": "modeling.PrunedGPTNeoXForCausalLM",
    }
    assert config["model_type"] == "headspec_gpt_neox"


def test_the_configuration_names_the_original_and_the_plan(exported: Exported) -> None:
    origin = json.loads((exported.folder / "config.json").read_text())["headspec"]
    assert (origin["model"], origin["plan"]) == (exported.plan.about.model, exported.plan.digest)


def test_the_plan_is_the_one_given_with_its_certificate(exported: Exported) -> None:
    found = HeadPlan.load(exported.folder / "plan.json")
    assert found == exported.plan
    assert found.about == exported.plan.about
    assert found.certificate == CERTIFICATE


def test_the_head_map_is_the_one_given(exported: Exported) -> None:
    assert list(HeadMap.load(exported.folder / "head_map.json")) == list(exported.head_map)


def test_without_a_head_map_none_is_written(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    assert "head_map.json" not in export_model(model, plan, tmp_path / "o")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        if isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0] + (".py" if node.level == 1 else "!" * node.level)


@pytest.mark.parametrize("name", sorted(CODE))
def test_code_imports_only_torch_transformers_python_and_its_neighbours(exported: Exported, name: str) -> None:
    known = {"torch", "transformers", *sys.stdlib_module_names, *CODE}
    assert set(imports(exported.folder / name)) <= known


@pytest.mark.parametrize("name", sorted(CODE))
def test_code_is_headspecs_own(exported: Exported, name: str) -> None:
    import headspec.runtime

    assert (exported.folder / name).read_text() == Path(headspec.runtime.__file__).with_name(name).read_text()


def test_nothing_is_left_beside_it(exported: Exported) -> None:
    assert [path.name for path in exported.folder.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_follow_the_umask(model: PlainModel, plan: HeadPlan, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        export_model(model, plan, tmp_path / "o")
    finally:
        os.umask(before)
    assert (tmp_path / "o").stat().st_mode & 0o777 == 0o777 & ~mask
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "o").iterdir()} == {0o666 & ~mask}


def test_an_empty_folder_is_filled(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    assert "config.json" in export_model(model, plan, tmp_path / "o")
    assert (tmp_path / "o/config.json").is_file()


def test_the_folder_one_is_in_can_be_filled(
    model: PlainModel, plan: HeadPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o").mkdir()
    monkeypatch.chdir(tmp_path / "o")
    export_model(model, plan, ".")
    assert (tmp_path / "o/config.json").is_file()


def test_a_link_to_an_empty_folder_is_filled(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "o").symlink_to(tmp_path / "real")
    export_model(model, plan, tmp_path / "o")
    assert (tmp_path / "real/config.json").is_file()


def test_a_tilde_is_ones_home(
    model: PlainModel, plan: HeadPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    export_model(model, plan, "~/o")
    assert (tmp_path / "o/config.json").is_file()


# When writing fails


def failing(error: BaseException) -> Any:
    def save_pretrained(self: Any, folder: Path, **_: Any) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise error

    return save_pretrained


ERRORS = [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("broken"), KeyboardInterrupt()]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("before", ["missing", "empty", "exported"])
def test_a_failing_write_leaves_everything_as_it_was(
    model: PlainModel, plan: HeadPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, error: Any
) -> None:
    if before == "empty":
        (tmp_path / "o").mkdir()
    if before == "exported":
        export_model(model, plan, tmp_path / "o")
    old = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", failing(error))
    with pytest.raises((HeadspecError, RuntimeError, KeyboardInterrupt)):
        export_model(model, plan_of(model, {"L1H1": "zero"}), tmp_path / "o", overwrite=True)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == old


def test_a_disk_that_fills_up_is_said(
    model: PlainModel, plan: HeadPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", failing(ERRORS[0]))
    with pytest.raises(HeadspecError, match=r"cannot write .*: No space left on device\. Is there room"):
        export_model(model, plan, tmp_path / "o")


def test_a_disk_that_is_too_full_is_refused_before_writing(
    model: PlainModel, plan: HeadPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 9, 9))
    with pytest.raises(HeadspecError, match=r"the model needs 0\.00 GB, and .* has 0\.00 GB free: make room"):
        export_model(model, plan, tmp_path / "missing/o")
    assert list(tmp_path.iterdir()) == []


def test_room_is_measured_on_the_disk_of_the_folder(
    model: PlainModel, plan: HeadPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(Path(path)) or real(path))
    export_model(model, plan, tmp_path / "a/b/o")
    assert asked == [tmp_path]


def test_a_place_that_cannot_be_written_to_is_said(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadspecError, match="cannot write"):
        export_model(model, plan, tmp_path / "file/o")


def test_a_head_map_of_another_model_is_refused(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="another"):
        export_model(model, plan, tmp_path / "o", head_map=map_of(plan.renamed("another")))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_filled_without_touching_what_lies_beside(tmp_path: Path) -> None:
    plain = PlainModel(tiny_neox(0), "tiny")
    out = tmp_path / "parent" / "out"
    out.mkdir(parents=True)
    (out / ".unfinished-killed").mkdir()  # what a killed export left
    out.parent.chmod(0o555)
    try:
        export_model(plain, plan_of(plain), out)
    finally:
        out.parent.chmod(0o755)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "config.json").is_file()
