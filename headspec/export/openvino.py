"""A pruned model on OpenVINO: the graph, what its inputs mean, and a runner that needs neither torch nor headspec."""

import json
import logging
import shutil
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from headspec.errors import HeadspecError, MissingPackageError
from headspec.export.openvino_states import make_stateful
from headspec.export.program import INPUTS, step_program
from headspec.plan.plan import HeadPlan
from headspec.runtime import openvino_runner
from headspec.runtime.functional import Past
from headspec.runtime.openvino_runner import CONFIG, MODEL

EXTRA = "pip install 'headspec[openvino]'"
SCHEMA = "headspec.OpenVINO/1"
WEIGHTS = ("float32", "int8")


def check_openvino(weights: str = "float32") -> None:
    """Refuse what cannot be done here, before anything is.

    Raises:
        MissingPackageError: A package is missing; the message names the extra that brings it.
        HeadspecError: A kind of weights that there is not.
    """
    if weights not in WEIGHTS:
        raise HeadspecError(f"weights={weights!r}: an OpenVINO export has {' or '.join(WEIGHTS)} weights.")
    try:
        import openvino  # noqa: F401

        if weights == "int8":
            import nncf  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(f"{error.name} is not installed: {EXTRA}.") from error


def openvino_model(model: Any, weights: str = "float32", stateful: bool = False) -> tuple[Any, list[list[Any]]]:
    """The graph of a pruned model as an `openvino.Model`, and the layout of its caches.

    Args:
        model: A PrunedGPTNeoXForCausalLM in float32.
        weights: `int8`: matrices as integers of 8 bits with a scale and zero point for each output (nncf's
            `compress_weights`); keys, values and what is computed stay float32.
        stateful: Keys and values are states of the graph, in place of buffers of the runner: easier to use from
            elsewhere, and slower (docs/speed.md).

    Raises:
        MissingPackageError: openvino or nncf is missing.
        HeadspecError: Compressed heads, which no graph can have.
    """
    check_openvino(weights)
    import openvino

    try:
        program, layout = step_program(model, keeping=stateful)
    except ValueError as error:
        raise HeadspecError(f"this plan cannot go to OpenVINO: {error}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own export, which users can do nothing about
        graph = openvino.convert_model(program)
    groups = [group for layer in layout for group in layer]
    kept = [f"{part}.{number}" for number in range(len(groups)) for part in ("keys", "values")]
    given = [f"kept.{name}" for name in kept] if stateful else [f"new.{number}" for number in range(len(groups))]
    for ports, names in ((graph.inputs, [*INPUTS, *kept]), (graph.outputs, ["logits", *given])):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    if stateful:
        make_stateful(graph, groups, model.config.hidden_size // model.config.num_attention_heads)
    return _with_integers(graph) if weights == "int8" else graph, layout


def _with_integers(graph: Any) -> Any:
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    with redirect_stdout(None):  # it draws tables and bars
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)


def graph_kv_share(folder: Path, plan: HeadPlan, n_tokens: int) -> float:
    """KV bytes of the graph in a folder after a prompt, as a share of the original's.

    More than the plan says where a layer has several windows: its rings are all as wide as the widest wants.
    """
    layers = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["layers"]
    groups = [Past(each["n_heads"], tuple(each["windows"]), each["sinks"]) for layer in layers for each in layer]
    return sum(group.n_heads * (group.slots or n_tokens) for group in groups) / (len(plan.about.heads) * n_tokens)


def save_openvino(
    model: Any, folder: Path, weights: str = "float32", stateful: bool = False, **about: Any
) -> None:  # fmt: skip
    """Write graph, configuration and runner into a folder; `about` goes into the configuration."""
    import openvino

    graph, layout = openvino_model(model, weights, stateful)
    openvino.save_model(graph, folder / MODEL, compress_to_fp16=False)
    config, ends = model.config, model.generation_config.eos_token_id
    described = {
        "schema": SCHEMA, "weights": weights, "stateful": stateful, "context": config.max_position_embeddings,
        "vocabulary": config.vocab_size, "d_head": config.hidden_size // config.num_attention_heads,
        "eos": [] if ends is None else [ends] if isinstance(ends, int) else list(ends),
        "layers": [[group._asdict() for group in layer] for layer in layout], **about,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(openvino_runner.__file__, folder / Path(openvino_runner.__file__).name)
