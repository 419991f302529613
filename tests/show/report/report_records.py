"""Made-up records of all kinds for models of any size: heads of all roles, and texts that would be HTML if allowed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_reports import full_report
from live_records import many

from headspec.classify.clustering import cluster_heads
from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict, Trait
from headspec.classify.specialisation import HeadDiversity, Specialisation
from headspec.classify.thresholds import Thresholds
from headspec.heads import HeadId, HeadRole
from headspec.measure.estimate import Estimate
from headspec.measure.report import BENCHMARK, BenchmarkReport
from headspec.pipeline import CLUSTERS, HEAD_MAP, PROFILE, SAMPLE, SPECIALISATION
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import BY_POSITION, BY_WINDOW, GRIDS
from headspec.probe.profile import HeadProfile
from headspec.probe.sample import PatternSample
from headspec.rowlog import LOG
from headspec.runtime.record import LiveRecord
from headspec.search.record import PlanPoint, SearchRecord
from headspec.search.table import SWEEP, SweepTable

MODEL = "made-up"
WINDOW, CONTEXT = 512, 2048
NASTY = (
    "</script>",
    "<b>bold</b>",
    "&amp;",
    "\n",
    '"',
    "'",
    "\u2028",
    "<img src=x onerror=alert(1)>",
    " the",
    "\ud800",
)
"""Tokens that must come out as text; the last is half a character."""
TREATMENTS = ("mean", "window:8")
MINE = {"sink_attention_ratio": (0.05, 0.5), "previous_token_score": (0.4, 0.02), "induction_score": (0.01, 0.3),
        "output_spread": (0.3, 0.3)}  # fmt: skip
"""Middle values of positional and of gathering heads; others lie around 0.3."""


def about_of(n_layers: int, n_heads: int, model: str = MODEL) -> ProbeAbout:
    return ProbeAbout(
        model=model, n_layers=n_layers, n_heads=n_heads, d_head=8, d_model=8 * n_heads, context=CONTEXT,
        layers=tuple(range(n_layers)), text="numbers", text_digest="abc", n_windows=4, window=WINDOW, segment=256,
        n_repeats=2, versions=(("headspec", "0.1.0"),),
    )  # fmt: skip


def role_of(head: HeadId) -> HeadRole:
    """By hand: of every eight heads three are positional and one is dead."""
    return [HeadRole.POSITIONAL, HeadRole.GATHERING, HeadRole.DEAD][
        (0, 1, 0, 1, 1, 2, 0, 1)[(head.head + head.layer) % 8]
    ]


def map_of(about: ProbeAbout, settled: bool = True) -> HeadMap:
    return HeadMap(about, Thresholds(), "default", tuple(_verdict(head, settled) for head in about.heads()))


def _verdict(head: HeadId, settled: bool) -> HeadVerdict:
    role, number = role_of(head), head.layer + head.head
    window = (3, 8, 64)[number % 3] if role is HeadRole.POSITIONAL else None
    traits = (Trait.INDUCTION,) if role is HeadRole.GATHERING and number % 5 == 0 else ()
    dead = HeadStatus.CONFIRMED if settled else HeadStatus.CANDIDATE
    return HeadVerdict(
        head, role, margin=np.inf if number % 11 == 0 else 0.1 * (1 + number % 7), window=window,
        status=dead if role is HeadRole.DEAD else None,
        traits=(Trait.PREVIOUS_TOKEN, Trait.FIXED_OFFSET) if window == 3 else traits,
        evidence=(("output_spread", 0.25), ("judged_window", float(window or 0))),
        reason=f"a made-up reason with <b>0.{number}</b> & more",
    )  # fmt: skip


def profile_of(about: ProbeAbout, seed: int = 0) -> HeadProfile:
    draw, shape = np.random.default_rng(seed), (len(about.layers), about.n_heads)
    offsets = np.array([*range(64), 64, 128, 256])
    roles = np.array([list(HeadRole).index(role_of(head)) for head in about.heads()]).reshape(shape)
    grids = {name: _grid(name, roles, draw) for name in GRIDS}
    mass = np.stack([_reach(role, offsets, draw) for role in roles.ravel()]).reshape(*shape, -1).astype("f4")
    positions = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256])
    return HeadProfile(
        about=about, grids=grids,
        by_position={name: np.stack([grids[name] * (1 + 0.02 * place) for place in range(10)]) for name in BY_POSITION},
        by_window={name: grids[name][None] for name in BY_WINDOW},
        position_edges=positions, queries_per_position=np.diff([*positions, WINDOW]) * 4,
        offset_edges=offsets, offset_mass=mass, max_attention_position=mass,
        max_attention_histogram=np.full((*shape, 20), 0.05, "f4"), near_mass=np.zeros((10, *shape, 64), "f4"),
        mean_z=draw.standard_normal((*shape, 8)).astype("f4"), z_norm=np.ones(shape, "f4"),
    )  # fmt: skip


def _grid(name: str, roles: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    positional, gathering = MINE.get(name, (0.3, 0.35))
    middle = np.choose(roles, [positional, gathering, 0.02])
    return (middle * draw.uniform(0.5, 1.5, roles.shape)).astype("f4")


def _reach(role: int, offsets: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Attention by offset: near, everywhere, or on the first tokens."""
    width = np.diff([*offsets, WINDOW])
    share = (np.exp(-offsets / 3.0), width / (1 + offsets / 40), width.astype(float))[role] * draw.uniform(
        0.5, 1, len(width)
    )
    return share / share.sum()


def sample_of(about: ProbeAbout, n_tokens: int = 48, seed: int = 0) -> PatternSample:
    """Even heads look one token back, odd ones half a sample back, and every head a little everywhere."""
    draw, size = np.random.default_rng(seed), n_tokens
    rows, columns = np.indices((size, size))
    stripes = np.stack([rows - columns == 1, rows - columns == size // 2]).astype("f4")
    shape = (len(about.layers), about.n_heads)
    patterns = np.tril(0.02 * draw.random((*shape, size, size)) + 0.8 * stripes[np.indices(shape)[1] % 2]).astype("f4")
    patterns /= patterns.sum(-1, keepdims=True)
    tokens = tuple(NASTY[place % len(NASTY)] if place < len(NASTY) else f" word{place}" for place in range(size))
    return PatternSample(about.model, about.n_layers, about.n_heads, about.layers, tokens, patterns.astype("f2"))


def sweep_of(about: ProbeAbout, seed: int = 0) -> SweepTable:
    draw = np.random.default_rng(seed)
    rows = [_case(head, what, float(draw.lognormal(-6, 1.5))) for head in about.heads() for what in TREATMENTS]
    settings = {"model": about.model, "n_layers": about.n_layers, "n_heads": about.n_heads, "text": "numbers",
                "n_windows": 4, "window": WINDOW, "repeats": "random tokens twice (2 × 255)"}  # fmt: skip
    return SweepTable(settings, tuple(rows))


def _case(head: HeadId, what: str, kl: float) -> dict[str, Any]:
    return {
        "kind": "single", "case": f"{head}={what}", "heads": str(head), "n_heads": 1, "layer": head.layer,
        "treatment": what, "loss": 3.2, "loss_increase": kl, "perplexity_increase": kl, "kl": kl, "kl_se": kl / 10,
        "top1_agreement": 0.98, "repeats_loss_increase": kl, "repeats_kl": 2 * kl, "induction_accuracy": 0.9,
        "kv_share": 0.97, "removed_share": 0.03, "key": f"single|{head}={what}",
    }  # fmt: skip


def search_of(about: ProbeAbout) -> SearchRecord:
    def point(kv_share: float, kl: float, on_front: bool) -> PlanPoint:
        near = Estimate(kl, 0.8 * kl, 1.2 * kl)
        return PlanPoint(
            {"keep": 9, "window:8": 5, "mean": 2}, kv_share, 0.1, near, near, near, near, near, 0.4, on_front
        )

    points = (point(1.0, 0.0, True), point(0.6, 0.01, True), point(0.3, 0.2, True), point(0.7, 0.1, False))
    return SearchRecord(about.model, None, True, points, 1, certificate())


def certificate() -> dict[str, Any]:
    kl, increase = ({"value": value, "low": value / 2, "high": 2 * value} for value in (0.0123, 0.018))
    return {"heads_removed": 2, "heads_windowed": 5, "heads_compressed": 0, "kv_share": 0.6, "removed_share": 0.1,
            "random_plans": {"kl": [0.5, 0.7], "n": 2},
            "quality": {"n_windows": 4, "window": WINDOW, "kl": kl, "perplexity_increase": increase}}  # fmt: skip


def plan_of(profile: HeadProfile, judged: bool = True) -> HeadPlan:
    """A head of every kind of treatment that a search makes."""
    plan = plan_heads(profile, {"L0H0": "window:8", "L0H5": "mean"})
    return plan.certified(certificate()) if judged else plan


def specialisation_of(about: ProbeAbout) -> Specialisation:
    source = f"{about.model} on numbers"
    text, shuffled = HeadDiversity(source, 0.78, 0.2, 0.99, 0.6), HeadDiversity(source, 0.8, 0.2, 0.98, 0.6)
    return Specialisation(text, shuffled, HeadDiversity(source, 0.001, 0.0, 0.01, np.nan))


def benchmark_of(about: ProbeAbout) -> BenchmarkReport:
    return full_report(batches=(1, 4), model=about.model, n_layers=about.n_layers, n_heads=about.n_heads)


def live_of(about: ProbeAbout) -> LiveRecord:
    return replace(many(about.n_layers, about.n_heads), model=about.model)


def write_results(folder: Path, n_layers: int = 6, n_heads: int = 8, model: str = MODEL) -> Path:
    """A folder as `headspec run` leaves it, without the exported model."""
    about = about_of(n_layers, n_heads, model)
    write_analysis(folder / "analysis", about)
    write_rows(folder / "sweep", sweep_of(about), SWEEP.schema, SWEEP.settings)
    (folder / "search").mkdir()
    map_of(about).save(folder / "search" / HEAD_MAP)
    search_of(about).save(folder / "search")
    plan_of(profile_of(about)).save(folder / "search" / "plan.json")
    report = benchmark_of(about)
    cells = BenchmarkReport(report.settings, ({"key": "all", "rows": list(report.rows)},))
    write_rows(folder / "benchmark", cells, BENCHMARK.schema, BENCHMARK.settings)
    (folder / "live").mkdir()
    live_of(about).save(folder / "live" / "live.json")
    return folder


def write_analysis(folder: Path, about: ProbeAbout) -> Path:
    profile, head_map = profile_of(about), map_of(about, settled=False)
    profile.save(folder / PROFILE)
    head_map.save(folder / HEAD_MAP)
    sample_of(about).save(folder / SAMPLE)
    specialisation_of(about).save(folder / SPECIALISATION)
    cluster_heads(profile, head_map).save(folder / CLUSTERS)
    return folder


def write_rows(folder: Path, rows: SweepTable | BenchmarkReport, schema: str, settings: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / settings).write_text(json.dumps({"schema": schema, **rows.settings}), encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in rows.rows)
    (folder / LOG).write_text(lines, encoding="utf-8")
