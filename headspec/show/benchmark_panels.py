"""What the figures of speed show: for every cell a bar for every system, and the words beside it.

Plain data for matplotlib and plotly alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headspec.measure.report import MEASURES
from headspec.show.benchmark_look import STANDING_ORDER
from headspec.show.benchmark_rows import (
    BASELINE,
    CERTIFIED,
    CONTROL,
    HYPOTHETICAL,
    PEER,
    REFERENCE,
    Entrant,
    Numbers,
    Place,
)
from headspec.show.benchmark_words import MISSING, byte_words, digits, percent, with_interval

TIMES = {"prefill": ("ttft", "time to first token"), "decode": ("tpot", "time per output token")}
BASES = ("S", "P0")
"""Speed-ups beside the bars: over what transformers can do, and over headspec's runtime without any pruning."""
MEANINGS = {
    CERTIFIED: "certified: its cost in quality was measured",
    REFERENCE: "reference: V, S transformers, P0 headspec without pruning",
    BASELINE: "baseline: a published method",
    HYPOTHETICAL: "hypothetical: nobody has judged it",
    CONTROL: "control: made to be bad",
    PEER: "peer: on another engine, or with rounded weights",
}
"""What a legend says of a standing."""


@dataclass(frozen=True)
class Bar:
    """One system in one cell."""

    entrant: Entrant
    length: float
    whisker: float | None
    """Where a whisker ends; None without one."""
    beside: tuple[str, ...]
    """Words in the panel's columns."""
    details: tuple[str, ...]
    """Lines for whom points at the bar."""


@dataclass(frozen=True)
class Panel:
    """One cell."""

    title: str
    axis: str
    columns: tuple[str, ...]
    """What stands above the words beside the bars."""
    bars: tuple[Bar, ...]
    limit: float | None = None
    """Where a line shows what cannot be passed."""

    @property
    def end(self) -> float:
        """Where the axis ends."""
        return 1.02 * max(self.limit or 0, *(max(bar.length, bar.whisker or 0) for bar in self.bars))


def speed_panels(numbers: Numbers) -> list[Panel]:
    """TTFT of every prompt, then TPOT of every batch and context."""
    return [
        _speed_panel(numbers, place, *TIMES[part])
        for part in TIMES for place in numbers.places(part, f"{TIMES[part][0]}_ms")
    ]  # fmt: skip


def roofline_panels(numbers: Numbers) -> list[Panel]:
    """How much of the machine's limit every system reaches while it decodes."""
    return [_roofline_panel(numbers, place) for place in numbers.places("decode", "roofline_share")]


def standings(panels: Sequence[Panel]) -> list[str]:
    """Those that a legend must explain."""
    found = {bar.entrant.standing for panel in panels for bar in panel.bars}
    return [standing for standing in STANDING_ORDER if standing in found]


def widths(panels: Sequence[Panel]) -> list[int]:
    """Of the columns beside the bars, in characters."""
    texts = (column for panel in panels for column in (panel.columns, *(bar.beside for bar in panel.bars)))
    columns = zip(*texts, strict=True)
    return [max(map(len, column)) for column in columns]


def _speed_panel(numbers: Numbers, place: Place, measure: str, words: str) -> Panel:
    bars = []
    for entrant in numbers.measured(place, f"{measure}_ms"):
        name = entrant.name
        ratios = [with_interval(numbers.at(place, name, "speedup", base)) for base in BASES]
        pruned = entrant.standing != REFERENCE
        bound = numbers.value(place, name, "pruning_bound") if pruned else None
        median, slowest = (numbers.value(place, name, f"{measure}{suffix}_ms") for suffix in ("", "_p95"))
        beside = (digits(median), *ratios, MISSING if bound is None else f"at most {digits(bound)}×")
        bars.append(Bar(entrant, median or 0.0, slowest, beside, _details(numbers, place, entrant, measure)))
    columns = ("ms", *(f"× {base} [95 %]" for base in BASES), "by pruning alone")
    title = f"{measure.upper()}, {place.words}"
    return Panel(title, f"{words}: median, whisker to the 95th percentile [ms]", columns, tuple(bars))


def _roofline_panel(numbers: Numbers, place: Place) -> Panel:
    bars = []
    for entrant in numbers.measured(place, "roofline_share"):
        share, bound = (numbers.value(place, entrant.name, name) for name in ("roofline_share", "bound_ms"))
        spent = bound / share if bound and share else None  # CPU time a core, as the share was made
        beside = (percent(share), f"{digits(bound)} of {digits(spent)}")
        bars.append(Bar(entrant, share or 0.0, None, beside, _details(numbers, place, entrant, "tpot")))
    columns = ("reached", "bound of CPU, ms a core")
    return Panel(f"decode, {place.words}", "share of the roofline", columns, tuple(bars), limit=1.0)


def _details(numbers: Numbers, place: Place, entrant: Entrant, measure: str) -> tuple[str, ...]:
    """All that is known of a system in a cell, a line each."""

    def known(name: str) -> float | None:
        return numbers.value(place, entrant.name, name)

    times = [known(f"{measure}{suffix}_ms") for suffix in ("", "_p95", "_cpu")]
    lines = [
        entrant.label,
        "median {} ms, 95th percentile {} ms, CPU {} ms".format(*map(digits, times)),
        f"{measure.upper()}: {MEASURES[f'{measure}_ms'][1]}",
        *_ratio_lines(numbers, place, entrant),
    ]
    if (bound := known("pruning_bound")) is not None:
        lines.append(f"pruning alone could make it {digits(bound)} times as fast as P0 at most")
    if (share := known("roofline_share")) is not None:
        lines.append(f"{percent(share)} of what the machine can do ({digits(known('bound_ms'))} ms)")
    if (held := known("kv_bytes")) is not None:
        lines.append(f"KV cache {byte_words(held)}")
    return tuple(line for line in lines if line)


def _ratio_lines(numbers: Numbers, place: Place, entrant: Entrant) -> Sequence[str]:
    found = ((base, numbers.at(place, entrant.name, "speedup", base)) for base in ("V", *BASES))
    return [f"{with_interval(ratio)} times as fast as {base}" for base, ratio in found if ratio is not None]
