"""The folder of an exported model: written whole or not at all, and never over what somebody else put there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from headspec.errors import HeadspecError
from headspec.files import UNFINISHED, make_readable, unfinished_folder, write_whole

MANIFEST = "headspec_export.json"
"""Names the files of an export, so that a later one replaces those and no others."""
HEAD_MAP = "head_map.json"
CONFIG = "config.json"
"""Moved last: without it a folder does not load."""


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a folder that must not be written to."""
    if out.exists() and not out.is_dir():
        raise HeadspecError(f"{out} is a file: name a folder to export to.")
    if not out.exists() or all(path.name.startswith(UNFINISHED) for path in out.iterdir()):
        return
    if not overwrite:
        raise HeadspecError(
            f"{out} is not empty: choose another folder, or --overwrite (overwrite=True), which replaces what an "
            "earlier export wrote there and nothing else."
        )
    if not (out / MANIFEST).is_file():
        raise HeadspecError(f"{out} was not written by headspec ({MANIFEST} is not there): choose another folder.")


def check_space(out: Path, n_bytes: int) -> None:
    """Refuse a disk that is too full."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise HeadspecError(
            f"the model needs {n_bytes / 1e9:.2f} GB, and {place} has {free / 1e9:.2f} GB free: make room or choose "
            "another folder."
        )


def fill_folder(out: Path, fill: Callable[[Path], object]) -> list[str]:
    """Let `fill` write a temporary folder beside `out` (in it, if it exists), then move it there; answers which files.

    A crash before leaves `out` as it was. In a folder of an earlier export its files are replaced one by one, its
    config.json last; files that it did not write stay.
    """
    out = out.resolve()
    try:
        with unfinished_folder(out / MANIFEST if out.exists() else out) as temporary:
            fill(temporary)
            names = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
            names.append(MANIFEST)
            _write_manifest(temporary, names)
            make_readable(temporary)
            if out.exists():
                _move_into(out, temporary, names)
            else:
                temporary.rename(out)
    except OSError as error:
        raise HeadspecError(f"cannot write {out}: {error.strerror or error}. Is there room, and permission?") from error
    return names


def _write_manifest(folder: Path, names: list[str]) -> None:
    manifest = json.dumps({"schema": "headspec.Export/1", "files": names}, indent=1) + "\n"
    write_whole(folder / MANIFEST, lambda path: path.write_text(manifest, encoding="utf-8"))


def _move_into(out: Path, new: Path, names: list[str]) -> None:
    """Put the new files into a folder that is there, in place of those of an earlier export."""
    old = _earlier_files(out)
    foreign = [name for name in names if (out / name).exists() and name not in old]
    if foreign:
        raise HeadspecError(f"{out} has {', '.join(foreign)} from somebody else: choose another folder.")
    _write_manifest(out, [*old, *(name for name in names if name not in old)])  # if this is cut off, it can be repeated
    (out / CONFIG).unlink(missing_ok=True)
    for name in names[:-1]:
        if name != CONFIG:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).replace(out / name)
    for stale in set(old) - set(names):
        (out / stale).unlink(missing_ok=True)
    for name in (MANIFEST, CONFIG):
        if name in names:
            (new / name).replace(out / name)


def _earlier_files(out: Path) -> list[str]:
    """What an earlier export wrote into this folder."""
    if not (out / MANIFEST).exists():
        return []
    try:
        names = list(json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"])
        if not all(isinstance(name, str) for name in names):
            raise TypeError("its files are no names")
    except (ValueError, KeyError, TypeError) as error:
        raise HeadspecError(f"{out / MANIFEST} is damaged: choose another folder.") from error
    return [name for name in names if _inside(out, name) and not (out / name).is_dir()]


def _inside(out: Path, name: str) -> bool:
    return (out / name).resolve().is_relative_to(out.resolve())
