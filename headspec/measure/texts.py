"""What a model is measured on: text, repeated random tokens, needles; and at which places its predictions count."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headspec.errors import TextError
from headspec.load.identity import Identity, identify
from headspec.load.text import TokenWindows, as_windows
from headspec.plan.workload import Workload
from headspec.probe.repeats import repeated_tokens, repeats_for

FRESH = 1000
"""Added to seeds: repeats and needles that judge are not those that something was chosen on."""
KEY, VALUE = 4, 4
"""Tokens of a needle: the key, and the value that follows it."""


@dataclass(frozen=True, eq=False)
class ScoredText:
    """Windows of tokens, and from which query on the predictions of the next token count."""

    tokens: Int[Tensor, "window token"]
    first: int
    """The first query whose prediction counts; the last is the one before the last token."""
    name: str

    @property
    def n_prompt(self) -> int:
        """Tokens before the first that is scored."""
        return self.first + 1

    @property
    def targets(self) -> Int[Tensor, "window query"]:
        """The tokens that are to be predicted."""
        return self.tokens[:, self.first + 1 :]

    @property
    def digest(self) -> str:
        """SHA-256 of the token ids and their shape."""
        return TokenWindows(self.tokens, self.name).digest


def scored_text(model: Any, tokens: Any, workload: Workload | None = None) -> ScoredText:
    """Text, token ids or TokenWindows, scored at every token; with a workload, at those that follow its prompt."""
    windows = as_windows(tokens, model, least=2)
    length = windows.tokens.shape[1]
    if workload is None:
        return ScoredText(windows.tokens, 0, windows.source)
    if workload.n_total > length or not workload.n_new:
        raise TextError(
            f"a prompt of {workload.n_prompt} and {workload.n_new} new tokens: want at least 1 new one, and no more "
            f"in all than the {length} of a window."
        )
    return ScoredText(windows.tokens[:, : workload.n_total], workload.n_prompt - 1, windows.source)


def repeats_text(identity: Identity, n_repeats: int, seed: int = 0) -> ScoredText | None:
    """Random tokens given twice, scored on the second copy: what induction is worth (Olsson et al. 2022).

    None where the context is too short for two copies, or no repeats are asked for.
    """
    length, n_repeats = repeats_for(identity.context, n_repeats)
    if n_repeats < 1:
        return None
    tokens = repeated_tokens(identity.vocabulary, length, n_repeats, identity.bos, seed)
    return ScoredText(tokens, length + 1, f"random tokens twice (2 × {length})")


def needles_text(model: Any, filler: TokenWindows, n_needles: int, seed: int = 0) -> ScoredText | None:
    """Text in which a key of 4 random tokens is followed by a value of 4, once at some depth and again at the end.

    Scored on the value at the end. Depths are spread evenly over the window, so that windowed heads and compressed
    caches lose what lies behind them. None where the windows of the filler are shorter than two needles and a
    window of 16.
    """
    identity, needle = identify(model), KEY + VALUE
    length = filler.tokens.shape[1]
    if n_needles < 1 or length < 2 * needle + 16:
        return None
    generator = torch.Generator().manual_seed(seed)
    vocabulary = torch.tensor(identity.vocabulary)
    room = length - 2 * needle
    rows = []
    for number in range(n_needles):
        drawn = vocabulary[torch.randperm(len(vocabulary), generator=generator)[:needle]]
        depth = 1 + (room - 1) * number // n_needles
        text = filler.tokens[number % len(filler.tokens), :room].cpu()
        rows.append(torch.cat([text[:depth], drawn, text[depth:], drawn]))
    return ScoredText(torch.stack(rows), length - VALUE - 1, f"{n_needles} needles in {filler.source}")
