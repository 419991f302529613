"""The notebooks about looking at heads and treating them run from top to bottom on the packaged model."""

from pathlib import Path

import pytest
from notebook_runs import quickly, run_notebook

LITTLE = {"n_tokens=2048": "n_tokens=512"}
LESS: dict[str, dict[str, str]] = {
    "1_explore_heads": {},
    "2_choose_thresholds": LITTLE,
    "3_ablate_and_sweep": LITTLE | {"n_controls=5": "n_controls=2", "max_evaluations=16": "max_evaluations=4"},
}


@pytest.mark.parametrize("name", LESS)
def test_the_notebook_runs_outside_the_repository_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    run_notebook(quickly(name, LESS[name]), tmp_path)
    assert not list(tmp_path.iterdir())
