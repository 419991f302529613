"""S: the original in transformers with a StaticCache: the fastest that one argument gives, and the honest baseline."""

from transformers import StaticCache

from headspec.load.plain import PlainModel
from headspec.measure.systems.reading import Reading
from headspec.measure.systems.system import Standing, System
from headspec.measure.systems.transformers_default import with_sdpa


class StaticReading(Reading):
    """Reads through a StaticCache: room for all columns at once, and all of it is attended to, masked where empty."""

    def _make_cache(self, prompt: int, expected: int) -> StaticCache:
        return StaticCache(config=self.model.config, max_cache_len=expected)

    def _repeat_rows(self, times: int) -> None:
        """A new cache with more rows, layer by layer: transformers cannot repeat those of a StaticCache."""
        old, new = self.cache, self._make_cache(0, self.expected)
        for number, layer in enumerate(old.layers):
            kv = (part[:, :, : self.n_read].repeat_interleave(times, dim=0) for part in (layer.keys, layer.values))
            new.update(*kv, number)
            del layer.keys, layer.values
        self.cache = new


def static_cache(source: PlainModel) -> System:
    """The original with sdpa attention and a StaticCache."""
    label = "transformers with a StaticCache, sdpa attention"
    return System("S", label, Standing.REFERENCE, lambda: StaticReading(with_sdpa(source)))
