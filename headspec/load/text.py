"""How text becomes windows of token ids that fit a model."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headspec.errors import ModelError, TextError
from headspec.load.identity import identify, prepends_bos
from headspec.load.sources import PACKAGED, read_text

SHORTEST = 17
"""Tokens a text must have: averages skip the first 16 queries."""
CHARACTERS_PER_TOKEN = 8
"""More than any tokenizer needs on average: bounds how much of a streamed data set is read."""


@dataclass(frozen=True)
class TokenWindows:
    """Token ids cut into windows of one length, and where they came from."""

    tokens: Int[Tensor, "window token"]
    source: str

    @property
    def digest(self) -> str:
        """SHA-256 of the ids and their shape."""
        data = self.tokens.to(torch.int64).cpu().contiguous()
        return hashlib.sha256(f"{tuple(data.shape)}".encode() + data.numpy().tobytes()).hexdigest()


def load_text(
    model: Any,
    source: str = "probe",
    *,
    n_tokens: int = 8192,
    window: int | None = None,
    seed: int = 0,
    bos: bool | None = None,
) -> TokenWindows:
    """Read text and cut it into windows of the model's tokens.

    Args:
        model: The model whose tokenizer and context count. One without a tokenizer that holds random weights gets
            seeded random token ids, whatever the source.
        source: `probe`, `select` or `certify` (packaged); a file; `-` for standard input; `datasets:NAME` or
            `datasets:NAME/CONFIG` with an optional `#COLUMN` (column `text` by default), streamed.
        n_tokens: How many tokens are wanted; of a shorter text every whole window is used, with a warning.
        window: Tokens a window; the model's context, if the text is long enough, by default.
        seed: Draws which windows of a longer text are taken.
        bos: Start each window with the tokenizer's BOS token; by default as the model's family does (Pythia: no).

    Raises:
        TextError: Nothing to read, binary data, fewer than 17 tokens, or a window beyond the context.
    """
    identity = identify(model)
    window = _window(window, n_tokens, identity.context)
    if model.tokenizer is None and identity.random_weights:
        return random_tokens(identity.vocabulary, n_tokens, window, seed)
    bos = prepends_bos(model) if bos is None else bos
    front = [identity.bos] if bos else []
    if None in front:
        raise TextError(f"{identity.name}'s tokenizer has no BOS token: leave bos= out.")
    ids = tokenize(model, read_text(source, n_tokens * CHARACTERS_PER_TOKEN))
    tokens = draw_windows(ids, n_tokens, window - len(front), seed)
    tokens = torch.cat([torch.tensor(front, dtype=torch.int64).expand(len(tokens), -1), tokens], dim=1)
    return TokenWindows(tokens, f"packaged {source}.txt" if source in PACKAGED else source)


def as_windows(tokens: Any, model: Any, least: int = SHORTEST) -> TokenWindows:
    """Check what a user handed in (text, token ids or TokenWindows) and cut it to the model's context."""
    identity = identify(model)
    if isinstance(tokens, TokenWindows):
        ids, source = tokens.tokens, tokens.source
    else:
        ids, source = (tokenize(model, tokens), "text") if isinstance(tokens, str) else (as_ids(tokens), "tokens")
    if ids.ndim == 1:
        _check_length(len(ids), least)
        window = min(len(ids), identity.context)
        ids = ids[: len(ids) // window * window].view(-1, window)
    _check_windows(ids, least, identity.context, identity.d_vocab)
    return TokenWindows(ids, source)


def tokenize(model: Any, text: str) -> Int[Tensor, " token"]:
    """Token ids of a text, without special tokens in front."""
    if model.tokenizer is None:
        raise ModelError(f"{identify(model).name} has no tokenizer, so it cannot read text: give --token-ids FILE.")
    encoded = model.tokenizer(text, add_special_tokens=False, verbose=False)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def draw_windows(ids: Int[Tensor, " text"], n_tokens: int, window: int, seed: int) -> Int[Tensor, "window token"]:
    """Cut `ids` into windows and take as many, drawn with `seed`, as make `n_tokens`; in the order of the text."""
    _check_length(len(ids), SHORTEST)
    window = min(window, len(ids))
    pieces = ids[: len(ids) // window * window].view(-1, window)
    if len(ids) < n_tokens:
        used = "all of it" if pieces.numel() == len(ids) else f"{pieces.numel()} of them, in windows of {window}"
        warnings.warn(f"the text has {len(ids)} tokens, not the {n_tokens} asked for: using {used}.", stacklevel=3)
    wanted = min(max(1, n_tokens // window), len(pieces))
    chosen = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))[:wanted]
    return pieces[chosen.sort().values]


def random_tokens(vocabulary: Sequence[int], n_tokens: int, window: int, seed: int) -> TokenWindows:
    """Seeded random token ids: all that a model without a tokenizer can read."""
    _check_length(n_tokens, SHORTEST)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(vocabulary), (max(1, n_tokens // window), window), generator=generator)
    return TokenWindows(torch.tensor(vocabulary)[drawn], f"random token ids (seed {seed})")


def shuffled(windows: TokenWindows, seed: int = 0) -> TokenWindows:
    """The same tokens in random order: what is left of a statistic is not due to the text's structure.

    The first token of each window stays: it may be BOS, and heads rest on it.
    """
    rest = windows.tokens[:, 1:]
    order = torch.randperm(rest.numel(), generator=torch.Generator().manual_seed(seed))
    mixed = torch.cat([windows.tokens[:, :1], rest.reshape(-1)[order].view_as(rest)], dim=1)
    return TokenWindows(mixed, f"{windows.source}, shuffled")


def check_apart(judged: TokenWindows, chosen: TokenWindows) -> None:
    """Refuse to judge on windows that something is chosen on."""
    known = {tuple(window) for window in chosen.tokens.tolist()}
    shared = sum(tuple(window) in known for window in judged.tokens.tolist())
    if shared:
        raise TextError(
            f"{shared} windows of {judged.source} are also in {chosen.source}: judge on text that chose nothing."
        )


def _window(window: int | None, n_tokens: int, context: int) -> int:
    if window is not None and not SHORTEST <= window <= context:
        raise TextError(f"a window of {window} tokens: this model takes {SHORTEST} to {context}.")
    if n_tokens < SHORTEST:
        raise TextError(f"{n_tokens} tokens are too few: at least {SHORTEST}, averages skip the first 16 queries.")
    return min(window or context, n_tokens)


def as_ids(tokens: Any) -> Tensor:
    """Token ids as a tensor of int64, of one or two axes."""
    wanted = "want whole numbers, [window, token] or one sequence"
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TextError(f"token ids that are no array ({error}): {wanted}.") from error
    if ids.ndim not in (1, 2) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TextError(f"token ids of shape {tuple(ids.shape)}, {ids.dtype}: {wanted}.")
    return ids.to(torch.int64)


def _check_windows(ids: Int[Tensor, "window token"], least: int, context: int, d_vocab: int) -> None:
    if len(ids) == 0:
        raise TextError("no windows of token ids were given: the first axis is 0 long.")
    _check_length(ids.shape[1], least)
    if ids.shape[1] > context:
        raise TextError(f"windows of {ids.shape[1]} tokens are beyond the model's context of {context}: cut them.")
    if not 0 <= int(ids.min()) <= int(ids.max()) < d_vocab:
        raise TextError(f"token ids from {int(ids.min())} to {int(ids.max())}: this model knows 0–{d_vocab - 1}.")


def _check_length(n_tokens: int, least: int) -> None:
    if n_tokens < least:
        raise TextError(f"the text has {n_tokens} tokens; {least} or more are needed: averages skip the first queries.")
