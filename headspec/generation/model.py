"""A model in headspec's runtime, from a name, an export or a loaded model, and what live treatment may know of it."""

from pathlib import Path
from typing import Any

import torch

from headspec.classify.head_map import HeadMap
from headspec.errors import ModelError, RecordError
from headspec.export.export import ARCHITECTURE
from headspec.export.folder import HEAD_MAP as EXPORTED_HEAD_MAP
from headspec.export.surgery import pruned_model
from headspec.load.config import read_config
from headspec.load.explained import explained
from headspec.load.model import load_plain
from headspec.load.names import resolve
from headspec.load.plain import PlainModel, as_plain
from headspec.load.pruned import MODEL_TYPE, register
from headspec.pipeline import HEAD_MAP
from headspec.plan.make import plan_heads


def runtime_model(
    model: Any,
    head_map: HeadMap | Path | str | None = None,
    *,
    device: str = "auto",
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    seed: int = 0,
) -> tuple[Any, Any]:
    """A GPT-NeoX in headspec's runtime, ready for `model.make_cache(policy)`, and its tokenizer (None without one).

    Args:
        model: A name as for `load_plain` (every head is kept), the folder of an exported model, or a loaded PlainModel
            or TransformerBridge.
        head_map: A HeadMap, its file, or a results folder that has one. Without one live generation calls no head
            dead. An export has its own.
        device, dtype, revision, seed: As for `load_plain`, where `model` is a name.

    Raises:
        ModelError: Not a GPT-NeoX, or a head map for an export.
        RecordError: A head map of another model, or not of all its layers.
    """
    found = head_map if head_map is None or isinstance(head_map, HeadMap) else read_head_map(head_map)
    if isinstance(model, str | Path):
        _check_type(str(model), _type_of(str(model), revision), found)
        model = load_plain(str(model), device=device, dtype=dtype, revision=revision, seed=seed)
    plain = as_plain(model, instead="undo that, or load the model anew")
    kind = plain.huggingface.config.model_type
    _check_type(plain.name, kind, found)
    if kind == MODEL_TYPE:
        return plain.huggingface, plain.tokenizer
    _check_architecture(plain)
    if found is not None:
        _check_map(found, plain)
    origin = {"model": plain.name}
    return pruned_model(plain.huggingface, plan_heads(plain, {}), origin, found), plain.tokenizer


def read_head_map(path: Path | str) -> HeadMap:
    """The head map in a file, or in the folder of an analysis, a search or an export."""
    path = Path(path).expanduser()
    if path.is_dir():
        known = (path / HEAD_MAP, path / EXPORTED_HEAD_MAP)
        path = next((file for file in known if file.is_file()), known[0])
    return HeadMap.load(path)


def origin_of(model: Any) -> str:
    """The name of the original model."""
    return str(model.config.headspec.get("model") or model.config.name_or_path)


def _type_of(name: str, revision: str | None) -> str:
    """What kind of model a name stands for; its weights are not read."""
    register()
    source = resolve(name, revision)
    with explained(source):
        return str(read_config(source).model_type)


def _check_type(name: str, kind: str, head_map: HeadMap | None) -> None:
    """Refuse kinds of models that the runtime does not know, and a head map where there is one already."""
    if kind not in ("gpt_neox", MODEL_TYPE):
        raise _other_kind(kind)
    if kind == MODEL_TYPE and head_map is not None:
        raise ModelError(
            f"{name} is an exported model, which carries what its head map says: leave the head map out, or export "
            "anew with it."
        )


def _check_architecture(plain: PlainModel) -> None:
    if type(plain.huggingface).__name__ != ARCHITECTURE:
        raise _other_kind(type(plain.huggingface).__name__)


def _other_kind(kind: str) -> ModelError:
    return ModelError(
        f"{kind} models cannot run in headspec's runtime: it has GPT-NeoX language models only ({ARCHITECTURE}: Pythia "
        "and its like) and what was exported of them."
    )


def _check_map(head_map: HeadMap, plain: PlainModel) -> None:
    known = plain.identity
    head_map.about.check_model(known.name, known.n_layers, known.n_heads)
    if len(head_map.about.layers) != known.n_layers:
        raise RecordError(
            f"this head map knows {len(head_map.about.layers)} of the {known.n_layers} layers of {known.name}: probe "
            "all of them."
        )
