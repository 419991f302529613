"""Systems whose decoding goes through torch.compile: the original with its StaticCache, and headspec's own models."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from headspec.load.plain import PlainModel
from headspec.measure.systems.planned import PlannedReading
from headspec.measure.systems.static_cache import StaticReading
from headspec.measure.systems.system import Standing, System
from headspec.measure.systems.transformers_default import with_sdpa

ENGINE = "torch.compile"


class CompiledStaticReading(StaticReading):
    """Reads prompts as transformers does, and single tokens through a graph."""

    def __init__(self, model: Any, graph: Any):
        super().__init__(model)
        self._graph = graph

    def _forward(self, tokens: Tensor, **options: Any) -> Any:
        return (self._graph if self.n_read and tokens.shape[1] == 1 else self.model)(tokens, **options)


def compiled_static(source: PlainModel) -> System:
    """The original with a StaticCache and torch.compile; compiled once for each size."""

    @cache
    def made() -> tuple[Any, Any]:
        model = with_sdpa(source)
        return model, torch.compile(model.forward, fullgraph=True, dynamic=False)

    label = "transformers with a StaticCache, decoding through torch.compile"
    return System("S compiled", label, Standing.PEER, lambda: CompiledStaticReading(*made()), engine=ENGINE)


def compiled(system: System) -> System:
    """A model of headspec's runtime after `compile_decoding`; compiled once, however often it is opened."""

    @cache
    def model() -> Any:
        made = system.open().model
        made.compile_decoding(dynamic=False)  # each cell has a graph of its own size, whatever was run before
        return made

    return system.elsewhere(
        "compiled", "decoding through torch.compile", open=lambda: PlannedReading(model()), engine=ENGINE
    )
