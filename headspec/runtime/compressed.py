"""The store of compressed heads: every key while the prompt is read, then the chosen ones and what follows.

What was not chosen is freed. A choice is made once, when the prompt is complete.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import see_all
from .configuration import HeadGroup
from .policies import POLICIES, Prompt, QueryFacts
from .selection import Choice, choose_keys
from .step import Step
from .stores import GROWTH, FullStore, RingStore, Store, Watched

EVERYTHING = 2**40
"""A window that no text fills."""


class CompressedStore(Store):
    """Keys of compressed heads. Rows and, where heads share a budget, heads may keep different numbers of keys."""

    def __init__(self, group: HeadGroup, expected: int, context: int, prompt: int, seed: int):
        super().__init__(group)
        self.expected, self.context, self.prompt, self.seed = expected, context, prompt, seed
        self.recording = False
        self._begin()

    def _begin(self) -> None:
        self.whole = FullStore(self.group, self.prompt or self.expected, self.context)
        self.parts: list[SelectedStore] = []
        """After the choice: one store, or one a head where they keep different numbers of keys."""
        self.queries: Tensor | None = None
        self.facts: QueryFacts | None = None

    def watched(self) -> int:
        """How many of the last queries the policy still has to see; at least one, with which its facts come."""
        return 0 if self.parts else max(POLICIES[self.group.policy].observed, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, whether full or not."""
        return self.whole.nbytes + sum(part.nbytes for part in self.parts)

    def watch(self, queries: Tensor, seen: Watched) -> None:
        """Remember the last queries, for the choice; comes before `attend`."""
        if not self.parts:
            self.facts, n_watched = seen.facts, POLICIES[self.group.policy].observed
            queries = queries[:, :, max(queries.shape[2] - n_watched, 0) :].detach()
            known = queries if self.queries is None else torch.cat((self.queries, queries), dim=2)
            self.queries = known[:, :, max(known.shape[2] - n_watched, 0) :].clone()  # not a view of all that was read

    def attend(self, query: Tensor, kv: Tensor, step: Step, dropout: float = 0.0) -> Tensor:
        """Keep the new keys and values, and attend over all while the prompt is read, over what is kept later."""
        if self.parts:
            width = kv.shape[2] // len(self.parts)
            pieces = zip(self.parts, query.split(width, 1), kv.split(width, 2), strict=True)
            return torch.cat([part.attend(mine, own, step, dropout) for part, mine, own in pieces], dim=1)
        complete = step.n_total >= self.prompt
        if complete and not step.n_past:  # the prompt in one piece: no need to store what is not kept
            seen, prompt = see_all(query, kv, step, dropout), kv
        else:
            seen = self.whole.attend(query, kv, step, dropout)
            prompt = kv if self.whole.buffer is None else self.whole.buffer[:, :, :, : step.n_total]
        if complete:
            self._choose(prompt.detach(), step)
        return seen

    def fill(self, kv: Tensor, step: Step) -> None:
        """Choose from what was read; `watch` has shown the last queries."""
        self._choose(kv.detach(), step)

    def keep_heads(self, places: list[int]) -> None:
        """Go on with some of the heads, after the choice."""
        if len(self.parts) > 1:
            self.parts = [self.parts[place] for place in places]
        else:
            self.parts[0].keep_heads(places)

    @torch.no_grad()
    def _choose(self, kv: Tensor, step: Step) -> None:
        """Keep the chosen keys of every row, and free the rest."""
        starts = [0] * kv.shape[1] if step.real is None else (step.n_total - step.real.sum(1)).tolist()
        if step.real is not None and any(not row[start:].all() for row, start in zip(step.real, starts, strict=True)):
            raise ValueError("compressed heads choose from prompts with padding in front only: pad on the left.")
        choices = [self._choice(kv[:, row], row, start, step) for row, start in enumerate(starts)]
        even = all(len(set(choice.kept.sum(1).tolist())) == 1 for choice in choices)
        together = [slice(None)] if even else [slice(head, head + 1) for head in range(kv.shape[2])]
        room = max(self.expected - step.n_total, 0)
        self.parts = [
            SelectedStore(self.group, kv[:, :, heads], [c._replace(kept=c.kept[heads]) for c in choices], step, room)
            for heads in together
        ]
        if self.recording:
            self.record_past(step.n_total)
        self.whole.reset()
        self.queries = self.facts = None

    def _choice(self, kv: Tensor, row: int, start: int, step: Step) -> Choice:
        """What one row keeps, padding in front taken away and put back."""
        assert self.queries is not None
        assert step.frequencies is not None
        cos, sin = (part[min(row, len(part) - 1), -1] for part in step.rotation)
        queries = self.queries[row][:, max(self.queries.shape[2] - (step.n_total - start), 0) :]
        prompt = Prompt(kv[0][:, start:], kv[1][:, start:], queries, (cos, sin), step.frequencies)
        choice = choose_keys(self.group, prompt, self.facts, self.seed)
        return choice._replace(kept=F.pad(choice.kept, (start, 0)))

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or select rows of the batch."""
        self.whole.change_rows(change)
        if self.queries is not None:
            self.queries = change(self.queries)
        for part in self.parts:
            part.change_rows(change)

    def check_crop(self, n_before: int, n_after: int) -> None:
        """Whether the columns from `n_after` on can be taken back: not those of a prompt that was compressed."""
        for part in self.parts:
            part.check_crop(n_before, n_after)
        if not self.parts and n_after < n_before and POLICIES[self.group.policy].observed:
            raise RuntimeError("cannot take back a part of a prompt whose last queries are being watched (SnapKV).")

    def record_past(self, length: int) -> None:
        """From now on keep as many more keys as `crop` may take back."""
        self.recording = True
        for part in self.parts:
            part.record_past(length)

    def reset(self) -> None:
        """Forget everything."""
        self._begin()


class SelectedStore(RingStore):
    """Chosen keys in front, then a ring of the latest, or every key that follows the prompt.

    Columns are counted from `origin`, the first that is not in front.
    """

    def __init__(self, group: HeadGroup, kv: Tensor, choices: list[Choice], step: Step, room: int):
        rings = [choice.ring for choice in choices]
        fronts = [front_of(kv[:, row], choice.kept) for row, choice in enumerate(choices)]
        front, in_ring = max(part.shape[2] for part in fronts), max(choice.in_ring for choice in choices)
        window = max(rings) or EVERYTHING
        super().__init__(group, min(window, in_ring + room), window, front)
        self.growing = not max(rings)
        """Whether every key that follows stays."""
        self.prompt, self.origin = step.n_total, step.n_total - in_ring
        self.front_seen = self._seen(fronts)
        firsts = [step.n_total - choice.in_ring for choice in choices]
        self.reach: Tensor | None = None
        """`[batch, 2, 1, 1]`: ring of each row, and its first column there; None if rows are alike. They are not where
        a prompt is shorter than its budget."""
        if len(set(zip(rings, firsts, strict=True))) > 1:
            self.reach = torch.tensor([rings, firsts], device=kv.device).T[:, :, None, None]
        self.buffer = self._room(kv, front + self.slots)
        for row, part in enumerate(fronts):
            self.buffer[:, row, :, : part.shape[2]] = part
        if in_ring:
            self._write(self.buffer, kv[:, :, :, self.origin :], in_ring)

    def _seen(self, fronts: list[Tensor]) -> Tensor | None:
        """`[batch, 1, 1, front]`: which slots in front hold a key; None if all do."""
        numbers = torch.tensor([part.shape[2] for part in fronts], device=fronts[0].device)
        if bool((numbers == self.front).all()):
            return None
        return (torch.arange(self.front, device=numbers.device) < numbers[:, None])[:, None, None]

    def attend(self, query: Tensor, kv: Tensor, step: Step, dropout: float = 0.0) -> Tensor:
        """Keep the new keys and values, and attend over those in front and the latest."""
        assert self.buffer is not None
        n_past, n_total = step.n_past - self.origin, step.n_total - self.origin
        if n_total > self.slots < self.window:
            self._resize(min(-(-n_total // GROWTH) * GROWTH, self.window), n_past)
        self.buffer = buffer = self._writable(self.buffer)
        if step.n_new == 1 or n_total <= self.slots:
            self._keep(buffer, kv, n_total)
            held = min(n_total, self.slots)
            columns = n_total - 1 - (n_total - 1 - step.columns(0, held)) % self.slots
            seen = buffer[:, :, :, : self.front + held]
        else:
            near = self._latest(buffer, n_past, self.window - 1)
            columns = step.columns(n_past - near.shape[3], n_total)
            seen = torch.cat((buffer[:, :, :, : self.front], near, kv), dim=3)
            self._keep(buffer, kv, n_total)
        mask = self._mask(columns + self.origin, query.shape[2], step)
        return F.scaled_dot_product_attention(query, seen[0], seen[1], mask, dropout)

    def _keep(self, buffer: Tensor, kv: Tensor, n_total: int) -> None:
        self._write(buffer, kv[:, :, :, -self.slots :], n_total)
        self.oldest = max(self.oldest, n_total - self.slots)

    def _mask(self, columns: Tensor, n_queries: int, step: Step) -> Tensor | None:
        """True where a query sees a key, `[batch or 1, 1, query, front + column]`; None if it sees them all."""
        in_reach = self.slots <= self.window and self.reach is None
        if n_queries == step.n_new == 1 and in_reach and self.front_seen is None and step.real is None:
            return None
        queries = step.columns(step.n_total - n_queries, step.n_total)[:, None]
        seen = columns <= queries
        if not self.growing:
            rings, firsts = (self.window, self.origin) if self.reach is None else self.reach.unbind(1)
            seen = seen & (columns > queries - rings) & (columns >= firsts)
        seen = seen & step.is_real(columns)[:, None] | (columns == queries)
        front = seen.new_ones(len(seen), n_queries, self.front)
        if self.front_seen is not None:
            front = front & self.front_seen[:, 0]
        rows = max(len(front), len(seen))
        seen, front = seen.expand(rows, -1, -1), front.expand(rows, -1, -1)
        return torch.cat((front, seen), dim=-1)[:, None]

    def check_crop(self, n_before: int, n_after: int) -> None:
        """Whether what was there as of column `n_after` still is; a prompt that was compressed cannot be taken back."""
        if n_after < self.prompt:
            raise RuntimeError(
                f"cannot take back {n_before - n_after} tokens: {self.prompt - n_after} of them belong to a prompt "
                "that was compressed."
            )
        if not self.growing:
            super().check_crop(n_before - self.origin, n_after - self.origin)

    def record_past(self, length: int) -> None:
        """From now on keep as many more keys as `crop` may take back."""
        if not self.growing:
            super().record_past(length - self.origin)

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or select rows of the batch."""
        super().change_rows(change)
        self.front_seen = None if self.front_seen is None else change(self.front_seen)
        self.reach = None if self.reach is None else change(self.reach)


def front_of(kv: Tensor, kept: Tensor) -> Tensor:
    """The kept keys and values of one row, `[key or value, head, kept, d_head]`; every head keeps as many."""
    columns = kept.nonzero()[:, 1].view(len(kept), -1)
    return kv.gather(2, columns[None, :, :, None].expand(2, -1, -1, kv.shape[-1]))
