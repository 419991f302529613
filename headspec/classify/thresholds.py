"""Every cut-off of the offline classification: the roles' own, the traits' and the textbook rules'.

Values only; what is compared with them is in `rules.py`, `traits.py` and `naive.py`.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from headspec.errors import HeadspecError
from headspec.runtime.thresholds import RoleThresholds


@dataclass(frozen=True)
class Thresholds(RoleThresholds):
    """All cut-offs. Shares and scores are in [0, 1]."""

    previous_token: float = 0.5
    """Least attention on the key before (repeated random tokens) to be called a previous-token head. Source: the usual
    reading of the score; the demo model has two heads at .95 and .99, the next at .27."""

    induction: float = 0.15
    """Least induction score for the trait `induction`. Source: as `protected_induction`."""

    sink_resting: float = 0.5
    """Least attention on the sink keys for the trait `sink-resting`. Source: Gu et al. 2024 use .3 on the first key."""

    near_constant: float = 0.1
    """Most output spread, as a share of the output norm, for the trait `near-constant`: a bias would do. Own choice."""

    fixed_offset: float = 0.9
    """Least share of queries whose largest attention falls on one offset for the trait `fixed-offset`. Source: the
    positional heads of Voita et al. 2019."""

    naive_low_entropy: float = 0.5
    """Textbook rule: normalised entropy below this (with a fixed offset) is positional. Source: common practice."""

    naive_uniform: float = 0.9
    """Textbook rule: normalised entropy above this is "near-uniform", so dead. Source: common practice."""

    naive_low_maximum: float = 0.05
    """Textbook rule: mean largest attention below this is "attends to nothing", so dead. Source: common practice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own = {field.name for field in fields(self)} - {field.name for field in fields(RoleThresholds)}
        for name in sorted(own):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], got {getattr(self, name)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Thresholds":
        """Thresholds from a dictionary; unknown names are an error, missing ones take their default."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise HeadspecError(f"unknown threshold {', '.join(unknown)}: there are {', '.join(sorted(known))}.")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise HeadspecError(f"thresholds: {error}") from error
