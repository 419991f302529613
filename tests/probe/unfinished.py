"""One probe to interrupt: three layers, two batches of text and one of repeats, with all that a checkpoint holds."""

from pathlib import Path
from typing import Any

from accounts import random_ids
from watching import interrupted

from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile

N_LAYERS = 3
IDS = random_ids(3, 80)
SETTINGS: dict[str, Any] = {
    "segment": 32, "batch_size": 2, "n_repeats": 2, "query_statistics": True, "progress": False,
}  # fmt: skip
CALLS = {"hooks": 27, "fast": 9}
"""How often an engine reads the outputs of a layer: 3 batches of 3 segments (80 tokens, 79 in repeats) and 3 layers."""
A_STEP = {"hooks": N_LAYERS, "fast": 1}
"""Of these, how many make a step, which an interruption loses."""


def read(model: Any, engine: str, file: Path | None = None, tokens: Any = IDS, **changes: Any) -> HeadProfile:
    return probe_heads(model, tokens, engine=engine, checkpoint=file, **SETTINGS | changes)


def leave_unfinished(model: Any, engine: str, file: Path, call: int = 5) -> Path:
    """Interrupt the probe at the `call`-th output of a layer; answers the file it leaves."""
    with interrupted(call):
        read(model, engine, file)
    return file
