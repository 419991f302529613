"""Do the heads of a model specialise at all? The same numbers on text, on shuffled tokens and on untrained weights.

Compares profiles; probes nothing.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headspec.errors import RecordError
from headspec.files import write_whole
from headspec.probe.profile import HeadProfile

CLEAR_FACTOR, CLEAR_BITS = 3.0, 0.05
"""Heads specialise if they differ this many times more than those of the untrained twin, and by this many bits more.
Own choice: the demo model's heads differ by 0.78 bits, those of its untrained twin by less than 0.001."""


@dataclass(frozen=True)
class HeadDiversity:
    """How much the heads of one model differ from each other on one text."""

    source: str
    offset_information: float
    """Mutual information, in bits, between which head it is and at which relative offset (bins) it looks, heads being
    equally likely: entropy of the mean offset profile minus mean entropy of the heads' profiles. 0 if all heads look
    alike; at most log2(number of heads)."""
    entropy_deviation: float
    """Standard deviation over heads of the normalised entropy, in [0, 0.5]."""
    strongest_previous_token: float
    """Largest previous-token score of any head, in [0, 1] (NaN if not measured)."""
    strongest_induction: float
    """Largest induction score of any head, in [0, 1] (NaN if not measured)."""


@dataclass(frozen=True)
class Specialisation:
    """The verdict, with the numbers it rests on."""

    text: HeadDiversity
    shuffled: HeadDiversity | None = None
    """The same tokens in random order: what remains is positional habit, not reading. None for random weights."""
    untrained: HeadDiversity | None = None
    """The same architecture with re-initialised weights. None if the weights are random already."""

    @property
    def specialised(self) -> bool | None:
        """Whether heads differ clearly more than untrained ones; None for random weights."""
        if self.untrained is None:
            return None
        untrained = self.untrained.offset_information
        return self.text.offset_information > max(CLEAR_FACTOR * untrained, untrained + CLEAR_BITS)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.untrained is None or self.shuffled is None:
            return "Random weights: these numbers are good for timing and tests, and say nothing about a trained model."
        answer = "Heads specialise" if self.specialised else "No clear specialisation"
        return (
            f"{answer}: which head it is tells {self.text.offset_information:.2f} bits about where it looks "
            f"({self.shuffled.offset_information:.2f} on shuffled tokens, "
            f"{self.untrained.offset_information:.3f} with untrained weights)."
        )

    def save(self, path: Path) -> Path:
        """Write the numbers and the verdict as JSON."""
        parts: dict[str, Any] = asdict(self)
        for part in filter(None, parts.values()):  # JSON has no NaN
            part |= {name: None for name, value in part.items() if value != value}
        values = {**parts, "specialised": self.specialised, "sentence": self.sentence}
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        return write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, path: Path | str) -> "Specialisation":
        """Read what `save` wrote; a missing or damaged file is a RecordError."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))  # which has no NaN (null)
            return cls(**{name: _diversity(values[name]) for name in ("text", "shuffled", "untrained") if values[name]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}). Analyse again.") from error


def _diversity(values: dict[str, Any]) -> HeadDiversity:
    numbers = {name: math.nan if value is None else float(value) for name, value in values.items() if name != "source"}
    return HeadDiversity(source=str(values["source"]), **numbers)


def head_diversity(profile: HeadProfile) -> HeadDiversity:
    """How much the heads of a profile differ."""
    profiles = profile.offset_mass.reshape(-1, profile.offset_mass.shape[-1]).astype(np.float64)
    information = _bits(profiles.mean(0)) - np.mean([_bits(each) for each in profiles])
    return HeadDiversity(
        source=f"{profile.about.model} on {profile.about.text}",
        offset_information=float(information),
        entropy_deviation=float(profile["normalized_entropy"].std()),
        strongest_previous_token=float(profile["previous_token_score"].max()),
        strongest_induction=float(profile["induction_score"].max()),
    )


def _bits(shares: np.ndarray) -> float:
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log2(shares)).sum())
