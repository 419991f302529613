"""What a report says of every head: its verdict, its numbers, where it looks, and what treating it costs.

Plain values for JSON, heads in the order of the head map. Computes nothing.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from headspec.classify.head_map import HeadMap, HeadVerdict
from headspec.classify.summary import grouped_offsets
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import parse_treatment
from headspec.plan.words import several_words, treatment_words
from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.search.table import SweepTable
from headspec.show.hover import number_words
from headspec.show.interactive import MAIN_NUMBERS
from headspec.show.report.words import EFFECTS
from headspec.show.style import ROLE_ORDER, TRAIT_MARKS

DIGITS = 4
"""Significant digits of every number on the page."""
NOT_FINITE = "not finite"
"""Stands for a value that was measured and is NaN or infinite: rows of a sweep hold null there."""
KINDS_OF_ROWS = ("single", "curve")
"""Of cases of one head those are kept that come first here; other kinds come last."""


def head_rows(verdicts: Iterable[HeadVerdict]) -> list[dict[str, Any]]:
    """One entry a head of a head map: what was decided, and why."""
    return [_head_row(verdict) for verdict in verdicts]


def _head_row(verdict: HeadVerdict) -> dict[str, Any]:
    return {
        "name": str(verdict.head),
        "layer": verdict.head.layer,
        "head": verdict.head.head,
        "role": ROLE_ORDER.index(verdict.role),
        "words": verdict_text(verdict),
        "window": verdict.window,
        "status": str(verdict.status or ""),
        "margin": rounded(verdict.margin),
        "margin_words": margin_text(verdict),
        "traits": [str(trait) for trait in verdict.traits],
        "marks": "".join(TRAIT_MARKS.get(trait, "") for trait in verdict.traits),
        "reason": str(verdict.reason),
        "evidence": [[_label(name), number_words(value)] for name, value in verdict.evidence],
    }


def verdict_text(verdict: HeadVerdict) -> str:
    """The role in a few words, with the window and what is settled: `positional, window of 8 keys`."""
    window = f"window of {verdict.window} keys" if verdict.window else ""
    return ", ".join(part for part in (str(verdict.role), window, str(verdict.status or "")) if part)


def margin_text(verdict: HeadVerdict) -> str:
    """How safe the role is."""
    if math.isinf(verdict.margin):
        return "nothing measured could change the role"
    return f"{number_words(verdict.margin)}: distance to the nearest cut-off, as a share of it"


def _label(name: str) -> str:
    return STATISTICS[name].label if name in STATISTICS else name.replace("_", " ")


def statistics(profile: HeadProfile | None) -> list[dict[str, Any]]:
    """One entry a statistic that was measured: how to read it, and its value for every head."""
    if profile is None:
        return []
    return [
        {"name": name, "label": known.label, "unit": known.unit, "meaning": known.meaning, "caution": known.caution,
         "main": name in MAIN_NUMBERS, "values": numbers(profile[name].ravel())}
        for name, known in STATISTICS.items() if np.isfinite(profile[name]).any()
    ]  # fmt: skip


def offsets(profile: HeadProfile | None) -> dict[str, Any] | None:
    """Attention by groups of relative offsets: `shares[head][group]`."""
    if profile is None:
        return None
    shares, names = grouped_offsets(profile)
    return {"names": names, "shares": [numbers(row) for row in shares.reshape(-1, len(names))]}


def effects(table: SweepTable | None, head_map: HeadMap) -> dict[str, Any] | None:
    """What treating a head alone costs: by name of the head, a row for every treatment that was tried."""
    if table is None:
        return None
    rank = {kind: place for place, kind in enumerate(KINDS_OF_ROWS)}
    names = {str(verdict.head) for verdict in head_map}
    alone = [row for row in table.rows if row.get("n_heads") == 1 and row.get("heads") in names]
    found: dict[str, dict[str, list[float | str | None]]] = {}
    for row in sorted(alone, key=lambda row: rank.get(str(row.get("kind")), len(rank))):
        found.setdefault(row["heads"], {}).setdefault(str(row["treatment"]), [_measure(row, name) for name in EFFECTS])
    treatments = list(dict.fromkeys(what for rows in found.values() for what in rows))
    return {"columns": EFFECTS, "treatments": {what: several_words(what) for what in treatments},
            "heads": found}  # fmt: skip


def _measure(row: Mapping[str, Any], name: str) -> float | str | None:
    value = row.get(name)
    if isinstance(value, int | float) and math.isfinite(value):
        return rounded(value)
    return NOT_FINITE if (value is not None and isinstance(value, float)) or _was_measured(row, name) else None


def _was_measured(row: Mapping[str, Any], name: str) -> bool:
    """Whether null is a value: text is always measured; repeats were where accuracy, which is a share, is known."""
    known = name in ("kl", "perplexity_increase") or (
        name == "repeats_kl" and row.get("induction_accuracy") is not None
    )
    return known and name in row and row[name] is None


def planned(plan: HeadPlan | None, head_map: HeadMap) -> dict[str, list[str]] | None:
    """What a plan does with each head: its short text, and what that means."""
    if plan is None:
        return None
    short = {str(verdict.head): str(plan[verdict.head]) for verdict in head_map}
    return {head: [text, treatment_words(parse_treatment(text))] for head, text in short.items()}


def numbers(values: np.ndarray) -> list[float | None]:
    """Values for JSON."""
    return [rounded(value) for value in values.tolist()]


def rounded(value: float) -> float | None:
    """A number with few digits; None where there is none, as JSON has no NaN and no infinity.

    >>> rounded(0.123456), rounded(float("nan"))
    (0.1235, None)
    """
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
