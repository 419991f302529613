"""The SearchRecord: every plan that a search measured, which it chose, and how that did on fresh text. No torch."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from headspec.errors import RecordError
from headspec.files import write_whole
from headspec.measure.estimate import Estimate
from headspec.plan.workload import Workload
from headspec.search.point import Point, pareto_front

SCHEMA = "headspec.SearchRecord/1"
SEARCH = "search.json"


@dataclass(frozen=True)
class PlanPoint:
    """What a measured plan does, saves and costs, as plain numbers; the plan itself is kept for the chosen one only."""

    counts: Mapping[str, int]
    """How many heads get each treatment, by its short text."""
    kv_share: float
    """KV bytes left, as a share."""
    removed_share: float
    """Share of the attention weights that is cut out."""
    kl: Estimate
    """KL(original ‖ treated) on the text plans were chosen on, nats a token."""
    perplexity_increase: Estimate
    repeats_kl: Estimate | None
    induction_accuracy: Estimate | None
    induction_kept: Estimate | None
    decode_ms: float | None
    """Least time per token at batch 1 by the roofline of the machine that searched."""
    on_front: bool
    """Whether no other plan beats it in KV share and KL."""

    @classmethod
    def of(cls, point: Point, on_front: bool) -> "PlanPoint":
        """The numbers of a Point."""
        own: dict[str, Any] = {"counts": dict(sorted(point.plan.counts().items())), "on_front": on_front}
        copied = [field.name for field in fields(cls) if field.name not in own]
        return cls(**own | {name: getattr(point, name) for name in copied})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            field.name: value.to_dict() if isinstance(value := getattr(self, field.name), Estimate) else value
            for field in fields(self)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlanPoint":
        """Read back what `to_dict` wrote."""
        read: dict[str, Any] = {
            name: Estimate.from_dict(value) if isinstance(value, dict) and name != "counts" else value
            for name, value in values.items()
        }
        return cls(**read)


@dataclass(frozen=True)
class SearchRecord:
    """A search as it is drawn: `hs.show.pareto(record)`."""

    model: str
    workload: Workload | None
    """For which KV bytes are counted; the model's context if None."""
    within_budget: bool
    """Whether the chosen plan keeps the budget on the text it was chosen on."""
    points: tuple[PlanPoint, ...]
    """Every plan that was measured, in order."""
    chosen_index: int
    certificate: Mapping[str, Any]
    """Damage on text not used to choose, as `HeadPlan.certificate`."""

    def __post_init__(self) -> None:
        if not 0 <= self.chosen_index < len(self.points):
            raise RecordError(f"the chosen plan is number {self.chosen_index} of {len(self.points)}.")

    @property
    def chosen(self) -> PlanPoint:
        """The plan that was chosen."""
        return self.points[self.chosen_index]

    def __repr__(self) -> str:
        """One line: a search measures many plans."""
        return f"SearchRecord({self.model}: {len(self.points)} plans measured, KL {self.chosen.kl} for the chosen one)"

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: then the numbers are good for timing and tests only."""
        return self.model.startswith("random:")

    @classmethod
    def of(
        cls, points: Iterable[Point], chosen: Point, certificate: Mapping[str, Any], within_budget: bool = True
    ) -> "SearchRecord":
        """The record of measured points, one of which was chosen."""
        every = list(points)
        front = {id(point) for point in pareto_front(every, count_weights=False)}
        return cls(
            chosen.plan.about.model, chosen.workload, within_budget,
            tuple(PlanPoint.of(point, id(point) in front) for point in every),
            next(number for number, point in enumerate(every) if point is chosen), dict(certificate),
        )  # fmt: skip

    def save(self, folder: Path | str) -> Path:
        """Write `search.json` into a folder."""
        values = {
            "schema": SCHEMA, "model": self.model, "workload": self.workload and asdict(self.workload),
            "within_budget": self.within_budget, "points": [point.to_dict() for point in self.points],
            "chosen_index": self.chosen_index, "certificate": dict(self.certificate),
        }  # fmt: skip
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        return write_whole(Path(folder) / SEARCH, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: Path | str) -> "SearchRecord":
        """Read the `search.json` of a folder; a damaged or foreign file is a RecordError."""
        path = Path(folder) / SEARCH
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("schema", None) != SCHEMA:
                raise RecordError(f"{path} is not a {SCHEMA}. Search again.")
            workload = values.pop("workload")
            points = tuple(map(PlanPoint.from_dict, values.pop("points")))
            return cls(workload=workload and Workload(**workload), points=points, **values)
        except FileNotFoundError as error:
            raise RecordError(f"no search in {folder}: `headspec search MODEL --out {folder}` makes one.") from error
        except RecordError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}). Search again.") from error
