"""Sweeps: what does each of many plans cost? One row a plan, resumable at any moment."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from headspec.errors import HeadspecError, ModelError
from headspec.files import writable_folder
from headspec.load.identity import identify
from headspec.load.plain import as_plain
from headspec.measure.compare import Comparison
from headspec.measure.texts import ScoredText, repeats_text, scored_text
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress
from headspec.rowlog import RowLog, plain
from headspec.search.cases import Case
from headspec.search.fast import check_layer_by_layer, measure_fast
from headspec.search.hooked import measure_hooked
from headspec.search.rows import make_row
from headspec.search.table import SWEEP, TABLE, SweepTable

Measure = Callable[[Any, Sequence[Case], Sequence[ScoredText]], Iterator[tuple[Case, list[Comparison]]]]
ENGINES = ("fast", "hooks", "ray")


def sweep(
    model: Any,
    cases: Sequence[Case],
    tokens: Any,
    *,
    out: Path | str | None = None,
    engine: str = "fast",
    n_repeats: int = 4,
    seed: int = 0,
    progress: bool = True,
    **ray_options: Any,
) -> SweepTable:
    """Measure every case on a text and on repeated random tokens.

    Effects of single heads do not add up: judge a plan as a whole (`curve_cases`, `search_plan`).

    Args:
        model: A PlainModel or TransformerBridge.
        cases: What to try; `single_cases`, `curve_cases`, `grid_cases` and `control_cases` make them.
        tokens: Text, token ids or TokenWindows.
        out: A folder in which every finished row is kept. If it holds rows of the same configuration, they are
            taken from there: a sweep that was killed goes on, and one with more cases adds to it.
        engine: `fast` computes once what cases share; `hooks` runs one whole hooked forward pass a case, with
            whatever else is hooked in force; `ray` shares the cases among workers.
        n_repeats: Sequences of repeated random tokens; 0 leaves them out.
        seed: Draws the repeated tokens.
        progress: Show a bar with the time left.
        **ray_options: `address`, `n_workers`: see `headspec.search.distributed`.

    Raises:
        RecordError: A plan was made for another model, or `out` holds a sweep of another configuration.
        HeadspecError: An unknown engine, no cases, or plans that compress heads.
    """
    _check(cases, engine, n_repeats)
    measure = _engine(engine, ray_options)
    model = model if engine == "hooks" else as_plain(model)
    identity = identify(model)
    for case in cases:
        case.plan.about.check_model(identity)
        _check_judged_whole(case.plan)
    texts = [scored_text(model, tokens), repeats_text(identity, n_repeats, seed)]
    if engine != "hooks":
        check_layer_by_layer(model, [text for text in texts if text is not None])
    settings = sweep_settings(model, texts)
    log = RowLog(writable_folder(Path(out)), settings, SWEEP) if out is not None else None
    finished = dict(log.finished) if log is not None else {}
    wanted = {case.key: case for case in cases}
    left = [case for key, case in wanted.items() if key not in finished]
    with tqdm(total=len(wanted), initial=len(wanted) - len(left), unit="case", delay=2, disable=not progress,
              file=sys.stderr) as bar:  # fmt: skip
        for case, measured in measure(model, left, [text for text in texts if text is not None]) if left else ():
            row = make_row(case, measured[0], measured[1] if len(measured) > 1 else None)
            finished[case.key] = {name: plain(value) for name, value in row.items()}
            if log is not None:
                log.append(finished[case.key])
            bar.update()
    table = SweepTable(settings, tuple(finished[key] for key in wanted))
    if out is not None:
        rest = (row for key, row in finished.items() if key not in wanted)
        SweepTable(settings, (*table.rows, *rest)).save_csv(Path(out) / TABLE)
    return table


def sweep_settings(model: Any, texts: Sequence[ScoredText | None]) -> dict[str, Any]:
    """What rows must have in common to stand in one table."""
    identity = identify(model)
    text, repeats = texts
    assert text is not None
    return {
        "model": identity.name, "n_layers": identity.n_layers, "n_heads": identity.n_heads, "dtype": identity.dtype,
        "weights": weights_digest(model), "text": text.name, "text_digest": text.digest,
        "n_windows": len(text.tokens), "window": text.tokens.shape[1],
        "repeats": "" if repeats is None else repeats.name, "repeats_digest": "" if repeats is None else repeats.digest,
    }  # fmt: skip


def weights_digest(model: Any) -> str:
    """SHA-256 of every weight: tells models of one name apart.

    A bridge has that of its Hugging Face model, unless its weights were edited.
    """
    try:
        inner = as_plain(model).huggingface
    except ModelError:
        inner = model.original_model
    digest = hashlib.sha256()
    for parameter in inner.parameters():
        digest.update(parameter.detach().flatten().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _engine(engine: str, ray_options: dict[str, Any]) -> Measure:
    if engine == "ray":
        from headspec.search.distributed import measure_on_ray

        return lambda model, cases, texts: measure_on_ray(model, cases, texts, **ray_options)
    if ray_options:
        raise HeadspecError(f'{", ".join(ray_options)}: only for engine="ray".')
    return measure_fast if engine == "fast" else measure_hooked


def _check(cases: Sequence[Case], engine: str, n_repeats: int) -> None:
    if n_repeats < 0:
        raise HeadspecError(f"n_repeats={n_repeats}: want 0 or more.")
    if engine not in ENGINES:
        raise HeadspecError(f"engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    if not cases:
        raise HeadspecError("no cases to sweep over: make some with single_cases, curve_cases or grid_cases.")


def _check_judged_whole(plan: HeadPlan) -> None:
    """Refuse compressed heads, which would look free: they drop nothing of a text that is all prompt."""
    if compressed := plan.heads(Compress):
        raise HeadspecError(
            f"{', '.join(map(str, compressed))}: a sweep reads texts in one piece, of which compressed heads drop "
            "nothing: judge such plans with `headspec search` or `headspec bench`."
        )
