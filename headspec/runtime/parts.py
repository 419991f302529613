"""The heads of a layer, divided among stores of different kinds, and moved from one to another while text is generated.

Who goes where is decided elsewhere (`live.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .configuration import HeadGroup
from .step import Step
from .stores import Store


class Part(NamedTuple):
    """Some heads, and what keeps their keys."""

    heads: list[int]
    """Their places in the group."""
    treatment: HeadGroup
    store: Store
    places: Tensor | slice | None = None
    """Where they lie among the heads that are computed; None: they are all of them, in order."""


class Parts:
    """All heads of a group that are computed.

    Args:
        heads: Their numbers in the original layer. Elsewhere here heads go by their places in this list.
        make_store: Makes an empty store for heads under one treatment.
    """

    def __init__(self, heads: Sequence[int], make_store: Callable[[HeadGroup], Store]):
        self.numbers, self.make_store = tuple(heads), make_store
        self.parts: list[Part] = []
        self.alive = list(range(len(heads)))
        """Heads that are computed, in order."""
        self.recording = False
        self._order: Tensor | None = None

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def begin(self, treatment: HeadGroup, store: Store) -> None:
        """All heads are in one store."""
        self.parts = [Part(list(self.alive), treatment, store)]

    def in_order(self, seen: list[Tensor]) -> Tensor:
        """What the parts have seen, one after another, in the order of the heads: `[batch, head, query, d_head]`."""
        together = seen[0] if len(seen) == 1 else torch.cat(seen, dim=1)
        return together if self._order is None else together[:, self._order]

    def has_everything(self, n_total: int) -> list[bool]:
        """Of which heads every key of `n_total` columns is still there."""
        found = [False] * len(self.numbers)
        for part in self.parts:
            is_there = part.store.everything(n_total) is not None
            for head in part.heads:
                found[head] = is_there
        return found

    def move(
        self, new: Sequence[HeadGroup | None], moving: Sequence[int], step: Step,
        show: Callable[[Store, list[int]], object],
    ) -> None:  # fmt: skip
        """Let heads go on under new treatments; keys that nobody needs any more are freed.

        Args:
            new: Treatment of every head; None: it is not computed any more.
            moving: Heads that change their store.
            step: After which.
            show: Lets a new store of some heads watch the last queries, where it wants to.
        """
        coming: dict[HeadGroup, tuple[list[int], list[Tensor]]] = {}
        parts = []
        for part in self.parts:
            for treatment in {new[head]: None for head in part.heads if head in moving and new[head] is not None}:
                mine = [place for place, head in enumerate(part.heads) if head in moving and new[head] == treatment]
                everything = part.store.everything(step.n_total)
                assert everything is not None
                assert treatment is not None
                heads, kv = coming.setdefault(treatment, ([], []))
                heads.extend(part.heads[place] for place in mine)
                kv.append(everything if len(mine) == len(part.heads) else everything[:, :, mine])
            stay = [place for place, head in enumerate(part.heads) if head not in moving]
            if stay and len(stay) < len(part.heads):
                part.store.keep_heads(stay)
            if stay:
                parts.append(part._replace(heads=[part.heads[place] for place in stay]))
        self.parts = parts
        self.alive = [head for head, treatment in enumerate(new) if treatment is not None]
        for treatment, (heads, kv) in coming.items():
            store = self.make_store(treatment._replace(heads=tuple(self.numbers[head] for head in heads)))
            if self.recording:
                store.record_past(0)  # before it is filled: what `crop` may need lies in what it is filled with
            show(store, heads)
            store.fill(kv[0] if len(kv) == 1 else torch.cat(kv, dim=2), step)
            self._add(treatment, heads, store)
        self._reorder(step.device)

    def _add(self, treatment: HeadGroup, heads: list[int], store: Store) -> None:
        """Heads come under a treatment, beside those that are under it already if their stores are alike."""
        for number, part in enumerate(self.parts):
            if part.treatment == treatment and part.store.join(store):
                self.parts[number] = part._replace(heads=part.heads + heads)
                return
        self.parts.append(Part(heads, treatment, store))

    @torch.inference_mode(False)  # what inference mode makes could not be used with autograd
    def _reorder(self, device: Any) -> None:
        flat = [head for part in self.parts for head in part.heads]
        in_order = flat == self.alive
        self._order = None if in_order else torch.tensor([flat.index(head) for head in self.alive], device=device)
        self.parts = [part._replace(places=_places(part.heads, self.alive, device)) for part in self.parts]


def _places(heads: list[int], alive: list[int], device: Any) -> Tensor | slice | None:
    """Where some heads lie among those that are computed; a slice costs no copy."""
    found = [alive.index(head) for head in heads]
    if found == list(range(len(alive))):
        return None
    if found == list(range(found[0], found[0] + len(found))):
        return slice(found[0], found[0] + len(found))
    return torch.tensor(found, device=device)
