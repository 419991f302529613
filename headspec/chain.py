"""The whole chain in one folder: analyse, search, export, benchmark, report. Goes on where it was stopped."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headspec.chain_log import ChainLog, Settings
from headspec.classify.head_map import HEAD_MAP, HeadMap
from headspec.errors import HeadspecError, RecordError
from headspec.files import writable_folder
from headspec.load.names import resolve
from headspec.load.text import TokenWindows, check_apart, load_text
from headspec.measure.report import TABLE, BenchmarkReport
from headspec.pipeline import PROFILE, analyze, load_that_fits, results_folder
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Treatment, parse_treatment
from headspec.probe.profile import HeadProfile
from headspec.search.budget import Budget
from headspec.search.record import SearchRecord
from headspec.search.search_plan import PLAN, search_plan
from headspec.search.sweep import sweep as run_sweep
from headspec.search.sweep import weights_digest
from headspec.search.table import SweepTable

ANALYSIS, SWEEP, FOUND, PRUNED, BENCHMARK = "analysis", "sweep", "search", "pruned", "benchmark"
"""Folders of the stages, and their names in the log."""
FULL = "benchmark, full"
"""The other name of the last stage."""
FULL_SHARES = (0.5, 0.25, 0.12)
"""Of the KV bytes, what published methods hold in the full benchmark."""


@dataclass(frozen=True)
class Stage:
    """A part of the chain."""

    name: str
    """As the log has it."""
    do: Callable[[], object]
    read: Callable[[], object]
    """Reads what it leaves; an error tells that it must be done again."""


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
    budget: Budget | None = None,
    *,
    out: Path | str | None = None,
    sweep: str = "",
    full: bool = False,
    text: str = "probe",
    select: str = "select",
    certify: str = "certify",
    n_tokens: int = 8192,
    max_evaluations: int = 80,
    n_controls: int = 20,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    stage: Callable[[str], object] = lambda message: None,
) -> ChainResult:
    """Analyse a model, search a plan within a budget, export it, benchmark it, and write one page about it all.

    Repeated with the same arguments it does only what is missing or damaged, so a run that was stopped goes on: within
    the analysis, the benchmark and the sweep where they were, within the search from its beginning. It refuses to go on
    with other weights, texts or settings than those of the stages that are finished.

    Args:
        model: A name as for `load_model`.
        budget: What the plan may cost; 2 % of perplexity and a tenth of the induction accuracy by default.
        out: The folder; `results/run_<model>` by default. Each stage has its own folder in it.
        sweep: Treatments whose exact effect on every head alone is measured too, comma between: `mean,window:8`. May
            be asked for later.
        full: The full benchmark, which takes an hour and more, not minutes. May be asked for later, and replaces the
            quick one.
        text, select, certify: What is probed, what the plan is chosen on, and what judges it: sources for `load_text`.
        n_tokens: Tokens of each of the three.
        max_evaluations, n_controls: As for `search_plan`.
        device, dtype, seed: As for `load_plain`.
        stage: Called with a line of text when a stage begins.

    Raises:
        RecordError: The folder holds a run of another model, of other settings, weights or texts.
        HeadspecError: Something that a later stage would refuse: found before the first begins.
    """
    name = resolve(model).name
    settings = Settings(name, budget or Budget(max_ppl_increase=0.02), text, select, certify, n_tokens, max_evaluations,
                        n_controls, device, dtype, seed)  # fmt: skip
    swept = [parse_treatment(part) for part in sweep.split(",") if part]
    if any(isinstance(what, Compress) for what in swept):
        raise HeadspecError("a sweep cannot compress heads one by one: ask for removals and windows, mean,window:8.")
    folder = writable_folder(results_folder(name, out, "run"))
    return _Chain(settings, swept, full, folder, stage).run()


class _Chain:
    """The stages of one run; what they share is loaded when it is first needed."""

    def __init__(
        self, settings: Settings, swept: list[Treatment], full: bool, folder: Path, stage: Callable[[str], object]
    ) -> None:
        self.settings, self.swept, self.folder, self.stage = settings, swept, folder, stage
        self.log = ChainLog(settings, folder)
        self.full = full or FULL in self.log.finished  # the full benchmark is more than the quick one

    def run(self) -> ChainResult:
        """Do what is missing; what comes after something that was done anew is done anew too."""
        stages = [
            Stage(ANALYSIS, self._analyse, self._read_analysis),
            Stage(FOUND, self._search, self._read_search),
            Stage(PRUNED, self._export, self._read_export),
            Stage(FULL if self.full else BENCHMARK, self._benchmark, self._read_benchmark),
        ]
        for number, each in enumerate(stages):
            if self._is_there(each):
                continue
            self._check_source()
            self.log.forget(self._depending([later.name for later in stages[number:]]))
            each.do()
            self.log.finish(each.name)
        try:
            self._sweep()
        finally:
            result = self._result()
        return result

    def _is_there(self, each: Stage) -> bool:
        """Whether a stage is finished, and its records can be read."""
        if each.name not in self.log.finished:
            return False
        try:
            each.read()
        except (HeadspecError, OSError, ValueError) as error:
            self.stage(f"{each.name}: done again ({error})")
            return False
        self.stage(f"{each.name}: there already")
        return True

    def _depending(self, names: list[str]) -> list[str]:
        """What must be done anew with these stages: either benchmark, and every sweep with the analysis."""
        later = (BENCHMARK, SWEEP) if ANALYSIS in names else (BENCHMARK,)
        return [name for name in self.log.finished if name in names or name.startswith(later)]

    @cached_property
    def model(self) -> Any:
        """The model, without a TransformerBridge: the whole chain needs none."""
        wanted = {"window": None, "n_tokens": self.settings.n_tokens, "controls": True}
        return load_that_fits(self.settings.model, "fast", self._load, self.stage, wanted)

    @property
    def _load(self) -> dict[str, Any]:
        return {"device": self.settings.device, "dtype": self.settings.dtype, "seed": self.settings.seed}

    @property
    def _random(self) -> bool:
        return self.settings.model.startswith("random:")

    @cached_property
    def texts(self) -> dict[str, TokenWindows]:
        """The windows of text that the stages read, by their option."""
        chosen = self.settings
        sources = {"text": chosen.text, "select": chosen.select, "certify": chosen.certify}
        texts = {
            name: load_text(self.model, source, n_tokens=chosen.n_tokens, seed=chosen.seed)
            for name, source in sources.items()
        }
        if not self._random:  # whose tokens are random too, and judge nothing
            check_apart(texts["certify"], texts["select"])
        return texts

    def _check_source(self) -> None:
        """What is finished must be of these weights and texts, and of this headspec."""
        texts = {name: windows.digest for name, windows in self.texts.items()}
        self.log.check_source({"weights": weights_digest(self.model), **texts, "headspec": version("headspec")})

    def _analyse(self) -> None:
        folder = self.folder / ANALYSIS
        analyze(
            self.model, self.texts["text"], out=folder, seed=self.settings.seed, engine="fast", pages=False,
            resume=(folder / "unfinished").is_dir(), stage=self.stage, query_statistics=True,
        )  # fmt: skip

    def _read_analysis(self) -> HeadProfile:
        HeadMap.load(self.folder / ANALYSIS / HEAD_MAP)
        return HeadProfile.load(self.folder / ANALYSIS / PROFILE)

    def _search(self) -> None:
        from headspec.show.tradeoff import draw_search

        self.stage("searching a plan")
        found = search_plan(
            self.model, self.settings.budget, profile=self._read_analysis(), select=self.texts["select"],
            certify_on=self.texts["certify"], max_evaluations=self.settings.max_evaluations,
            n_controls=self.settings.n_controls, stage=self.stage,
        )  # fmt: skip
        folder = writable_folder(self.folder / FOUND)
        found.save(folder)
        draw_search(found, folder, pages=False)

    def _read_search(self) -> SearchRecord:
        HeadMap.load(self.folder / FOUND / HEAD_MAP)
        HeadPlan.load(self.folder / FOUND / PLAN)
        return SearchRecord.load(self.folder / FOUND)

    def _export(self) -> None:
        from headspec.export.export import export_model

        self.stage("exporting")
        plan, head_map = HeadPlan.load(self.folder / FOUND / PLAN), HeadMap.load(self.folder / FOUND / HEAD_MAP)
        export_model(self.model, plan, self.folder / PRUNED, head_map=head_map, overwrite=True)

    def _read_export(self) -> None:
        folder = self.folder / PRUNED
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if HeadPlan.load(folder / PLAN).digest != HeadPlan.load(self.folder / FOUND / PLAN).digest:
            raise RecordError(f"{folder} is the export of another plan.")
        if not any(path.name.startswith("model") for path in folder.glob("*.safetensors")):
            raise RecordError(f"{folder} has no weights.")

    def _benchmark(self) -> None:
        profile = self._read_analysis()
        try:
            self._benchmark_with(profile, resume=(self.folder / BENCHMARK).is_dir())
        except RecordError:
            self.stage("the rows there are of another plan, grid or machine: benchmarking anew")
            self._benchmark_with(profile, resume=False)

    def _benchmark_with(self, profile: HeadProfile, resume: bool) -> None:
        from headspec.comparison import Lineup, benchmark

        chosen = self.settings
        lineup = Lineup(
            pruned=(self.folder / PRUNED,), shares=FULL_SHARES if self.full else (),
            head_maps=self.full and not self._random,
        )  # fmt: skip
        benchmark(
            self.model, lineup, quick=not self.full, out=self.folder / BENCHMARK, resume=resume, text=chosen.certify,
            select=chosen.select, n_tokens=chosen.n_tokens, profile=profile, seed=chosen.seed, load=self._load,
            stage=self.stage,
        )  # fmt: skip

    def _read_benchmark(self) -> BenchmarkReport:
        if not (self.folder / BENCHMARK / TABLE).is_file():
            raise RecordError(f"{self.folder / BENCHMARK} has no {TABLE}.")
        return BenchmarkReport.load(self.folder / BENCHMARK)

    def _sweep(self) -> None:
        from headspec.search.cases import single_cases

        each = Stage(f"{SWEEP} {','.join(map(str, self.swept))}", lambda: None, self._read_sweep)
        if not self.swept or self._is_there(each):
            return
        self._check_source()
        self.stage("measuring every head alone")
        cases = single_cases(self._read_analysis(), self.swept)
        run_sweep(self.model, cases, self.texts["select"], out=self.folder / SWEEP, seed=self.settings.seed)
        self.log.finish(each.name)

    def _read_sweep(self) -> SweepTable:
        return SweepTable.load(self.folder / SWEEP)

    def _result(self) -> ChainResult:
        from headspec.results import report

        self.stage("writing the report")
        head_map = HeadMap.load(self.folder / FOUND / HEAD_MAP)
        return ChainResult(self.folder, head_map, self._read_search(), self._read_benchmark(), report(self.folder))
