"""`headspec export`: a plan becomes a model that loads without headspec."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headspec.cli.app import Debug, ModelArgument, app, option, quieten_libraries, say, say_files
from headspec.cli.shared import Dtype, Seed, warn_of_random_weights


class To(StrEnum):
    """What an export is, as `headspec.export.export.Target` has it; here without importing torch."""

    HF = "hf"
    DENSE_TWIN = "dense-twin"
    OPENVINO = "openvino"


@app.command()
def export(
    model: ModelArgument,
    plan: Annotated[Path, option("The plan.json of `headspec search`, `ablate` or your own.")],
    out: Annotated[Path, option("Folder of the new model.")],
    to: Annotated[
        To,
        option(
            "hf: pruned and faster, runs code from its folder. dense-twin: plain GPT-NeoX, no windows. openvino: "
            "a graph with a small runner."
        ),
    ] = To.HF,
    head_map: Annotated[
        Path | None, option("Saved with it; by default the head map beside the plan, if there is one.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in the folder.")] = False,
    weights: Annotated[
        str, option("Of an OpenVINO export: float32, or int8 (a quarter of the bytes, rounded).")
    ] = "float32",
    table: Annotated[
        bool, typer.Option("--table", help="Of an OpenVINO export: look the first layer up; faster, more bytes.")
    ] = False,
    stateful: Annotated[
        bool, typer.Option("--stateful", help="Of an OpenVINO export: the graph keeps keys and values itself; slower.")
    ] = False,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Write MODEL, treated as the plan says, as a Hugging Face model."""
    from headspec.classify.head_map import HeadMap
    from headspec.export import folder
    from headspec.load.names import resolve
    from headspec.pipeline import HEAD_MAP
    from headspec.plan.plan import HeadPlan
    from headspec.plan.size import plan_size

    resolve(model)
    chosen = HeadPlan.load(plan)
    beside = (path for path in map(plan.with_name, (HEAD_MAP, folder.HEAD_MAP)) if path.is_file())
    where = head_map or next(beside, None)
    found = None if where is None else HeadMap.load(where)
    quieten_libraries()
    from headspec.export.export import export_model

    say(f"exporting {model}")
    files = export_model(
        model, chosen, out, to=to.value, head_map=found, overwrite=overwrite, dtype=dtype, seed=seed, weights=weights,
        table=table, stateful=stateful,
    )  # fmt: skip
    if to is not To.DENSE_TWIN:
        size = plan_size(chosen)
        share = size.kv_share
        if to is To.OPENVINO:
            from headspec.export.openvino import graph_kv_share

            share = graph_kv_share(out, chosen, size.n_tokens)
        say(
            f"{size.removed_share:.1%} of the attention weights removed; KV cache of {size.n_tokens} tokens: "
            f"{share:.1%} of the original's"
        )
    warn_of_random_weights(model)
    say_files(out, files)
