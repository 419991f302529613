"""`headspec run`: the whole chain, from a model's name to a pruned model and one page about it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headspec.cli.app import Debug, ModelArgument, app, option, output, quieten_libraries, say
from headspec.cli.bench import print_benchmark
from headspec.cli.shared import (
    Device,
    Dtype,
    MaxKl,
    MaxKvShare,
    MaxPplIncrease,
    MinInductionKept,
    Seed,
    Tokens,
    read_budget,
    warn_of_random_weights,
)

if TYPE_CHECKING:
    from headspec.chain import ChainResult


@app.command()
def run(
    model: ModelArgument,
    max_kl: MaxKl = None,
    max_ppl_increase: MaxPplIncrease = None,
    max_kv_share: MaxKvShare = None,
    min_induction_kept: MinInductionKept = "90%",
    sweep: Annotated[str, option("Also measure these treatments on every head alone: mean,window:8.")] = "",
    full: Annotated[bool, typer.Option("--full", help="The full benchmark: hours for a real model.")] = False,
    text: Annotated[str, option("Text to probe on.")] = "probe",
    select: Annotated[str, option("Text to choose on.")] = "select",
    certify: Annotated[str, option("Other text, to judge on.")] = "certify",
    tokens: Tokens = 8192,
    max_evaluations: Annotated[int, option("Most plans that are measured to choose one.")] = 80,
    controls: Annotated[int, option("Random plans to compare with.")] = 20,
    out: Annotated[Path | None, option("Results folder; results/run_<model> by default.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Analyze MODEL, search a plan, export it, benchmark it, write a report. Goes on where it was stopped."""
    from headspec.load.names import resolve

    resolve(model)  # wrong names and numbers are found before the seconds that importing torch takes
    budget = read_budget(max_kl, max_ppl_increase, max_kv_share, min_induction_kept)
    quieten_libraries()
    from headspec.chain import run_chain

    found = run_chain(
        model, budget, out=out, sweep=sweep, stage=say, text=text, select=select, certify=certify,
        n_tokens=tokens, max_evaluations=max_evaluations, n_controls=controls, full=full, device=device, dtype=dtype,
        seed=seed,
    )  # fmt: skip
    _print_run(found)
    warn_of_random_weights(model)
    output.print(f"Report: {found.report}", highlight=False, markup=False, soft_wrap=True)


def _print_run(found: "ChainResult") -> None:
    """What the heads do, what was done with them, and what it gave."""
    from headspec.classify.head_map import HeadStatus
    from headspec.heads import HeadRole
    from headspec.show.budget_words import budget_words

    print_benchmark(found.benchmark)
    counts = found.head_map.counts()
    confirmed = sum(verdict.status == HeadStatus.CONFIRMED for verdict in found.head_map)
    words = ", ".join(f"{counts[role]} {role}" for role in (HeadRole.POSITIONAL, HeadRole.GATHERING))
    plan = found.search.certificate
    output.print(
        f"{len(found.head_map)} heads: {words}, {counts[HeadRole.DEAD]} dead ({confirmed} confirmed).", highlight=False
    )
    output.print(
        f"The plan: {plan['heads_removed']} heads removed, {plan['heads_windowed']} windowed; KV cache of "
        f"{plan['n_tokens']} tokens: {plan['kv_share']:.1%} left.", highlight=False,
    )  # fmt: skip
    over = not found.search.within_budget or plan["broken"]
    budget = budget_words(plan, found.search.within_budget)
    output.print(f"{budget}.", style="yellow" if over else "", highlight=False)
    output.print(f"Pruned model: {found.folder / 'pruned'}", highlight=False, markup=False, soft_wrap=True)
