"""The texts of a probe, one after the other, batch by batch: with a progress bar, and from where it was interrupted."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from headspec.probe.averages import Totals
from headspec.probe.checkpoint import Checkpoint, State
from headspec.probe.reader import LayerReader
from headspec.probe.tiles import Bins


@runtime_checkable
class Engine(Protocol):
    """Sends tokens through a model and lets the readers of its layers see what they need."""

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output weights of a layer's heads."""
        ...

    def steps(self, n_tokens: int, n_readers: int) -> int:
        """How many steps one batch takes; all take about the same time."""
        ...

    def read(
        self, tokens: Int[Tensor, "window token"], readers: list[LayerReader], done: int, step: Callable[[int], None]
    ) -> None:
        """Read one batch of windows of which `done` steps were read before; call `step(done)` after each."""
        ...


@dataclass(frozen=True)
class Stage:
    """One text, and over what its sums run."""

    tokens: Int[Tensor, "window token"]
    bins: Bins


def read_stages(
    engine: Engine,
    stages: list[Stage],
    readers: list[LayerReader],
    batch_size: int,
    device: str,
    checkpoint: Checkpoint | None = None,
    state: State | None = None,
    progress: bool = True,
) -> list[Totals]:
    """Read every stage; from `state` on, if it is given. What an interruption leaves is saved in `checkpoint`."""
    state = state or State()
    total = sum(stage.tokens.numel() for stage in stages)
    with tqdm(total=total, unit="token", unit_scale=True, delay=2, disable=not progress, file=sys.stderr) as bar:
        try:
            while state.stage < len(stages):
                _read_stage(engine, stages, readers, batch_size, device, checkpoint, state, bar)
                state.stage, state.batch = state.stage + 1, 0
                state.totals += [Totals()] if state.stage < len(stages) else []
        finally:
            if checkpoint is not None:
                checkpoint.save(state)
    return state.totals


def _read_stage(
    engine: Engine,
    stages: list[Stage],
    readers: list[LayerReader],
    batch_size: int,
    device: str,
    checkpoint: Checkpoint | None,
    state: State,
    bar: Any,
) -> None:
    stage = stages[state.stage]
    before = sum(earlier.tokens.numel() for earlier in stages[: state.stage])
    for batch in stage.tokens.split(batch_size)[state.batch :]:
        steps = engine.steps(batch.shape[1], len(readers))

        def step(done: int, batch: Tensor = batch, steps: int = steps) -> None:
            # The readers make new tensors and never change old ones: a shallow copy keeps this very moment.
            state.done, state.partial = done, [dict(reader.sums) for reader in readers if reader.sums]
            read = before + state.batch * batch_size * batch.shape[1] + batch.numel() * done / steps
            bar.update(read - bar.n)
            if checkpoint is not None:
                checkpoint.save_if_due(state)

        for row, reader in enumerate(readers):
            reader.begin(stage.bins, state.partial[row] if row < len(state.partial) else None)
        engine.read(batch.to(device), readers, state.done, step)
        total = state.totals[-1].add([reader.sums for reader in readers], stage.bins)
        # In one go, so that an interruption finds the batch either under way or counted.
        state.totals[-1], state.batch, state.done, state.partial = total, state.batch + 1, 0, []
