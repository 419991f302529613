"""The rules that turn a head's numbers into its role, written once for offline and live use.

Plain arithmetic and comparisons, so that they take numpy arrays and torch tensors alike: every
argument is a grid of one number a head, any shape, all the same. No statistics, no model.

Each rule answers with a *margin*: how far, as a share of the cut-off, the deciding statistic lies on the
"yes" side. The rule holds where the margin is 0 or more.
"""

from typing import Any

from .thresholds import RoleThresholds

FAIR_POSITION = 2
"""A window is judged on queries that see at least FAIR_POSITION × its keys: before, anything fits inside."""
LEAST_OUTSIDE = 1e-3
"""With less attention than this outside the sinks, the share that falls into a window means nothing and counts as 0."""


def dead_margins(spread: Any, spread_p95: Any, repeat_deviation: Any, induction: Any, cut: RoleThresholds) -> list[Any]:
    """Margins of the four conditions of a dead *candidate*; it is one where all are 0 or more.

    The output hardly varies around its mean, on no window of text does it, repeats do not wake the head, and it
    does no induction. Norms or entropy alone do not show this: induction heads write little on plain text.
    """
    return [
        below(spread, cut.dead_spread),
        below(spread_p95, cut.dead_spread_p95),
        below(repeat_deviation, cut.dead_repeat_deviation),
        below(induction, cut.protected_induction),
    ]


def window_margins(window_mass: Any, window_share: Any, induction: Any, cut: RoleThresholds) -> list[Any]:
    """Margins of the three conditions under which a window (plus sinks) does for a head.

    `window_mass` is the attention on window plus sinks, `window_share` the part of the non-sink attention
    that falls into the window.
    """
    return [
        above(window_mass, cut.windowed_mass),
        above(window_share, cut.windowed_share),
        below(induction, cut.protected_induction),
    ]


def window_share(inside: Any, sink: Any) -> Any:
    """Share of the attention outside the sinks that falls into a window, from its attention and that of the sinks."""
    outside = 1 - sink
    return (inside / outside.clip(LEAST_OUTSIDE)).clip(max=1.0) * (outside > LEAST_OUTSIDE)


def below(value: Any, limit: float) -> Any:
    """(limit − value) / limit: 1 at value 0, 0 at the cut-off, negative above it."""
    return (limit - value) / (limit or 1.0)


def above(value: Any, limit: float) -> Any:
    """(value − limit) / limit: 0 at the cut-off, negative below it."""
    return (value - limit) / (limit or 1.0)
