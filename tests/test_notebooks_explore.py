"""The notebooks about looking at heads and treating them run from top to bottom on the packaged model."""

from pathlib import Path

import pytest
from notebook_runs import read_notebook, run_notebook


@pytest.mark.parametrize("name", ["1_explore_heads", "2_choose_thresholds", "3_ablate_and_sweep"])
def test_the_notebook_runs_outside_the_repository_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    run_notebook(read_notebook(name), tmp_path)
    assert not list(tmp_path.iterdir())
