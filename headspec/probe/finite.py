"""Name what is not a number: NaN and infinity, by layer and head, as soon as they show."""

from typing import Any

from torch import Tensor

from headspec.errors import ModelError

MOST_NAMED = 4


class NotFiniteError(ModelError):
    """Heads whose activations are NaN or infinite; `probe_heads` adds which weights are."""


def check_finite(name: str, sums: Tensor, layer: int) -> None:
    """Refuse sums `[batch, head, …]` that hold NaN or infinity, naming the heads.

    Layers run in order, so the first layer to be named is where it starts.
    """
    bad = ~sums.isfinite()
    if not bad.any():
        return
    if sums.ndim < 2:  # sums over a whole window: the residual that enters the layer
        raise NotFiniteError(f"NaN or infinity in the residual stream that enters layer {layer}")
    heads = bad.transpose(0, 1).flatten(1).any(1).nonzero().flatten().tolist()
    what = "attention" if name in ("patterns", "near_mass", "offset_mass") else name.replace("_", " ")
    raise NotFiniteError(f"NaN or infinity in the {what} of {_some([f'L{layer}H{head}' for head in heads])}")


def non_finite_weights(model: Any) -> list[str]:
    """Names of the parameters of a torch module that hold NaN or infinity."""
    return [name for name, weights in model.named_parameters() if not bool(weights.isfinite().all())]


def explained(error: NotFiniteError, name: str, dtype: str, model: Any) -> ModelError:
    """The error with its likely cause: damaged weights, by name, or a number format that is too narrow."""
    damaged = non_finite_weights(model)
    if damaged:
        cause = f"So do the weights {_some(damaged)}: they are damaged. Copy them anew."
    else:
        wider = "float64 --engine hooks" if dtype == "float32" else "float32"
        cause = f"The weights are all finite: is {dtype} too narrow? Try --dtype {wider}."
    return ModelError(f"{name} gives {error}. {cause}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
