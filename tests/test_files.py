"""Files are written whole or not at all, and a folder is tried before work is spent on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headspec.errors import HeadspecError
from headspec.files import writable_folder, write_whole


def write_new(path: Path) -> None:
    path.write_text("new")


class Interrupted:
    """A writer that stops half-way."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, path: Path) -> None:
        path.write_text("ne")
        raise self.error


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    path.write_text("old")
    return path


def test_a_file_appears_with_what_was_written_and_its_path_is_returned(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "record.json", write_new).read_text() == "new"


def test_a_finished_write_replaces_the_old_file(old_file: Path) -> None:
    write_whole(old_file, write_new)
    assert old_file.read_text() == "new"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "record.json", write_new)
    assert (tmp_path / "a" / "b" / "record.json").read_text() == "new"


def test_the_writer_sees_the_file_ending_it_will_have(tmp_path: Path) -> None:
    seen: list[str] = []
    write_whole(tmp_path / "record.png", lambda path: seen.append(path.suffix))
    assert seen == [".png"]


INTERRUPTIONS = [KeyboardInterrupt("stop"), ValueError("stop"), OSError(28, "stop")]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=repr)
def test_an_interrupted_write_leaves_the_old_file(old_file: Path, error: BaseException) -> None:
    with pytest.raises((type(error), HeadspecError), match="stop"):
        write_whole(old_file, Interrupted(error))
    assert old_file.read_text() == "old"


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=repr)
def test_an_interrupted_write_leaves_no_temporary_file(old_file: Path, error: BaseException) -> None:
    with pytest.raises((type(error), HeadspecError), match="stop"):
        write_whole(old_file, Interrupted(error))
    assert list(old_file.parent.iterdir()) == [old_file]


def test_an_interrupted_first_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_whole(tmp_path / "record.json", Interrupted(KeyboardInterrupt("stop")))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_the_path(old_file: Path) -> None:
    with pytest.raises(HeadspecError, match=r"cannot write .*record\.json: No space left on device"):
        write_whole(old_file, Interrupted(OSError(28, "No space left on device")))


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    written = write_whole(tmp_path / "record.json", write_new)
    assert written.stat().st_mode == ordinary.stat().st_mode


def test_a_write_below_a_file_is_refused_with_the_path(old_file: Path) -> None:
    with pytest.raises(HeadspecError, match=r"cannot write .*record\.json.*new\.json"):
        write_whole(old_file / "new.json", write_new)


def test_a_writable_folder_is_made_with_its_parents_and_returned(tmp_path: Path) -> None:
    assert writable_folder(tmp_path / "a" / "b").is_dir()


def test_trying_a_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    writable_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_refused_with_another_to_choose(old_file: Path) -> None:
    with pytest.raises(HeadspecError, match=r"cannot write into .*results.*Choose another folder with --out"):
        writable_folder(old_file / "results")


def test_a_file_is_no_folder(old_file: Path) -> None:
    with pytest.raises(HeadspecError, match=r"cannot write into .*record\.json"):
        writable_folder(old_file)


@pytest.mark.parametrize("module", ["headspec", "headspec.errors", "headspec.heads", "headspec.files"])
def test_the_leaves_start_without_torch(module: str) -> None:
    command = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
