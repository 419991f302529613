"""`headspec search`: the best plan within a budget."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from headspec.cli.app import Debug, ModelArgument, app, option, output, say, say_files
from headspec.cli.shared import (
    Device,
    Dtype,
    MaxKl,
    MaxKvShare,
    MaxPplIncrease,
    MinInductionKept,
    Profile,
    Seed,
    Tokens,
    load_to_measure,
    profile_of,
    read_budget,
    warn_of_random_weights,
)
from headspec.files import writable_folder

if TYPE_CHECKING:
    from headspec.search.search_plan import SearchResult


@app.command()
def search(
    model: ModelArgument,
    max_kl: MaxKl = None,
    max_ppl_increase: MaxPplIncrease = None,
    max_kv_share: MaxKvShare = None,
    min_induction_kept: MinInductionKept = "90%",
    treatments: Annotated[str, option("What may be done with a head, comma between.")] = (
        "mean,window:3,window:4,window:8,window:16,window:32,window:64"
    ),
    compress: Annotated[
        str | None, option("Also compress KV caches, by this policy: expected_attention or snapkv.")
    ] = None,
    protect_induction: Annotated[bool, option("Leave induction heads alone.")] = True,
    select: Annotated[str, option("Text to choose on.")] = "select",
    certify: Annotated[str, option("Other text, to judge on.")] = "certify",
    tokens: Tokens = 8192,
    profile: Profile = None,
    out: Annotated[Path | None, option("Results folder; results/search_<model> by default.")] = None,
    max_evaluations: Annotated[int, option("Most plans that are measured to choose one.")] = 80,
    controls: Annotated[int, option("Random plans to compare with.")] = 20,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Find the plan for MODEL that saves most, or harms least, within a budget."""
    from headspec.load.names import resolve
    from headspec.pipeline import results_folder
    from headspec.plan.treatments import parse_treatment

    budget = read_budget(max_kl, max_ppl_increase, max_kv_share, min_induction_kept)
    allowed = [parse_treatment(text) for text in treatments.split(",")]
    if compress is not None:
        parse_treatment(f"compress:{compress}:1")  # a policy that does not exist is refused before anything is loaded
    folder = writable_folder(results_folder(resolve(model).name, out, "search"))
    loaded = load_to_measure(model, device, dtype, seed)

    from headspec.load.text import load_text
    from headspec.plan.workload import halves
    from headspec.search.search_plan import compress_treatments, search_plan
    from headspec.show.tradeoff import draw_search

    chosen_on, judged_on = (load_text(loaded, source, n_tokens=tokens, seed=seed) for source in (select, certify))
    workload = None
    if compress is not None:
        workload = halves(chosen_on.tokens.shape[1])
        allowed += map(parse_treatment, compress_treatments(workload, compress))
    found = search_plan(
        loaded, budget, profile=profile_of(loaded, profile, seed), treatments=allowed, workload=workload, stage=say,
        protect_induction=protect_induction, max_evaluations=max_evaluations, n_controls=controls,
        select=chosen_on, certify_on=judged_on,
    )  # fmt: skip
    files = [path.name for path in (*found.save(folder), *draw_search(found, folder))]
    _print_search(found)
    warn_of_random_weights(loaded.name)
    say_files(folder, files)


def _print_search(found: "SearchResult") -> None:
    chosen, certificate = found.chosen, found.certificate
    table = Table("measure", "on the text it was chosen on", "on fresh text", title="The plan")
    fresh = certificate["seeds"][0]
    for name in ("kl", "perplexity_increase", "repeats_kl", "induction_accuracy", "induction_kept"):
        table.add_row(name.replace("_", " "), str(getattr(chosen, name) or "n/a"), _interval(fresh[name]))
    output.print(table)
    output.print(
        f"{certificate['heads_removed']} heads removed, {certificate['heads_windowed']} windowed, "
        f"{certificate['heads_compressed']} compressed; KV cache of {_workload(certificate)}: "
        f"{certificate['kv_share']:.1%} left; attention weights removed: {certificate['removed_share']:.1%}.",
        highlight=False,
    )  # fmt: skip
    random = certificate["random_plans"]
    if random["n"]:
        output.print(
            f"{random['n']} random plans of the same make: median KL {random['kl_median']:.4g}; worse than this one: "
            f"{random['share_worse']:.0%}.", highlight=False,
        )  # fmt: skip
    if math.isfinite(found.rank_correlation):
        output.print(
            f"Gradient forecast against the exact effect of each treated head: Spearman {found.rank_correlation:.2f}.",
            highlight=False,
        )
    if not found.within_budget:
        output.print("OVER BUDGET: no plan keeps the budget; the nearest was chosen.", style="yellow")
    if certificate["broken"]:
        words = "; ".join(certificate["broken"])
        output.print(f"OVER BUDGET on fresh text: {words}.", style="yellow", highlight=False)


def _workload(certificate: Any) -> str:
    tokens, new = f"{certificate['n_tokens']} tokens", certificate["n_new"]
    return f"{tokens} and {new} more, in the mean" if new else tokens


def _interval(estimate: Any) -> str:
    from headspec.measure.estimate import Estimate

    return "n/a" if estimate is None else str(Estimate.from_dict(estimate))
