"""What may be done with one head: keep it, remove it, give it a sliding window, or compress its KV cache.

Each treatment has a short text, which is how plans are written by hand and in files: `keep`, `zero`, `mean`,
`random`, `window:8` (or `window:8+0` for other than 4 sink keys), `compress:snapkv:0.5`.
"""

from dataclasses import dataclass
from enum import StrEnum

from headspec.errors import HeadspecError

SINKS = 4
"""Sink keys that stay visible beside a window, unless told otherwise (Xiao et al. 2023)."""
POLICIES = ("snapkv", "expected_attention")
"""KV-compression policies a plan may name."""


class Fill(StrEnum):
    """What stands in for the output of a removed head."""

    ZERO = "zero"
    MEAN = "mean"
    """The mean of z over the probe text."""
    RANDOM = "random"
    """A fixed random vector, as long as the head's z is on average."""


@dataclass(frozen=True)
class Keep:
    """The head stays as it is."""

    def __str__(self) -> str:
        return "keep"


@dataclass(frozen=True)
class Remove:
    """The head is not computed; a constant takes the place of its z."""

    fill: Fill | str = Fill.MEAN

    def __post_init__(self) -> None:
        if self.fill not in tuple(Fill):
            raise HeadspecError(f"fill {self.fill!r}: choose zero, mean or random.")
        object.__setattr__(self, "fill", Fill(self.fill))

    def __str__(self) -> str:
        return str(self.fill)


@dataclass(frozen=True)
class Window:
    """The head sees its last `window` keys, its own included, and the first `sinks` real tokens of the row."""

    window: int
    sinks: int = SINKS

    def __post_init__(self) -> None:
        for name, value, least in (("window", self.window, 1), ("sinks", self.sinks, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise HeadspecError(f"{name} {value!r}: want a number of keys, {least} or more.")

    def __str__(self) -> str:
        return f"window:{self.window}" + (f"+{self.sinks}" if self.sinks != SINKS else "")


@dataclass(frozen=True)
class Compress:
    """The head's KV cache is compressed after prefill."""

    policy: str
    budget: float | int
    """A share of the prompt's keys in (0, 1), or a number of keys."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise HeadspecError(f"policy {self.policy!r}: choose one of {', '.join(POLICIES)}.")
        share = isinstance(self.budget, float) and 0 < self.budget < 1
        number = isinstance(self.budget, int) and not isinstance(self.budget, bool) and self.budget >= 1
        if not share and not number:
            raise HeadspecError(f"budget {self.budget!r}: want a share of the keys like 0.5, or a number of keys.")

    def __str__(self) -> str:
        return f"compress:{self.policy}:{self.budget}"


Treatment = Keep | Remove | Window | Compress
KEEP = Keep()


def parse_treatment(text: "str | Treatment") -> Treatment:
    """Read the short text of a treatment.

    >>> parse_treatment("window:8")
    Window(window=8, sinks=4)
    >>> parse_treatment("mean")
    Remove(fill=<Fill.MEAN: 'mean'>)
    """
    if isinstance(text, Treatment):
        return text
    kind, *rest = str(text).strip().split(":")
    try:
        if kind == "keep" and not rest:
            return KEEP
        if kind in tuple(Fill) and not rest:
            return Remove(Fill(kind))
        if kind == "window" and len(rest) == 1:
            window, plus, sinks = rest[0].partition("+")
            return Window(int(window), int(sinks) if plus else SINKS)
        if kind == "compress" and len(rest) == 2:
            return Compress(rest[0], float(rest[1]) if set(rest[1]) & set(".e") else int(rest[1]))
    except HeadspecError:
        raise
    except ValueError:
        pass
    raise HeadspecError(
        f"{text!r} is no treatment: write keep, zero, mean, random, window:8, window:8+0 (no sinks) or "
        "compress:snapkv:0.5."
    )
