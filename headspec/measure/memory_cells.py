"""Peak memory of compared systems, as rows of a benchmark: each system in a process of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headspec.errors import HeadspecError
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.measure.cell import Cell, Row
from headspec.measure.contenders import Contender
from headspec.measure.memory import peak_memory, peak_of
from headspec.measure.speed import random_prompt
from headspec.measure.systems.planned import PlannedReading, planned
from headspec.measure.systems.static_cache import static_cache
from headspec.measure.systems.system import Running, Standing
from headspec.measure.systems.transformers_default import transformers_default
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.workload import Workload


def memory_rows(
    cell: Cell, source: PlainModel, contenders: Sequence[Contender], load: Mapping[str, Any]
) -> Iterator[Row]:
    """Peak memory of every system above its weights, each in a fresh process that loads the original by name.

    A system that is alone in this process is measured here: its weights may not fit into memory twice.
    """
    assert cell.context is not None
    assert cell.batch is not None
    workload = Workload(cell.context, cell.n_new or 0)
    device = "cpu" if source.identity.device == "meta" else source.identity.device
    if len(contenders) == 1:
        system = contenders[0].make(workload)
        yield cell.row(system, "peak_bytes", peak_of(_warm(system.open(), workload, cell.batch), device))
        return
    for contender in contenders:
        system = contender.make(workload)
        job = (source.name, dict(load), contender.name, system.folder or system.plan, workload, cell.batch)
        try:
            yield cell.row(system, "peak_bytes", peak_memory(prepare, *job, device=device))
        except HeadspecError as error:
            yield cell.row(system, "skipped", None, note=str(error))


def prepare(
    name: str, load: dict[str, Any], system_name: str, what: HeadPlan | Path | None, workload: Workload, batch: int
) -> Callable[[], None]:
    """In a fresh process: load a system, run it on a few tokens, and give back the work to measure.

    Args:
        name, load: Of the original.
        system_name: `V` and `S` have no plan.
        what: The plan, or the folder of an exported model, which alone is loaded then.
        workload, batch: What is read and written.
    """
    if isinstance(what, Path):
        running: Running = PlannedReading(load_plain(str(what), **load).huggingface)
    else:
        source = load_plain(name, **load)
        make = {"V": transformers_default, "S": static_cache}.get(system_name)
        plan = what or plan_heads(source, {})
        running = (make(source) if make else planned(source, plan, "", "", Standing.REFERENCE)).open()
        del source
    return _warm(running, workload, batch)


def _warm(running: Running, workload: Workload, batch: int) -> Callable[[], None]:
    """Run a system on a few tokens (lazy imports, layouts of the weights); gives back what is to be measured."""
    _prefill_and_decode(running, Workload(16, 2), batch)
    return partial(_prefill_and_decode, running, workload, batch)


def _prefill_and_decode(running: Running, workload: Workload, batch: int) -> None:
    running.start(workload.n_prompt, workload.n_total, batch)
    token = random_prompt({"": running}, workload.n_prompt, 0).expand(batch, -1)
    running.read(token)
    for _ in range(workload.n_new):
        running.read(token[:, :1])
