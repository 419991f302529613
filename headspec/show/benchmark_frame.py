"""What the PNGs of a benchmark have in common: a title above, model and machine below, names that are no formulas."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headspec.show.benchmark_rows import Numbers
from headspec.show.benchmark_words import footer, warning
from headspec.show.style import FAINT_INK, GRID

LINE_INCHES, LEGEND_INCHES = 0.13, 0.3
"""Height of a line of the footer, and of a legend above it."""
CHARACTERS_PER_INCH = 17


def framed(numbers: Numbers, size: tuple[float, float], *lines: str, legend: bool = False) -> tuple[Figure, float]:
    """An empty figure with its title above, and model and machine below.

    Returns:
        The figure, and where the footer ends, as a share of its height; a legend has room there if it is wanted.
    """
    figure = Figure(figsize=size, layout="constrained")
    below = textwrap.wrap(footer(numbers), int(CHARACTERS_PER_INCH * size[0]))
    end = (LINE_INCHES * len(below) + 0.1) / size[1]
    bottom = end + (LEGEND_INCHES / size[1] if legend else 0)
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08, rect=(0, bottom, 1, 1 - bottom))  # type: ignore[union-attr, call-arg]
    figure.suptitle("\n".join(line for line in [*lines, *warning(numbers)] if line), fontsize=11)
    figure.text(0.01, 0.05 / size[1], literal("\n".join(below)), fontsize=7, color=FAINT_INK, va="bottom")
    return figure, end


def style_axes(axes: Axes) -> None:
    """Faint ticks, two spines, a grid behind."""
    axes.tick_params(colors=FAINT_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, which="major")
    axes.set_axisbelow(True)


def literal(text: str) -> str:
    """A name that matplotlib takes for no formula, and that a legend does not leave out."""
    escaped = text.replace("$", r"\$")
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped
