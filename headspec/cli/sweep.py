"""`headspec sweep`: the exact effect of every head, and of groups of heads."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from headspec.cli.analyze import read_thresholds
from headspec.cli.app import Debug, ModelArgument, app, option, output, say, say_files
from headspec.cli.shared import (
    Device,
    Dtype,
    Profile,
    Seed,
    Text,
    Tokens,
    load_to_measure,
    profile_of,
    warn_of_random_weights,
)
from headspec.errors import HeadspecError
from headspec.files import writable_folder

if TYPE_CHECKING:
    from headspec.classify.thresholds import Thresholds
    from headspec.search.cases import Case

DEFAULT = "zero,mean,random,window:8"
SHOWN = 15
"""Rows of the table that are printed; all are in sweep.csv."""


@app.command()
def sweep(
    model: ModelArgument,
    treatments: Annotated[str, option("What is done to each head alone, comma between.")] = DEFAULT,
    heads: Annotated[str | None, option("Only these heads: L0H1,L3H7.")] = None,
    curves: Annotated[bool, option("Also treat more and more heads, in the order of the gradient forecast.")] = False,
    controls: Annotated[int, option("Random plans of the same layers beside each plan of several heads.")] = 0,
    vary: Annotated[list[str] | None, option("Plans of other cut-offs: dead_spread=0.05,0.09; repeatable.")] = None,
    fills: Annotated[str, option("Fills of the plans of --vary, comma between.")] = "mean",
    text: Text = "select",
    tokens: Tokens = 8192,
    profile: Profile = None,
    out: Annotated[Path | None, option("Folder of the rows; results/sweep_<model> by default.")] = None,
    engine: Annotated[str, option("fast, hooks (one forward pass a case), or ray (many workers).")] = "fast",
    ray_address: Annotated[str | None, option("A Ray cluster; this machine by default.")] = None,
    workers: Annotated[int | None, option("Shares that Ray works on at once.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Measure the exact effect of every head of MODEL, and of groups. Goes on where it was stopped."""
    from headspec.load.names import resolve
    from headspec.pipeline import results_folder
    from headspec.plan.treatments import parse_treatment

    singles = [parse_treatment(part) for part in treatments.split(",") if part]
    variants = _variants(vary or [])
    folder = writable_folder(results_folder(resolve(model).name, out, "sweep"))
    loaded = load_to_measure(model, device, dtype, seed, bridge=engine == "hooks")

    from headspec.load.text import load_text
    from headspec.search.cases import control_cases, grid_cases, single_cases
    from headspec.search.sweep import sweep as run

    known = profile_of(loaded, profile, seed)
    windows = load_text(loaded, text, n_tokens=tokens, seed=seed)
    cases = single_cases(known, singles, heads.split(",") if heads else None)
    cases += _curves(loaded, windows, known, singles) if curves else []
    cases += grid_cases(known, variants, fills.split(",")) if vary else []
    cases += [control for case in cases if len(case.plan) > 1 for control in control_cases(case, known, controls, seed)]
    say(f"{len(cases)} cases on {windows.source}; rows are kept in {folder}")
    ray_options: dict[str, Any] = {"address": ray_address, "n_workers": workers} if engine == "ray" else {}
    table = run(loaded, cases, windows, out=folder, engine=engine, seed=seed, **ray_options)
    _print_sweep(table.to_frame())
    warn_of_random_weights(str(table.settings["model"]))
    say_files(folder, ["sweep.csv", "rows.jsonl", "sweep.json"])


def _variants(vary: list[str]) -> "list[Thresholds]":
    """Every combination of the cut-offs to try: `dead_spread=0.05,0.09` gives two."""
    choices = []
    for text in vary:
        name, equals, values = text.partition("=")
        if not equals or name == "windows":
            raise HeadspecError(f"--vary {text}: write it as dead_spread=0.05,0.09.")
        choices.append([f"{name}={value}" for value in values.split(",")])
    return [read_thresholds(list(combination)) for combination in product(*choices)]


def _curves(model: Any, windows: Any, profile: Any, treatments: Any) -> "list[Case]":
    """Cumulative curves in the order of the gradient forecast, one a treatment."""
    from headspec.search.attribution import attribute_heads
    from headspec.search.cases import curve_cases

    say("forecasting")
    forecast = attribute_heads(model, windows, profile, treatments)
    return [
        case
        for what in forecast.treatments
        for case in curve_cases(profile, forecast.ranking(what), what, "gradient forecast")
    ]


def _print_sweep(frame: Any) -> None:
    columns = ("case", "kl", "perplexity_increase", "repeats_kl", "induction_accuracy", "kv_share")
    worst = frame.sort_values("kl", ascending=False).head(SHOWN)
    table = Table(*columns, title=f"the {len(worst)} most harmful of {len(frame)} cases")
    for row in worst[list(columns)].itertuples(index=False):
        table.add_row(str(row[0]), *("" if value is None or value != value else f"{value:.4g}" for value in row[1:]))
    output.print(table)
