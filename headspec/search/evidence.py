"""Which cheap number predicts which harm? Rank correlations of statistics and forecasts with exact effects.

For your own model: sweep single heads, attribute them, and see what holds there.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from headspec.classify.evidence import judged_windows
from headspec.heads import Grid
from headspec.plan.treatments import Window, parse_treatment
from headspec.probe.profile import HeadProfile
from headspec.search.importance import MEASURES, HeadImportance
from headspec.search.table import SweepTable

STATISTICS = ("normalized_entropy", "max_attention", "sink_attention_ratio", "relative_output_norm", "output_norm",
              "output_spread", "repeat_deviation", "induction_score")  # fmt: skip


def predictors(
    table: SweepTable,
    profile: HeadProfile,
    on_text: HeadImportance | None = None,
    on_repeats: HeadImportance | None = None,
) -> Any:
    """Spearman correlations of cheap numbers with the exact effects of single heads, as a pandas DataFrame.

    One row a treatment and predictor: `kl` is the correlation with the KL on text, `repeats_kl` with that on repeated
    tokens. The sign says which way: −.9 means that harm falls as the number rises. With few heads it is rough: among
    32 heads, .35 is what chance reaches once in twenty.

    Args:
        table: A sweep that holds every head alone under some treatments (`single_cases`).
        profile: Of the same model.
        on_text, on_repeats: Forecasts of `attribute_heads`, each compared with both effects.
    """
    import pandas

    frame = table.to_frame()
    frame = frame[frame.kind == "single"]
    rows = []
    for treatment in frame.treatment.unique():
        exact = frame[frame.treatment == treatment].set_index("heads")
        cells = [profile.about.cell(head) for head in exact.index]
        for name, grid in _numbers(profile, treatment, on_text, on_repeats):
            predicted = [float(grid[cell]) for cell in cells]
            rows.append(
                {"treatment": treatment, "predictor": name, "n_heads": len(exact)}
                | {effect: _spearman(predicted, exact[effect]) for effect in ("kl", "repeats_kl")}
            )
    return pandas.DataFrame(rows)


def _numbers(
    profile: HeadProfile, treatment: str, on_text: HeadImportance | None, on_repeats: HeadImportance | None
) -> Iterator[tuple[str, Grid]]:
    """(name, `[layer, head]`) of everything that might predict the harm of a treatment."""
    yield from ((name, profile[name]) for name in STATISTICS)
    what = parse_treatment(treatment)
    if isinstance(what, Window):
        for held in judged_windows(profile, (what.window,)):
            yield "attention mass in window + sinks", held.mass
            yield "share of the non-sink attention in the window", held.share
    for where, forecast in (("text", on_text), ("repeats", on_repeats)):
        if forecast is not None and treatment in forecast.treatments:
            for measure in MEASURES:
                yield f"{measure} on {where}", forecast.grid(measure, treatment)[list(profile.about.layers)]


def _spearman(predicted: list[float], exact: Any) -> float:
    values = exact.to_numpy(dtype=float)
    if len(values) < 3 or not np.isfinite(values).all() or np.ptp(predicted) == 0:
        return float("nan")
    return float(spearmanr(predicted, values).statistic)
