"""Models that many tests share. Nothing downloads: the hub is off before any library can ask it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and threads of small models wait for each other

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def demo() -> "TransformerBridge":
    """The packaged model. Shared: leave it as it is."""
    from headspec.load.model import load_model

    return load_model("demo", device="cpu")


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-NeoX in the layout of Pythia on the hub, with a byte tokenizer. Shared: copy it to change it."""
    from tiny_models import save_neox_hub_layout

    return save_neox_hub_layout(tmp_path_factory.mktemp("neox"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with grouped-query attention and a byte tokenizer. Shared: copy it to change it."""
    from tiny_models import save_llama

    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium. One at a time: playwright allows no second one in a process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
