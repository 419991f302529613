"""V: the original as transformers runs it when nothing is asked for, with sdpa attention and a DynamicCache.

Its cache is copied whole for every token, so at larger batches it measures malloc as much as anything: the honest
baseline is S (`static_cache.py`), one argument away.
"""

import copy
from itertools import chain
from typing import Any

from transformers import DynamicCache

from headspec.load.plain import PlainModel
from headspec.load.pruned import refuse_pruned
from headspec.measure.systems.reading import Reading
from headspec.measure.systems.system import Standing, System


class DynamicReading(Reading):
    """Reads through a DynamicCache, which grows by copying."""

    def _make_cache(self, prompt: int, expected: int) -> DynamicCache:
        return DynamicCache(config=self.model.config)


def transformers_default(source: PlainModel) -> System:
    """The original with sdpa attention and a DynamicCache."""
    label = "transformers as it is: sdpa attention, DynamicCache"
    return System("V", label, Standing.REFERENCE, lambda: DynamicReading(with_sdpa(source)))


def with_sdpa(source: PlainModel) -> Any:
    """The original with sdpa attention: itself, or a copy that shares its tensors."""
    model = source.huggingface
    refuse_pruned(model.config.model_type, "the original that others are compared with")
    if model.config._attn_implementation == "sdpa":
        return model
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, shared)
    twin.set_attn_implementation("sdpa")
    return twin
