"""`headspec bench`: the original, exported models, plans and published methods, side by side."""

from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from headspec.cli.app import Debug, ModelArgument, app, fail, option, output, say, say_files
from headspec.cli.shared import (
    Device,
    Dtype,
    Profile,
    Seed,
    Text,
    Tokens,
    load_to_measure,
    share,
    warn_of_random_weights,
)
from headspec.errors import HeadspecError
from headspec.files import writable_folder
from headspec.load.names import resolve

if TYPE_CHECKING:
    from headspec.measure.benchmark import Grid
    from headspec.measure.report import BenchmarkReport

FULL_BUDGETS = "50%,25%,12%"
SPEEDUPS = {"speedup V": "× V", "speedup S": "× S", "speedup P0": "× P0", "engine_speedup": "× whole"}
SHOWN = {
    "check": {"logits_difference": "largest difference of a logit"},
    "quality": {"kv_share": "KV share", "kl": "KL", "perplexity": "perplexity", "induction_accuracy": "induction",
                "needle_accuracy": "needles"},
    "prefill": {"ttft_ms": "TTFT ms", "ttft_cpu_ms": "CPU ms", **SPEEDUPS, "roofline_share": "roofline"},
    "decode": {"tpot_ms": "TPOT ms", "tpot_cpu_ms": "CPU ms", "throughput": "tok/s", **SPEEDUPS,
               "pruning_bound": "bound"},
}  # fmt: skip
"""What is printed of each part, and under which name."""


@app.command()
def bench(
    model: ModelArgument,
    pruned: Annotated[list[Path] | None, typer.Argument(help="Folders of exported models.")] = None,
    plan: Annotated[list[Path] | None, option("A plan.json that was not exported; repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few cells and systems: about a minute for demo.")] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also on other engines: torch.compile, CTranslate2, OpenVINO.")
    ] = False,
    weights: Annotated[str, option("Also with other weights: bfloat16,int8.")] = "",
    budgets: Annotated[
        str | None,
        option(f"KV bytes of the published methods: {FULL_BUDGETS} (none with --quick: as the exported models)."),
    ] = None,
    head_maps: Annotated[
        bool | None, option("Search a plan for each budget; by default unless --quick or random weights.")
    ] = None,
    hypothetical: Annotated[str, option("Plans that nobody has judged, for timing: b,c,d,e.")] = "",
    batches: Annotated[str | None, option("Batch sizes to decode with: 1,4,16.")] = None,
    contexts: Annotated[str | None, option("Tokens in the cache while decoding: 2000.")] = None,
    prompts: Annotated[str | None, option("Lengths of prompts whose reading is timed: 2048.")] = None,
    new_tokens: Annotated[int | None, option("Tokens decoded in a cell, two of which warm up.")] = None,
    openings: Annotated[int | None, option("Times systems are opened anew for a decode cell.")] = None,
    rounds: Annotated[int | None, option("Times a prompt is read.")] = None,
    workload: Annotated[str | None, option("Prompt and continuation on which quality is judged: 256+256.")] = None,
    memory_batch: Annotated[
        int | None, option("Rows whose peak memory is measured, each system in a fresh process; 0: none.")
    ] = None,
    only: Annotated[str, option("Only these systems, comma between: V,S,P0,plan c,FOLDER.")] = "",
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="Each system of --only in its own process: big models.")
    ] = False,
    text: Text = "certify",
    select: Annotated[str, option("Text on which plans are searched and budgets divided.")] = "select",
    tokens: Tokens = 8192,
    profile: Profile = None,
    threads: Annotated[int | None, option("Threads that torch computes with; as it is by default.")] = None,
    out: Annotated[Path | None, option("Results folder; results/benchmark_<model> by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of the folder.")] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """How much faster, at what quality, in how many bytes: MODEL, its exports, StreamingLLM, SnapKV and others."""
    options = {name: value for name, value in locals().items() if name not in ("debug", "one_by_one")}
    names = tuple(filter(None, (name.strip() for name in only.split(","))))
    if one_by_one:
        _print(*_apart(options, names), model)
    else:
        _print(*_together(options, names), model)


def _together(options: dict[str, Any], only: tuple[str, ...]) -> "tuple[BenchmarkReport, list[Path]]":
    """Everything in this process, systems in turns."""
    chosen = SimpleNamespace(**options)
    random = chosen.model.startswith("random:")
    exports = {path.name for path in chosen.pruned or ()}
    if random and only and set(only) <= exports:
        from headspec.load.model import load_shape

        loaded = load_shape(chosen.model, dtype=chosen.dtype)
    else:
        loaded = load_to_measure(chosen.model, chosen.device, chosen.dtype, chosen.seed)
    if chosen.threads is not None:
        _set_threads(chosen.threads)
    from headspec.comparison import Lineup, benchmark

    searched = not (chosen.quick or random) if chosen.head_maps is None else chosen.head_maps
    shares = chosen.budgets if chosen.budgets is not None or chosen.quick else FULL_BUDGETS
    plans = tuple(filter(None, chosen.hypothetical.split(",")))
    lineup = Lineup(
        tuple(chosen.pruned or ()), tuple(chosen.plan or ()), _shares(shares), searched, plans, chosen.peers,
        tuple(filter(None, (part.strip() for part in chosen.weights.split(",")))), only,
    )  # fmt: skip
    return benchmark(
        loaded, lineup, _grid(chosen, loaded.identity.context), quick=chosen.quick, out=chosen.out,
        resume=chosen.resume, text=chosen.text, select=chosen.select, n_tokens=chosen.tokens,
        profile=_profile(chosen.profile), seed=chosen.seed, stage=say,
        load={"device": chosen.device, "dtype": chosen.dtype, "seed": chosen.seed},
    )  # fmt: skip


def _apart(options: dict[str, Any], names: tuple[str, ...]) -> "tuple[BenchmarkReport, list[Path]]":
    """Each system in a process of its own, one after the other; what was measured is merged."""
    from headspec.comparison import save_report
    from headspec.measure.merge import merge_reports
    from headspec.measure.report import TABLE, BenchmarkReport
    from headspec.pipeline import results_folder

    if not names:
        raise HeadspecError("--one-by-one: name the systems with --only, such as --only V,big (V, S, P0, folders).")
    folder = writable_folder(results_folder(resolve(options["model"]).name, options["out"], "benchmark"))
    reports = []
    for name in names:
        say(f"{name}, in its own process")
        process = get_context("spawn").Process(target=_one, args=({**options, "out": folder / name}, name))
        process.start()
        process.join()
        if process.exitcode:
            raise HeadspecError(f"{name} failed in its own process (exit code {process.exitcode}); the others' rows "
                                f"are in {folder}.")  # fmt: skip
        reports.append(BenchmarkReport.load(folder / name))
    report = merge_reports(reports, folder)
    return report, [folder / TABLE, *save_report(report, folder)]


def _one(options: dict[str, Any], name: str) -> None:
    try:
        _together(options, (name,))
    except HeadspecError as error:
        fail(str(error), 2)


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise HeadspecError(f"--threads {threads}: want 1 or more.")
    torch.set_num_threads(threads)


def _shares(text: str | None) -> tuple[float, ...]:
    shares = tuple(share("--budgets", part) for part in (text or "").split(",") if part)
    if any(not 0 < value <= 1 for value in shares):
        raise HeadspecError(f"--budgets {text}: want shares of the KV bytes, more than 0 % and at most 100 %.")
    return shares


def _grid(chosen: Any, context: int) -> "Grid":
    """The default grid cut to the model's context, with what the user asks for in place of it."""
    from headspec.measure.benchmark import QUICK, Grid
    from headspec.plan.workload import Workload

    lists = {name: getattr(chosen, name) for name in ("batches", "contexts", "prompts")}
    given: dict[str, Any] = {
        name: _numbers(f"--{name}", text) if text else () for name, text in lists.items() if text is not None
    }
    numbers = {
        "n_new": chosen.new_tokens, "openings": chosen.openings, "rounds": chosen.rounds,
        "memory_batch": chosen.memory_batch,
    }  # fmt: skip
    given |= {name: value for name, value in numbers.items() if value is not None}
    grid = QUICK if chosen.quick else Grid()
    if chosen.new_tokens is not None:
        grid = replace(grid, n_new=chosen.new_tokens)  # contexts are cut to what it leaves
    if chosen.workload is not None:
        given["workload"] = Workload(*_numbers("--workload", chosen.workload, "+", 2))
    return replace(grid.within(context), **given)


def _numbers(name: str, text: str, separator: str = ",", number: int = 0) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(separator))
    except ValueError:
        found = ()
    if not found or (number and len(found) != number):
        example = separator.join(["256"] * (number or 3))
        raise HeadspecError(f"{name} {text!r}: write whole numbers like {example}.")
    return found


def _profile(folder: Path | None) -> Any:
    if folder is None:
        return None
    from headspec.pipeline import PROFILE
    from headspec.probe.profile import HeadProfile

    return HeadProfile.load(folder / PROFILE)


def _print(report: "BenchmarkReport", files: list[Path], model: str) -> None:
    print_benchmark(report)
    warn_of_random_weights(model)
    say_files(files[0].parent, [path.name for path in files])


def print_benchmark(report: "BenchmarkReport") -> None:
    """Quality and speed in a table each; all numbers are in the files."""
    frame = report.to_frame()
    for part, cells in (
        ("check", []),
        ("quality", []),
        ("prefill", ["batch", "context"]),
        ("decode", ["batch", "context"]),
    ):
        rows = frame[(frame.part == part) & frame.system.astype(bool)]
        if not len(rows):
            continue
        for where, inside in rows.groupby(cells) if cells else [((), rows)]:
            title = ", ".join([part, *(f"{name} {size:.0f}" for name, size in zip(cells, where, strict=True))])
            _print_part(inside, SHOWN[part], title)
    for row in frame[frame.measure == "skipped"].itertuples():
        where = " ".join(f"{name} {size:.0f}" for name, size in (("batch", row.batch), ("context", row.context))
                         if size is not None and size == size)  # fmt: skip
        output.print(f"skipped: {row.part} {where}: {row.note}", style="yellow", markup=False)
    output.print(
        "V, S: transformers with its default and its static cache. P0: headspec's runtime, nothing pruned. bound: the "
        "most that pruning alone could give over P0 here. × whole: over the whole model on the same engine.",
        style="dim", highlight=False,
    )  # fmt: skip


def _print_part(rows: Any, shown: dict[str, str], title: str) -> None:
    """One row a system, in the order of the report; narrow enough for 80 columns."""
    names = rows.measure.where(rows.measure != "speedup", rows.measure + " " + rows.against.fillna(""))
    wide = rows.assign(measure=names).pivot_table(
        index="system", columns="measure", values="value", aggfunc="first", sort=False
    )
    columns = [name for name in shown if name in wide.columns]
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("system", no_wrap=True)
    for name in columns:
        table.add_column(shown[name], justify="right")
    for system, values in wide[columns].iterrows():
        table.add_row(system, *map(_cell, columns, values))
    output.print(table)


def _cell(name: str, value: float) -> str:
    if value != value:
        return ""
    if name == "kv_share" or name.endswith("accuracy"):
        return f"{value:.3f}"
    if name == "kl" and value < 5e-7:  # what rounding leaves of nothing
        return "0"
    if name.startswith("speedup") or name in ("roofline_share", "pruning_bound"):
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")
