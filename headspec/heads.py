"""The words every room shares: how a head is named, and the three roles it can have.

A leaf: imports nothing of headspec, and no torch.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float

from headspec.errors import HeadspecError

Grid = Float[np.ndarray, "layer head"]
"""One number a head."""


class HeadRole(StrEnum):
    """What a head does, and so what may be done with it. Every head gets exactly one."""

    POSITIONAL = "positional"
    """Attention sits at a few fixed relative offsets: a small sliding window will do."""
    GATHERING = "gathering"
    """Attention goes where the content says: it needs the whole context."""
    DEAD = "dead"
    """What the head writes is negligible or constant: it need not be computed."""


@dataclass(frozen=True, order=True)
class HeadId:
    """One attention head, written `L3H7`; layers and heads count from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, name: "str | HeadId") -> "HeadId":
        """Read `L3H7` (or `3.7`).

        >>> HeadId.parse("L3H7")
        HeadId(layer=3, head=7)
        """
        match = re.fullmatch(r"[Ll]?(\d+)(?:[Hh]|\.)(\d+)", str(name).strip())
        if match is None:
            raise HeadspecError(f"{name!r} is not a head: write it like L3H7 (layer 3, head 7, counted from 0).")
        return cls(int(match[1]), int(match[2]))
