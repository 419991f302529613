"""Finds what a results folder holds, and makes one offline page of it: `report`.

Looks into the folder and its direct subfolders. What cannot be read or is about another model is left out and named;
only a head map is needed. Imports no torch.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headspec.classify.head_map import HeadMap, HeadStatus
from headspec.classify.rules import classify_heads
from headspec.classify.specialisation import Specialisation
from headspec.errors import RecordError
from headspec.export.folder import HEAD_MAP as EXPORTED
from headspec.files import write_whole
from headspec.pipeline import CLUSTERS, HEAD_MAP, PROFILE, SAMPLE, SPECIALISATION
from headspec.probe.about import ProbeAbout
from headspec.probe.profile import HeadProfile
from headspec.show.report.parts import ReportParts

REPORT, SEARCH = "report.html", "search.json"
PASSED_BY = ("unfinished",)
"""Subfolders that hold no results: what an interrupted analysis has read."""
READ_BY = ("text_digest", "n_windows", "window", "first_query", "n_sinks", "repeat_length", "n_repeats", "seed")
"""What changes the numbers of a probe; engine, device and versions do not."""
Model = tuple[str, int | None, int | None]
"""Name, layers and heads a layer, as far as a record knows them."""


@dataclass(frozen=True)
class Kind:
    """A kind of record: its file, and how to read it."""

    name: str
    """Its field in ReportParts."""
    file: str
    load: Callable[[Path], Any]
    """From the path of the file."""
    model: Callable[[Any], Model]
    """The model a record is about."""


def report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write what a results folder holds as one page, which needs no network: `report.html` in the folder by default.

    What is left out is named on the page and as a warning.

    Args:
        folder: Of `headspec run` or `analyze`, or any folder with records in it or in its direct subfolders.
        out: The page, or a folder for it.

    Raises:
        RecordError: No folder, or no head map in it.
    """
    from headspec.show.report.page import draw_page

    parts = find_parts(folder)
    page, notes = draw_page(parts)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    path = Path(folder) if out is None else Path(out)
    path = path / REPORT if path.is_dir() else path
    return write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8", newline="\n"))


def find_parts(folder: Path | str) -> ReportParts:
    """Read the records of a folder and its direct subfolders; those of one model, that of the first head map.

    Raises:
        RecordError: No folder, or no head map in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder. `headspec run MODEL` or `headspec analyze MODEL` makes one.")
    search = _Search(folder)
    head_map = search.head_map()
    about = head_map.about
    found = {kind.name: search.first(kind, (about.model, about.n_layers, about.n_heads)) for kind in KINDS}
    for name in ("profile", "clusters", "sample"):
        if found[name] is not None and (why := _differs(found[name], about)):
            search.leave_out(name, f"{why} than the head map ({search.files['head_map']})")
            found[name] = None
    return ReportParts(head_map, **found, files=search.files, notes=tuple(search.notes))


@dataclass
class _Search:
    """Looks through a folder and writes down what it leaves out."""

    folder: Path
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def head_map(self) -> HeadMap:
        """The head map to show: of the first model, and there the one of a search, which has confirmed heads."""
        maps = list(self._read(MAP)) or list(self._read(EXPORTED_MAP))
        if not maps:
            return self._classified_anew()
        place, first = maps[0]
        same = [(path, each) for path, each in maps if _model_of(each) == _model_of(first)]
        beside = self._searched(first.about.model)
        place, chosen = min(same, key=lambda found: (found[0].parent != beside, not _is_settled(found[1])))
        self.files["head_map"] = self._short(place)
        self.notes += [_other_model(self._short(path), each.about.model, first.about.model)
                       for path, each in maps if _model_of(each) != _model_of(first)]  # fmt: skip
        return chosen

    def _searched(self, model: str) -> Path | None:
        """The folder of the search that the page shows: head map, plan and record are taken from there."""
        return next((path.parent for path, record in self._read(SEARCHES) if record.model == model), None)

    def first(self, kind: Kind, model: Model) -> Any:
        """The first record of a kind that is about the model; None if there is none."""
        chosen = None
        beside = self._searched(model[0]) if kind.name == "plan" else None
        for path, record in sorted(self._read(kind), key=lambda found: found[0].parent != beside):
            name, *sizes = kind.model(record)
            fits = all(size in (None, known) for size, known in zip(sizes, model[1:], strict=True))
            if name != model[0] or not fits:
                self.notes.append(_other_model(self._short(path), name, model[0]))
            elif chosen is None:
                chosen, self.files[kind.name] = record, self._short(path)
            elif record != chosen:
                self.notes.append(f"{self._short(path)} is not shown: the page has {self.files[kind.name]}.")
        return chosen

    def leave_out(self, name: str, why: str) -> None:
        """A record that was found after all cannot be used."""
        self.notes.append(f"{self.files.pop(name)} was left out: {why}.")

    def _classified_anew(self) -> HeadMap:
        """From the profile, where the head map is there but cannot be read."""
        if not self.notes:
            raise RecordError(
                f"{self.folder} and its subfolders hold no {HEAD_MAP}, and a page needs a head map: name the folder "
                "above them if that holds one, or make one there with `headspec analyze MODEL --out RESULTS/analysis`."
            )
        profile = next((record for _, record in self._read(PROFILES)), None)
        if profile is None:
            raise RecordError(f"nothing to show in {self.folder}: {self.notes[0]} Analyse again.")
        self.notes.append("Roles were worked out anew from the profile, with the default cut-offs.")
        return classify_heads(profile)

    def _read(self, kind: Kind) -> Iterator[tuple[Path, Any]]:
        """Every record of a kind that can be read, that of the folder itself first."""
        inside = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for place in [self.folder, *sorted(path for path in inside if path.name not in PASSED_BY)]:
            path = place / kind.file
            if not path.is_file():
                continue
            try:
                record = kind.load(path)
                kind.model(record)
            except Exception as error:  # whatever a damaged file does, the other records are worth having
                self._note(path, str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
            else:
                yield path, record

    def _note(self, path: Path, why: str) -> None:
        why = why.removeprefix(f"{path}: ").replace(f"{path} ", "it ")
        why = why.replace(f"{self.folder}/", "")  # pages are shared: nobody needs to know where the folder was
        note = f"{self._short(path)} was left out: {why}"
        if note not in self.notes:
            self.notes.append(note)

    def _short(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _other_model(file: str, name: str, wanted: str) -> str:
    return f"{file} was left out: it is about {name}, and the head map about {wanted}, or another size of it."


def _model_of(record: Any) -> Model:
    return record.about.model, record.about.n_layers, record.about.n_heads


def _differs(record: Any, about: ProbeAbout) -> str:
    """How a record was read otherwise than a head map, in words; empty if it was read alike."""
    own = getattr(record, "about", None)
    if (own or record).layers != about.layers:
        return "it has other layers"
    names = [name for name in READ_BY if own is not None and getattr(own, name) != getattr(about, name)]
    return f"it was read from another text or with other settings ({', '.join(names)})" if names else ""


def _own_model(record: Any) -> Model:
    return record.model, record.n_layers, record.n_heads


def _set_model(record: Any) -> Model:
    return record.settings["model"], record.settings.get("n_layers"), record.settings.get("n_heads")


def _is_settled(head_map: HeadMap) -> bool:
    return any(verdict.status not in (None, HeadStatus.CANDIDATE) for verdict in head_map)


def _head_map(path: Path) -> HeadMap:
    """A head map whose values are of the right types: without it there is no page, so nothing in it may surprise."""
    head_map = HeadMap.load(path)
    about = vars(head_map.about)
    wrong = [name for name in ("model", "text") if not isinstance(about[name], str)]
    wrong += [name for name in ("n_layers", "n_heads", "n_windows", "window") if not isinstance(about[name], int)]
    for verdict in head_map:
        numbers = [verdict.margin, verdict.window or 0, *(value for _, value in verdict.evidence)]
        wrong += [str(verdict.head)] * any(not isinstance(number, int | float) for number in numbers)
    if wrong:
        raise RecordError(f"{path} is damaged: {wrong[0]} is of another type. Classify again.")
    return head_map


def _clusters(path: Path) -> Any:
    from headspec.classify.clusters import HeadClusters

    return HeadClusters.load(path)


def _sample(path: Path) -> Any:
    from headspec.probe.sample import PatternSample

    return PatternSample.load(path)


def _sweep(path: Path) -> Any:
    from headspec.search.table import SweepTable

    return SweepTable.load(path.parent)


def _search(path: Path) -> Any:
    from headspec.search.record import SearchRecord

    return SearchRecord.load(path.parent)


def _plan(path: Path) -> Any:
    from headspec.plan.plan import HeadPlan

    return HeadPlan.load(path)


def _benchmark(path: Path) -> Any:
    from headspec.measure.report import BenchmarkReport

    return BenchmarkReport.load(path.parent)


def _live(path: Path) -> Any:
    from headspec.runtime.record import LiveRecord

    return LiveRecord.load(path)


def _specialised_model(record: Specialisation) -> Model:
    return record.text.source.partition(" on ")[0], None, None


MAP = Kind("head_map", HEAD_MAP, _head_map, _model_of)
EXPORTED_MAP = Kind("head_map", EXPORTED, _head_map, _model_of)
"""Beside an exported model, where there is no other."""
SEARCHES = Kind("search", SEARCH, _search, lambda record: (record.model, None, None))
PROFILES = Kind("profile", PROFILE, HeadProfile.load, _model_of)
KINDS = (
    PROFILES,
    Kind("clusters", CLUSTERS, _clusters, _model_of),
    Kind("specialisation", SPECIALISATION, Specialisation.load, _specialised_model),
    Kind("sample", SAMPLE, _sample, _own_model),
    Kind("sweep", "sweep.json", _sweep, _set_model),
    SEARCHES,
    Kind("plan", "plan.json", _plan, _model_of),
    Kind("benchmark", "benchmark.json", _benchmark, _set_model),
    Kind("live", "live.json", _live, _own_model),
)
