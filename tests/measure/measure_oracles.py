"""Models whose predictions can be worked out by hand: they copy, or say what they were told to say."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headspec.load.identity import Identity
from headspec.load.text import TokenWindows
from headspec.measure.compare import Comparison, compare
from headspec.measure.texts import ScoredText


def made_up_identity(
    *, context: int = 64, vocabulary: Sequence[int] = range(1000), bos: int | None = None, name: str = "made-up"
) -> Identity:
    return Identity(
        name=name, n_layers=1, n_heads=1, d_head=1, d_model=1, context=context, dtype="float32", device="cpu",
        d_vocab=max(vocabulary) + 1, vocabulary=vocabulary, bos=bos,
    )  # fmt: skip


@dataclass(eq=False)
class Copier:
    """Predicts what followed the latest earlier occurrence of the last tokens (up to four of them), as induction does.

    Sees the last `reach` tokens only, its own included. Where its token did not occur before it predicts token
    `otherwise`. Looks like a loaded model without a tokenizer.
    """

    known: Identity = field(default_factory=made_up_identity)
    reach: int = 10**6
    otherwise: int = 0
    tokenizer: None = None
    seen: list[Tensor] = field(default_factory=list)

    @property
    def identity(self) -> Identity:
        return self.known

    def __call__(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens)
        rows = [[self.answer(row[: query + 1]) for query in range(len(row))] for row in tokens.tolist()]
        return 50 * torch.nn.functional.one_hot(torch.tensor(rows), self.known.d_vocab).float()

    def answer(self, before: list[int]) -> int:
        found = self.copied(before[-self.reach :])
        return self.otherwise if found is None else found

    def copied(self, before: list[int]) -> int | None:
        for matched in (4, 3, 2, 1):
            for end in range(len(before) - 1, matched - 1, -1):
                if before[end - matched : end] == before[-matched:]:
                    return before[end]
        return None


class Told:
    """Gives the logits it was told to give for each window of a text."""

    def __init__(self, tokens: Tensor, logits: Tensor) -> None:
        self.answers = dict(zip(map(tuple, tokens.tolist()), logits, strict=True))
        self.grad_was_on = False
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, tokens: Tensor) -> Tensor:
        self.grad_was_on |= torch.is_grad_enabled()
        self.seen.append(tuple(tokens.shape))
        return torch.stack([self.answers[row] for row in map(tuple, tokens.tolist())])


def filler(length: int, n_windows: int = 1) -> TokenWindows:
    """Text in which no token stands twice, of tokens that needles are not made of."""
    return TokenWindows(torch.arange(500, 500 + n_windows * length).view(n_windows, length), "numbers")


def finder(length: int, n_windows: int = 1, reach: int = 10**6) -> Copier:
    """A model whose ordinary tokens are 1 … 499."""
    identity = made_up_identity(context=length, vocabulary=range(1, 500))
    return Copier(replace(identity, d_vocab=500 + n_windows * length), reach)


def draw(*shape: int, seed: int = 0, spread: float = 3) -> Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_tokens(n_windows: int, length: int, vocabulary: int) -> Tensor:
    return torch.randint(0, vocabulary, (n_windows, length), generator=torch.Generator().manual_seed(9))


def planted(before: Tensor, after: Tensor, tokens: Tensor, first: int = 0) -> Comparison:
    return compare(Told(tokens, before), Told(tokens, after), ScoredText(tokens, first, "planted"))
