"""Figures that show themselves everywhere: plotly's where scripts run, and a static twin (PNG) where none do.

In Jupyter the front end takes the richest it knows: JupyterLab, Notebook 7, VS Code and Colab the interactive figure,
GitHub and nbviewer the PNG. It is drawn with matplotlib, which is imported only then: no browser is needed.
"""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from headspec.errors import HeadspecError
from headspec.show.style import CONFIG

DPIS = (110, 85, 60)
"""Dots an inch in a notebook: the first that gives a PNG of at most `LARGEST` bytes."""
LARGEST, PALETTE = 200_000, 256
MATHJAX = re.compile(r"<script[^>]*\bsrc=\"https?:[^\"]*mathjax[^\"]*\"[^>]*>\s*</script>", re.IGNORECASE)
"""What plotly would fetch for formulas; there are none."""


class TwinFigure(Figure):
    """A plotly figure with a static twin, which shows it as its function returned it: without later changes."""

    def __init__(self, *args: Any, draw: Callable[[], Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._draw = draw

    def save_png(self, path: Path | str) -> Path:
        """Write the static twin, at 150 dots an inch.

        Raises:
            HeadspecError: The figure has none, such as a copy of another figure.
        """
        if self._draw is None:
            raise HeadspecError("this figure has no static twin: copies have none. Save what headspec.show returned.")
        from headspec.show.static import save_png

        return save_png(self._draw(), Path(path))

    def __repr__(self) -> str:
        """One line: plotly would print every number."""
        headline = re.sub("<[^>]*>", "", str(self.layout.title.text or "no title").split("<br>")[0])
        return f"<figure {headline!r}: save_png(path), or headspec.show.save_page(figure, path)>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Plotly's own, the PNG, and a line of text."""
        return self._interactive(**kwargs) | self._static()

    def _static(self) -> dict[str, Any]:
        picture = {} if self._draw is None else {"image/png": base64.b64encode(small_png(self._draw())).decode("ascii")}
        return {**picture, "text/plain": repr(self)}

    def _interactive(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**{"config": dict(CONFIG), **kwargs})
        return {kind: MATHJAX.sub("", data) if kind == "text/html" else data for kind, data in bundle.items()}

    def _repr_html_(self) -> str | None:
        """Plotly's, if its renderer makes any: the PNG says more than a page that must fetch a script."""
        return self._interactive().get("text/html")

    def _ipython_display_(self) -> None:
        from plotly.io import renderers

        if renderers.render_on_display and (interactive := self._interactive()):
            from IPython.display import display

            display(interactive | self._static(), raw=True)
        else:  # in a terminal: a browser, or a line
            super()._ipython_display_()

    def show(self, *args: Any, **kwargs: Any) -> None:
        """As a notebook's last line does; with arguments as plotly does."""
        if args or kwargs:
            super().show(*args, **kwargs)
        else:
            self._ipython_display_()


def with_twin(figure: Figure, draw: Callable[[], Any]) -> TwinFigure:
    """The same figure, with what draws its static twin."""
    return TwinFigure(figure, draw=draw)


def small_png(figure: Any) -> bytes:
    """A PNG for a notebook: few colours, as a figure has, and small enough for a repository."""
    from PIL import Image

    from headspec.show.static import without_glyph_warnings

    data = b""
    for dpi in DPIS:
        canvas = io.BytesIO()
        with without_glyph_warnings():
            figure.savefig(canvas, dpi=dpi, format="png")
        picture = io.BytesIO()
        Image.open(canvas).convert("RGB").quantize(PALETTE).save(picture, format="PNG", optimize=True)
        data = picture.getvalue()
        if len(data) <= LARGEST:
            break
    return data
