"""`benchmark`: gather who takes part, measure, draw, and leave everything in one folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from headspec.errors import HeadspecError
from headspec.files import writable_folder, write_whole
from headspec.load.plain import PlainModel, as_plain
from headspec.load.text import TokenWindows, check_apart, load_text
from headspec.measure.benchmark import QUICK, Grid, run_benchmark
from headspec.measure.contenders import Contender, fixed, matched, mean_share, references, with_share
from headspec.measure.hypothetical import SHARES as HYPOTHETICAL
from headspec.measure.hypothetical import hypothetical_plan
from headspec.measure.peers import Absent, peers, reduced
from headspec.measure.report import TABLE, BenchmarkReport
from headspec.measure.systems.baseline import Baseline
from headspec.measure.systems.exported import exported
from headspec.measure.systems.planned import planned
from headspec.measure.systems.registry import BASELINES
from headspec.measure.systems.system import Standing, System
from headspec.pipeline import results_folder
from headspec.plan.plan import HeadPlan
from headspec.plan.workload import Workload
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile
from headspec.search.budget import Budget
from headspec.search.search_plan import TREATMENTS, compress_treatments, search_plan

MARKDOWN = "benchmark.md"
TIMED_SHARE = 0.25
"""Baselines are timed at this share of the KV bytes only, or at the one nearest to it."""
QUICK_BASELINES = ("StreamingLLM", "SnapKV", "expected attention", "random keys")
TIMED_BASELINES = ("StreamingLLM", "SnapKV", "expected attention", "Ada-expected attention")
N_SELECT = 4096
"""Tokens of `select` on which the baselines' budgets are divided."""
Offer = tuple[str, Callable[[], Contender]]
"""A name and what makes the contender, which may take long: it is made only if it takes part."""


@dataclass(frozen=True)
class Lineup:
    """Who takes part beside V, S and P0."""

    pruned: tuple[Path, ...] = ()
    """Folders of exported models."""
    plans: tuple[Path, ...] = ()
    """Saved plans."""
    shares: tuple[float, ...] = ()
    """Of the full cache's bytes, what baselines hold; empty: as much as the exported models and plans."""
    head_maps: bool = False
    """Whether a plan is searched for each share."""
    hypothetical: tuple[str, ...] = ()
    """Plans of `headspec.measure.hypothetical`."""
    peers: bool = False
    """Whether the original, exports and plans also run on other engines: torch.compile, CTranslate2, OpenVINO."""
    weights: tuple[str, ...] = ()
    """Other weights that P0, exports and plans also take part with: `bfloat16`, `int8`."""
    only: tuple[str, ...] = ()
    """Names of the systems that take part; empty: all."""


def benchmark(
    model: Any,
    lineup: Lineup,
    grid: Grid | None = None,
    *,
    quick: bool = False,
    out: Path | str | None = None,
    resume: bool = False,
    text: Any = "certify",
    select: Any = "select",
    n_tokens: int = 8192,
    profile: HeadProfile | None = None,
    seed: int = 0,
    load: Mapping[str, Any] | None = None,
    stage: Callable[[str], object] = lambda message: None,
) -> tuple[BenchmarkReport, list[Path]]:
    """Compare the original, exported models, plans and published methods at equal bytes: speed, size, quality.

    Args:
        model: A PlainModel or TransformerBridge of the original, in memory. If its weights are random and only
            exported models take part, `load_shape` will do.
        lineup: Who takes part.
        grid: What is measured; by default the full grid, or the quick one. Lengths are cut to the model's context.
        quick: Fewer cells and systems: about a minute for the packaged model.
        out: The folder; `results/benchmark_<model>` by default.
        resume: As for `run_benchmark`.
        text: For quality; not used to choose anything.
        select: On which plans are searched and the baselines' budgets are divided.
        n_tokens: Tokens of each.
        profile: With query statistics; made from the packaged `probe` text by default.
        seed: Draws windows, prompts, repeats and the bootstrap.
        load: Arguments of `load_plain` with which fresh processes load the original by its name, to measure memory.
        stage: Called with a line of text when a stage begins.

    Returns:
        The report, and the files written.
    """
    source = as_plain(model)
    known = source.identity
    folder = writable_folder(results_folder(known.name, out, "benchmark"))
    grid = (QUICK if quick else Grid()).within(known.context) if grid is None else grid
    grid.check(known.context)
    random, length = known.name.startswith("random:"), grid.workload.n_total
    named = [*_exports(source, lineup), *_plans(source, lineup)]
    tokens, chosen_on = None, None
    if not random:
        tokens = load_text(source, text, n_tokens=n_tokens, window=length, seed=seed)
        chosen_on = load_text(source, select, n_tokens=n_tokens, window=length, seed=seed)
        check_apart(tokens, chosen_on)
    gather = _Gathering(source, grid, profile, chosen_on, seed, stage)
    first = references(source)
    others, absent = _elsewhere(source, [first[-1], *named], lineup)
    offers: list[Offer] = [(each.name, partial(_itself, each)) for each in (*first, *named, *others)]
    offers += gather.head_maps(lineup.shares) if lineup.head_maps else []
    offers += gather.baselines(lineup.shares or tuple(_shares_of(named, grid)), quick)
    contenders = [make() for _, make in _only(offers, lineup.only, [each.name for each in absent])]
    report = run_benchmark(
        source, contenders, grid, tokens, folder, resume=resume, seed=seed, load=load, absent=absent, stage=stage
    )  # fmt: skip
    return report, [folder / TABLE, *save_report(report, folder)]


def save_report(report: BenchmarkReport, folder: Path) -> list[Path]:
    """The Markdown table and the figures of a report, as PNG and as pages."""
    from headspec.show.benchmark_folder import save_figures
    from headspec.show.benchmark_table import markdown

    table = markdown(report)
    written = write_whole(folder / MARKDOWN, lambda path: path.write_text(table, encoding="utf-8"))
    return [written, *save_figures(report, folder)]


def _itself(contender: Contender) -> Contender:
    return contender


def _elsewhere(source: PlainModel, own: Sequence[Contender], lineup: Lineup) -> tuple[list[Contender], list[Absent]]:
    """Other engines and other weights, as far as they are asked for and can be had."""
    systems = [system for each in own if not (system := each.make(Workload(1))).engine]
    found = [*(peers(source, systems) if lineup.peers else ()), *reduced(systems, lineup.weights, lineup.peers)]
    wanted = [each for each in found if not lineup.only or each.name in lineup.only]
    return [fixed(each) for each in wanted if isinstance(each, System)], [
        each for each in wanted if isinstance(each, Absent)
    ]


def _only(offers: list[Offer], names: Sequence[str], absent: Sequence[str] = ()) -> list[Offer]:
    known = [name for name, _ in offers]
    unknown = sorted(set(names) - set(known) - set(absent))
    if unknown:
        raise HeadspecError(f"no system is called {', '.join(unknown)}: there are {', '.join(known)}.")
    return [(name, make) for name, make in offers if not names or name in names]


def _exports(source: PlainModel, lineup: Lineup) -> list[Contender]:
    known = source.identity
    device = "cpu" if known.device == "meta" else known.device
    return [fixed(exported(folder, source, device=device)) for folder in lineup.pruned]


def _plans(source: PlainModel, lineup: Lineup) -> list[Contender]:
    """Saved plans, and hypothetical ones."""
    found = []
    for path in lineup.plans:
        plan = HeadPlan.load(path)
        standing = Standing.CERTIFIED if plan.certificate else Standing.HYPOTHETICAL
        name = path.parent.name or path.stem
        found.append(fixed(planned(source, plan, name, f"plan {path}", standing)))
    for name in lineup.hypothetical:
        if name not in HYPOTHETICAL:
            raise HeadspecError(f"hypothetical plan {name!r}: choose of {', '.join(HYPOTHETICAL)}.")
        removed, windowed = HYPOTHETICAL[name]
        label = f"{removed:.0%} of the heads removed, {windowed:.0%} windowed; nobody knows which heads could be"
        plan = hypothetical_plan(source, name)
        found.append(fixed(planned(source, plan, f"plan {name}", label, Standing.HYPOTHETICAL)))
    return found


@dataclass(frozen=True)
class _Gathering:
    """What is needed to make plans that hold a share of the full cache's bytes."""

    source: PlainModel
    grid: Grid
    given: HeadProfile | None
    select: TokenWindows | None
    """None where weights are random: then nothing is probed, searched or chosen."""
    seed: int
    stage: Callable[[str], object]

    @cached_property
    def profile(self) -> HeadProfile | None:
        """The given one, or one that is made when it is first needed."""
        if self.given is not None or self.select is None:
            return self.given
        self.stage("probing")
        text = load_text(self.source, "probe")
        return probe_heads(self.source, text, engine="fast", query_statistics=True, seed=self.seed)

    def head_maps(self, shares: Sequence[float]) -> list[Offer]:
        """A head map for each share: the plan that a search finds on `select`."""
        if self.select is None:
            raise HeadspecError("head maps cannot be searched for random weights: leave head_maps out.")
        if not shares:
            raise HeadspecError("head maps are searched for shares of the KV bytes: give --budgets 50%,25% (shares).")
        timed = _timed(shares)
        return [(with_share("head map", share), partial(self._head_map, share, share == timed)) for share in shares]

    def _head_map(self, share: float, timed: bool) -> Contender:
        self.stage(f"searching a head map that holds {share:.0%} of the KV bytes")
        treatments = (*TREATMENTS, *compress_treatments(self.grid.workload))
        result = search_plan(
            self.source, Budget(max_kv_share=share), profile=self.profile, select=self.select,
            treatments=treatments, workload=self.grid.workload, n_controls=0, seeds=(0,), protect_induction=False,
        )  # fmt: skip
        label = f"windows, removal and expected attention by head: the plan that a search found for {share:.0%}"
        system = planned(self.source, result.plan, with_share("head map", share), label, Standing.CERTIFIED)
        return fixed(system, timed)

    def baselines(self, shares: Sequence[float], quick: bool) -> list[Offer]:
        """Published methods at each share; where there can be no profile, those that need none."""
        able, timed = self.given is not None or self.select is not None, _timed(shares)
        methods = [each for each in BASELINES if able or not each.needs_queries]
        if quick:
            methods = [each for each in methods if each.name in QUICK_BASELINES]
        return [
            (with_share(method.name, share), partial(self._matched, method, share, share == timed))
            for share in shares
            for method in methods
        ]

    def _matched(self, baseline: Baseline, share: float, timed: bool) -> Contender:
        self.stage(f"{baseline.name} at {share:.1%} of the KV bytes")
        few = None
        if self.select is not None:
            few = replace(self.select, tokens=self.select.tokens[: max(1, N_SELECT // self.grid.workload.n_total)])
        timed = timed and baseline.name in TIMED_BASELINES
        return matched(self.source, self.profile, baseline, share, self.grid.workload, few, timed)


def _shares_of(named: Sequence[Contender], grid: Grid) -> list[float]:
    """What exported models and plans hold; a quarter if there are none."""
    systems = [contender.make(grid.workload) for contender in named]
    shares = {round(mean_share(system.plan, grid.workload), 3) for system in systems if system.plan is not None}
    return sorted(share for share in shares if 0 < share < 1) or [TIMED_SHARE]


def _timed(shares: Sequence[float]) -> float:
    return min(shares, key=lambda share: abs(share - TIMED_SHARE), default=TIMED_SHARE)
