"""The stages in order: `analyze` loads, probes, classifies, draws, and leaves everything in one folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.classify.clustering import cluster_heads
from headspec.classify.clusters import HeadClusters
from headspec.classify.head_map import HEAD_MAP, HeadMap
from headspec.classify.rules import check_rules, classify_heads
from headspec.classify.specialisation import Specialisation, head_diversity
from headspec.classify.thresholds import Thresholds
from headspec.errors import HeadspecError, RecordError
from headspec.files import writable_folder, write_whole
from headspec.load.names import folder_name, resolve
from headspec.probe.profile import PROFILE, HeadProfile

STATISTICS = "head_statistics.csv"
SPECIALISATION, CLUSTERS, SAMPLE = "specialisation.json", "head_clusters.json", "sample_patterns.safetensors"
FIGURES = ("head_roles", "roles_by_layer", "entropy_heatmap", "position_preference", "temporal_evolution",
           "head_clusters")  # fmt: skip
CONTROL_TOKENS = 2048
"""The controls (shuffled tokens, untrained weights) read at most this many tokens: enough to compare with."""


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found, and where it left it."""

    profile: HeadProfile
    head_map: HeadMap
    clusters: HeadClusters | None
    """None where there are too few heads, or they are all alike."""
    specialisation: Specialisation | None
    folder: Path
    files: tuple[Path, ...]


def analyze(
    model: Any,
    text: Any = "probe",
    *,
    out: Path | str | None = None,
    n_tokens: int = 8192,
    window: int | None = None,
    bos: bool | None = None,
    seed: int = 0,
    engine: str = "hooks",
    resume: bool = False,
    thresholds: Thresholds | None = None,
    rules: str = "default",
    controls: bool = True,
    pages: bool = True,
    stage: Callable[[str], object] = lambda message: None,
    load: dict[str, Any] | None = None,
    **probe_options: Any,
) -> Analysis:
    """Probe, classify and draw every head of `model`, and write the results folder.

    Args:
        model: A TransformerBridge from `load_model`, or the name of a model.
        text: A source for `load_text`, or TokenWindows or token ids; one sequence of ids is cut like a text.
        out: The results folder; `results/attention_analysis_<model>` by default. It is checked before any work starts.
        n_tokens, window, bos, seed: As for `load_text`.
        engine: As for `probe_heads`; with `fast` a name is loaded without TransformerBridge.
        resume: Go on with the run that was interrupted in this folder, of the same model, text and settings.
        thresholds, rules: As for `classify_heads`.
        controls: Also probe shuffled tokens and re-initialised weights, for the verdict whether heads specialise.
        pages: Also write the interactive figures, as offline pages of 5 MB each.
        stage: Called with a line of text when a stage begins.
        load: Arguments for `load_model`, when `model` is a name.
        **probe_options: Further arguments of `probe_heads` (`layers`, `every`, `segment`, `batch_size`, …).
    """
    from headspec.load.identity import identify
    from headspec.probe.collect import check_engine
    from headspec.probe.unfinished import Unfinished

    check_rules(rules)
    name = resolve(model).name if isinstance(model, str) else identify(model).name
    check_engine(engine)
    folder = writable_folder(results_folder(name, out))
    unfinished = Unfinished(folder, name, resume, stage)
    if isinstance(model, str):
        choices = {"window": window, "n_tokens": n_tokens, "controls": controls}
        model = load_that_fits(model, engine, load or {}, stage, probe_options | choices)
    windows = _windows(model, text, n_tokens, window, bos, seed)
    probe_options |= {"engine": engine, "seed": seed}
    stage(f"probing {windows.tokens.numel()} tokens of {windows.source}")
    profile = unfinished.probe("text", model, windows, **probe_options)
    figures = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "html")]
    for stale in (SPECIALISATION, CLUSTERS, SAMPLE, *figures):
        (folder / stale).unlink(missing_ok=True)  # what is not made anew would not belong to this profile
    profile.save(folder / PROFILE)
    head_map = classify_heads(profile, thresholds, rules)
    clusters = _clusters(profile, head_map, seed, stage)
    files = [folder / PROFILE, *write_tables(profile, head_map, folder)]
    files += [clusters.save(folder / CLUSTERS)] if clusters is not None else []
    files += _sample(model, windows, profile, folder, stage)
    stage("drawing")
    files += draw(folder, profile, head_map, clusters, pages=pages)
    specialisation = _controls(model, windows, profile, unfinished, seed, stage, probe_options) if controls else None
    if specialisation is not None:
        files.append(specialisation.save(folder / SPECIALISATION))
    unfinished.remove()
    return Analysis(profile, head_map, clusters, specialisation, folder, tuple(files))


def load_that_fits(
    name: str, engine: str, load: dict[str, Any], stage: Callable[[str], object], wanted: dict[str, Any]
) -> Any:
    """Load a model by name, for an engine, if it and its probe fit into memory."""
    from headspec.load.model import load_model, load_plain
    from headspec.probe.budget import check_before_loading

    check_before_loading(name, engine, load, **wanted)
    stage(f"loading {name}")
    return (load_plain if engine == "fast" else load_model)(name, **load)


def results_folder(model: str, out: Path | str | None = None, stage: str = "attention_analysis") -> Path:
    """Where the results of a stage go: `results/attention_analysis_70m` for pythia-70m."""
    return Path(out) if out is not None else Path("results") / f"{stage}_{folder_name(model)}"


def write_tables(profile: HeadProfile, head_map: HeadMap, folder: Path) -> list[Path]:
    """Write the head map as JSON, and one CSV row a head with every statistic and the verdict."""
    table = profile.to_frame()
    table.insert(0, "model", profile.about.model)
    table["role"] = [str(verdict.role) for verdict in head_map]
    table["window"] = [verdict.window for verdict in head_map]
    table["status"] = [str(verdict.status or "") for verdict in head_map]
    table["margin"] = [verdict.margin for verdict in head_map]
    table["traits"] = [" ".join(verdict.traits) for verdict in head_map]
    table["window"] = table["window"].astype("Int64")
    csv = write_whole(folder / STATISTICS, lambda temporary: table.to_csv(temporary, index=False, float_format="%.6g"))
    return [head_map.save(folder / HEAD_MAP), csv]


def draw(
    folder: Path | str,
    profile: HeadProfile | None = None,
    head_map: HeadMap | None = None,
    clusters: HeadClusters | None = None,
    *,
    pages: bool = True,
) -> list[Path]:
    """Draw the figures of a results folder, from its files unless the records are given. Needs no torch."""
    from headspec.show.page import save_all
    from headspec.show.static import draw_all

    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder. `headspec analyze MODEL` makes one.")
    profile = profile or HeadProfile.load(folder / PROFILE)
    head_map = head_map or HeadMap.load(folder / HEAD_MAP)
    if clusters is None and (folder / CLUSTERS).is_file():
        clusters = HeadClusters.load(folder / CLUSTERS)
    head_map.about.check_model(profile.about.model, profile.about.n_layers, profile.about.n_heads)
    if any(record.about != profile.about for record in (head_map, clusters or head_map)):
        raise RecordError(f"{folder}: its profile, head map and clusters come from different runs. Analyse again.")
    drawn = draw_all(profile, head_map, folder, clusters)
    return drawn + (save_all(profile, head_map, folder, clusters) if pages else [])


def _windows(model: Any, text: Any, n_tokens: int, window: int | None, bos: bool | None, seed: int) -> Any:
    """What the user gave as text, as TokenWindows."""
    from headspec.load.identity import identify
    from headspec.load.text import as_windows, draw_windows, load_text

    if isinstance(text, str):
        return load_text(model, text, n_tokens=n_tokens, window=window, seed=seed, bos=bos)
    if getattr(text, "ndim", None) == 1:
        text = draw_windows(text, n_tokens, window or identify(model).context, seed)
    return as_windows(text, model)


def _clusters(
    profile: HeadProfile, head_map: HeadMap, seed: int, stage: Callable[[str], object]
) -> HeadClusters | None:
    try:
        return cluster_heads(profile, head_map, seed=seed)
    except HeadspecError as error:  # too few heads, or all alike: everything else is still worth having
        stage(f"no clusters: {error}")
        return None


def _sample(model: Any, windows: Any, profile: HeadProfile, folder: Path, stage: Callable[[str], object]) -> list[Path]:
    """Patterns on a few tokens, for the report."""
    from headspec.probe.patterns import sample_patterns

    try:
        return [sample_patterns(model, windows.tokens[0], profile.about.layers).save(folder / SAMPLE)]
    except HeadspecError as error:  # a model whose attention forms no patterns
        stage(f"no sample of patterns: {error}")
        return []


def _controls(
    model: Any,
    windows: Any,
    profile: HeadProfile,
    unfinished: Any,
    seed: int,
    stage: Callable[[str], object],
    probe_options: dict[str, Any],
) -> Specialisation:
    """Probe a part of the text shuffled, and with untrained weights; random weights need no control."""
    from headspec.load.model import reinitialised
    from headspec.load.text import TokenWindows, shuffled

    if profile.about.random_weights:
        return Specialisation(head_diversity(profile))
    few = TokenWindows(windows.tokens[: max(1, CONTROL_TOKENS // windows.tokens.shape[1])], windows.source)
    stage("control: shuffled tokens")
    mixed = unfinished.probe("shuffled", model, shuffled(few, seed), **probe_options)
    stage("control: untrained weights")
    untrained = unfinished.probe("untrained", reinitialised(model, seed), few, **probe_options)
    return Specialisation(head_diversity(profile), head_diversity(mixed), head_diversity(untrained))
