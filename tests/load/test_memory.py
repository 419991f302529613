"""What is free: never more than the machine has, nor than a container allows."""

from pathlib import Path

import psutil
import pytest

from headspec.load import memory


def group(folder: Path, limit: str, used: str) -> tuple[str, str]:
    (folder / "max").write_text(limit)
    (folder / "current").write_text(used)
    return str(folder / "max"), str(folder / "current")


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "GROUP_FILES", (group(tmp_path, "5000\n", "2000\n"),))
    assert memory.available_bytes() == 3000


@pytest.mark.parametrize("limit", ["max\n", ""])
def test_without_a_limit_the_machine_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str) -> None:
    monkeypatch.setattr(memory, "GROUP_FILES", (group(tmp_path, limit, "1\n"), ("/no/such", "/file")))
    machine = psutil.virtual_memory().total + psutil.swap_memory().total
    assert 0 < memory.available_bytes() <= machine
