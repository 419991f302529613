"""How a HeadProfile shows itself in a notebook: what was read, and every statistic from its lowest head to its highest.

No torch, no script.
"""

import numpy as np

from headspec.probe.catalogue import STATISTICS
from headspec.probe.profile import HeadProfile
from headspec.record_html import RANDOM_WEIGHTS, Cell, card, digits, table


def profile_html(profile: HeadProfile) -> str:
    """A row a statistic: lowest, median and highest over the heads, and which heads those are."""
    about = profile.about
    lines = [
        f"{about.model}: {len(about.layers)} layers × {about.n_heads} heads of {about.d_head}, on {about.n_windows} × "
        f"{about.window} tokens of {about.text}; averages over the queries from position {about.first_query} on",
        _repeats(profile),
        RANDOM_WEIGHTS if about.random_weights else "",
    ]
    rows = [_row(profile, name) for name in STATISTICS if name in profile.grids]
    header = ["statistic", "unit", "lowest", "head", "median", "highest", "head"]
    kept = table("Every statistic over the heads; point at a name for its meaning", header, rows)
    further = [
        'profile["attention_entropy"]', 'profile.head("L0H0")', "profile.to_frame()",
        'headspec.show.statistic(profile, "output_spread")', "headspec.classify_heads(profile)",
    ]  # fmt: skip
    return card("HeadProfile: what every head was seen to do", lines, [kept], further)


def _repeats(profile: HeadProfile) -> str:
    about = profile.about
    if not about.n_repeats:
        return "no repeated sequences were run: induction and previous-token scores are missing"
    queries = "; with statistics of the queries" if about.query_statistics else ""
    return f"and on {about.n_repeats} sequences of {about.repeat_length} random tokens, twice each{queries}"


def _row(profile: HeadProfile, name: str) -> list[str | Cell]:
    known, heads = STATISTICS[name], profile.about.heads()
    title = Cell(known.label, f"{name}: {known.meaning} {known.caution}".strip(), heading=True)
    values = profile[name].ravel()
    if np.isnan(values).all():
        return [title, Cell(known.unit, left=True), Cell("not measured", left=True), "", "", "", ""]
    ends = [int(find(values)) for find in (np.nanargmin, np.nanargmax)]
    (low, lowest), (high, highest) = ((digits(float(values[end])), Cell(str(heads[end]), left=True)) for end in ends)
    return [title, Cell(known.unit, left=True), low, lowest, digits(float(np.nanmedian(values))), high, highest]
