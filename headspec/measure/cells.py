"""The cells of a benchmark: one measurement of some systems each, as rows of the report."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headspec.load.plain import PlainModel, as_plain
from headspec.measure.bound import Rates, decode_bound_ms, prefill_bound_ms, pruning_bound
from headspec.measure.cell import Cell, Row
from headspec.measure.compare import Comparison
from headspec.measure.contenders import Contender
from headspec.measure.continuation import measure_continuation
from headspec.measure.estimate import estimate, increase
from headspec.measure.memory import weight_bytes
from headspec.measure.report import REFERENCES
from headspec.measure.speed import Laps, device_of, random_prompt, summary, throughput, time_decode, time_prefill
from headspec.measure.systems.system import Running, Standing, System
from headspec.measure.texts import FRESH
from headspec.measure.timing import noise, ratio_over_openings
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.size import kv_bytes_held, plan_size
from headspec.plan.workload import Workload

WARMUP = 2
"""Tokens of a decode cell that are not counted."""
QUALITY = ("perplexity", "perplexity_increase", "kl", "top1_agreement", "repeats_kl", "induction_accuracy",
           "needle_accuracy")  # fmt: skip


def decode_rows(cell: Cell, contenders: Sequence[Contender], rates: Rates, openings: int, seed: int) -> Iterator[Row]:
    """TPOT, throughput, speed-ups, KV bytes and roofline of every system, token by token in turns.

    Systems are opened anew several times, so that intervals know how much that changes.
    """
    assert cell.context is not None
    assert cell.n_new is not None
    assert cell.batch is not None
    found: list[Laps] = []
    running: dict[str, Running] = {}
    for _ in range(openings):
        close(running)
        systems, running = opened(contenders, Workload(cell.context, cell.n_new))
        prompt = random_prompt(running, cell.context, seed)
        found.append(time_decode(running, prompt, cell.batch, cell.n_new - WARMUP, warmup=WARMUP, seed=seed))
    held = {name: each.kv_bytes for name, each in running.items()}
    bounds = {name: decode_bound_ms(each.model, cell.batch, held[name], rates) for name, each in running.items()}
    yield from _times(
        cell, systems, found, "tpot", bounds, {name: device_of(each) for name, each in running.items()}, seed
    )
    for name, system in systems.items():
        laps = [lap for laps in found for lap in laps[name]]
        yield cell.row(system, "throughput", throughput(laps, cell.batch))
        yield cell.row(system, "kv_bytes", held[name])
        yield cell.row(system, "kv_bytes_formula", _formula_bytes(system, running[name].model, cell))
        plan = _plan_of(system, running[name].model)
        yield cell.row(system, "kv_share", plan_size(plan, Workload(cell.context, cell.n_new)).kv_share)
    close(running)


def prefill_rows(cell: Cell, contenders: Sequence[Contender], rates: Rates, rounds: int, seed: int) -> Iterator[Row]:
    """TTFT and speed-ups of every system, prompt by prompt in turns."""
    assert cell.context is not None
    assert cell.batch is not None
    systems, running = opened(contenders, Workload(cell.context))
    prompt = random_prompt(running, cell.context, seed).expand(cell.batch, -1)
    laps = time_prefill(running, prompt, rounds)
    bounds = {name: _prefill_bound(system, running[name].model, cell, rates) for name, system in systems.items()}
    yield from _times(
        cell, systems, [laps], "ttft", bounds, {name: device_of(each) for name, each in running.items()}, seed
    )
    close(running)


def _prefill_bound(system: System, model: Any, cell: Cell, rates: Rates) -> float:
    config, width = model.config, next(model.parameters()).element_size()
    plan = _plan_of(system, model)
    return prefill_bound_ms(
        plan, config.intermediate_size, config.vocab_size, cell.context or 1, cell.batch or 1, rates, width
    )  # fmt: skip


def _plan_of(system: System, model: Any) -> HeadPlan:
    """The plan of a system; one that keeps every head for V and S."""
    return system.plan or plan_heads(as_plain(model), {})


def _formula_bytes(system: System, model: Any, cell: Cell) -> int:
    """KV bytes of a system by the closed formula, when all of a cell's tokens were read."""
    width = next(model.parameters()).element_size()
    return (cell.batch or 1) * kv_bytes_held(_plan_of(system, model), cell.context or 1, cell.n_new or 0, width)


def _times(
    cell: Cell, systems: Mapping[str, System], openings: Sequence[Laps], word: str, bounds: Mapping[str, float],
    devices: Mapping[str, str], seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Times, bounds and ratios."""
    laps = {name: [lap for found in openings for lap in found[name]] for name in systems}
    cell.words.extend(f"{name}: {found}" for name in systems if (found := noise(laps[name], devices[name])))
    for name, system in systems.items():
        times, on_cpu = summary(laps[name]), devices[name] == "cpu"
        n = times.n_laps
        yield cell.row(system, f"{word}_ms", times.wall_ms, n=n)
        yield cell.row(system, f"{word}_p95_ms", times.wall_p95_ms, n=n)
        yield cell.row(system, f"{word}_cpu_ms", times.cpu_ms, n=n)
        clock = times.cpu_ms if on_cpu and torch.get_num_threads() == 1 else times.wall_ms  # as the rates were measured
        yield from _bound_rows(cell, system, bounds, clock)
        for base in (base for base in REFERENCES if base in laps and base != name):
            for measure, kind in (("speedup", "wall_ms"), ("speedup_cpu", "cpu_ms"))[: 2 if on_cpu else 1]:
                before, own = (
                    [[getattr(lap, kind) for lap in found[who]] for found in openings] for who in (base, name)
                )
                yield cell.row(system, measure, ratio_over_openings(before, own, seed), n=n, against=base)
        if (base := system.unpruned) in laps and base != name:
            before, own = ([[lap.wall_ms for lap in found[who]] for found in openings] for who in (base, name))
            yield cell.row(system, "engine_speedup", ratio_over_openings(before, own, seed), n=n, against=base)


def _bound_rows(cell: Cell, system: System, bounds: Mapping[str, float], clock_ms: float) -> Iterator[Row]:
    """What the roofline says; not of rounded weights, whose rates were not measured."""
    if not system.exact:
        return
    bound = bounds[system.name]
    yield cell.row(system, "bound_ms", bound)
    yield cell.row(system, "roofline_share", bound / clock_ms)
    if "P0" in bounds:
        yield cell.row(system, "pruning_bound", pruning_bound(bounds["P0"], bound), against="P0")


def quality_rows(
    cell: Cell, source: PlainModel, contender: Contender, tokens: Any, workload: Workload, seed: int,
    counts: Mapping[str, Any],
) -> Iterator[Row]:  # fmt: skip
    """Quality of one system on continued text, through its own KV cache; repeats and needles are fresh ones."""
    workloads: dict[str, Workload] = {}
    numbers: dict[str, int] = {}

    def keep(kind: str, here: Workload, found: Comparison) -> None:
        workloads[kind] = here
        numbers[kind] = len(found.kl)
        if kind == "text":
            cell.windows["kl"] = found.kl.tolist()

    report = measure_continuation(
        source, lambda here: contender.make(here).open(), tokens, workload, seed=FRESH + seed, keep=keep, **counts
    )
    system = contender.make(workload)
    for measure in QUALITY:
        found = getattr(report, measure)
        kind = "needles" if measure.startswith("needle") else "repeats" if measure[:4] in ("repe", "indu") else "text"
        if found is not None:
            yield cell.row(system, measure, found, n=numbers[kind], against="the original")
    for kind, here in workloads.items():
        plan = contender.make(here).plan
        share = 1.0 if plan is None else plan_size(plan, here).kv_share
        yield cell.row(system, "kv_share" if kind == "text" else f"{kind}_kv_share", share)


def paired_rows(contenders: Sequence[Contender], cells: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[Row]:
    """The KL of certified systems less that of every other, window by window: what windows add to both cancels."""
    found = {row["system"]: np.array(logged["windows"]["kl"]) for logged in cells.values()
             if logged.get("windows") for row in logged["rows"][:1]}  # fmt: skip
    judged = [contender for contender in contenders if contender.name in found]
    for mine in judged:
        for other in judged:
            if mine.standing is Standing.CERTIFIED and other.standing is not Standing.REFERENCE and mine is not other:
                difference = estimate(increase, found[other.name], found[mine.name], seed=seed)
                n = len(found[mine.name])
                yield Cell("quality").row(mine, "kl_difference", difference, n=n, against=other.name)


def size_rows(cell: Cell, contenders: Sequence[Contender], workload: Workload, rates: Rates) -> Iterator[Row]:
    """Weight bytes of every timed system, and what the machine can do."""
    for contender in contenders:
        system = contender.make(workload)
        running = system.open()
        held = getattr(running, "weight_bytes", None)  # of what has weights of its own kind
        yield cell.row(system, "weight_bytes", weight_bytes(running.model) if held is None else held)
    for measure, value in (("read_bytes_s", rates.read_bytes_s), ("flops", rates.flops_s)):
        yield cell.row(contenders[0], measure, value) | {"system": "", "standing": "", "label": "this machine"}


def opened(contenders: Sequence[Contender], workload: Workload) -> tuple[dict[str, System], dict[str, Running]]:
    """The systems of a workload, by name, and ready to run."""
    systems = {contender.name: contender.make(workload) for contender in contenders}
    return systems, {name: system.open() for name, system in systems.items()}


def close(running: Mapping[str, Running]) -> None:
    """Give the memory of caches back."""
    for each in running.values():
        each.forget()
    gc.collect()
