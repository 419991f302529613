"""What the figures of a sweep show: heads one by one, growing groups of them, and whole plans.

Plain data for matplotlib and plotly alike.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headspec.classify.head_map import HeadMap
from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.plan.treatments import parse_treatment
from headspec.search.table import SweepTable
from headspec.show.style import SORT_ABOVE, head_order

Row = Mapping[str, Any]
LEAST, COLOR_DECADES, AXIS_DECADES = 1e-6, 5, 7
"""A logarithmic scale ends at the first at the latest, what lies below being rounding, and reaches over so many
decades."""
CONTROL, CURVE, SINGLE = "control", "curve", "single"
NEEDED = ("kind", "case", "heads", "n_heads", "treatment", "kl", "kv_share")
"""Columns without which a row cannot be drawn."""
KIND_WORDS = {"grid": "plans of other cut-offs", CONTROL: "random plans of the same make"}


@dataclass(frozen=True)
class Choice:
    """A column that can be drawn."""

    name: str
    axis: str
    """What stands at an axis or a colour bar."""
    log: bool = True
    low_is_harm: bool = False


CHOICES = (
    Choice("kl", "KL(original ‖ treated), nats a token"),
    Choice("perplexity_increase", "perplexity increase, relative"),
    Choice("repeats_kl", "KL on repeated random tokens, nats a token"),
    Choice("induction_accuracy", "induction accuracy, share of tokens", log=False, low_is_harm=True),
)
"""What a menu offers, the most telling first."""


@dataclass(frozen=True)
class Scale:
    """From where to where a column is drawn; powers of ten if `log`."""

    low: float
    high: float
    log: bool

    def place(self, value: float | None) -> float:
        """Where a value is drawn; NaN where there is none."""
        if value is None:
            return math.nan
        if not self.log:
            return value
        return min(max(value, self.low), self.high)

    def clips(self, values: Iterable[float | None]) -> bool:
        """Whether a value is drawn where it does not lie."""
        return any(value is not None and self.place(value) != value for value in values)

    def ticks(self) -> list[float]:
        """Every power of ten, or quarters."""
        if not self.log:
            return [self.low + (self.high - self.low) * quarter / 4 for quarter in range(5)]
        return [10.0**power for power in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]


@dataclass(frozen=True)
class SweepParts:
    """The rows of a sweep, sorted by what they are."""

    settings: Mapping[str, Any]
    singles: dict[str, dict[HeadId, Row]] = field(default_factory=dict)
    """By treatment: the heads that were treated alone."""
    curves: dict[str, list[Row]] = field(default_factory=dict)
    """By ranking and treatment: more and more heads together."""
    random: dict[str, list[Row]] = field(default_factory=dict)
    """Controls of the curves, by the curve's name."""
    plans: dict[str, list[Row]] = field(default_factory=dict)
    """By kind: all other rows."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.settings.get("model", "a model"))

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads of the model: as the settings tell, and as far as the rows reach."""
        heads = [head for rows in self.singles.values() for head in rows]
        n_layers = max([int(self.settings.get("n_layers", 1)), *(head.layer + 1 for head in heads)])
        n_heads = max([int(self.settings.get("n_heads", 1)), *(head.head + 1 for head in heads)])
        return n_layers, n_heads

    @property
    def single_rows(self) -> list[Row]:
        """Those of single heads, under every treatment."""
        return [row for rows in self.singles.values() for row in rows.values()]

    @property
    def rows(self) -> list[Row]:
        """All rows that are drawn."""
        groups = (*self.curves.values(), *self.random.values(), *self.plans.values())
        return self.single_rows + [row for rows in groups for row in rows]

    def choices(self) -> list[Choice]:
        """The columns that hold a number somewhere."""
        rows = self.rows
        return [choice for choice in CHOICES if any(row.get(choice.name) is not None for row in rows)]


def scale_of(choice: Choice, rows: Iterable[Row], decades: int = AXIS_DECADES) -> Scale:
    """A scale for some rows, such as those of all treatments together, so that their colours compare."""
    found = [row[choice.name] for row in rows if row.get(choice.name) is not None]
    if not choice.log:
        return Scale(0.0, 1.0, log=False)
    positive = [max(value, LEAST) for value in found if value > 0] or [10 * LEAST]
    high = math.ceil(math.log10(max(positive)))
    low = min(math.floor(math.log10(min(positive))), high - 1)
    if any(value <= 0 for value in found):
        low -= 1  # so that nothing, or a gain, does not lie where the smallest harm does
    return Scale(10.0 ** max(low, high - decades), 10.0**high, log=True)


def sweep_parts(table: SweepTable, treatment: Any = None) -> SweepParts:
    """Sort the rows of a table; with a treatment (`mean`, `window:8`) only those under it."""
    parts = SweepParts(table.settings)
    wanted = None if treatment is None else str(parse_treatment(treatment))
    if missing := [name for name in NEEDED for row in table.rows if name not in row]:
        raise RecordError(f"a row of this sweep of {parts.model} has no {missing[0]}: sweep again into another folder.")
    rows = [row for row in table.rows if wanted is None or row["treatment"] == wanted]
    if not rows:
        known = sorted({str(row["treatment"]) for row in table.rows if row["kind"] in (SINGLE, CURVE)})
        what = "holds no rows yet: run it on" if not table.rows else (
            f"holds no case of {wanted} alone: choose one of {', '.join(known) or 'none'}")  # fmt: skip
        raise HeadspecError(f"nothing to draw: this sweep of {parts.model} {what}.")
    named = {curve_name(row) for row in rows if row["kind"] == CURVE}
    for row in rows:
        curve = curve_name(row)
        if row["kind"] == SINGLE:
            parts.singles.setdefault(row["treatment"], {})[HeadId.parse(row["heads"])] = row
        elif row["kind"] == CURVE:
            parts.curves.setdefault(curve, []).append(row)
        elif row["kind"] == CONTROL and curve in named:
            parts.random.setdefault(curve, []).append(row)
        else:
            parts.plans.setdefault(row["kind"], []).append(row)
    for rows_of in (*parts.curves.values(), *parts.random.values()):
        rows_of.sort(key=lambda row: row["n_heads"])
    return parts


def curve_name(row: Row) -> str:
    """Treatment and ranking of a curve's case or of its control.

    >>> curve_name({"case": "mean by output_spread, 4 heads, random 2"})
    'mean by output_spread'
    """
    case = str(row["case"]).rpartition(", random ")[0] or str(row["case"])
    return case.rpartition(", ")[0] or case


def kind_words(kind: str) -> str:
    """What rows of a kind are, for a legend."""
    return KIND_WORDS.get(kind, kind)


def is_sorted(parts: SweepParts, head_map: HeadMap | None) -> bool:
    """Whether heads of one role stand together: where they are many, and all their roles are known."""
    n_layers, n_heads = parts.shape
    return head_map is not None and len(head_map) == n_layers * n_heads > SORT_ABOVE


def ordered_heads(parts: SweepParts, head_map: HeadMap | None) -> list[list[HeadId]]:
    """The heads of each layer as they stand in the figure: by index, or by role when there are many."""
    n_layers, n_heads = parts.shape
    if head_map is None or not is_sorted(parts, head_map):
        return [[HeadId(layer, head) for head in range(n_heads)] for layer in range(n_layers)]
    return [[HeadId(layer, int(head)) for head in row] for layer, row in enumerate(head_order(head_map))]


def caption_words(parts: SweepParts) -> str:
    """Which model and texts it is about."""
    known = parts.settings
    texts = f"{known['n_windows']} × {known['window']} tokens of {known['text']}" if "n_windows" in known else ""
    repeats = f"{known['repeats']}" if known.get("repeats") else ""
    return " · ".join(part for part in (parts.model, texts, repeats) if part)
