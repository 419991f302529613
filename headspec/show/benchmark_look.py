"""How the systems of a benchmark look: a colour for every standing and family of methods, a mark for every method."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headspec.show.benchmark_rows import BASELINE, CERTIFIED, CONTROL, HYPOTHETICAL, PEER, REFERENCE
from headspec.show.style import FAINT_INK, INK, LINE_COLORS

HIGHLIGHT = LINE_COLORS[1]
"""The colour of certified systems, and of nothing else."""
STANDING_COLORS = {REFERENCE: INK, CERTIFIED: HIGHLIGHT, BASELINE: LINE_COLORS[0], HYPOTHETICAL: FAINT_INK,
                   CONTROL: "#999999", PEER: LINE_COLORS[4]}  # fmt: skip
STANDING_ORDER = (CERTIFIED, REFERENCE, BASELINE, PEER, HYPOTHETICAL, CONTROL)
FAMILY_COLORS = tuple(LINE_COLORS[place] for place in (0, 2, 3, 5, 6, 8))
BASELINE_MARKS, CERTIFIED_MARKS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon"), (
    "star", "hexagon", "diamond", "cross",
)  # fmt: skip
OTHER_MARKS = BASELINE_MARKS


@dataclass(frozen=True)
class Look:
    """How a method is drawn; marks and dashes in plotly's words."""

    color: str
    mark: str
    dash: str = "solid"
    width: float = 1.4
    size: float = 6.0
    filled: bool = True


def looks_of(methods: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """A look for every method, the same in all figures of a report."""
    found: dict[tuple[str, str], Look] = {}
    wanted = list(dict.fromkeys(methods))
    families = _families([method for method, standing in wanted if standing == BASELINE])
    colors = dict(zip(dict.fromkeys(families.values()), FAMILY_COLORS * len(families), strict=False))
    for method, standing in wanted:
        number = sum(other == standing for _, other in found)
        color = STANDING_COLORS.get(standing, FAINT_INK)
        if standing == BASELINE:
            family = families[method]
            dash = "solid" if family == method else "dash"
            look = Look(colors[family], BASELINE_MARKS[number % len(BASELINE_MARKS)], dash)
        elif standing == CERTIFIED:
            look = Look(color, CERTIFIED_MARKS[number % len(CERTIFIED_MARKS)], width=3.0, size=11.0)
        elif standing == CONTROL:
            look = Look(color, "x", "dash")
        elif standing == REFERENCE:
            look = Look(color, "diamond", width=0.0, size=7.0)
        else:
            look = Look(color, OTHER_MARKS[number % len(OTHER_MARKS)], filled=False, size=7.0)
        found[method, standing] = look
    return found


def _families(methods: Sequence[str]) -> dict[str, str]:
    """Variants belong to the method whose name theirs contains: `Ada-SnapKV` to `SnapKV`."""
    return {method: min((other for other in methods if other.lower() in method.lower()), key=len) for method in methods}
