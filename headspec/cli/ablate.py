"""`headspec ablate`: treat some heads and measure what it costs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

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

HEADS = typer.Argument(help="L3H7=mean L1H4=window:8 …; zero, mean, random, window:KEYS, window:KEYS+SINKS.")


@app.command()
def ablate(
    model: ModelArgument,
    heads: Annotated[list[str] | None, HEADS] = None,
    plan: Annotated[Path | None, option("A plan.json; heads given beside it change it.")] = None,
    text: Text = "select",
    tokens: Tokens = 8192,
    profile: Profile = None,
    out: Annotated[Path | None, option("Write the report as JSON, and the plan beside it as …_plan.json.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Treat heads of MODEL and measure what it costs, with intervals."""
    from headspec.plan.make import plan_heads
    from headspec.plan.plan import HeadPlan
    from headspec.plan.treatments import parse_treatment

    pairs = [_pair(given) for given in heads or []]
    if not pairs and plan is None:
        raise HeadspecError("nothing to treat: name heads, as L3H7=mean or L1H4=window:8, or give --plan plan.json.")
    chosen = HeadPlan.load(plan) if plan is not None else None
    loaded = load_to_measure(model, device, dtype, seed)
    needs_profile = any(str(parse_treatment(what)) in ("mean", "random") for _, what in pairs)
    known = profile_of(loaded, profile, seed) if needs_profile else None
    by_hand = plan_heads(loaded, pairs, known, seed)
    whole = by_hand if chosen is None else chosen.without([head for head, _ in pairs]) | by_hand

    from headspec.load.text import load_text
    from headspec.measure.quality import measure_plan

    windows = load_text(loaded, text, n_tokens=tokens, seed=seed)
    say(f"measuring {len(whole)} treated heads on {windows.source}")
    report = measure_plan(loaded, whole, windows, seed=seed)
    table = Table("measure", "value [95 % interval]", title=f"{len(whole)} treated heads of {report.model}")
    for name, value in report.rows():
        table.add_row(name, value)
    output.print(table)
    warn_of_random_weights(report.model)
    if out is not None:
        saved = whole.save(out.with_name(f"{out.stem}_plan.json"))
        say_files(out.parent, [report.save(out).name, saved.name])


def _pair(text: str) -> tuple[str, str]:
    head, equals, treatment = text.partition("=")
    if not equals:
        raise HeadspecError(f"{text!r}: write HEAD=TREATMENT, as L3H7=mean or L1H4=window:8.")
    return head, treatment
