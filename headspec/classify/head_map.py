"""The HeadMap: one role a head, how safe it is, and why. A record, saved as JSON. No torch."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from headspec.classify.thresholds import Thresholds
from headspec.errors import RecordError
from headspec.files import write_whole
from headspec.heads import HeadId, HeadRole
from headspec.probe.about import ProbeAbout

SCHEMA = "headspec.HeadMap/1"
HEAD_MAP = "head_classification.json"
"""What it is called in results folders."""


class HeadStatus(StrEnum):
    """What is settled about a head beyond its role."""

    CANDIDATE = "candidate"
    """Its statistics say so; only ablating all candidates together, on text and on repeats, can confirm it."""
    CONFIRMED = "confirmed"
    """Removing it, together with the others, kept a budget of damage on text and on repeats (`search_plan`)."""
    REJECTED = "rejected"
    """A candidate that a search with limits of damage did not remove within its budget; a plan may still window it."""
    PROTECTED = "protected"
    """It does induction, which text alone would not miss: the search left it alone (`protect_induction`)."""


class Trait(StrEnum):
    """What else is known about a head; a head may have several, and none decides its role."""

    PREVIOUS_TOKEN = "previous-token"
    INDUCTION = "induction"
    SINK_RESTING = "sink-resting"
    NEAR_CONSTANT = "near-constant"
    FIXED_OFFSET = "fixed-offset"


@dataclass(frozen=True)
class HeadVerdict:
    """What was decided about one head."""

    head: HeadId
    role: HeadRole
    margin: float
    """How far the deciding statistic lies from its cut-off, as a share of the cut-off: 0 is on the edge, infinity if
    nothing that was measured could change the role."""
    window: int | None = None
    """Keys (own included, sinks apart) that a positional head needs; None for the other roles."""
    status: HeadStatus | None = None
    """For heads that are dead by their statistics, and for protected ones."""
    traits: tuple[Trait, ...] = ()
    evidence: tuple[tuple[str, float], ...] = ()
    """(name, value) of every number the decision rests on."""
    reason: str = ""
    """One sentence with the number that decided."""

    def _repr_html_(self) -> str:
        from headspec.classify.map_html import verdict_html

        return verdict_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        evidence = {name: value if math.isfinite(value) else None for name, value in self.evidence}
        margin = self.margin if math.isfinite(self.margin) else None  # JSON has no NaN and no infinity
        return {**asdict(self), "head": str(self.head), "margin": margin, "traits": list(self.traits),
                "evidence": evidence}  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HeadVerdict":
        """Read back what `to_dict` wrote."""
        evidence = tuple((name, _number(value, math.nan)) for name, value in values["evidence"].items())
        return cls(
            head=HeadId.parse(values["head"]),
            role=HeadRole(values["role"]),
            margin=_number(values["margin"], math.inf),
            window=values["window"],
            status=HeadStatus(values["status"]) if values["status"] else None,
            traits=tuple(Trait(trait) for trait in values["traits"]),
            evidence=evidence,
            reason=values["reason"],
        )


@dataclass(frozen=True)
class HeadMap:
    """The role of every probed head: `head_map["L3H7"].role`."""

    about: ProbeAbout
    thresholds: Thresholds
    rules: str
    """`default`, or `naive` for the textbook definitions."""
    verdicts: tuple[HeadVerdict, ...]
    """One a head, in the order of the profile's grids."""

    def __post_init__(self) -> None:
        heads = [verdict.head for verdict in self.verdicts]
        if heads != self.about.heads():
            raise RecordError(f"a head map of {self.about.model} needs one verdict for each of its heads, in order.")

    def __getitem__(self, head: HeadId | str) -> HeadVerdict:
        row, column = self.about.cell(head)
        return self.verdicts[row * self.about.n_heads + column]

    def __iter__(self) -> Iterator[HeadVerdict]:
        return iter(self.verdicts)

    def __len__(self) -> int:
        return len(self.verdicts)

    def __repr__(self) -> str:
        counts = self.counts()
        roles = ", ".join(f"{counts[role]} {role}" for role in HeadRole)
        return f"HeadMap({self.about.model}: {len(self)} heads: {roles})"

    def _repr_html_(self) -> str:
        from headspec.classify.map_html import map_html

        return map_html(self)

    def heads(self, role: HeadRole | str) -> list[HeadId]:
        """All heads of one role."""
        return [verdict.head for verdict in self.verdicts if verdict.role == role]

    def counts(self, layer: int | None = None) -> Counter[HeadRole]:
        """How many heads have each role, in the model or in one layer."""
        return Counter(verdict.role for verdict in self.verdicts if layer is None or verdict.head.layer == layer)

    def agreement(self, other: "HeadMap") -> float:
        """Share of the heads to which both maps give the same role, in [0, 1]."""
        self.about.check_model(other.about.model, other.about.n_layers, other.about.n_heads)
        return sum(verdict.role == other[verdict.head].role for verdict in self.verdicts) / len(self)

    def save(self, path: Path | str) -> Path:
        """Write the map as JSON."""
        values = {
            "schema": SCHEMA, "about": self.about.to_dict(), "rules": self.rules,
            "thresholds": self.thresholds.to_dict(), "heads": [verdict.to_dict() for verdict in self.verdicts],
        }  # fmt: skip
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        return write_whole(Path(path), lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, path: Path | str) -> "HeadMap":
        """Read a saved map; a damaged or foreign file is a RecordError."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.get("schema") != SCHEMA:
                raise RecordError(f"not a {SCHEMA} but {values.get('schema', 'something else')}.")
            return cls(
                about=ProbeAbout.from_dict(values["about"]), rules=values["rules"],
                thresholds=Thresholds.from_dict(values["thresholds"]),
                verdicts=tuple(sorted(map(HeadVerdict.from_dict, values["heads"]), key=lambda verdict: verdict.head)),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise RecordError(f"no head map at {path}: `headspec analyze MODEL` writes one.") from error
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}). Classify again.") from error


def _number(value: float | None, missing: float) -> float:
    return missing if value is None else float(value)
