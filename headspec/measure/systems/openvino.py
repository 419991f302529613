"""Systems on OpenVINO: headspec's graph of a plan (or of the original: P0), through the runner that travels with it."""

import json
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import ModelError
from headspec.export.openvino import check_openvino, save_openvino
from headspec.export.surgery import pruned_model
from headspec.load.names import folder_name
from headspec.load.plain import PlainModel
from headspec.measure.systems.reduced import as_integers
from headspec.measure.systems.system import Standing, System
from headspec.plan.plan import HeadPlan
from headspec.runtime.openvino_runner import CONFIG, MODEL, OpenVINODecoder

ENGINE = "OpenVINO"


class OpenVINOReading:
    """Reads through an OpenVINODecoder; `model` only says what is computed."""

    def __init__(self, model: Any, decoder: OpenVINODecoder, weight_bytes: int):
        self.model, self.decoder, self.weight_bytes = model, decoder, weight_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes of the buffers."""
        return self.decoder.nbytes

    def start(self, prompt: int, expected: int, batch: int = 1) -> None:
        """Make room for `expected` columns."""
        self.decoder.start(expected, [0] * batch)

    def read(self, tokens: Int[Tensor, "batch token"], n_last: int = 1) -> Float[Tensor, "batch n_last vocabulary"]:
        """Read tokens; where more logits are wanted than the last, one after another, as the graph gives one."""
        n_wanted = min(n_last or tokens.shape[1], tokens.shape[1])
        pieces = tokens.split(1, dim=1)[-n_wanted:] if n_wanted > 1 else (tokens,)
        if n_wanted > 1 and tokens.shape[1] > n_wanted:
            self.decoder.read(tokens[:, :-n_wanted].numpy())
        found = [self.decoder.read(piece.numpy()) for piece in pieces]
        return torch.from_numpy(np.stack(found, axis=1))

    def repeat(self, times: int) -> None:
        """Make `times` rows of every row."""
        self.decoder.repeat(times)

    def forget(self) -> None:
        """Drop the buffers."""
        self.decoder.forget()


def _weight_bytes(folder: Path) -> int:
    return (folder / MODEL).with_suffix(".bin").stat().st_size


def on_openvino(system: System, weights: str = "float32", stateful: bool = False) -> System:
    """A model of headspec's runtime as a graph on OpenVINO; made once, however often it is opened.

    With `stateful` it keeps keys and values as states, which OpenVINO fuses with its attention.

    Raises:
        MissingPackageError: OpenVINO, or nncf for integers, is not installed.
    """
    check_openvino(weights)

    @cache
    def made() -> tuple[Any, OpenVINODecoder, int]:
        model = system.open().model
        with tempfile.TemporaryDirectory() as folder:
            save_openvino(model, Path(folder), weights, stateful)
            decoder = OpenVINODecoder(folder, torch.get_num_threads(), ENABLE_MMAP=False)  # the folder goes
            size = _weight_bytes(Path(folder))
        return (as_integers(model) if weights == "int8" else model), decoder, size

    kind = " int8" * (weights == "int8") + " stateful" * stateful
    words = f"on OpenVINO {version('openvino')}{kind}"
    return system.elsewhere(
        f"OpenVINO{kind}", words, open=lambda: OpenVINOReading(*made()), engine=ENGINE, exact=weights == "float32"
    )


def openvino_folder(folder: Path, source: PlainModel) -> System:
    """An OpenVINO export in its folder.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        ModelError: Of another original, or the plan beside it is not its own.
    """
    check_openvino()
    plan, config = HeadPlan.load(folder / "plan.json"), json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.get("origin", {}).get("plan") != plan.digest:
        raise ModelError(f"{folder}: its plan.json is not the one that this graph was made by. Export it anew.")
    plan.about.check_model(source.identity)
    integers = config["weights"] == "int8"
    kind = " int8" * integers + " stateful" * bool(config.get("stateful"))

    @cache
    def made() -> tuple[Any, OpenVINODecoder, int]:
        model = pruned_model(source.huggingface, plan)
        decoder = OpenVINODecoder(folder, torch.get_num_threads())
        return (as_integers(model) if integers else model), decoder, _weight_bytes(folder)

    standing = Standing.HYPOTHETICAL
    if plan.certificate:
        standing = Standing.PEER if integers else Standing.CERTIFIED
    return System(
        folder_name(str(folder)), f"OpenVINO export {folder}{kind}", standing,
        lambda: OpenVINOReading(*made()), plan, folder, ENGINE, exact=not integers,
        unpruned=f"P0 OpenVINO{kind}",
    )  # fmt: skip
