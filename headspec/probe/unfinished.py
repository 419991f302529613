"""The folder in which the probes of a run are kept until all of it is finished, so that it can be resumed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headspec.errors import RecordError
from headspec.load.text import TokenWindows
from headspec.probe.checkpoint import Checkpoint
from headspec.probe.collect import probe_heads
from headspec.probe.profile import PROFILE, HeadProfile

FOLDER = "unfinished"


class Unfinished:
    """What an interrupted run has left in a results folder, and where this one leaves its own."""

    def __init__(self, results: Path, model: str, resume: bool, stage: Callable[[str], object]) -> None:
        self.path = results / FOLDER
        left = self.path.is_dir() and any(self.path.iterdir())
        self.resume = resume and left
        if resume:
            _check_model(results, self.path, model)
        if resume and not left:
            stage(f"nothing is unfinished in {results}: starting anew")
        elif left:
            stage(f"going on with {self.path}" if resume else f"starting anew; --resume goes on with {self.path}")

    def probe(self, part: str, model: Any, windows: TokenWindows, **options: Any) -> HeadProfile:
        """`probe_heads` for one part of the run: taken from the folder as far as it has been read."""
        checkpoint = self.path / f"{part}.safetensors"
        return probe_heads(model, windows, checkpoint=checkpoint, resume=self.resume, **options)

    def remove(self) -> None:
        """The run is finished."""
        shutil.rmtree(self.path, ignore_errors=True)


def _check_model(results: Path, unfinished: Path, model: str) -> None:
    """Refuse to go on with, or put a resumed run over, the results of another model."""
    found = {Checkpoint.model_in(path) for path in unfinished.glob("text.safetensors")}
    if not found:
        found = {HeadProfile.load(path).about.model for path in results.glob(PROFILE)}
    if found - {model}:
        raise RecordError(
            f"cannot resume: {results} holds a run of {', '.join(found)}, not one of {model}. Choose another --out."
        )
