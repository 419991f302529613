"""The KV cache of a pruned model: per layer one store for each group of heads."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .adaptive import FULL, AdaptivePolicy
from .compressed import CompressedStore
from .configuration import HeadGroup, PrunedGPTNeoXConfig
from .evidence import KnownHeads
from .live import LiveStore
from .record import Held, LiveLog, LiveRecord
from .slices import Slices
from .stores import FullStore, RingStore, Store, slots_for
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
        self._live = any(isinstance(store, LiveStore) for store in self.stores)
        self.slices: Slices | None = None
        """The projections without the heads that have died in this text."""
        self.residual: Tensor | None = None
        """What enters the layer, while it is computed."""

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(store.nbytes for store in self.stores)

    def cut(self, attention: Any) -> None:
        """Slice heads that have died out of the projections of the layer; they count from the next tokens on."""
        if not self._live:
            return
        alive, before = list[int](), 0
        for store in self.stores:
            alive.extend(before + place for place in store.alive)
            before += len(store.group.heads)
        if len(alive) < (before if self.slices is None else len(self.slices.alive)):
            nothing = attention.dense.weight.new_zeros(attention.d_head)
            constants = torch.cat([_constants(store, nothing) for store in self.stores])
            self.slices = Slices(attention, alive, constants)

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
        self.length, self.slices = 0, None
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

    def __init__(
        self, config: PrunedGPTNeoXConfig, expected: int = 0, tricks: Tricks | None = None, prompt: int = 0,
        policy: AdaptivePolicy | None = None,
    ):  # fmt: skip
        """Empty.

        Args:
            config: Of the model.
            expected: Columns that will be read, padding included; buffers are made for so many at once. 0 if unknown.
            tricks: Of the model.
            prompt: Columns of the prompt, after which compressed heads choose their keys; 0: those of the first call.
            policy: How heads are treated while they are watched; None: as the checkpoint says.
        """
        self.config, self.tricks, self.policy = config, tricks or Tricks(), policy
        self.log: LiveLog | None = None
        self._n_classifications = 0
        self._item_bytes, self._own = 0, (min(expected, config.max_position_embeddings), prompt)
        self._told = self._own
        """Columns expected, and those of the prompt, as far as they are known; in `_own` by who made the cache."""
        self.layers: list[LayerCache]
        super().__init__(layers=self._make_layers(expected, prompt))
        self.real: Tensor | None = None
        """`[batch, column]`, False on padding; None while there is none."""

    def _make_layers(self, expected: int, prompt: int) -> list[LayerCache]:
        config, context = self.config, self.config.max_position_embeddings
        if not isinstance(prompt, int) or not 0 <= prompt <= context:
            raise ValueError(f"prompt={prompt}: want a number of tokens within the context of {context}; 0 if unknown.")
        expected = min(expected, context)
        if self.policy is not None:
            origin = str(config.headspec.get("model") or config.name_or_path)
            self.log = LiveLog(origin, config.num_hidden_layers, config.num_attention_heads, self.policy.to_dict())

        def make_store(group: HeadGroup, layer: int) -> Store:
            if group.policy:
                return CompressedStore(group, expected, context, prompt, seed=layer)
            if group.window:
                return RingStore(group, min(group.window, expected or context) if self.tricks.rings else context)
            return FullStore(group, expected, context)

        def begin_store(group: HeadGroup, layer: int) -> Store:
            make = partial(make_store, layer=layer)
            if self.policy is None or group[1:] != FULL[1:]:
                return make(group)
            assert self.log is not None
            known = KnownHeads.of(config.head_facts, layer, group.heads, self.policy.dead)
            return LiveStore(group, expected, context, prompt, self.policy, known, make, layer, self.log)

        layers = [
            LayerCache(config.groups(layer), partial(begin_store, layer=layer))
            for layer in range(config.num_hidden_layers)
        ]
        choosing = any(isinstance(store, CompressedStore | LiveStore) for layer in layers for store in layer.stores)
        self.prompt = prompt if choosing else 0
        """Columns of the prompt; 0 if they are not known, or it makes no difference."""
        return layers

    def expect(self, expected: int, prompt: int) -> None:
        """Tell an empty cache with a policy, if nobody has: columns that will be read, and those of the prompt."""
        if self.policy is None or all(self._told) or self.get_seq_length():
            return
        expected, prompt = (told or known for told, known in zip(self._told, (expected, prompt), strict=True))
        expected = min(expected, self.config.max_position_embeddings)
        self._make_anew(expected, prompt)

    def _make_anew(self, expected: int, prompt: int) -> None:
        """Empty stores for other lengths; whether the past is recorded stays as it was."""
        live = [store for layer in self.layers for store in layer.stores if isinstance(store, LiveStore)]
        recording = any(store.parts.recording for store in live)
        self._told = (expected, prompt)
        self.layers = self._make_layers(expected, prompt)
        if recording:
            self.activate_past_recording()

    def record(self) -> LiveRecord:
        """What has happened to the heads so far, under an AdaptivePolicy."""
        if self.log is None:
            raise ValueError("nothing is recorded: this cache has no AdaptivePolicy. Use model.make_cache(policy).")
        return self.log.record(self._held())

    def note(self, hidden: Tensor, n_new: int) -> None:
        """So many columns were read, the last residual is `[batch, …, d_model]`: note what the cache holds, if it is
        time to."""
        if self.log is None or self.policy is None:
            return
        self.log.n_rows, self.log.n_prompt = len(hidden), self.log.n_prompt or self.prompt or n_new
        self._item_bytes = hidden.element_size()
        after, every = self.get_seq_length() - self.log.n_prompt, self.policy.every
        classified = self.log.n_classifications > self._n_classifications
        self._n_classifications = self.log.n_classifications
        if classified or 0 <= after < n_new or (after > 0 and after // every > (after - n_new) // every):
            self.log.held.append(self._held())

    def _held(self) -> Held:
        """Bytes now, and what they would be if every head of the checkpoint kept every key."""
        assert self.log is not None
        n_heads = sum(len(store.group.heads) for layer in self.layers for store in layer.stores)
        d_head = self.config.hidden_size // self.config.num_attention_heads
        n_read, context = self.get_seq_length(), self.config.max_position_embeddings
        row_bytes = 2 * n_heads * d_head * self._item_bytes * slots_for(n_read, self._told[0], context)
        return Held(n_read, self.nbytes, self.log.n_rows * row_bytes)

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
        if self.log is not None:
            self.log.take_back(self.get_seq_length())
        if self.real is not None:
            self.real = self.real[:, : self.get_seq_length()]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.real = None
        if self.log is not None:
            self._n_classifications = 0
            self._make_anew(*self._own)

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


def _constants(store: Store, like: Tensor) -> Tensor:
    """What stands in for the z of the dead heads of a store, `[head, d_head]`; 0 for the others."""
    found = store.evidence.constant if isinstance(store, LiveStore) else None
    return like.new_zeros(len(store.group.heads), len(like)) if found is None else found.to(like)


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
