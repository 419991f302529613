"""`export_model`: a plan and a model become a folder that transformers loads."""

import warnings
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headspec.classify.head_map import HeadMap
from headspec.errors import HeadspecError, ModelError
from headspec.export.card import model_card
from headspec.export.folder import HEAD_MAP, check_space, check_target, fill_folder
from headspec.export.surgery import pruned_model
from headspec.export.twin import dense_twin
from headspec.load.model import load_plain
from headspec.load.names import ModelName, resolve
from headspec.load.plain import as_plain
from headspec.load.pruned import refuse_pruned
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Window

ARCHITECTURE = "GPTNeoXForCausalLM"
"""transformers' class of the models that can be exported: Pythia and every other GPT-NeoX."""
SHARD = "2GB"
"""Largest weight file; also what writing needs in memory beside the model."""


class Target(StrEnum):
    """What an export is."""

    HF = "hf"
    """The pruned model: faster, and runs code from its folder."""
    DENSE_TWIN = "dense-twin"
    """A plain GPT-NeoX of the original shape whose removed heads are dead: no code, no windows, not faster."""
    OPENVINO = "openvino"
    """A graph for OpenVINO with a runner that needs neither torch nor headspec."""


def export_model(
    model: Any,
    plan: HeadPlan | Path | str,
    out: Path | str,
    *,
    to: Target | str = Target.HF,
    head_map: HeadMap | None = None,
    overwrite: bool = False,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    seed: int = 0,
    weights: str = "float32",
    table: bool = False,
    stateful: bool = False,
) -> list[str]:
    """Write the model as the plan treats it into a folder that `AutoModelForCausalLM.from_pretrained` loads, or, with
    `to="openvino"`, that the runner in it does.

    The folder holds weights (safetensors), configuration, the code that runs it, the original's tokenizer and
    generation config, the plan, the head map and a model card. The original is not changed.

    Args:
        model: A name as for `load_model`, a PlainModel, a TransformerBridge (its Hugging Face model is exported;
            weights edited in the bridge are refused) or a GPTNeoXForCausalLM.
        plan: A HeadPlan for this model, or the path of a saved one.
        out: The folder; new, empty, or with `overwrite` one of an earlier export.
        to: `hf`; `dense-twin` for a plain GPT-NeoX of the original shape, which cannot hold windows; `openvino` for a
            graph, which cannot hold compressed heads and is float32 but for its `weights`.
        head_map: Saved with it, as `head_map.json`, and used by live generation: without one no head is called dead.
        overwrite: Replace what an earlier export wrote into `out`, and nothing else.
        dtype: Of the weights when `model` is a name. Half the bytes as float16, and rounded.
        revision: On the hub, when `model` is a name.
        seed: Draws the weights of `random:` models.
        weights: Of an OpenVINO export: `float32`, or `int8`, a quarter of the bytes and rounded.
        table: Of an OpenVINO export: look the first layer up (`tabulate_first_layer`), which costs more bytes.
        stateful: Of an OpenVINO export: keys and values are states of the graph.

    Returns:
        The names of the files written.

    Raises:
        HeadspecError: A plan with treatments that cannot be exported, a folder that must not be written to or has no
            room.
        ModelError: Not a GPT-NeoX, or a model that is pruned already.
        RecordError: The plan is for another model.
        MissingPackageError: OpenVINO or nncf is not installed.
    """
    target, out = _target(to), Path(out).expanduser()
    plan = plan if isinstance(plan, HeadPlan) else HeadPlan.load(plan)
    _check_plan(plan, target)
    _check_wishes(target, weights, table or stateful)
    _check_numbers(target, dtype)
    check_target(out, overwrite)
    if isinstance(model, str | Path):
        model = load_plain(str(model), device="cpu", dtype=dtype, revision=revision, seed=seed)
    plain = as_plain(model, instead="undo that, or export a GPTNeoXForCausalLM with the edited weights")
    _check_architecture(plain.huggingface)
    plan.about.check_model(plain.identity)
    _check_numbers(target, plain.identity.dtype)
    if head_map is not None:
        head_map.about.check_model(plan.about.model, plan.about.n_layers, plan.about.n_heads)
    treated = (
        dense_twin(plain.huggingface, plan)
        if target is Target.DENSE_TWIN
        else _pruned(plain.huggingface, plan, head_map)
    )
    check_space(out, sum(tensor.numel() * tensor.element_size() for tensor in treated.parameters()))

    def fill(folder: Path) -> None:
        if target is Target.OPENVINO:
            _save_graph(treated, folder, plan, weights, table, stateful)
        else:
            treated.save_pretrained(folder, max_shard_size=SHARD)
        if plain.tokenizer is not None:
            plain.tokenizer.save_pretrained(folder)
        plan.save(folder / "plan.json")
        if head_map is not None:
            head_map.save(folder / HEAD_MAP)
        _write_card(folder, plan, _source(plain.name), target)

    return fill_folder(out, fill)


def _check_numbers(target: Target, dtype: torch.dtype | str) -> None:
    if target is Target.OPENVINO and dtype not in (torch.float32, "float32"):
        raise HeadspecError(f"an OpenVINO export starts from float32, and this is {dtype}: ask for weights='int8'.")


def _check_wishes(target: Target, weights: str, more: bool) -> None:
    """Refuse what only a graph can have, and graphs that cannot be made."""
    if target is Target.OPENVINO:
        from headspec.export.openvino import check_openvino

        check_openvino(weights)
    elif weights != "float32" or more:
        raise HeadspecError(
            "weights, table and stateful are for to='openvino' only. Of another export, call pack_weights('int8') or "
            "tabulate_first_layer() of the loaded model."
        )


def _save_graph(treated: Any, folder: Path, plan: HeadPlan, weights: str, table: bool, stateful: bool) -> None:
    from headspec.export.openvino import save_openvino

    if table:
        try:
            treated.tabulate_first_layer()
        except ValueError as error:
            raise HeadspecError(str(error)) from error
    origin = {"model": plan.about.model, "plan": plan.digest, "headspec": version("headspec"), "table": table}
    save_openvino(treated, folder, weights, stateful, origin=origin)


def _target(to: Target | str) -> Target:
    if to not in tuple(Target):
        raise HeadspecError(f"to={to!r}: choose {' or '.join(Target)}.")
    return Target(to)


def _check_plan(plan: HeadPlan, target: Target) -> None:
    windowed, compressed = plan.heads(Window), plan.heads(Compress)
    if target is Target.OPENVINO and compressed:
        raise HeadspecError(
            f"this plan cannot go to OpenVINO: {len(compressed)} of its heads are compressed, and no graph can choose "
            "keys. Export it with to='hf'."
        )
    if target is Target.DENSE_TWIN and (windowed or compressed):
        warnings.warn(
            f"a dense twin cannot hold windows or compressed caches: the {len(windowed)} windowed and "
            f"{len(compressed)} compressed heads see every key.",
            stacklevel=3,
        )


def _check_architecture(model: Any) -> None:
    refuse_pruned(model.config.model_type, "exported again")
    kind, name = model.config.model_type, type(model).__name__
    if name != ARCHITECTURE:
        came = f"a {name}" if kind == "gpt_neox" else f"{kind} models"
        raise ModelError(
            f"{came} cannot be exported: headspec writes GPT-NeoX language models only ({ARCHITECTURE}: Pythia, "
            "gpt-neox-20b and their like)."
        )


def _pruned(source: Any, plan: HeadPlan, head_map: HeadMap | None) -> Any:
    origin = {"model": plan.about.model, "plan": plan.digest, "headspec": version("headspec")}
    return pruned_model(source, plan, origin, head_map)


def _source(name: str) -> ModelName | None:
    """Where a model of this name comes from; None if it only has a name."""
    try:
        return resolve(name)
    except ModelError:
        return None


def _write_card(folder: Path, plan: HeadPlan, source: ModelName | None, target: Target) -> None:
    code = sorted(path.name for path in folder.glob("*.py"))
    share = None
    if target is Target.OPENVINO:
        from headspec.export.openvino import graph_kv_share

        share = graph_kv_share(folder, plan, plan.about.context)
    card = model_card(plan, source, target is Target.DENSE_TWIN, code, share)
    (folder / "README.md").write_text(card, encoding="utf-8")
