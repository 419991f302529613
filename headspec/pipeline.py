"""The stages in order: `analyze` loads, probes, classifies, draws, and leaves everything in one folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.classify.head_map import HeadMap
from headspec.classify.rules import check_rules, classify_heads
from headspec.classify.specialisation import Specialisation, head_diversity
from headspec.classify.thresholds import Thresholds
from headspec.errors import RecordError
from headspec.files import writable_folder, write_whole
from headspec.load.names import folder_name, resolve
from headspec.probe.profile import HeadProfile

PROFILE, HEAD_MAP, STATISTICS = "head_profile.safetensors", "head_classification.json", "head_statistics.csv"
SPECIALISATION = "specialisation.json"
CONTROL_TOKENS = 2048
"""The controls (shuffled tokens, untrained weights) read at most this many tokens: enough to compare with."""


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found, and where it left it."""

    profile: HeadProfile
    head_map: HeadMap
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
    thresholds: Thresholds | None = None,
    rules: str = "default",
    controls: bool = True,
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
        thresholds, rules: As for `classify_heads`.
        controls: Also probe shuffled tokens and re-initialised weights, for the verdict whether heads specialise.
        stage: Called with a line of text when a stage begins.
        load: Arguments for `load_model`, when `model` is a name.
        **probe_options: Further arguments of `probe_heads` (`layers`, `every`, `segment`, `batch_size`, …).
    """
    from headspec.load.identity import identify
    from headspec.load.model import load_model
    from headspec.load.text import as_windows, draw_windows, load_text
    from headspec.probe.collect import probe_heads

    check_rules(rules)
    name = resolve(model).name if isinstance(model, str) else identify(model).name
    folder = writable_folder(results_folder(name, out))
    if isinstance(model, str):
        stage(f"loading {model}")
        model = load_model(model, **(load or {}))
    if isinstance(text, str):
        windows = load_text(model, text, n_tokens=n_tokens, window=window, seed=seed, bos=bos)
    else:
        if getattr(text, "ndim", None) == 1:
            text = draw_windows(text, n_tokens, window or identify(model).context, seed)
        windows = as_windows(text, model)
    stage(f"probing {windows.tokens.numel()} tokens of {windows.source}")
    profile = probe_heads(model, windows, seed=seed, **probe_options)
    (folder / SPECIALISATION).unlink(missing_ok=True)  # an older one would not belong to this profile
    profile.save(folder / PROFILE)
    head_map = classify_heads(profile, thresholds, rules)
    files = [folder / PROFILE, *write_tables(profile, head_map, folder)]
    stage("drawing")
    files += draw(folder, profile, head_map)
    specialisation = _controls(model, windows, profile, seed, stage, probe_options) if controls else None
    if specialisation is not None:
        files.append(specialisation.save(folder / SPECIALISATION))
    return Analysis(profile, head_map, specialisation, folder, tuple(files))


def results_folder(model: str, out: Path | str | None = None) -> Path:
    """Where the results of a model go: `results/attention_analysis_70m` for pythia-70m."""
    return Path(out) if out is not None else Path("results") / f"attention_analysis_{folder_name(model)}"


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


def draw(folder: Path | str, profile: HeadProfile | None = None, head_map: HeadMap | None = None) -> list[Path]:
    """Draw the PNGs of a results folder, from its files unless the records are given. Needs no torch."""
    from headspec.show.static import draw_all

    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder. `headspec analyze MODEL` makes one.")
    profile = profile or HeadProfile.load(folder / PROFILE)
    head_map = head_map or HeadMap.load(folder / HEAD_MAP)
    head_map.about.check_model(profile.about.model, profile.about.n_layers, profile.about.n_heads)
    if head_map.about != profile.about:
        raise RecordError(f"{folder}: {PROFILE} and {HEAD_MAP} come from different runs. Run the analysis again.")
    return draw_all(profile, head_map, folder)


def _controls(
    model: Any,
    windows: Any,
    profile: HeadProfile,
    seed: int,
    stage: Callable[[str], object],
    probe_options: dict[str, Any],
) -> Specialisation:
    """Probe a part of the text shuffled, and with untrained weights; random weights need no control."""
    from headspec.load.model import reinitialised
    from headspec.load.text import TokenWindows, shuffled
    from headspec.probe.collect import probe_heads

    if profile.about.random_weights:
        return Specialisation(head_diversity(profile))
    few = TokenWindows(windows.tokens[: max(1, CONTROL_TOKENS // windows.tokens.shape[1])], windows.source)
    stage("control: shuffled tokens")
    mixed = probe_heads(model, shuffled(few, seed), seed=seed, **probe_options)
    stage("control: untrained weights")
    untrained = probe_heads(reinitialised(model, seed), few, seed=seed, **probe_options)
    return Specialisation(head_diversity(profile), head_diversity(mixed), head_diversity(untrained))
