"""One cell of a benchmark: what its rows have in common, and how a row is made."""

from dataclasses import dataclass, field
from typing import Any

from headspec.measure.contenders import Contender
from headspec.measure.estimate import Estimate
from headspec.measure.report import COLUMNS, MEASURES
from headspec.measure.systems.system import System

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What is common to the rows of one cell."""

    part: str
    """decode, prefill, memory, quality or size."""
    batch: int | None = None
    context: int | None = None
    n_new: int | None = None
    system: str = ""
    """Where it is about one alone."""
    words: list[str] = field(default_factory=list)
    """Warnings, for the user."""
    windows: dict[str, list[float]] = field(default_factory=dict)
    """What is kept of each window of text, for comparisons of systems."""

    @property
    def name(self) -> str:
        """For the log and for the user."""
        sizes = (("batch", self.batch), ("context", self.context))
        known = (f"{word} {size}" for word, size in sizes if size is not None)
        return " ".join([self.part, *known, *([self.system] if self.system else [])])

    def row(self, system: System | Contender, measure: str, value: Any, **more: Any) -> Row:
        """One measurement: a number or an Estimate."""
        assert measure in MEASURES, measure
        number, low, high = (value.value, value.low, value.high) if isinstance(value, Estimate) else (value, None, None)
        found = dict.fromkeys(COLUMNS) | {
            "part": self.part, "system": system.name, "standing": str(system.standing), "label": system.label,
            "batch": self.batch, "context": self.context, "n_new": self.n_new, "measure": measure,
            "value": None if number is None else float(number), "low": low, "high": high, "unit": MEASURES[measure][0],
        }  # fmt: skip
        return found | more

    def skipped(self, why: str) -> Row:
        """The row of a cell that was left out."""
        return dict.fromkeys(COLUMNS) | {
            "part": self.part, "system": "", "batch": self.batch, "context": self.context, "measure": "skipped",
            "unit": "", "note": why,
        }  # fmt: skip
