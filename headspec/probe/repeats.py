"""Random tokens given twice: who attends to the earlier copy, and who only wakes up for repetition?"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from headspec.load.identity import Identity
from headspec.probe.about import ProbeAbout
from headspec.probe.stages import Stage
from headspec.probe.tiles import Bins

REPEATED_CONTEXT = 512
"""Repeated random tokens are this long (or the window, if that is shorter): enough to see induction."""


def repeats_for(window: int, n_repeats: int) -> tuple[int, int]:
    """Length of one copy, and how many sequences: none where the window is too short for two copies."""
    length = (min(window, REPEATED_CONTEXT) - 1) // 2
    return (length, n_repeats) if length >= 2 and n_repeats else (0, 0)


def repeats_stage(identity: Identity, about: ProbeAbout) -> Stage:
    """The repeated sequences of a probe; averages run over the second copy."""
    length = about.repeat_length
    tokens = repeated_tokens(identity.vocabulary, length, about.n_repeats, identity.bos, about.seed)
    return Stage(tokens, Bins(length + 1, about.n_sinks, (0, length + 1), (0,), exact_offsets=(1, length - 1)))


def repeated_tokens(
    vocabulary: Sequence[int], repeat_length: int, n_repeats: int, first: int | None, seed: int
) -> Int[Tensor, "window token"]:
    """`n_repeats` rows of random tokens given twice, with one token in front (`first`, or a random one)."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randint(len(vocabulary), (n_repeats, repeat_length + 1), generator=generator)
    drawn = torch.tensor(vocabulary)[draw]
    front = drawn[:, :1] if first is None else torch.full((n_repeats, 1), first)
    return torch.cat([front, drawn[:, 1:], drawn[:, 1:]], dim=1)
