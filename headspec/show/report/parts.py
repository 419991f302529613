"""What a report is drawn from: the records of one results folder, all of one model. Plain data; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headspec.classify.clusters import HeadClusters
from headspec.classify.head_map import HeadMap
from headspec.classify.specialisation import Specialisation
from headspec.measure.report import BenchmarkReport
from headspec.plan.plan import HeadPlan
from headspec.probe.profile import HeadProfile
from headspec.probe.sample import PatternSample
from headspec.runtime.record import LiveRecord
from headspec.search.table import SweepTable

if TYPE_CHECKING:
    from headspec.search.record import SearchRecord


@dataclass(frozen=True, eq=False)
class ReportParts:
    """The records a page is drawn from; only the head map must be there."""

    head_map: HeadMap
    """Of a search, if there is one: it knows which dead heads are confirmed."""
    profile: HeadProfile | None = None
    """Of the layers that the head map has."""
    clusters: HeadClusters | None = None
    specialisation: Specialisation | None = None
    sample: PatternSample | None = None
    sweep: SweepTable | None = None
    search: "SearchRecord | None" = None
    """Its module takes a second to import, so nobody who has none pays for it."""
    plan: HeadPlan | None = None
    benchmark: BenchmarkReport | None = None
    live: LiveRecord | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Where each record was found, by the name of its field: a path within the results folder."""
    notes: tuple[str, ...] = ()
    """What was left out, and why; a sentence each. The page shows them."""

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: then the numbers are good for timing and tests only."""
        return self.head_map.about.random_weights
