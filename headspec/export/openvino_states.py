"""Keys and values as states of an OpenVINO graph: it keeps them from one inference to the next, as its own do.

Attention of heads that see every key is then OpenVINO's fused one, which appends in place. Rows can be repeated and
reordered by the input `beam_idx`, which says from which row each row goes on.
"""

from typing import Any

import numpy as np

from headspec.runtime.functional import Past


def make_stateful(graph: Any, groups: list[Past], d_head: int) -> None:
    """Turn inputs `keys.N`, `values.N` and the outputs `kept.keys.N`, `kept.values.N` of a graph into states."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    names = [f"{part}.{number}" for number in range(len(groups)) for part in ("keys", "values")]
    _let_rows_go_on(graph, names)
    apply_make_stateful_transformation(graph, {name: f"kept.{name}" for name in names})
    slots = {name: groups[int(name.partition(".")[2])].slots for name in names}
    heads = {name: groups[int(name.partition(".")[2])].n_heads for name in names}
    _begin_empty(graph, {name: (heads[name], slots[name], d_head) for name in names})
    graph.validate_nodes_and_infer_types()


def _let_rows_go_on(graph: Any, names: list[str]) -> None:
    """Rows of every state are taken from those that `beam_idx` says."""
    from openvino import opset13 as ops

    rows = ops.parameter([-1], np.int32, name="beam_idx")
    rows.output(0).get_tensor().set_names({"beam_idx"})
    for name in names:
        port = graph.input(name)
        users = list(port.get_node().output(0).get_target_inputs())
        chosen = ops.gather(port.get_node(), rows, ops.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(chosen.output(0))
    graph.add_parameters([rows])
    graph.validate_nodes_and_infer_types()


def _begin_empty(graph: Any, shapes: dict[str, tuple[int, int, int]]) -> None:
    """States begin with as many rows as there are tokens, and zeros in every slot of a ring."""
    from openvino import opset13 as ops

    first = ops.constant(np.int64(0))
    batch = ops.gather(ops.shape_of(graph.input("tokens"), output_type="i64"), ops.constant([0]), first)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            name = next(name for name in shapes if node.get_variable_id().startswith(f"{name}kept."))
            shape = ops.concat([batch, ops.constant(np.array(shapes[name], np.int64))], axis=0)
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), shape)])
