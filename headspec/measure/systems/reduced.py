"""Systems whose weights have fewer bits: bfloat16 throughout, or packed integers. Pruning and rounding together."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from headspec.errors import HeadspecError
from headspec.measure.systems.planned import PlannedReading
from headspec.measure.systems.system import System

WEIGHTS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "bfloat16": ("bf16", lambda model: model.to(torch.bfloat16)),
    "int8": ("int8", lambda model: model.pack_weights("int8")),
}
"""Short name of each kind, and what makes it of a model of headspec's runtime in float32."""


def with_weights(system: System, kind: str) -> System:
    """A model of headspec's runtime with other weights; made once, however often it is opened.

    Raises:
        HeadspecError: An unknown kind.
    """
    if kind not in WEIGHTS:
        raise HeadspecError(f"weights {kind!r}: choose of {', '.join(WEIGHTS)}.")
    short, reduce = WEIGHTS[kind]

    @cache
    def model() -> Any:
        made = system.open().model
        reduce(made)
        return made

    return system.elsewhere(short, f"{kind} weights", open=lambda: PlannedReading(model()), engine=kind, exact=False)


def as_integers(model: Any) -> Any:
    """The shape of a model whose linear layers hold a byte a number: for its size and its roofline, not to be run."""
    shape = model.to("meta")
    for module in shape.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    return shape
