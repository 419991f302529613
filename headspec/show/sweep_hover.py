"""What a case of a sweep says to who points at it: what was done to which heads, and each measure with its meaning."""

from collections.abc import Sequence

from headspec.plan.words import several_words
from headspec.search.table import MEASURES
from headspec.show.hover import escaped, faint
from headspec.show.sweep_parts import Row

ERRORS = {"kl": "kl_se"}
"""Columns of standard errors, by what they belong to: said together."""
TEXT_MEASURES = ("loss_increase", "perplexity_increase", "kl")
"""Measured in every case: where they hold nothing, they are NaN or infinite."""
HEADS_NAMED = 8
"""Of a group of heads."""


class SweepHover:
    """The words of the rows of one table; measures that it has nowhere are left out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.measures = [
            name for name in MEASURES
            if name not in ERRORS.values() and any(row.get(name) is not None for row in rows)
        ]  # fmt: skip

    @property
    def template(self) -> str:
        """Plotly's: headline, then a line a measure, with gaps for `words`."""
        lines = [
            f"<b>{name}</b> %{{customdata[{place}]}} {faint(escaped(MEASURES[name], 200))}"
            for place, name in enumerate(self.measures, 1)
        ]
        return "<br>".join(["%{customdata[0]}", *lines]) + "<extra></extra>"

    def words(self, row: Row, headline: str) -> list[str]:
        """What fills the template's gaps for one row; the headline is already escaped."""
        treated = escaped(several_words(str(row["treatment"])))
        lines = [headline, *([_heads(row)] if row["n_heads"] > 1 else []), treated]
        return ["<br>".join(lines), *(_number(row, name) for name in self.measures)]


def _heads(row: Row) -> str:
    names = str(row["heads"]).split()
    more = f" and {len(names) - HEADS_NAMED} more" if len(names) > HEADS_NAMED else ""
    return f"{row['n_heads']} heads: {escaped(' '.join(names[:HEADS_NAMED]))}{more}"


def _number(row: Row, name: str) -> str:
    value, error = row.get(name), row.get(ERRORS.get(name, ""))
    if value is None:
        return "not finite" if name in TEXT_MEASURES else "not measured"
    return f"{value:.3g}" + ("" if error is None else f" ± {error:.2g} (standard error over windows)")
