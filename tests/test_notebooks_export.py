"""The notebooks about smaller models and live generation run from top to bottom on the packaged model."""

from pathlib import Path

import pytest
from notebook_runs import quickly, run_notebook, shown

LESS: dict[str, dict[str, str]] = {
    "4_export_and_benchmark": {
        "n_tokens=2048": "n_tokens=512",
        "batches=(8,), contexts=(1000,), prompts=(1024,)": "batches=(2,), contexts=(100,), prompts=(128,)",
        "rounds=4": "rounds=2",
    },
    "5_live_generation": {},
}


@pytest.fixture(scope="module", params=LESS)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Name, what it showed, and the folder it was started in."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, shown(run_notebook(quickly(request.param, LESS[request.param]), folder)), folder


def test_it_leaves_nothing_behind_in_the_folder_it_was_started_in(ran: tuple[str, str, Path]) -> None:
    assert not list(ran[2].iterdir())


CLAIMS = {
    "4_export_and_benchmark": ["the fresh process wrote what the hooked model writes: True"],
    "5_live_generation": ["the same tokens as the runtime: True", "the same decisions at the end of the prompt: True"],
}


def test_what_it_claims_to_be_equal_is(ran: tuple[str, str, Path]) -> None:
    name, text, _ = ran
    assert [claim for claim in CLAIMS[name] if claim not in text] == []
