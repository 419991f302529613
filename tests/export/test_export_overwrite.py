"""Exporting over an earlier export: its own files are replaced, nobody else's are touched."""

import json
from pathlib import Path

import pytest
from export_makers import MIXED, hooked, loads_registered, logits_of, plan_of, random_ids, same
from tiny_models import tiny_neox

from headspec.errors import HeadspecError
from headspec.export.export import export_model
from headspec.load.plain import PlainModel

MANIFEST = "headspec_export.json"
GONE = {"L0H1": "mean", "L1H0": "zero"}


@pytest.fixture(scope="module")
def model() -> PlainModel:
    """Shared: leave it as it is."""
    return PlainModel(tiny_neox(), "tiny")


@pytest.fixture
def out(model: PlainModel, tmp_path: Path) -> Path:
    """An earlier export."""
    export_model(model, plan_of(model), tmp_path / "o")
    return tmp_path / "o"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def again(model: PlainModel, out: Path, to: str = "hf", overwrite: bool = True) -> list[str]:
    return export_model(model, plan_of(model, GONE), out, to=to, overwrite=overwrite)


def test_a_folder_with_files_is_refused(model: PlainModel, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(HeadspecError, match=r"is not empty: choose another folder, or --overwrite \(overwrite=True\)"):
        again(model, tmp_path, overwrite=False)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_an_earlier_export_is_refused_without_overwrite(model: PlainModel, out: Path) -> None:
    before = contents(out)
    with pytest.raises(HeadspecError, match="is not empty"):
        again(model, out, overwrite=False)
    assert contents(out) == before


def test_a_file_is_refused(model: PlainModel, tmp_path: Path) -> None:
    (tmp_path / "o").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(HeadspecError, match="o is a file: name a folder"):
            again(model, tmp_path / "o", overwrite=overwrite)
    assert contents(tmp_path) == {"o": b"mine"}


def test_a_folder_without_manifest_is_refused_even_with_overwrite(model: PlainModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HeadspecError, match=r"was not written by headspec \(headspec_export.json is not there\)"):
        again(model, tmp_path)
    assert contents(tmp_path) == {"config.json": b"{}"}


def test_overwrite_is_allowed_where_nothing_is(model: PlainModel, tmp_path: Path) -> None:
    again(model, tmp_path / "o")
    assert (tmp_path / "o/config.json").is_file()


def test_the_new_export_takes_the_place_of_the_old(model: PlainModel, out: Path) -> None:
    again(model, out)
    expected = hooked(model, plan_of(model, GONE), random_ids())
    same(logits_of(loads_registered(out), random_ids()), expected)


def test_files_are_those_of_an_export_to_a_new_folder(model: PlainModel, out: Path) -> None:
    again(model, out)
    again(model, out.with_name("new"))
    assert contents(out) == contents(out.with_name("new"))


def test_nothing_is_left_beside_it(model: PlainModel, out: Path) -> None:
    again(model, out)
    assert [path.name for path in out.parent.iterdir()] == ["o"]


def test_files_of_others_stay(model: PlainModel, out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    (out / "runs").mkdir()
    (out / "runs/log.txt").write_text("mine too")
    again(model, out)
    found = contents(out)
    assert (found["notes.txt"], found["runs/log.txt"]) == (b"mine", b"mine too")
    assert "notes.txt" not in json.loads(found[MANIFEST])["files"]


def test_files_of_others_stay_a_second_time(model: PlainModel, out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    for to in ("dense-twin", "hf", "dense-twin"):
        again(model, out, to)
    assert contents(out)["notes.txt"] == b"mine"


@pytest.mark.filterwarnings("ignore:a dense twin cannot hold windows")
def test_a_dense_twin_leaves_no_code_of_the_pruned_model_behind(model: PlainModel, out: Path) -> None:
    assert list(out.glob("*.py"))
    again(model, out, "dense-twin")
    assert not list(out.glob("*.py"))


def test_files_that_are_no_longer_needed_go(model: PlainModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("headspec.export.export.SHARD", "20KB")
        export_model(model, plan_of(model, MIXED), tmp_path / "o")
    assert (tmp_path / "o/model.safetensors.index.json").is_file()
    again(model, tmp_path / "o")
    assert [path.name for path in (tmp_path / "o").glob("model*safetensors*")] == ["model.safetensors"]


def test_a_file_of_somebody_else_under_a_name_of_ours_is_refused(model: PlainModel, out: Path) -> None:
    again(model, out, "dense-twin")
    (out / "cache.py").write_text("mine")
    before = contents(out)
    with pytest.raises(HeadspecError, match=r"has cache\.py from somebody else: choose another folder"):
        again(model, out)
    assert contents(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["o"]


DAMAGED = ["", "{", "[]", "{}", '{"files": 3}', '{"files": [3]}', '{"files": null}', "\udcff"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_manifest_is_refused(model: PlainModel, out: Path, text: str) -> None:
    (out / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    before = contents(out)
    with pytest.raises(
        HeadspecError, match=r"(headspec_export\.json is damaged|from somebody else): choose another folder"
    ):
        again(model, out)
    assert contents(out) == before


def rewrite(out: Path, *names: str) -> None:
    files = json.loads((out / MANIFEST).read_text())["files"]
    (out / MANIFEST).write_text(json.dumps({"files": [*files, *names]}))


def test_a_manifest_cannot_name_files_outside_of_its_folder(model: PlainModel, out: Path) -> None:
    outside = out.with_name("outside.txt")
    outside.write_text("mine")
    (out / "link").symlink_to(out.parent)
    rewrite(out, "../outside.txt", str(outside), "link/outside.txt")
    again(model, out)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("name", ["", ".", "runs"])
def test_a_manifest_that_names_a_folder_does_no_harm(model: PlainModel, out: Path, name: str) -> None:
    (out / "runs").mkdir()
    (out / "runs/log.txt").write_text("mine")
    rewrite(out, name)
    try:
        again(model, out)
    except HeadspecError as error:
        assert "damaged" in str(error)  # noqa: PT017  either is right
    assert (out / "config.json").is_file()
    assert contents(out)["runs/log.txt"] == b"mine"


@pytest.mark.parametrize("stop", ["config.json", "headspec_export.json", "README.md", "model.safetensors"])
@pytest.mark.parametrize(("first", "then"), [("hf", "dense-twin"), ("dense-twin", "hf")])
def test_an_overwrite_that_was_cut_off_can_be_repeated(
    model: PlainModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str, stop: str
) -> None:
    out, real = tmp_path / "o", Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).parent == out and self.name == stop:
            raise KeyboardInterrupt
        return real(self, target)

    again(model, out, first)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            again(model, out, then)
    assert stop == MANIFEST or not (out / "config.json").exists()
    for to in (then, first, then):
        again(model, out, to)
        assert set(contents(out)) == set(json.loads((out / MANIFEST).read_text())["files"])
