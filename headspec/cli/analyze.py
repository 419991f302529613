"""The commands that find out what heads do: `analyze`, `plot`, `models`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headspec.cli.app import Debug, ModelArgument, app, option, output, quieten_libraries, say, say_files
from headspec.errors import HeadspecError

if TYPE_CHECKING:
    from headspec.classify.thresholds import Thresholds
    from headspec.pipeline import Analysis


@app.command()
def analyze(
    model: ModelArgument,
    out: Annotated[Path | None, option("Results folder; results/attention_analysis_<model> by default.")] = None,
    text: Annotated[str, option("probe, select, certify, a file, - (standard input), datasets:NAME.")] = "probe",
    token_ids: Annotated[Path | None, option("Token ids instead of text: .npy, or numbers in a file.")] = None,
    tokens: Annotated[int, option("How many tokens to read.")] = 8192,
    window: Annotated[int | None, option("Tokens a window; the model's context by default.")] = None,
    layers: Annotated[str | None, option("Only these layers: 0,3,5.")] = None,
    every: Annotated[int, option("Take every n-th layer.")] = 1,
    segment: Annotated[int, option("Tokens that go through the model at once.")] = 256,
    batch_size: Annotated[int, option("Windows that go through the model together.")] = 1,
    repeats: Annotated[int, option("Sequences of repeated random tokens (induction).")] = 2,
    bos: Annotated[bool | None, option("Start windows with BOS; as the model's family does by default.")] = None,
    device: Annotated[str, option("auto, cuda, mps or cpu.")] = "auto",
    device_map: Annotated[str | None, option("Handed on to accelerate instead of --device.")] = None,
    dtype: Annotated[str, option("float32, bfloat16 or float16.")] = "float32",
    engine: Annotated[str, option("hooks (TransformerLens), or fast (quicker, no second copy of q, k, v).")] = "hooks",
    query_statistics: Annotated[bool, option("Also keep mean and covariance of the queries.")] = False,
    resume: Annotated[bool, option("Go on with the run that was interrupted in the results folder.")] = False,
    seed: Annotated[int, option("Draws windows, repeats and random weights.")] = 0,
    rules: Annotated[str, option("default, or naive (textbook definitions, to compare).")] = "default",
    threshold: Annotated[list[str] | None, option("A cut-off, as dead_spread=0.05; may be repeated.")] = None,
    controls: Annotated[bool, option("Compare with shuffled tokens and untrained weights.")] = True,
    pages: Annotated[bool, option("Also write interactive figures: offline pages of 5 MB each.")] = True,
    debug: Debug = False,
) -> None:
    """Probe, classify and draw every head of MODEL."""
    from headspec.load.names import resolve
    from headspec.pipeline import analyze as run

    resolve(model)  # wrong names and numbers are found before the seconds that importing torch takes
    cut, chosen = read_thresholds(threshold or []), _layers(layers)
    quieten_libraries()
    source: Any = text
    if token_ids is not None:
        from headspec.load.sources import read_token_ids

        source = read_token_ids(str(token_ids))
    load = {"device": device, "device_map": device_map, "dtype": dtype, "seed": seed}
    analysis = run(
        model, source, out=out, load=load, n_tokens=tokens, window=window, bos=bos, seed=seed, thresholds=cut,
        rules=rules, controls=controls, pages=pages, stage=say, engine=engine, resume=resume, layers=chosen,
        every=every, segment=segment, batch_size=batch_size, n_repeats=repeats, query_statistics=query_statistics,
    )  # fmt: skip
    _print_analysis(analysis)


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="A results folder of `headspec analyze`.")],
    pages: Annotated[bool, option("Also write interactive figures: offline pages of 5 MB each.")] = True,
    debug: Debug = False,
) -> None:
    """Draw the figures of a results folder again, from its files, without loading torch."""
    from headspec.pipeline import draw

    for path in draw(folder, pages=pages):
        output.print(str(path), highlight=False, markup=False)


@app.command()
def models(debug: Debug = False) -> None:
    """List the names of the Pythia models and their sizes."""
    from headspec.load.pythia import CONTEXT, SHAPES

    table = Table("name", "layers × heads", "d_model", "parameters", "deduped", title=f"Pythia (context {CONTEXT})")
    for name, shape in SHAPES.items():
        size = f"{shape.n_layers} × {shape.n_heads}"
        table.add_row(
            name, size, str(shape.d_model), f"{shape.n_parameters / 1e6:,.0f} M", "yes" if shape.deduped else ""
        )
    output.print(table)
    output.print("Also: demo (packaged) · NAME@step1000 · random:NAME (timing only) · any hub id · any directory")


def read_thresholds(assignments: list[str]) -> "Thresholds":
    """Cut-offs from `name=value` options."""
    from headspec.classify.thresholds import Thresholds

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        name = name.strip()
        try:
            values[name] = tuple(int(part) for part in value.split(",")) if name == "windows" else float(value)
        except ValueError:
            raise HeadspecError(f"--threshold {assignment}: write it as dead_spread=0.05 or windows=4,8,16.") from None
    return Thresholds.from_dict(values)


def _layers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise HeadspecError(f"--layers {text}: write layer numbers like 0,3,5.") from None


def _print_analysis(analysis: "Analysis") -> None:
    from headspec.heads import HeadRole

    head_map, about = analysis.head_map, analysis.head_map.about
    table = Table("layer", *(str(role) for role in HeadRole), "windows", title=escape(f"Heads of {about.model}"))
    for layer in about.layers:
        counts = head_map.counts(layer)
        sizes = sorted(v.window for v in head_map if v.head.layer == layer and v.window is not None)
        table.add_row(str(layer), *(str(counts[role] or "") for role in HeadRole), " ".join(map(str, sizes)))
    total = head_map.counts()
    table.add_section()
    table.add_row("all", *(str(total[role]) for role in HeadRole), "")
    output.print(table)
    if head_map.heads(HeadRole.DEAD) and not about.random_weights:
        output.print("Dead heads are candidates: ablate them together, on text and on repeats, before removing any.")
    if analysis.clusters is not None:
        output.print(analysis.clusters.sentence, highlight=False, markup=False)
    if analysis.specialisation is not None:
        output.print(analysis.specialisation.sentence, highlight=False, markup=False)
    say_files(analysis.folder, [path.name for path in analysis.files])
