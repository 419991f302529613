"""How records show themselves in a notebook: small tables of plain HTML, readable on light and dark ground.

A leaf: no script, nothing fetched, everything escaped. Colours of roles live here, as every room that shows heads
needs them.
"""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headspec.heads import HeadRole

RANDOM_WEIGHTS = "RANDOM WEIGHTS: timing and tests only"
"""What every figure, table and page of such a model says."""
ROLE_COLORS = {HeadRole.POSITIONAL: "#4477AA", HeadRole.GATHERING: "#CCBB44", HeadRole.DEAD: "#BBBBBB"}
"""Paul Tol's bright set, which readers with any colour blindness can tell apart."""
ROLE_INK = {HeadRole.POSITIONAL: "#FFFFFF", HeadRole.GATHERING: "#222222", HeadRole.DEAD: "#222222"}
ROLE_MEANINGS = {
    HeadRole.POSITIONAL: "looks at a few fixed places: a small sliding window will do",
    HeadRole.GATHERING: "looks where the content says: needs the whole context",
    HeadRole.DEAD: "writes next to nothing, or always the same: may go once a search has confirmed it",
}
BORDER = "1px solid rgba(128,128,128,.35)"
CELL = f"border:{BORDER};padding:2px 7px"
CAPTION = "text-align:left;color:inherit;padding:2px 0;caption-side:top;white-space:nowrap"
TABLE = "border-collapse:collapse;font-size:12px;margin:4px 0;color:inherit"


@dataclass(frozen=True)
class Cell:
    """A cell of a table that is more than its text."""

    text: str
    title: str = ""
    """What shows when one points at it."""
    background: str = ""
    ink: str = ""
    left: bool = False
    """Words begin at the left, numbers end at the right."""
    heading: bool = False
    """Whether it names its row."""

    def html(self) -> str:
        """As `<td>`, or as `<th>` of its row."""
        align = "left" if self.left or self.heading else "right"
        colors = f";background:{self.background};color:{self.ink}" if self.background else ";background:transparent"
        title = f' title="{escape(self.title)}"' if self.title else ""
        start, end = ('th scope="row"', "th") if self.heading else ("td", "td")
        return f'<{start} style="{CELL};text-align:{align}{colors}"{title}>{escape(self.text)}</{end}>'


Row = Sequence[str | Cell]
"""What stands beside each other: plain text, or cells."""


def escape(text: object) -> str:
    """Text in which nothing is a tag, also inside of an attribute.

    >>> escape('</script><b a="1">')
    '&lt;/script&gt;&lt;b a=&quot;1&quot;&gt;'
    """
    return html.escape(str(text), quote=True)


def table(caption: str, header: Row, rows: Iterable[Row]) -> str:
    """A table with a caption, a heading for every column, and rows of cells."""
    heads = "".join(
        f'<th scope="col" style="{CELL};text-align:center;background:transparent"'
        f"{_title(cell)}>{escape(cell.text if isinstance(cell, Cell) else cell)}</th>"
        for cell in header
    )
    body = "".join(
        "<tr>" + "".join((cell if isinstance(cell, Cell) else Cell(cell)).html() for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<table style="{TABLE}"><caption style="{CAPTION}">'
        f"{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def card(title: str, lines: Iterable[str], tables: Iterable[str] = (), further: Iterable[str] = ()) -> str:
    """What a record shows: a title, lines of text, tables (finished HTML), and which calls come next."""
    words = "".join(f"<div>{escape(line)}</div>" for line in lines if line)
    calls = " · ".join(f'<code style="background:transparent;color:inherit">{escape(call)}</code>' for call in further)
    after = f'<div style="opacity:.75">next: {calls}</div>' if calls else ""
    return (
        f'<div style="color:inherit;font-size:13px;line-height:1.5;max-width:75em"><div><strong>{escape(title)}'
        f'</strong></div>{words}<div style="overflow-x:auto">{"".join(tables)}</div>{after}</div>'
    )


def digits(value: float | None) -> str:
    """Three digits; what is no number is said so.

    >>> digits(0.12345), digits(None), digits(math.inf), digits(12345.0)
    ('0.123', '–', '∞', '12,345')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def named(names: Sequence[object], most: int = 8) -> str:
    """The first of many names, and how many more there are.

    >>> named(["L0H1", "L0H2", "L0H3"], most=2)
    'L0H1 L0H2 and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(str(name) for name in names[:most]) + more


def _title(cell: str | Cell) -> str:
    return f' title="{escape(cell.title)}"' if isinstance(cell, Cell) and cell.title else ""
