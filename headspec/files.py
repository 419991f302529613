"""Files that are written whole or not at all.

A leaf: no torch, no knowledge of what the bytes mean.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headspec.errors import HeadspecError

UNFINISHED = ".unfinished-"
"""How the names of temporary files and folders begin."""


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary sibling of `path`, then rename it: a crash leaves the old file or none."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise HeadspecError(
            f"cannot write {path}: {error.strerror or error}. Is there room, and permission?"
        ) from error
    return path


@contextmanager
def unfinished_folder(beside: Path) -> Iterator[Path]:
    """A temporary folder beside `beside`, to fill and then rename; removed at the end if it is still there."""
    beside = Path(beside).absolute()
    beside.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=beside.parent))
    try:
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can open
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """Give every file of a folder the permissions that new files have; some libraries make theirs private."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~_umask())


def writable_folder(path: Path) -> Path:
    """Make `path` and prove that files can be written there, before hours of work are spent on them."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"x" * 65536)
    except OSError as error:
        raise HeadspecError(
            f"cannot write into {path}: {error.strerror or error}. Choose another folder with --out."
        ) from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
