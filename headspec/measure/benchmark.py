"""The benchmark: cell by cell, every finished cell on disk at once, so that a killed run can go on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from headspec.errors import HeadspecError
from headspec.load.identity import Identity
from headspec.load.plain import PlainModel
from headspec.measure.bound import Rates, measure_rates
from headspec.measure.cell import Cell, Row
from headspec.measure.cells import decode_rows, paired_rows, prefill_rows, quality_rows, size_rows
from headspec.measure.check import check_rows, differs
from headspec.measure.contenders import Contender
from headspec.measure.machine import this_machine
from headspec.measure.memory import decode_bytes, fits
from headspec.measure.memory_cells import memory_rows
from headspec.measure.peers import Absent
from headspec.measure.report import BENCHMARK, SKIPPED, TABLE, BenchmarkReport
from headspec.plan.make import plan_heads
from headspec.plan.size import kv_bytes_held
from headspec.plan.workload import Workload
from headspec.rowlog import LOG, RowLog, plain

ABSENT, PAIRED = "absent", "paired"
"""Keys of the rows about who could not take part, and of those that compare systems window by window."""
OWN_WEIGHTS = 0.7
"""Of the original's weights, what a system in memory has of its own at most: what was cut or laid out anew."""


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
    n_new: int = 14
    """Tokens decoded in a cell for each opening, two of which warm up."""
    openings: int = 3
    """Times the systems are opened anew for a decode cell, so that ratios' intervals know how much that changes."""
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
        counts = (self.memory_batch, self.n_repeats, self.n_needles)
        least = min((*self.batches, *self.contexts, *self.prompts, self.rounds, self.openings, self.workload.n_new))
        if self.n_new < 4 or least < 1 or min(counts) < 0:
            raise HeadspecError(
                f"{self}: want batches, lengths, rounds and openings of 1 or more, 4 new tokens, counts of 0 or more."
            )


QUICK = Grid(
    batches=(1,), memory_batch=0, contexts=(500,), prompts=(512,), n_new=26, openings=1, rounds=7, n_repeats=4,
    n_needles=8,
)  # fmt: skip


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
    absent: Sequence[Absent] = (),
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
        absent: Who cannot take part; noted in the report.
        stage: Called with a line of text when a cell begins, and for warnings.

    Raises:
        HeadspecError: Lengths beyond the model's context, two systems of one name.
        RecordError: To resume, but the folder holds a run of other settings.
    """
    known, folder = source.identity, Path(out)
    grid.check(known.context)
    _check_names(contenders)
    if not resume:
        for name in (LOG, BENCHMARK.settings, TABLE):
            (folder / name).unlink(missing_ok=True)
    tokens = None if known.name.startswith("random:") else tokens
    device = "cpu" if known.device == "meta" else known.device
    machine = this_machine(device).to_dict()
    machine |= {"platform": machine.pop("system"), "seed": seed, "model": known.name, "dtype": known.dtype}
    log = RowLog(folder, settings_of(known, contenders, grid, tokens, machine), BENCHMARK)
    stage("measuring bandwidth and multiplication rate")
    run = _Run(source, contenders, grid, tokens, _rates(log, device, source), seed, load or {}, log)
    if absent or ABSENT in log.finished:  # who was absent may have come since
        rows = [Cell("check").skipped(f"{each.name}: {each.why}") for each in absent]
        log.append({"key": ABSENT, "rows": _finished(rows, machine)})
    for cell, find in run.cells():
        if cell.name in log.finished:
            continue
        stage(cell.name)
        why = run.too_large(cell)
        rows = [cell.skipped(why)] if why else list(find())
        if cell.part == "check" and (wrong := run.wrong(cell.system, rows)):
            stage(f"NOT TIMED: {wrong}")
            rows = [row for row in rows if row["measure"] != "skipped"] + [cell.skipped(wrong)]
        if cell.words:
            stage(f"NOISY {cell.name}: {len(cell.words)} of {len(run.timed)} systems; {cell.words[0]}")
        log.append({"key": SKIPPED * bool(why) + cell.name, "rows": _finished(rows, machine), "windows": cell.windows})
    log.append({"key": PAIRED, "rows": _finished(paired_rows(contenders, log.finished, seed), machine)})
    report = BenchmarkReport.load(folder)
    report.save_csv(folder / TABLE)
    return report


def _finished(rows: Iterable[Row], machine: Row) -> list[Row]:
    """Rows with the machine, for JSON."""
    return [{name: plain(value) for name, value in (row | machine).items()} for row in rows]


def settings_of(
    known: Identity, contenders: Sequence[Contender], grid: Grid, tokens: Any, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """What all rows of a folder have in common."""
    return {
        "model": known.name, "n_layers": known.n_layers, "n_heads": known.n_heads, "d_head": known.d_head,
        "context": known.context, "text": "" if tokens is None else tokens.source,
        "text_digest": "" if tokens is None else tokens.digest,
        "systems": [contender.name for contender in contenders],
        "plans": {contender.name: contender.identity for contender in contenders}, **asdict(grid),
        **{name: machine[name] for name in (
            "dtype", "device", "processor", "threads", "torch", "transformers", "seed")},
    }  # fmt: skip


def _rates(log: RowLog, device: str, source: PlainModel) -> Rates:
    """The machine's rates: those of the run that is resumed, or measured now."""
    rows = {row["measure"]: row["value"] for row in log.finished.get("size", {}).get("rows", ())}
    if "flops" in rows:
        return Rates(rows["read_bytes_s"], rows["flops"])
    return measure_rates(device, next(source.huggingface.parameters()).dtype)


@dataclass(frozen=True)
class _Run:
    """What the cells of one benchmark have in common."""

    source: PlainModel
    contenders: Sequence[Contender]
    grid: Grid
    tokens: Any
    rates: Rates
    seed: int
    load: Mapping[str, Any]
    log: RowLog

    @property
    def timed(self) -> list[Contender]:
        """Those that are not judged by quality only, and compute what they should."""
        return [each for each in self.contenders if each.timed and not self._differs(each)]

    def _differs(self, contender: Contender) -> str:
        if self.source.identity.device == "meta":
            return ""
        return differs(contender, self.log.finished.get(_check(contender).name, {}).get("rows", ()))

    def wrong(self, name: str, rows: Sequence[Row]) -> str:
        """What the rows of its check say against a system; empty if nothing."""
        return next(differs(each, rows) for each in self.contenders if each.name == name)

    def cells(self) -> Iterator[tuple[Cell, Callable[[], Iterator[Row]]]]:
        """Every cell, and what measures it."""
        for contender in self.contenders if self.source.identity.device != "meta" else ():
            if contender.engine:
                cell = _check(contender)
                yield cell, partial(check_rows, cell, self.source, contender, self.seed)
        if self.timed:
            yield from self._timed_cells(self.grid, self.timed)
        grid = self.grid
        for contender in self.contenders if self.tokens is not None else ():
            if contender.engine and (contender.exact or self._differs(contender)):
                continue  # the same logits, so the same quality; or none
            cell = Cell("quality", context=grid.workload.n_prompt, n_new=grid.workload.n_new, system=contender.name)
            counts = {"n_repeats": grid.n_repeats, "n_needles": grid.n_needles}
            yield cell, partial(
                quality_rows, cell, self.source, contender, self.tokens, grid.workload, self.seed, counts
            )  # fmt: skip

    def _timed_cells(
        self, grid: Grid, timed: Sequence[Contender]
    ) -> Iterator[tuple[Cell, Callable[[], Iterator[Row]]]]:  # fmt: skip
        size = Cell("size")
        yield size, partial(size_rows, size, timed, grid.workload, self.rates)
        for n_tokens in grid.prompts:
            cell = Cell("prefill", 1, n_tokens)
            yield cell, partial(prefill_rows, cell, timed, self.rates, grid.rounds, self.seed)
        for batch in grid.batches:
            for n_tokens in grid.contexts:
                cell = Cell("decode", batch, n_tokens, grid.n_new)
                yield cell, partial(decode_rows, cell, timed, self.rates, grid.openings, self.seed)
        plain = [contender for contender in timed if not contender.engine]
        if grid.memory_batch and grid.contexts and plain:
            cell = Cell("memory", grid.memory_batch, max(grid.contexts), grid.n_new)
            yield cell, partial(memory_rows, cell, self.source, plain, self.load)

    def too_large(self, cell: Cell) -> str:
        """Why a cell cannot be measured here; empty if it can."""
        if cell.part not in ("decode", "prefill") or cell.context is None or cell.batch is None:
            return ""
        config, known = self.source.huggingface.config, self.source.identity
        parameters = list(self.source.huggingface.parameters())
        width, weights = parameters[0].element_size(), sum(each.numel() * each.element_size() for each in parameters)
        length, empty = cell.context + (cell.n_new or 0), plan_heads(self.source, {})
        plans = [contender.make(Workload(cell.context, cell.n_new or 0)).plan or empty for contender in self.timed]
        each = [
            decode_bytes(plan, config.intermediate_size, config.vocab_size, cell.batch, length, width) for plan in plans
        ]
        copies = sum(1.0 if contender.engine else OWN_WEIGHTS for contender in self.timed)
        held = [cell.batch * kv_bytes_held(plan, cell.context, cell.n_new or 0, width) for plan in plans]
        caches = sum(held) if cell.part == "decode" else 0
        wanted = caches + max(whole - own for whole, own in zip(each, held, strict=True)) + round(
            copies * weights
        )  # fmt: skip
        if fits(wanted, "cpu" if known.device == "meta" else known.device):
            return ""
        return f"{len(plans)} systems with their caches need about {wanted / 1e9:.1f} GB, which are not free"


def _check(contender: Contender) -> Cell:
    return Cell("check", system=contender.name)


def _check_names(contenders: Sequence[Contender]) -> None:
    names = [contender.name for contender in contenders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HeadspecError(f"two systems are called {', '.join(twice)}: give them other folders or names.")
