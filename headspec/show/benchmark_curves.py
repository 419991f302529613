"""What the figures of quality show: a curve for every method over its shares of the bytes.

Plain data for matplotlib and plotly alike.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from headspec.measure.estimate import Estimate
from headspec.show.benchmark_look import STANDING_ORDER, Look, looks_of
from headspec.show.benchmark_rows import (
    BASELINE,
    QUALITY,
    REFERENCE,
    Entrant,
    Numbers,
    Place,
)

BYTES_TITLE = "mean KV bytes while text is continued, share of the full cache"
TIME_TITLE = "time per output token for the whole batch, median [ms]"
KL_TITLE = "KL(original ‖ treated), nats a token, with 95 % interval"
ORIGINAL = "the original"
LEAST_KL = 1e-5
"""Less than this is rounding, and drawn at the bottom."""


@dataclass(frozen=True)
class Spot:
    """One system."""

    entrant: Entrant
    x: float
    kl: Estimate


@dataclass(frozen=True)
class Curve:
    """One method, from few bytes to many (or from quick to slow)."""

    label: str
    standing: str
    look: Look
    spots: tuple[Spot, ...]


def bytes_curves(numbers: Numbers) -> list[Curve]:
    """KL over the share of the KV bytes."""
    return _curves(numbers, lambda entrant: numbers.value(QUALITY, entrant.name, "kv_share"))


def time_curves(numbers: Numbers, place: Place) -> list[Curve]:
    """KL over the time per output token."""
    return _curves(numbers, lambda entrant: numbers.value(place, entrant.name, "tpot_ms"))


def time_place(numbers: Numbers) -> Place | None:
    """The largest batch, and of it the longest context, in which a system was timed whose KL is known."""
    places = [
        place for place in numbers.places("decode", "tpot_ms")
        if any(numbers.at(QUALITY, entrant.name, "kl") for entrant in numbers.measured(place, "tpot_ms"))
    ]  # fmt: skip
    return max(places, key=lambda place: (place.batch or 0, place.context or 0), default=None)


def has_quality(numbers: Numbers) -> bool:
    """Whether there is a KL to draw; random weights have none that means anything."""
    return not numbers.report.random_weights and bool(bytes_curves(numbers))


def least_drawn(curves: Iterable[Curve]) -> float:
    """The bottom of a logarithmic axis: the decade below the least KL that is more than rounding."""
    values = [spot.kl.value for curve in curves for spot in curve.spots if spot.kl.value > LEAST_KL]
    return 10.0 ** math.floor(math.log10(min(values, default=LEAST_KL)))


def bottom_words(curves: Iterable[Curve], least: float) -> str:
    """What it means to lie at the bottom; empty where nothing does."""
    beneath = any(spot.kl.value < least for curve in curves for spot in curve.spots)
    return f"drawn at {least:g}: a KL of less, such as the original's own of 0" if beneath else ""


def reach(spot: Spot, least: float) -> tuple[float, float, float]:
    """Value and interval as they are drawn on an axis that begins at `least`."""
    value = max(spot.kl.value, least)
    low, high = (value if math.isnan(limit) else max(limit, least) for limit in (spot.kl.low, spot.kl.high))
    return value, min(low, value), max(high, value)


def _curves(numbers: Numbers, x_of: Callable[[Entrant], float | None]) -> list[Curve]:
    methods: dict[tuple[str, str], list[Spot]] = {}
    for entrant in numbers.entrants:
        x, kl = x_of(entrant), numbers.at(QUALITY, entrant.name, "kl")
        if x is not None and kl is not None:
            methods.setdefault(_key(entrant), []).append(Spot(entrant, x, kl))
    looks = looks_of(map(_key, numbers.entrants))
    curves = [
        Curve(_label(method, standing, spots), standing, looks[method, standing],
              tuple(sorted(spots, key=lambda spot: spot.x)))
        for (method, standing), spots in methods.items()
    ]  # fmt: skip
    return sorted(curves, key=lambda curve: _rank(curve.standing))


def _key(entrant: Entrant) -> tuple[str, str]:
    """Method and standing; the references are one, as all of them are the original."""
    return (ORIGINAL if entrant.standing == REFERENCE else entrant.method), entrant.standing


def _rank(standing: str) -> int:
    return STANDING_ORDER.index(standing) if standing in STANDING_ORDER else len(STANDING_ORDER)


def _label(method: str, standing: str, spots: Sequence[Spot]) -> str:
    """The name of the only system of a method, or the method's; with its standing unless it is a baseline."""
    if standing == REFERENCE:
        return f"{', '.join(spot.entrant.name for spot in spots)} ({method})"
    name = spots[0].entrant.name if len(spots) == 1 else method
    return name if standing == BASELINE else f"{name} ({standing})"
