"""Makes the blocks of code in README, CONTRIBUTING and `docs/` tests of their own: `pytest docs/tutorial.md`."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

sys.path.insert(0, str(Path(__file__).parent / "tests" / "docs"))

from docs_runner import parse, set_up, tear_down
from sybil import Sybil

ROOT = Path(__file__).parent
PAGES = ["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/*/*.md"]
pytest_collect_file = Sybil([parse], path=str(ROOT), patterns=PAGES, setup=set_up, teardown=tear_down).pytest()
