"""The numbers of a benchmark, to be looked up by those who draw or tabulate them. Computes nothing; needs no torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headspec.measure.estimate import Estimate
from headspec.measure.report import BenchmarkReport

REFERENCE, BASELINE, CERTIFIED, HYPOTHETICAL, CONTROL, PEER = (
    "reference", "baseline", "certified", "hypothetical", "control", "peer",
)  # fmt: skip
"""The standings, as they are written in a report."""
TIMED = ("prefill", "decode")
WITH_SHARE = re.compile(r"(?P<method>.*\S) [\d.]+ %")


@dataclass(frozen=True)
class Entrant:
    """A system that took part."""

    name: str
    standing: str
    label: str
    """One line in words."""

    @property
    def shown(self) -> str:
        """Its name, with a warning where nobody has judged it."""
        return f"{self.name} (hypothetical)" if self.standing == HYPOTHETICAL else self.name

    @property
    def method(self) -> str:
        """The name without a share of the bytes at its end.

        >>> Entrant("SnapKV 25 %", "baseline", "").method
        'SnapKV'
        """
        found = WITH_SHARE.fullmatch(self.name)
        return found["method"] if found else self.name


@dataclass(frozen=True)
class Place:
    """Where something was measured."""

    part: str
    """prefill, decode, quality, size, memory."""
    batch: int | None = None
    context: int | None = None

    @property
    def words(self) -> str:
        """In words: `batch 4, context 2000`."""
        sizes = (("batch", self.batch), ("prompt" if self.part == "prefill" else "context", self.context))
        return ", ".join(f"{word} {size}" for word, size in sizes if size is not None)


QUALITY, SIZE, CHECK = Place("quality"), Place("size"), Place("check")


class Numbers:
    """A report, indexed by system, measure and place."""

    def __init__(self, report: BenchmarkReport) -> None:
        self.report = report
        self.entrants = _entrants(report)
        self._found: dict[tuple[Any, ...], Estimate] = {}
        for row in report.rows:
            found = _estimate(row)
            if found is not None:
                self._found.setdefault((_place(row), row["system"], row["measure"], _against(row)), found)

    def at(self, place: Place, system: str, measure: str, against: str | None = None) -> Estimate | None:
        """One number; None where it was not measured or is none."""
        return self._found.get((place, system, measure, against))

    def value(self, place: Place, system: str, measure: str, against: str | None = None) -> float | None:
        """The same without its interval."""
        found = self.at(place, system, measure, against)
        return None if found is None else found.value

    def places(self, part: str, measure: str) -> list[Place]:
        """Where a measure is known of some system; short contexts and small batches first."""
        found = {place for place, _, what, _ in self._found if place.part == part and what == measure}
        return sorted(found, key=lambda place: (place.context or 0, place.batch or 0))

    def measured(self, place: Place, measure: str) -> list[Entrant]:
        """The systems of which a measure is known."""
        return [entrant for entrant in self.entrants if self.at(place, entrant.name, measure) is not None]

    def machine(self, name: str) -> str:
        """A column of the machine; several values where a run went on elsewhere."""
        return " / ".join(dict.fromkeys(str(row[name]) for row in self.report.rows if row.get(name) is not None))


def _entrants(report: BenchmarkReport) -> tuple[Entrant, ...]:
    """In the order of the settings, as far as they have rows."""
    found = {
        row["system"]: Entrant(row["system"], row.get("standing") or "", row.get("label") or "")
        for row in reversed(report.rows)
        if row["system"]
    }
    order = dict.fromkeys([*report.settings.get("systems", ()), *reversed(found)])
    return tuple(found[name] for name in order if name in found)


def _place(row: Mapping[str, Any]) -> Place:
    """Quality and size have one place: their text is that of the settings."""
    return Place(row["part"], row["batch"], row["context"]) if row["part"] in TIMED else Place(row["part"])


def _against(row: Mapping[str, Any]) -> str | None:
    return row["against"] if row["measure"].startswith("speedup") or row["measure"] == "kl_difference" else None


def _estimate(row: Mapping[str, Any]) -> Estimate | None:
    value = row["value"]
    if value is None or not math.isfinite(value):
        return None
    low, high = (math.nan if row[name] is None else float(row[name]) for name in ("low", "high"))
    return Estimate(float(value), low, high)
