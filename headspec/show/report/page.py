"""The page of a report: one file with its data, its look, its scripts and plotly; it asks no network for anything."""

import base64
import html
import re
import zlib
from importlib.resources import files

from plotly.offline import get_plotlyjs

from headspec.show.report.parts import ReportParts
from headspec.show.report.payload import as_json, make_payload

LOOKS = ("look.css", "heads.css", "sections.css")
SCRIPTS = ("base.js", "theme.js", "values.js", "tip.js", "grid.js", "chart.js", "pattern.js", "panel.js", "filter.js",
           "table.js", "titles.js", "figures.js", "sections.js", "start.js")  # fmt: skip
"""One idea each, in the order in which they are put together; `start.js` runs the others."""


def draw_page(parts: ReportParts) -> tuple[str, tuple[str, ...]]:
    """The page, and what is not on it: a sentence each."""
    payload = make_payload(parts)
    figures = [
        f'<script type="text/plain" id="figure-{number}">{packed(as_json(figure))}</script>'
        for number, figure in enumerate(payload.figures)
    ]
    model = parts.head_map.about.model.encode("utf-8", "replace").decode("utf-8")
    return _filled(
        _read("page.html"),
        title=html.escape(f"{model} · headspec report"),
        look="\n".join(map(_read, LOOKS)),
        data=as_json(payload.values),
        figures="\n".join(figures),
        plotly=get_plotlyjs() if payload.figures else "",
        scripts="\n".join(map(_read, SCRIPTS)),
    ), tuple(payload.notes)


def packed(text: str) -> str:
    """A text as browsers can unpack it, with `DecompressionStream("deflate")`: figures repeat themselves a lot."""
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")


def _filled(template: str, **values: str) -> str:
    """The template with every `{{name}}` replaced, once: what stands in a value is left alone."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _read(name: str) -> str:
    return files("headspec.show.report").joinpath("web", name).read_text(encoding="utf-8")
