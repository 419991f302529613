"""What the commands that measure have in common: options, loading, budgets, the profile that fills come from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from headspec.cli.app import option, output, quieten_libraries, say
from headspec.errors import HeadspecError

if TYPE_CHECKING:
    from headspec.probe.profile import HeadProfile
    from headspec.search.budget import Budget

Device = Annotated[str, option("auto, cuda, mps or cpu.")]
Dtype = Annotated[str, option("float32, bfloat16 or float16.")]
MaxKl = Annotated[float | None, option("Most KL to the original, nats a token.")]
MaxPplIncrease = Annotated[
    str | None, option("Most increase of the perplexity: 2% or 0.02. 2% if no limit at all is given.")
]
MinInductionKept = Annotated[str, option("Least induction accuracy kept: 90% or 0.9.")]
MaxKvShare = Annotated[str | None, option("Most KV bytes left: 25% or 0.25.")]
Profile = Annotated[Path | None, option("Results folder of `headspec analyze`, instead of probing anew.")]
Seed = Annotated[int, option("Draws windows, repeats, needles, random fills and random weights.")]
Text = Annotated[str, option("select, certify, probe, a file, - (standard input), datasets:NAME.")]
Tokens = Annotated[int, option("How many tokens to measure on.")]


DEFAULT_LIMIT = "2%"
"""Of the perplexity's increase, where no limit is given."""


def read_budget(
    max_kl: float | None, max_ppl_increase: str | None, max_kv_share: str | None, min_induction_kept: str = "90%"
) -> "Budget":
    """The budget of the options, with the usual limit if there is none."""
    from headspec.search.budget import Budget

    if max_kl is None and max_ppl_increase is None and max_kv_share is None:
        max_ppl_increase = DEFAULT_LIMIT
        say(f"no limit given: --max-ppl-increase {DEFAULT_LIMIT}")
    shares = {"max_ppl_increase": max_ppl_increase, "max_kv_share": max_kv_share}
    given = {name: share(f"--{name.replace('_', '-')}", value) for name, value in shares.items() if value is not None}
    return Budget(max_kl, min_induction_kept=share("--min-induction-kept", min_induction_kept), **given)


def load_to_measure(name: str, device: str, dtype: str, seed: int, bridge: bool = False) -> Any:
    """The model without a TransformerBridge, which is quicker; or with one, if that is asked for."""
    from headspec.load.names import resolve

    resolve(name)  # wrong names are found before the seconds that importing torch takes
    quieten_libraries()
    from headspec.load.model import load_model, load_plain

    say(f"loading {name}")
    return (load_model if bridge else load_plain)(name, device=device, dtype=dtype, seed=seed)


def profile_of(model: Any, folder: Path | None, seed: int) -> "HeadProfile":
    """The profile in a results folder, or a new one from the packaged text."""
    from headspec.load.identity import identify
    from headspec.pipeline import PROFILE
    from headspec.probe.profile import HeadProfile

    if folder is not None:
        profile = HeadProfile.load(folder / PROFILE)
        known = identify(model)
        profile.about.check_model(known.name, known.n_layers, known.n_heads)
        return profile
    from headspec.load.text import load_text
    from headspec.probe.collect import probe_heads

    say("probing (--profile DIR takes what `headspec analyze` has found)")
    text = load_text(model, "probe", seed=seed)
    return probe_heads(model, text, engine="fast", query_statistics=True, seed=seed)


def share(option_name: str, text: str) -> float:
    """A share written as 2% or 0.02."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise HeadspecError(f"{option_name} {text!r}: write a share like 2% or 0.02.") from None


def warn_of_random_weights(model: str) -> None:
    """Random weights say nothing about quality."""
    if model.startswith("random:"):
        output.print("RANDOM WEIGHTS: these figures are good for timing and tests only.", style="yellow")
