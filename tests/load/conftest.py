"""Loaded tiny models and written texts that the tests of load share."""

from pathlib import Path
from typing import Any

import pytest
from texts import ALPHABET
from tiny_models import bridge_of, tiny_neox

from headspec.load.model import load_model


@pytest.fixture(scope="module")
def neox(neox_folder: Path) -> Any:
    return load_model(str(neox_folder), device="cpu")


@pytest.fixture(scope="module")
def llama(llama_folder: Path) -> Any:
    return load_model(str(llama_folder), device="cpu")


@pytest.fixture(scope="module")
def untokenized() -> Any:
    return bridge_of(tiny_neox())


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a text of so many bytes, all different from their neighbours, and says where it is."""

    def write(length: int) -> str:
        path = tmp_path / "text.txt"
        path.write_text((ALPHABET * (length // 26 + 1))[:length])
        return str(path)

    return write
