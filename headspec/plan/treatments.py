"""What may be done with one head: keep it, remove it, give it a sliding window, or compress its KV cache.

Each treatment has a short text, which is how plans are written by hand and in files: `keep`, `zero`, `mean`,
`random`, `window:8` (or `window:8+0` for other than 4 sink keys), `compress:snapkv:0.5` (with `:latest32` or `:adakv`
behind it for what `Compress` calls so).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from headspec.errors import HeadspecError

SINKS = 4
"""Sink keys that stay visible beside a window, unless told otherwise (Xiao et al. 2023)."""
POLICIES = ("snapkv", "expected_attention", "streaming", "random")
"""KV-compression policies a plan may name; what they do: `headspec.runtime.policies`. `random` is a control."""


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


class Allocation(StrEnum):
    """How the heads of a layer under the same policy and budget share it."""

    UNIFORM = "uniform"
    """Every head keeps as many keys."""
    ADAKV = "adakv"
    """The layer's best keys stay, whichever head they belong to, with a floor for each head (Feng et al. 2024)."""


@dataclass(frozen=True)
class Compress:
    """The head reads the prompt with every key, and then keeps those that a policy chooses."""

    policy: str
    budget: float | int
    """Keys kept: a share of the prompt's in (0, 1] (a float), or a number."""
    latest: int = 0
    """Of a budget in keys, the part that always holds the latest ones; so the budget holds while text is written. 0:
    what follows the prompt all stays, beside the budget."""
    allocation: Allocation | str = Allocation.UNIFORM
    is_share: bool = field(init=False, repr=False)
    """Whether the budget is a share: 1.0 is every key, and 1 one key, though Python takes them for equal."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise HeadspecError(f"policy {self.policy!r}: choose one of {', '.join(POLICIES)}.")
        share = isinstance(self.budget, float) and 0 < self.budget <= 1
        object.__setattr__(self, "is_share", share)
        number = isinstance(self.budget, int) and not isinstance(self.budget, bool) and self.budget >= 1
        if not share and not number:
            raise HeadspecError(f"budget {self.budget!r}: want a share of the keys like 0.5, or a number of keys.")
        if self.allocation not in tuple(Allocation):
            raise HeadspecError(f"allocation {self.allocation!r}: choose uniform or adakv.")
        object.__setattr__(self, "allocation", Allocation(self.allocation))
        if not isinstance(self.latest, int) or isinstance(self.latest, bool) or self.latest < 0:
            raise HeadspecError(f"latest {self.latest!r}: want a number of keys, 0 or more.")
        if self.latest and not (number and self.latest < self.budget):
            raise HeadspecError(f"latest {self.latest} of budget {self.budget}: want less than a budget in keys.")
        if self.policy == "streaming" and (self.latest or share or self.allocation is Allocation.ADAKV):
            raise HeadspecError(f"{self}: streaming keeps the sinks and the latest keys: give a number of keys only.")

    @property
    def bounded(self) -> bool:
        """Whether the budget holds while text is written, because older keys make room for the latest."""
        return bool(self.latest) or self.policy == "streaming"

    @property
    def needs_queries(self) -> bool:
        """Whether the policy needs statistics of the head's queries from a probe."""
        return self.policy == "expected_attention"

    def __str__(self) -> str:
        options = [f"latest{self.latest}"] * bool(self.latest) + ["adakv"] * (self.allocation is Allocation.ADAKV)
        return ":".join(["compress", self.policy, str(self.budget), *options])


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
        if kind == "compress" and 2 <= len(rest) <= 4:
            return _compress(*rest)
    except HeadspecError:
        raise
    except ValueError:
        pass
    raise HeadspecError(
        f"{text!r} is no treatment: write keep, zero, mean, random, window:8, window:8+0 (no sinks) or "
        "compress:snapkv:0.5 (or compress:snapkv:64:latest32:adakv)."
    )


def _compress(policy: str, budget: str, *options: str) -> Compress:
    latest, allocation = 0, Allocation.UNIFORM
    for option in options:
        if option == Allocation.ADAKV and allocation is Allocation.UNIFORM:
            allocation = Allocation.ADAKV
        elif option.startswith("latest") and not latest:
            latest = int(option.removeprefix("latest"))
        else:
            raise ValueError(option)
    return Compress(policy, float(budget) if set(budget) & set(".e") else int(budget), latest, allocation)
