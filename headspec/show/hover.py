"""The words of the interactive figures: what a head is, what a number means, what a record was made from.

Plotly reads a small HTML (`<br>`, `<b>`); whatever comes from a record is escaped, so that nothing in it is a tag.
"""

import html
import math
import textwrap
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from headspec.classify.head_map import HeadMap, HeadVerdict
from headspec.heads import HeadId
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import STATISTICS
from headspec.record_html import ROLE_MEANINGS
from headspec.show.style import FAINT_INK, ROLE_COLORS, caption

HOVER_WIDTH, TITLE_WIDTH = 68, 95
"""Characters a line."""
FIRST_SHOWN = "normalized_entropy"
"""Where a menu of statistics starts."""


def escaped(text: str, width: int = HOVER_WIDTH) -> str:
    """A record's text for plotly: nothing in it is a tag, long lines are broken.

    >>> escaped("a<b")
    'a&lt;b'
    """
    lines = [piece for line in text.splitlines() for piece in textwrap.wrap(line, width)]
    return "<br>".join(html.escape(line, quote=False) for line in lines)  # plotly would print &quot; as it stands


def number_words(value: float) -> str:
    """A value with three digits; NaN and next to nothing are said in words.

    >>> number_words(0.12345), number_words(1234.5), number_words(1e-17), number_words(math.nan)
    ('0.123', '1,234', 'below 0.0001', 'not measured')
    """
    if math.isnan(value):
        return "not measured"
    if 0 < value < 1e-4:
        return "below 0.0001"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def statistic_template(name: str, value: str) -> str:
    """Label, value (plotly's placeholder for it), unit and meaning of a statistic."""
    known = STATISTICS[name]
    return f"<b>{known.label}</b> {value} ({known.unit})<br>{faint(escaped(known.meaning))}"


def caution_words(name: str) -> str:
    """When a statistic misleads; empty if nothing is known."""
    caution = STATISTICS[name].caution
    return faint(escaped(f"Caution: {caution}")) if caution else ""


def role_words(verdict: HeadVerdict) -> str:
    """The role in a few words: `positional, window of 8 keys`, `dead (candidate)`."""
    if verdict.status:
        return f"{verdict.role} ({verdict.status})"
    return f"{verdict.role}, window of {verdict.window} keys" if verdict.window else str(verdict.role)


def verdict_words(verdict: HeadVerdict) -> str:
    """Head, role and what that means, reason, margin and traits, a line each."""
    safe = math.isinf(verdict.margin)
    margin = "nothing measured could change the role" if safe else (
        f"margin {number_words(verdict.margin)}: distance to the nearest cut-off, as a share of it")  # fmt: skip
    traits = f"traits: {', '.join(verdict.traits)}" if verdict.traits else ""
    lines = [f"<b>{verdict.head}</b> {role_words(verdict)}", faint(ROLE_MEANINGS[verdict.role]),
             escaped(verdict.reason), margin, traits]  # fmt: skip
    return "<br>".join(line for line in lines if line)


def head_words(head: HeadId, head_map: HeadMap | None) -> str:
    """Head and, where it is known, role, in one line."""
    return f"<b>{head}</b> {role_words(head_map[head])}" if head_map else f"<b>{head}</b>"


def bin_names(edges: np.ndarray, end: int) -> list[str]:
    """The bins that start at `edges`, the last one ending before `end`.

    >>> bin_names(np.array([62, 63, 64, 128]), 256)
    ['62', '63', '64–127', '128–255']
    """
    bounds = pairwise([*edges.tolist(), end])
    return [str(first) if after == first + 1 else f"{first}–{after - 1}" for first, after in bounds]


def statistic_title(name: str, about: ProbeAbout, how: str = "") -> str:
    """The title of a figure of one statistic: with its meaning, and when it misleads."""
    known = STATISTICS[name]
    headline = f"{known.label[0].upper()}{known.label[1:]} {how}".strip()
    return titled(headline, about, faint(escaped(f"{known.meaning} {known.caution}", TITLE_WIDTH)))


def titled(title: str, about: ProbeAbout, *lines: str) -> str:
    """The title of a figure: the headline, further lines (already escaped), and which model and text it is about."""
    small = [*lines, escaped(caption(about), TITLE_WIDTH)]
    return f"<b>{title}</b>" + "".join(f"<br><span style='font-size:12px'>{line}</span>" for line in small if line)


def role_key(head_map: HeadMap) -> str:
    """A legend in one line: every role with its colour and number of heads."""
    counts = head_map.counts()
    return " &nbsp; ".join(
        f"<span style='color:{color}'>■</span> {role} ({counts[role]})" for role, color in ROLE_COLORS.items()
    )


def faint(words: str) -> str:
    """In grey."""
    return f"<span style='color:{FAINT_INK}'>{words}</span>" if words else ""


def measured(statistics: Mapping[str, np.ndarray]) -> list[str]:
    """The statistics with a number somewhere, in the order of a menu: the normalised entropy first."""
    names = [name for name in STATISTICS if name in statistics and not np.isnan(statistics[name]).all()]
    return sorted(names, key=lambda name: name != FIRST_SHOWN)
