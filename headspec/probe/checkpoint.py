"""An interrupted probe goes on where it was: the sums so far, kept in one file beside the results."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headspec.errors import RecordError
from headspec.files import write_whole
from headspec.probe.about import ProbeAbout
from headspec.probe.averages import Totals
from headspec.probe.tiles import Sums

SCHEMA = "headspec.UnfinishedProbe/1"
SAVE_EVERY_S = 30.0
MAY_DIFFER = ("versions", "device")
"""What an unfinished probe and its continuation need not have in common."""


@dataclass
class State:
    """How far a probe has come. It reads its stages (the text, the repeats) in order, each batch by batch."""

    stage: int = 0
    batch: int = 0
    """Batches of this stage that are finished."""
    done: int = 0
    """Steps (segments or layers) of the next batch that are finished."""
    totals: list[Totals] = field(default_factory=lambda: [Totals()])
    """One a stage, up to the present one."""
    partial: list[Sums] = field(default_factory=list)
    """Sums of the batch that is under way, one a layer that was read."""


class Checkpoint:
    """The file that holds the State of one probe."""

    def __init__(self, path: Path, about: ProbeAbout, batch_size: int) -> None:
        self.path = Path(path)
        settings = about.to_dict() | {"batch_size": batch_size}
        self.settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        self._saved_at = time.monotonic()

    def save_if_due(self, state: State) -> None:
        """Save if the last time is a while ago."""
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self.save(state)

    def save(self, state: State) -> None:
        """Write the state, whole or not at all."""
        place = {"stage": state.stage, "batch": state.batch, "done": state.done, "n_totals": len(state.totals)}
        header = {"schema": SCHEMA, "settings": json.dumps(self.settings), "place": json.dumps(place)}
        arrays = {name: tensor.contiguous() for name, tensor in _flat(state).items()}
        write_whole(self.path, lambda temporary: save_file(arrays, temporary, metadata=header))
        self._saved_at = time.monotonic()

    def load(self) -> State | None:
        """The state in the file, None if there is no file.

        Raises:
            RecordError: The file is damaged, or of another model, text or setting.
        """
        if not self.path.is_file():
            return None
        header, arrays = _read(self.path)
        try:
            settings, place = json.loads(header["settings"]), json.loads(header["place"])
            state = _state(place, arrays)
            check_same_settings(self.settings, dict(settings), f"the unfinished run in {self.path}")
        except RecordError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _damaged(self.path, error) from error
        return state

    @staticmethod
    def model_in(path: Path) -> str:
        """The name of the model whose probe is in a file."""
        header, _ = _read(path)
        try:
            return str(json.loads(header["settings"])["model"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error


def check_same_settings(wanted: dict[str, Any], found: dict[str, Any], where: str) -> None:
    """Refuse to go on with a run of another model, text or setting, naming both."""
    names = [name for name in wanted | found if name not in MAY_DIFFER and wanted.get(name) != found.get(name)]
    if names:
        differences = "; ".join(f"{name} {found.get(name)!r} there, {wanted.get(name)!r} now" for name in names)
        raise RecordError(
            f"cannot resume: {where} is of {found.get('model')} on {found.get('text')}, this one of "
            f"{wanted.get('model')} on {wanted.get('text')} ({differences}). Repeat it with the same arguments, or "
            "start anew without --resume."
        )


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if header.get("schema") != SCHEMA:
        raise RecordError(f"{path} is not a {SCHEMA}: delete it, or choose another folder.")
    return header, arrays


def _damaged(path: Path, error: Exception) -> RecordError:
    return RecordError(f"{path} is damaged ({error}): delete it and start anew.")


def _flat(state: State) -> dict[str, torch.Tensor]:
    flat = {f"partial/{row}/{name}": value for row, sums in enumerate(state.partial) for name, value in sums.items()}
    for stage, totals in enumerate(state.totals):
        flat |= {f"sums/{stage}/{name}": value for name, value in totals.sums.items()}
        for number, kept in enumerate(totals.windows):
            flat |= {f"windows/{stage}/{number}/{name}": value for name, value in kept.items()}
    return flat


def _state(place: dict[str, int], arrays: dict[str, torch.Tensor]) -> State:
    totals = [Totals() for _ in range(place["n_totals"])]
    partial: dict[int, Sums] = {}
    windows: dict[tuple[int, int], Sums] = {}
    for key, value in arrays.items():
        kind, *numbers, name = key.split("/")
        at = [int(number) for number in numbers]
        if kind == "sums":
            totals[at[0]].sums[name] = value
        elif kind == "windows":
            windows.setdefault((at[0], at[1]), {})[name] = value
        else:
            partial.setdefault(at[0], {})[name] = value
    for stage, number in sorted(windows):
        totals[stage].windows.append(windows[stage, number])
    done = {name: place[name] for name in ("stage", "batch", "done")}
    return State(**done, totals=totals, partial=[partial[row] for row in sorted(partial)])
