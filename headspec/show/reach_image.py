"""How far back heads look, with matplotlib: attention by relative offset, of all heads or of a few.

Draws records; computes nothing. Needs no torch.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from headspec.classify.head_map import HeadMap
from headspec.classify.summary import grouped_offsets
from headspec.heads import HeadId
from headspec.probe.profile import HeadProfile
from headspec.show.hover import role_words
from headspec.show.style import (
    FAINT_INK,
    FAINTEST,
    GRID,
    LINE_COLORS,
    MOST_ROW_NAMES,
    ROLE_COLORS,
    ROLE_ORDER,
    SEQUENTIAL,
    caption,
    grouped_rows,
)


def position_preference(profile: HeadProfile, head_map: HeadMap | None = None) -> Figure:
    """How much attention each head gives to each relative offset; one row a head, grouped by role if there is a map."""
    rows = grouped_rows(profile, head_map)
    grouped, names = grouped_offsets(profile)
    mass = np.stack([grouped[profile.about.cell(head)] for head in rows])
    figure = Figure(figsize=(10, min(4 + 0.16 * len(rows), 13)), layout="constrained")
    strip, axes = figure.subplots(1, 2, sharey=True, width_ratios=[1, 60])
    image = axes.imshow(np.maximum(mass, FAINTEST), cmap=SEQUENTIAL, norm=LogNorm(1e-3, 1), aspect="auto",
                        interpolation="nearest")  # fmt: skip
    figure.colorbar(image, ax=axes, label="share of attention (log)", pad=0.01)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_xlabel("relative offset of the key, in tokens (0 is the query's own; from 8 on several a column)")
    _draw_roles(strip, rows, head_map)
    figure.suptitle(f"Where each head looks, by relative offset\n{caption(profile.about)}", fontsize=10)
    if head_map:
        counts = head_map.counts()
        handles = [Patch(color=ROLE_COLORS[role], label=f"{role} ({counts[role]})") for role in ROLE_ORDER]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def head_offsets(profile: HeadProfile, heads: Sequence[HeadId], head_map: HeadMap | None = None) -> Figure:
    """One line a head; wide bins are divided by their width, so that they compare with single offsets."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.add_subplot()
    width = np.diff([*profile.offset_edges, profile.about.window])
    for head, color in zip(heads, LINE_COLORS, strict=False):
        share = profile.offset_mass[profile.about.cell(head)] / width
        label = f"{head} {role_words(head_map[head])}" if head_map else str(head)
        axes.plot(profile.offset_edges + 1, np.where(share > 0, share, np.nan), color=color, lw=1.4, marker="o", ms=2.5,
                  drawstyle="steps-post", label=label)  # fmt: skip
    ticks = [0, *(2**k for k in range(32) if 2**k < profile.about.window)]
    axes.set(xscale="log", yscale="log", ylim=(FAINTEST / 10, 1.3))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([tick + 1 for tick in ticks], [str(tick) for tick in ticks], fontsize=8)
    axes.set_xlabel("relative offset of the key, in tokens (0 is the query's own; log scale)")
    axes.set_ylabel("share of attention per offset\n(bins from 64 on ÷ their width)")
    axes.grid(color=GRID)
    axes.tick_params(colors=FAINT_INK)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(f"Where a head looks, by relative offset\n{caption(profile.about)}", fontsize=10)
    return figure


def _draw_roles(strip: Axes, rows: Sequence[HeadId], head_map: HeadMap | None) -> None:
    """A strip of the roles' colours, and the names of the heads where they do not overlap."""
    strip.set_xticks([])
    if head_map is None:
        strip.spines[:].set_visible(False)
        strip.set_ylabel(f"{len(rows)} heads, layer by layer" if len(rows) > MOST_ROW_NAMES else "")
    else:
        colors = ListedColormap([ROLE_COLORS[role] for role in ROLE_ORDER])
        roles = np.array([[ROLE_ORDER.index(head_map[head].role)] for head in rows])
        strip.imshow(roles, cmap=colors, vmin=-0.5, vmax=len(ROLE_ORDER) - 0.5, aspect="auto", interpolation="nearest")
    if len(rows) <= MOST_ROW_NAMES:
        strip.set_yticks(range(len(rows)), [str(head) for head in rows], fontsize=7)
    elif head_map is None:
        strip.set_yticks([])
    else:
        middles = {index: np.flatnonzero(roles == index).mean() for index in np.unique(roles)}
        strip.set_yticks(list(middles.values()), [str(ROLE_ORDER[index]) for index in middles], rotation=90,
                         va="center")  # fmt: skip
