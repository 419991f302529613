"""The KV cache of a pruned model: per layer one store for each group of heads."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .compressed import CompressedStore
from .configuration import HeadGroup, PrunedGPTNeoXConfig
from .stores import FullStore, RingStore, Store
from .tricks import Tricks


class LayerCache(CacheLayerMixin):
    """The stores of one layer. A layer without heads has none, and still counts columns."""

    is_croppable = True
    is_sliding = False

    def __init__(self, groups: list[HeadGroup], make_store: Callable[[HeadGroup], Store]):
        super().__init__()
        self.length = 0
        """Columns read, padding included."""
        self.stores = [make_store(group) for group in groups]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(store.nbytes for store in self.stores)

    def get_seq_length(self) -> int:
        """Columns read."""
        return self.length

    def get_max_length(self) -> int:
        """-1: the stores grow as they need."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of a mask over all columns."""
        return self.length + query_length, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Buffers are made by the stores."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple:
        """Not for this cache: heads do not share their keys' number."""
        raise NotImplementedError("the cache of a pruned model works with that model only.")

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the latest `-tokens_to_remove` columns (transformers counts them negative)."""
        self.length = self.after_crop(tokens_to_remove)

    def after_crop(self, tokens_to_remove: int) -> int:
        """The length after `crop`; an error if that cannot be."""
        if tokens_to_remove > 0 or -tokens_to_remove > self.length:
            raise ValueError(
                f"crop({tokens_to_remove}): want minus the number of tokens to take back, from 0 to -{self.length}."
            )
        for store in self.stores:
            store.check_crop(self.length, self.length + tokens_to_remove)
        return self.length + tokens_to_remove

    def activate_past_recording(self) -> None:
        """Keep enough in the rings that `crop` can take tokens back."""
        for store in self.stores:
            store.record_past(self.length)

    def reset(self) -> None:
        """Forget everything."""
        self.length = 0
        for store in self.stores:
            store.reset()

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or select rows of the batch."""
        for store in self.stores:
            store.change_rows(change)


class PrunedCache(Cache):
    """The KV cache of a pruned model: `model.make_cache()`.

    `nbytes` is what it holds: of a windowed head `window` and `sinks` keys, or, if `expected` is less than the window,
    `expected` and `sinks`. After `activate_past_recording()` tokens can be taken back by `crop(-n)`.
    """

    def __init__(self, config: PrunedGPTNeoXConfig, expected: int = 0, tricks: Tricks | None = None, prompt: int = 0):
        """Empty.

        Args:
            config: Of the model.
            expected: Columns that will be read, padding included; buffers are made for so many at once. 0 if unknown.
            tricks: Of the model.
            prompt: Columns of the prompt, after which compressed heads choose their keys; 0: those of the first call.
        """
        context, tricks = config.max_position_embeddings, tricks or Tricks()
        if not isinstance(prompt, int) or not 0 <= prompt <= context:
            raise ValueError(f"prompt={prompt}: want a number of tokens within the context of {context}; 0 if unknown.")
        expected = min(expected, context)

        def make_store(group: HeadGroup, layer: int) -> Store:
            if group.policy:
                return CompressedStore(group, expected, context, prompt, seed=layer)
            if not group.window:
                return FullStore(group, expected, context)
            return RingStore(group, min(group.window, expected or context) if tricks.rings else context)

        layers = [
            LayerCache(config.groups(layer), partial(make_store, layer=layer))
            for layer in range(config.num_hidden_layers)
        ]
        super().__init__(layers=layers)
        compressed = any(isinstance(store, CompressedStore) for layer in layers for store in layer.stores)
        self.prompt = prompt if compressed else 0
        """Columns of the prompt; 0 if they are not known, or it makes no difference."""
        self.real: Tensor | None = None
        """`[batch, column]`, False on padding; None while there is none."""

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, as they are, full or not."""
        return sum(layer.nbytes for layer in self.layers)

    def left_of_prompt(self, n_new: int) -> int:
        """How many of the new columns still belong to the prompt, where others do not; 0 otherwise."""
        left = self.prompt - self.get_seq_length()
        return left if 0 < left < n_new else 0

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the latest `-tokens_to_remove` columns; all layers or, with an error, none."""
        for layer in self.layers:
            layer.after_crop(tokens_to_remove)
        super().crop(tokens_to_remove)
        if self.real is not None:
            self.real = self.real[:, : self.get_seq_length()]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.real = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows as beam search wants them."""
        self._change_rows(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        self._change_rows(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """These rows only."""
        self._change_rows(lambda rows: rows[indices.to(rows.device)])

    def _change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        for layer in self.layers:
            layer.change_rows(change)
        if self.real is not None:
            self.real = change(self.real)


def real_columns(mask: Tensor | None, cache: PrunedCache | None, shape: torch.Size, n_past: int) -> Tensor | None:
    """Which columns hold real tokens, `[batch, n_past + new]`; None if all do.

    Args:
        mask: `attention_mask` of a forward: None, or `[batch, n_past + new]` of 0 and 1.
        cache: What is known of the columns before.
        shape: `[batch, new]`, of the new tokens.
        n_past: Columns in the cache.
    """
    batch, n_new = shape
    known = cache.real if cache is not None else None
    if mask is None:
        return None if known is None else torch.cat((known, known.new_ones(batch, n_new)), dim=-1)
    if mask.ndim != 2 or mask.shape != (batch, n_past + n_new):
        raise ValueError(
            f"attention_mask has the shape {tuple(mask.shape)}: want (batch, past + new tokens) = "
            f"{(batch, n_past + n_new)}, 0 on padding and 1 elsewhere."
        )
    real = mask.bool()
    if known is None and bool(real.all()):
        return None
    if n_past and not torch.equal(real[:, :n_past], torch.ones_like(real[:, :n_past]) if known is None else known):
        raise ValueError("attention_mask hides other tokens of the past than when they were read: start a new cache.")
    return real
