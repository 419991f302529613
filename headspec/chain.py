"""The whole chain in one folder: analyse, search, export, benchmark, report. Goes on where it was stopped."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from headspec.classify.head_map import HeadMap
from headspec.errors import RecordError
from headspec.files import writable_folder, write_whole
from headspec.load.names import resolve
from headspec.load.text import TokenWindows, load_text
from headspec.measure.report import TABLE, BenchmarkReport
from headspec.pipeline import HEAD_MAP, PROFILE, analyze, load_that_fits, results_folder
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import parse_treatment
from headspec.probe.profile import HeadProfile
from headspec.rowlog import LogKind, check_same, read_settings
from headspec.search.budget import Budget
from headspec.search.record import SEARCH, SearchRecord
from headspec.search.search_plan import PLAN, search_plan
from headspec.search.table import TABLE as SWEEP_TABLE

RUN = LogKind("headspec.Run/1", "run.json", "run")
ANALYSIS, SWEEP, FOUND, PRUNED, BENCHMARK = "analysis", "sweep", "search", "pruned", "benchmark"
"""Folders of the stages."""
Stage = tuple[str, str, Callable[[], object]]
"""Its folder, the last file it writes there, and what does it."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked for; a folder holds one."""

    model: str
    budget: Budget = field(default_factory=lambda: Budget(max_ppl_increase=0.02))
    text: str = "probe"
    select: str = "select"
    certify: str = "certify"
    n_tokens: int = 8192
    """Of each of the three texts."""
    max_evaluations: int = 80
    n_controls: int = 20
    full: bool = False
    """Whether the benchmark is the full one, which takes an hour and more, not minutes."""
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0


@dataclass(frozen=True)
class ChainResult:
    """What a run found; all of it is in the folder."""

    folder: Path
    head_map: HeadMap
    """With the removed heads confirmed."""
    search: SearchRecord
    benchmark: BenchmarkReport
    report: Path
    """The page to open."""


def run_chain(
    model: str,
    *,
    out: Path | str | None = None,
    sweep: str = "",
    stage: Callable[[str], object] = lambda message: None,
    **settings: Any,
) -> ChainResult:
    """Analyse a model, search a plan within a budget, export it, benchmark it, and write one page about it all.

    Repeated with the same arguments it does only what is missing, so a run that was stopped goes on.

    Args:
        model: A name as for `load_model`.
        out: The folder; `results/run_<model>` by default. Each stage has its own folder in it.
        sweep: Treatments whose exact effect on every head alone is measured too, comma between: `mean,window:8`. May
            be asked for later.
        stage: Called with a line of text when a stage begins.
        **settings: Fields of `headspec.chain.Settings`: `budget`, `n_tokens`, `full`, `device`, `dtype`, `seed` and
            others.

    Raises:
        RecordError: The folder holds a run of another model or other settings.
    """
    chosen = Settings(model, **settings)
    resolve(model)
    swept = tuple(str(parse_treatment(part)) for part in sweep.split(",") if part)
    folder = writable_folder(results_folder(resolve(model).name, out, "run"))
    return _Chain(chosen, swept, folder, stage).run()


class _Chain:
    """The stages of one run; what they share is loaded when it is first needed."""

    def __init__(self, settings: Settings, swept: tuple[str, ...], folder: Path, stage: Callable[[str], object]):
        self.settings, self.swept, self.folder, self.stage = settings, swept, folder, stage
        self.finished = _finished(settings, folder)

    def run(self) -> ChainResult:
        """Do what is missing; what comes after something that was done anew is done anew too."""
        stages: list[Stage] = [
            (ANALYSIS, PROFILE, self._analyse),
            (FOUND, SEARCH, self._search),
            (PRUNED, "config.json", self._export),
            (BENCHMARK, TABLE, self._benchmark),
        ]
        for number, (name, product, do) in enumerate(stages):
            if name in self.finished and (self.folder / name / product).is_file():
                self.stage(f"{name}: there already")
                continue
            self._forget(name for name, *_ in stages[number:])
            do()
            self._finish(name)
        if self.swept:
            self._sweep()
        return self._result()

    @cached_property
    def model(self) -> Any:
        """The model, without a TransformerBridge: the whole chain needs none."""
        chosen = self.settings
        load = {"device": chosen.device, "dtype": chosen.dtype, "seed": chosen.seed}
        wanted = {"window": None, "n_tokens": chosen.n_tokens, "controls": True}
        return load_that_fits(chosen.model, "fast", load, self.stage, wanted)

    @cached_property
    def profile(self) -> HeadProfile:
        """What the analysis has found."""
        return HeadProfile.load(self.folder / ANALYSIS / PROFILE)

    def _text(self, source: str) -> TokenWindows:
        return load_text(self.model, source, n_tokens=self.settings.n_tokens, seed=self.settings.seed)

    def _analyse(self) -> None:
        chosen, folder = self.settings, self.folder / ANALYSIS
        analyze(
            self.model, chosen.text, out=folder, n_tokens=chosen.n_tokens, seed=chosen.seed, engine="fast",
            resume=(folder / "unfinished").is_dir(), pages=False, stage=self.stage, query_statistics=True,
        )  # fmt: skip

    def _search(self) -> None:
        from headspec.show.tradeoff import draw_search

        chosen = self.settings
        self.stage("searching a plan")
        found = search_plan(
            self.model, chosen.budget, profile=self.profile, select=self._text(chosen.select),
            certify_on=self._text(chosen.certify), max_evaluations=chosen.max_evaluations,
            n_controls=chosen.n_controls, stage=self.stage,
        )  # fmt: skip
        folder = writable_folder(self.folder / FOUND)
        draw_search(found, folder, pages=False)
        found.save(folder)  # the record last: it is what tells that the stage is done

    def _export(self) -> None:
        from headspec.export.export import export_model

        self.stage("exporting")
        plan, head_map = HeadPlan.load(self.folder / FOUND / PLAN), HeadMap.load(self.folder / FOUND / HEAD_MAP)
        export_model(self.model, plan, self.folder / PRUNED, head_map=head_map, overwrite=True)

    def _benchmark(self) -> None:
        try:
            self._benchmark_with(resume=(self.folder / BENCHMARK).is_dir())
        except RecordError as error:  # rows of an earlier plan or another machine
            self.stage(f"{error} Benchmarking anew.")
            self._benchmark_with(resume=False)

    def _benchmark_with(self, resume: bool) -> None:
        from headspec.comparison import Lineup, benchmark

        chosen = self.settings
        shares = (0.5, 0.25, 0.12) if chosen.full else ()
        lineup = Lineup(pruned=(self.folder / PRUNED,), shares=shares, head_maps=chosen.full and not self._random)
        load = {"device": chosen.device, "dtype": chosen.dtype, "seed": chosen.seed}
        benchmark(
            self.model, lineup, quick=not chosen.full, out=self.folder / BENCHMARK, resume=resume, text=chosen.certify,
            select=chosen.select, n_tokens=chosen.n_tokens, profile=self.profile, seed=chosen.seed, load=load,
            stage=self.stage,
        )  # fmt: skip

    @property
    def _random(self) -> bool:
        return self.settings.model.startswith("random:")

    def _sweep(self) -> None:
        from headspec.search.cases import single_cases
        from headspec.search.sweep import sweep

        if f"{SWEEP} {','.join(self.swept)}" in self.finished and (self.folder / SWEEP / SWEEP_TABLE).is_file():
            self.stage(f"{SWEEP}: there already")
            return
        self.stage("measuring every head alone")
        cases = single_cases(self.profile, self.swept)
        sweep(self.model, cases, self._text(self.settings.select), out=self.folder / SWEEP, seed=self.settings.seed)
        self._finish(f"{SWEEP} {','.join(self.swept)}")

    def _finish(self, name: str) -> None:
        """Note on the disk that a stage is done."""
        self.finished.add(name)
        self._save()

    def _forget(self, names: Iterable[str]) -> None:
        """These stages are done anew, or have not been done."""
        self.finished.difference_update(names)
        self._save()

    def _save(self) -> None:
        text = json.dumps({**_plain(self.settings), "finished": sorted(self.finished)}, indent=1) + "\n"
        write_whole(self.folder / RUN.settings, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _result(self) -> ChainResult:
        from headspec.results import report

        self.stage("writing the report")
        return ChainResult(
            self.folder, HeadMap.load(self.folder / FOUND / HEAD_MAP), SearchRecord.load(self.folder / FOUND),
            BenchmarkReport.load(self.folder / BENCHMARK), report(self.folder),
        )  # fmt: skip


def _plain(settings: Settings) -> dict[str, Any]:
    return {"schema": RUN.schema, **asdict(settings)}


def _finished(settings: Settings, folder: Path) -> set[str]:
    """The stages that are done in a folder, if they are those of this run."""
    if not (folder / RUN.settings).exists():
        return set()
    found = read_settings(folder, RUN)
    finished = found.pop("finished", [])
    check_same(asdict(settings), found, folder, RUN)
    return set(finished)
