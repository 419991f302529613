"""Where the heads of one group keep their keys and values: all of them, or a ring of the latest.

A store answers the same questions whatever it is inside: `attend`, `nbytes`, `change_rows`, `check_crop`,
`record_past`, `reset`; and, where heads move between stores (`live.py`), `fill`, `keep_heads`, `join`, `everything`.
Those of compressed heads: `compressed.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import all_mask, attention, pick_sinks, see_all, see_ring, see_window
from .configuration import HeadGroup
from .policies import QueryFacts
from .step import Step

GROWTH = 256
"""Columns by which a full store grows when it was not told how long the text will be."""
TAKE_BACK = 128
"""Columns that a ring can take back while it records the past (as for assisted decoding)."""


class Watched(NamedTuple):
    """What stores that watch their heads are shown beside the queries."""

    facts: QueryFacts | None
    """Of heads under expected attention."""
    residual: Tensor
    """That enters the layer, `[batch, column, d_model]`, of the columns that come now."""
    w_o: Callable[[], Tensor | None]
    """Gives the output projections of the heads, `[head, d_head, d_model]`; None if they cannot be cut."""


class Store:
    """One buffer, `[key or value, batch, head, slot, d_head]`, made when the first keys come."""

    def __init__(self, group: HeadGroup):
        self.group = group
        self.alive = list(range(len(group.heads)))
        """Places of the heads that are computed, in order."""
        self.buffer: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, whether full or not."""
        return 0 if self.buffer is None else self.buffer.numel() * self.buffer.element_size()

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or select rows of the batch."""
        if self.buffer is None:
            return
        changed = None
        for number, part in enumerate(self.buffer):  # keys, then values: of what is new, one half lies there twice
            rows = change(part)
            changed = rows.new_empty(len(self.buffer), *rows.shape) if changed is None else changed
            changed[number] = rows
        self.buffer = changed

    def reset(self) -> None:
        """Forget everything."""
        self.buffer = None

    @property
    def n_heads(self) -> int:
        """Heads that are computed."""
        return len(self.alive)

    def watched(self) -> int:
        """How many of the last queries the store wants to see by `watch`, before `attend`."""
        return 0

    def watch(self, queries: Tensor, seen: "Watched") -> None:
        """Look at the last queries, `[batch, head, query, d_head]`; comes before `attend`."""

    def attend(self, query: Tensor, kv: Tensor, step: Step, dropout: float = 0.0) -> Tensor:
        """Keep the new keys and values, `[key or value, batch, head, token, d_head]`, and attend: `[…, d_head]`."""
        raise NotImplementedError

    def with_room(self, like: Tensor, n_past: int, n_total: int) -> Tensor:
        """The buffer, with room for columns up to `n_total`, of which `n_past` are there; made like these keys."""
        raise NotImplementedError

    def appended(self, n_total: int) -> None:
        """Somebody has put the columns up to `n_total` into the buffer."""

    def fill(self, kv: Tensor, step: Step) -> None:
        """Start with heads that have read a text already; `kv` holds all its columns, `step` is its latest."""
        raise NotImplementedError

    def everything(self, n_total: int) -> Tensor | None:
        """Keys and values of all columns, in order; None if some are gone."""
        return None

    def keep_heads(self, places: list[int]) -> None:
        """Go on with some of the heads only; the memory of the others is freed."""
        self.buffer = None if self.buffer is None else self.buffer[:, :, places]

    def join(self, other: "Store") -> bool:
        """Take over the heads of another store, behind one's own, if both lie alike; otherwise do nothing."""
        mine, theirs = self.buffer, other.buffer
        if type(self) is not type(other) or mine is None or theirs is None or mine.shape[3] != theirs.shape[3]:
            return False
        self.buffer = torch.cat((mine, theirs), dim=2)
        return True

    def check_crop(self, n_before: int, n_after: int) -> None:
        """An error if the columns from `n_after` on cannot be taken back."""

    def record_past(self, length: int) -> None:
        """From now on keep what `crop` may take back, if it is not there anyway."""

    def _room(self, like: Tensor, slots: int) -> Tensor:
        """An empty buffer."""
        with torch.inference_mode(False):  # what inference mode makes could not be written to outside it
            return like.new_zeros(*like.shape[:3], slots, like.shape[-1])

    def _writable(self, buffer: Tensor) -> Tensor:
        """The buffer, or a copy if autograd may still need what it holds, or inference mode has locked it."""
        locked = buffer.is_inference() and not torch.is_inference_mode_enabled()
        return buffer.clone() if locked or (torch.is_grad_enabled() and buffer.requires_grad) else buffer


class FullStore(Store):
    """Every key, in a buffer for `expected` columns at once, so that nothing is copied while the text grows."""

    def __init__(self, group: HeadGroup, expected: int, context: int):
        super().__init__(group)
        self.expected, self.context = expected, context

    def attend(self, query: Tensor, kv: Tensor, step: Step, dropout: float = 0.0) -> Tensor:
        """Keep the new keys and values, and attend over all."""
        return see_all(query, self._keep(kv, step), step, dropout)

    def attend_openly(self, query: Tensor, kv: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """As `attend`, for the last query, and its attention: `[batch, head, 1, key]`."""
        keys, values = self._keep(kv, step)
        pattern = attention(query, keys, step.once(("all", 1), lambda: all_mask(step, 1)))
        return pattern.to(values.dtype) @ values, pattern

    def fill(self, kv: Tensor, step: Step) -> None:
        """Keep all of it."""
        self._keep(kv, step.whole())

    def everything(self, n_total: int) -> Tensor | None:
        """All of it."""
        return None if self.buffer is None else self.buffer[:, :, :, :n_total]

    def _keep(self, kv: Tensor, step: Step) -> Tensor:
        """Put the new columns into the buffer; all columns."""
        buffer = self.with_room(kv, step.n_past, step.n_total)
        buffer[:, :, :, step.n_past : step.n_total] = kv
        return buffer[:, :, :, : step.n_total]

    def with_room(self, like: Tensor, n_past: int, n_total: int) -> Tensor:
        """The buffer, longer if it must be."""
        old = self.buffer
        if old is not None and old.shape[3] >= n_total:
            self.buffer = self._writable(old)
            return self.buffer
        self.buffer = buffer = self._room(like, slots_for(n_total, self.expected, self.context))
        if old is not None:
            buffer[:, :, :, : old.shape[3]] = old
        return buffer


def slots_for(n_total: int, expected: int, context: int) -> int:
    """Slots of a full store for so many columns: for all that are expected, or in steps."""
    return expected if n_total <= expected else min(-(-n_total // GROWTH) * GROWTH, context)


class RingStore(Store):
    """Sinks first, then a ring: column c lies in slot c modulo the number of slots, and overwrites what was there.

    The order of keys inside the ring does not matter: they are rotated by their position already.
    """

    def __init__(self, group: HeadGroup, slots: int, window: int = 0, front: int = 0):
        super().__init__(group)
        self.window, self.front = window or group.window, front or group.sinks
        """Keys that a query sees of the ring, its own included; slots in front of the ring, which are never
        overwritten."""
        self.slots = slots
        """At least `window`, or as many as there will be columns."""
        self.oldest = 0
        """First column that may still be in the ring."""

    def attend(self, query: Tensor, kv: Tensor, step: Step, dropout: float = 0.0) -> Tensor:
        """Keep the new keys and values, and attend over sinks and windows."""
        buffer = self.with_room(kv, step.n_past, step.n_total)
        if query.shape[2] == 1:
            self._append(buffer, kv, step)
            return see_ring(query, buffer, self.group, step, dropout)
        near = torch.cat((self._latest(buffer, step.n_past, self.window - 1), kv), dim=3) if step.n_past else kv
        self._append(buffer, kv, step)
        return see_window(query, near, buffer[:, :, :, : self.group.sinks], self.group, step, dropout)

    def fill(self, kv: Tensor, step: Step) -> None:
        """Keep the sinks and the latest columns."""
        whole = step.whole()
        self._append(self.with_room(kv, 0, whole.n_total), kv, whole)

    def everything(self, n_total: int) -> Tensor | None:
        """All columns, as long as none was overwritten."""
        if self.buffer is None or n_total > self.slots or self.oldest > 0:
            return None
        return self.buffer[:, :, :, self.front : self.front + n_total]

    def join(self, other: Store) -> bool:
        """Take over the heads of another ring of the same shape."""
        if not isinstance(other, RingStore) or other.group[1:] != self.group[1:] or not super().join(other):
            return False
        self.oldest = max(self.oldest, other.oldest)
        return True

    def check_crop(self, n_before: int, n_after: int) -> None:
        """Whether the windows as of column `n_after` are still there."""
        if max(n_after - self.window, 0) < self.oldest:
            raise RuntimeError(
                f"cannot take back {n_before - n_after} tokens: windowed heads have overwritten what came before. Call "
                f"cache.activate_past_recording() before these tokens are read; then up to {TAKE_BACK} can be taken "
                "back."
            )

    def record_past(self, length: int) -> None:
        """From now on keep as many more keys as `crop` may take back."""
        self._resize(max(self.slots, self.window + TAKE_BACK), length)

    def with_room(self, like: Tensor, n_past: int, n_total: int) -> Tensor:
        """The buffer, with slots for a whole window once it is needed."""
        if n_total > self.slots < self.window:
            self._resize(self.window, n_past)
        buffer = self._room(like, self.front + self.slots) if self.buffer is None else self._writable(self.buffer)
        self.buffer = buffer
        return buffer

    def _resize(self, slots: int, length: int) -> None:
        """More slots, after `length` columns."""
        old, before, self.slots = self.buffer, self.slots, slots
        if old is None or slots == before:
            return
        kept = self._latest(old, length, min(before, self.window), before)
        self.buffer = self._room(old, self.front + slots)
        self.buffer[:, :, :, : self.front] = old[:, :, :, : self.front]
        self._write(self.buffer, kept, length)
        self.oldest = length - kept.shape[3]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.oldest = 0

    def _append(self, buffer: Tensor, kv: Tensor, step: Step) -> None:
        if step.sinks_open(self.group.sinks):
            known = buffer[:, :, :, : self.group.sinks]
            buffer[:, :, :, : self.group.sinks] = pick_sinks(kv, self.group, step, known)
        self._write(buffer, kv[:, :, :, -self.slots :], step.n_total)
        self.appended(step.n_total)

    def appended(self, n_total: int) -> None:
        """What came before the ring's slots is gone."""
        self.oldest = max(self.oldest, n_total - self.slots)

    def _write(self, buffer: Tensor, latest: Tensor, n_total: int) -> None:
        """Put the latest columns, the last of which is n_total − 1, into their slots."""
        ring, number = buffer[:, :, :, self.front :], latest.shape[3]
        start = (n_total - number) % self.slots
        straight = min(number, self.slots - start)
        ring[:, :, :, start : start + straight] = latest[:, :, :, :straight]
        if straight < number:
            ring[:, :, :, : number - straight] = latest[:, :, :, straight:]

    def _latest(self, buffer: Tensor, n_total: int, number: int, slots: int = 0) -> Tensor:
        """Keys and values of the latest columns before `n_total`, oldest first, from a ring of `slots`."""
        ring, number, slots = buffer[:, :, :, self.front :], min(number, n_total), slots or self.slots
        start = (n_total - number) % slots
        straight = min(number, slots - start)
        return torch.cat((ring[:, :, :, start : start + straight], ring[:, :, :, : number - straight]), dim=3)
