"""The benchmark: cell by cell, every finished cell on disk at once, so that a killed run can go on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from headspec.errors import HeadspecError
from headspec.load.identity import Identity
from headspec.load.plain import PlainModel
from headspec.measure.bound import Rates, measure_rates
from headspec.measure.cells import Cell, Row, decode_rows, memory_rows, prefill_rows, quality_rows, size_rows
from headspec.measure.contenders import Contender
from headspec.measure.machine import this_machine
from headspec.measure.memory import decode_bytes, fits
from headspec.measure.report import BENCHMARK, TABLE, BenchmarkReport
from headspec.plan.make import plan_heads
from headspec.plan.workload import Workload
from headspec.rowlog import LOG, RowLog, plain


@dataclass(frozen=True)
class Grid:
    """What is measured."""

    batches: tuple[int, ...] = (1, 4, 16)
    """Rows that are decoded together."""
    memory_batch: int = 4
    """Rows of the prompt whose peak memory is measured, each system in a fresh process; 0 leaves that out."""
    contexts: tuple[int, ...] = (2000,)
    """Tokens in the cache while tokens are decoded."""
    prompts: tuple[int, ...] = (2048,)
    """Lengths of the prompts whose reading is timed, one at a time."""
    n_new: int = 26
    """Tokens decoded in a cell, two of which warm up."""
    rounds: int = 5
    """Times a prompt is read."""
    workload: Workload = field(default_factory=lambda: Workload(256, 256))
    """Of the text on which quality is judged."""
    n_repeats: int = 8
    n_needles: int = 16

    def within(self, context: int) -> "Grid":
        """The grid for a model with a shorter context: lengths beyond it are cut to it."""
        n_new = min(self.n_new, context // 4)
        contexts = tuple(dict.fromkeys(min(n, context - n_new) for n in self.contexts))
        prompts = tuple(dict.fromkeys(min(n, context) for n in self.prompts))
        workload = self.workload if self.workload.n_total <= context else Workload(context // 2, context // 2)
        return replace(self, contexts=contexts, prompts=prompts, n_new=n_new, workload=workload)

    def check(self, context: int) -> None:
        """Refuse lengths beyond a model's context, and counts that measure nothing."""
        wanted = {
            f"a context of {n} and {self.n_new} new tokens": n + self.n_new for n in self.contexts
        } | {f"a prompt of {n} tokens": n for n in self.prompts}  # fmt: skip
        wanted[f"text of {self.workload.n_prompt} + {self.workload.n_new} tokens"] = self.workload.n_total
        beyond = [words for words, length in wanted.items() if length > context]
        if beyond:
            raise HeadspecError(f"{'; '.join(beyond)}: beyond the model's context of {context}. Take shorter ones.")
        if (
            self.n_new < 4
            or self.rounds < 1
            or min(*self.batches, *self.contexts, *self.prompts, 1) < 1
            or self.memory_batch < 0
        ):
            raise HeadspecError(f"{self}: want batches and lengths of 1 or more, 4 new tokens, and 1 round at least.")


QUICK = Grid(
    batches=(1,), memory_batch=0, contexts=(500,), prompts=(512,), n_new=26, rounds=7, n_repeats=4, n_needles=8
)


def run_benchmark(
    source: PlainModel,
    contenders: Sequence[Contender],
    grid: Grid,
    tokens: Any,
    out: Path | str,
    *,
    resume: bool = False,
    seed: int = 0,
    load: Mapping[str, Any] | None = None,
    stage: Callable[[str], object] = lambda message: None,
) -> BenchmarkReport:
    """Measure speed, size and quality of some systems, and keep every row in a folder.

    Args:
        source: The original; where quality is not judged, and no contender needs its weights, `load_shape` will do.
        contenders: The systems, V, S and P0 first where ratios are wanted.
        grid: What is measured.
        tokens: TokenWindows for quality, used for nothing else before; not read where weights are random.
        out: The folder.
        resume: Go on with the run of the same settings that was interrupted there; without it the rows there are
            deleted.
        seed: Draws prompts, repeated tokens and the bootstrap.
        load: Arguments of `load_plain` with which fresh processes load the original by its name.
        stage: Called with a line of text when a cell begins, and for warnings.

    Raises:
        HeadspecError: Lengths beyond the model's context, two systems of one name.
        RecordError: To resume, but the folder holds a run of other settings.
    """
    known = source.identity
    grid.check(known.context)
    _check_names(contenders)
    folder = Path(out)
    if not resume:
        for name in (LOG, BENCHMARK.settings, TABLE):
            (folder / name).unlink(missing_ok=True)
    random = known.name.startswith("random:")
    log = RowLog(folder, settings_of(known, contenders, grid, None if random else tokens, seed), BENCHMARK)
    device = "cpu" if known.device == "meta" else known.device
    machine = this_machine(device).to_dict()
    machine |= {"platform": machine.pop("system"), "seed": seed, "model": known.name, "dtype": known.dtype}
    stage("measuring bandwidth and multiplication rate")
    rates = measure_rates(device)
    timed = [contender for contender in contenders if contender.timed]
    for cell, find in _cells(source, contenders, timed, grid, None if random else tokens, rates, seed, load or {}):
        if cell.name in log.finished:
            continue
        stage(cell.name)
        rows = [cell.skipped(why)] if (why := _too_large(cell, source, timed)) else list(find())
        if cell.words:
            stage(f"NOISY {cell.name}: {len(cell.words)} of {len(timed)} systems; {cell.words[0]}")
        finished = [{name: plain(value) for name, value in (row | machine).items()} for row in rows]
        log.append({"key": cell.name, "rows": finished})
    report = BenchmarkReport.load(folder)
    report.save_csv(folder / TABLE)
    return report


def settings_of(known: Identity, contenders: Sequence[Contender], grid: Grid, tokens: Any, seed: int) -> dict[str, Any]:
    """What all rows of a folder have in common."""
    return {
        "model": known.name, "n_layers": known.n_layers, "n_heads": known.n_heads, "d_head": known.d_head,
        "context": known.context, "dtype": known.dtype, "threads": torch.get_num_threads(),
        "text": "" if tokens is None else tokens.source, "text_digest": "" if tokens is None else tokens.digest,
        "seed": seed, "systems": [contender.name for contender in contenders],
        "plans": {contender.name: contender.identity for contender in contenders}, **asdict(grid),
    }  # fmt: skip


def _cells(
    source: PlainModel,
    contenders: Sequence[Contender],
    timed: Sequence[Contender],
    grid: Grid,
    tokens: Any,
    rates: Rates,
    seed: int,
    load: Mapping[str, Any],
) -> Iterator[tuple[Cell, Callable[[], Iterator[Row]]]]:
    """Every cell, and what measures it."""
    size = Cell("size")
    yield size, lambda: size_rows(size, timed, grid.workload, rates)
    for n_tokens in grid.prompts:
        cell = Cell("prefill", 1, n_tokens)
        yield cell, lambda cell=cell: prefill_rows(cell, timed, rates, grid.rounds, seed)  # type: ignore[misc]
    for batch in grid.batches:
        for n_tokens in grid.contexts:
            cell = Cell("decode", batch, n_tokens, grid.n_new)
            yield cell, lambda cell=cell: decode_rows(cell, timed, rates, seed)  # type: ignore[misc]
    if grid.memory_batch and grid.contexts:
        memory = Cell("memory", grid.memory_batch, max(grid.contexts), grid.n_new)
        yield memory, lambda: memory_rows(memory, source, timed, load)
    for contender in contenders if tokens is not None else ():
        cell = Cell("quality", context=grid.workload.n_prompt, n_new=grid.workload.n_new, system=contender.name)
        yield (
            cell,
            lambda cell=cell, contender=contender: quality_rows(  # type: ignore[misc]
                cell, source, contender, tokens, grid.workload, seed, n_repeats=grid.n_repeats, n_needles=grid.n_needles
            ),
        )


def _too_large(cell: Cell, source: PlainModel, timed: Sequence[Contender]) -> str:
    """Why a cell cannot be measured here; empty if it can."""
    if cell.part != "decode" or cell.context is None or cell.batch is None:
        return ""
    config, known = source.huggingface.config, source.identity
    width = next(source.huggingface.parameters()).element_size()
    length = cell.context + (cell.n_new or 0)
    empty = plan_heads(source, {})
    systems = [contender.make(Workload(cell.context, cell.n_new or 0)) for contender in timed]
    wanted = sum(
        decode_bytes(system.plan or empty, config.intermediate_size, config.vocab_size, cell.batch, length, width)
        for system in systems
    )
    if fits(wanted, known.device):
        return ""
    return f"the caches of {len(systems)} systems need about {wanted / 1e9:.1f} GB, which are not free"


def _check_names(contenders: Sequence[Contender]) -> None:
    names = [contender.name for contender in contenders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HeadspecError(f"two systems are called {', '.join(twice)}: give them other folders or names.")
