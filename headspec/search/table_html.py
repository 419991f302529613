"""How a SweepTable shows itself in a notebook: how many cases of which kind, the most and least harmful. No torch."""

from collections.abc import Iterable, Mapping
from typing import Any

from headspec.record_html import RANDOM_WEIGHTS, Cell, card, digits, table
from headspec.search.table import MEASURES, SweepTable

SHOWN = 5
"""Cases at either end."""
COLUMNS = ("kl", "perplexity_increase", "repeats_kl", "induction_accuracy", "kv_share")


def table_html(sweep: SweepTable) -> str:
    """The cases with the highest and the lowest KL."""
    known = sweep.settings
    texts = f" on {known['n_windows']} × {known['window']} tokens of {known['text']}" if "n_windows" in known else ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sweep._kinds().items())
    model = str(known.get("model", "?"))
    lines = [
        f"{model}: {len(sweep)} cases ({kinds or 'none yet'}){texts}. Effects of single heads do not add up.",
        RANDOM_WEIGHTS if model.startswith("random:") else "",
    ]
    ranked = sorted((row for row in sweep.rows if row.get("kl") is not None), key=lambda row: -row["kl"])
    tables = [_table(f"The {len(ranked[:SHOWN])} most harmful", ranked[:SHOWN])] if ranked else []
    if len(ranked) > SHOWN:
        least = ranked[SHOWN:][-SHOWN:]
        tables.append(_table(f"The {len(least)} least harmful", least))
    return card("SweepTable: what each of many plans costs", lines, tables,
                ["headspec.show.sweep(table)", "table.to_frame()"])  # fmt: skip


def _table(caption: str, rows: Iterable[Mapping[str, Any]]) -> str:
    header = [Cell("case"), *(Cell(name, MEASURES[name]) for name in COLUMNS)]
    return table(caption, header, [
        [Cell(str(row.get("case", "?")), heading=True), *(digits(row.get(name)) for name in COLUMNS)] for row in rows
    ])  # fmt: skip
