"""Attention patterns of a few heads as small pictures, with matplotlib. Computes nothing; needs no torch."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headspec.heads import HeadId
from headspec.show.benchmark_frame import literal
from headspec.show.style import FAINT_INK, SEQUENTIAL

WIDTH, FEW, MOST_COLUMNS = 10.5, 4, 8
"""Inches in all; heads up to which pictures are large; pictures side by side."""
LARGEST, NAMES, TITLE = 4.2, 0.6, 0.35
"""Inches of a picture, of the names of tokens, of a title."""
MOST_NAMES, NAME_LENGTH = 32, 10
"""Tokens up to which axes name them, and letters of a name."""


def draw_patterns(patterns: np.ndarray, tokens: Sequence[str], heads: Sequence[HeadId], title: str) -> Figure:
    """A picture a head: queries go down, keys to the right.

    Args:
        patterns: `[head, query, key]`.
        tokens: What each position stands for.
        heads: Their names.
        title: What stands above.
    """
    few = len(heads) <= FEW
    columns = min(len(heads), FEW // 2 if few else MOST_COLUMNS)
    rows, named = math.ceil(len(heads) / columns), few and len(tokens) <= MOST_NAMES
    side = min(LARGEST, (WIDTH - 1) / columns)
    size = side * columns + 1.2, (side + TITLE + NAMES * named) * rows + 0.5
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(literal(title), fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(heads) :]:
        axes.set_axis_off()
    for axes, pattern, head in zip(grid.flat, patterns, heads, strict=False):
        image = axes.imshow(pattern, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(str(head), fontsize=9)
        _name_tokens(axes, tokens, named)
        if few and not named:
            axes.set_xlabel("position of the key", fontsize=7)
            axes.set_ylabel("position of the query", fontsize=7)
    bar = figure.colorbar(image, ax=list(grid.flat), shrink=min(1.0, 3.2 / size[1]), aspect=25)
    bar.set_label("attention of a query (row)\nto a key (column)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def _name_tokens(axes: Axes, tokens: Sequence[str], named: bool) -> None:
    axes.tick_params(labelsize=6, colors=FAINT_INK, length=2)
    if named:
        texts = [shown(token) for token in tokens]
        names = [literal(text if len(text) <= NAME_LENGTH else f"{text[: NAME_LENGTH - 1]}…") for text in texts]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)


def shown(token: str) -> str:
    """A token as it can be read: breaks of lines and tabs as signs.

    >>> shown(chr(10) + "so")
    '↵so'
    """
    return token.replace("\r\n", "↵").replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥")
