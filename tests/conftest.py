"""Models that many tests share. Nothing downloads: the hub is off before any library can ask it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and threads of small models wait for each other

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest

if TYPE_CHECKING:
    from command_line import Run
    from transformer_lens.model_bridge import TransformerBridge


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Run":
    """Run the command line in this process, in an empty folder."""
    from command_line import runner

    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


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


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """Without runtime type checks, which torch.compile cannot trace, and which know nothing of a graph's stand-ins."""
    kinds = {
        kind
        for name, module in list(sys.modules.items())
        if name.startswith("headspec.runtime.")
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__.startswith("headspec.runtime.")
    }
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:
            for name, method in list(vars(kind).items()):
                if "jaxtyping" in getattr(getattr(method, "__code__", None), "co_filename", ""):
                    patch.setattr(kind, name, method.__wrapped__)
        yield
    jaxtyping.config.update("jaxtyping_disable", False)
