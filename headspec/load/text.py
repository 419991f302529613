"""Where text comes from, and how it becomes windows of token ids that fit a model."""

import hashlib
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headspec.errors import ModelError, TextError
from headspec.load.identity import identify
from headspec.load.names import DEMO_FOLDER

PACKAGED = ("probe", "select", "certify")
"""Texts that come with headspec: one to probe with, one to choose plans with, one to judge them with."""
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
        n_tokens: How many tokens are wanted; a shorter text is used whole, with a warning.
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
    bos = bool(getattr(model.cfg, "default_prepend_bos", False)) if bos is None else bos
    ids = tokenize(model, read_text(source, n_tokens * CHARACTERS_PER_TOKEN))
    room = window - bos
    tokens = draw_windows(ids, n_tokens, room, seed)
    if bos:
        if identity.bos is None:
            raise TextError(f"{identity.name}'s tokenizer has no BOS token: leave bos= out.")
        tokens = torch.cat([torch.full((len(tokens), 1), identity.bos), tokens], dim=1)
    return TokenWindows(tokens, f"packaged {source}.txt" if source in PACKAGED else source)


def as_windows(tokens: Any, model: Any, least: int = SHORTEST) -> TokenWindows:
    """Check what a user handed in (text, token ids or TokenWindows) and cut it to the model's context."""
    identity = identify(model)
    if isinstance(tokens, str):
        tokens = TokenWindows(tokenize(model, tokens), "text")
    elif not isinstance(tokens, TokenWindows):
        tokens = TokenWindows(torch.as_tensor(tokens), "tokens")
    ids = tokens.tokens
    if ids.ndim == 1:
        _check_length(len(ids), least)
        window = min(len(ids), identity.context)
        ids = ids[: len(ids) // window * window].view(-1, window)
    _check_ids(ids, least, identity.context, model.cfg.d_vocab)
    return TokenWindows(ids, tokens.source)


def read_text(source: str, n_characters: int | None = None) -> str:
    """The text of a packaged name, a file, standard input (`-`) or a data set (`datasets:NAME`)."""
    if source.startswith("datasets:"):
        return _read_dataset(source.removeprefix("datasets:"), n_characters)
    if source == "-":
        data = sys.stdin.buffer.read()
    else:
        path = DEMO_FOLDER / f"{source}.txt" if source in PACKAGED else Path(source).expanduser()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TextError(
                f"cannot read the text {source}: {error.strerror}. Give a file, - for standard input, datasets:NAME, "
                f"or one of the packaged {', '.join(PACKAGED)}."
            ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{source} is not UTF-8 text (byte {error.start}): is it a binary file?") from error
    if "\0" in text:
        raise TextError(f"{source} contains zero bytes: is it a binary file?")
    if not text.strip():
        raise TextError(f"{source} is empty.")
    return text


def read_token_ids(path: str) -> Int[Tensor, " token"]:
    """Token ids from a file: `.npy`, or whole numbers separated by white space."""
    import numpy

    try:
        array = numpy.load(path) if str(path).endswith(".npy") else numpy.loadtxt(path, dtype=numpy.int64, ndmin=1)
        return torch.as_tensor(array.reshape(-1).astype(numpy.int64, casting="same_kind"))
    except (OSError, ValueError, TypeError) as error:
        raise TextError(f"cannot read token ids from {path}: {error}. Want whole numbers, or a .npy file.") from error


def tokenize(model: Any, text: str) -> Int[Tensor, " token"]:
    """Token ids of a text, without special tokens in front."""
    if model.tokenizer is None:
        raise ModelError(f"{identify(model).name} has no tokenizer, so it cannot read text: give --token-ids FILE.")
    encoded = model.tokenizer(text, add_special_tokens=False, verbose=False)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def draw_windows(ids: Int[Tensor, " text"], n_tokens: int, window: int, seed: int) -> Int[Tensor, "window token"]:
    """Cut `ids` into windows and take as many, drawn with `seed`, as make `n_tokens`; in the order of the text."""
    _check_length(len(ids))
    if len(ids) < n_tokens:
        warnings.warn(f"the text has {len(ids)} tokens, not the {n_tokens} asked for: using all of it.", stacklevel=3)
    window = min(window, len(ids))
    pieces = ids[: len(ids) // window * window].view(-1, window)
    wanted = min(max(1, n_tokens // window), len(pieces))
    chosen = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))[:wanted]
    return pieces[chosen.sort().values]


def random_tokens(vocabulary: Any, n_tokens: int, window: int, seed: int) -> TokenWindows:
    """Seeded random token ids: all that a model without a tokenizer can read."""
    _check_length(n_tokens)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(vocabulary), (max(1, n_tokens // window), window), generator=generator)
    return TokenWindows(torch.tensor(vocabulary)[drawn], f"random token ids (seed {seed})")


def shuffled(windows: TokenWindows, seed: int = 0) -> TokenWindows:
    """The same tokens in random order: what is left of a statistic is not due to the text's structure."""
    order = torch.randperm(windows.tokens.numel(), generator=torch.Generator().manual_seed(seed))
    return TokenWindows(windows.tokens.reshape(-1)[order].view_as(windows.tokens), f"{windows.source}, shuffled")


def _window(window: int | None, n_tokens: int, context: int) -> int:
    if window is not None and not SHORTEST <= window <= context:
        raise TextError(f"a window of {window} tokens: this model takes {SHORTEST} to {context}.")
    if n_tokens < SHORTEST:
        raise TextError(f"{n_tokens} tokens are too few: at least {SHORTEST}, averages skip the first 16 queries.")
    return min(window or context, n_tokens)


def _check_length(n_tokens: int, least: int = SHORTEST) -> None:
    if n_tokens < least:
        raise TextError(f"the text has {n_tokens} tokens; {least} or more are needed: averages skip the first queries.")


def _check_ids(ids: Tensor, least: int, context: int, d_vocab: int) -> None:
    if ids.ndim != 2 or ids.is_floating_point():
        raise TextError(f"token ids of shape {tuple(ids.shape)}, {ids.dtype}: want whole numbers, [window, token].")
    _check_length(ids.shape[1], least)
    if ids.shape[1] > context:
        raise TextError(f"windows of {ids.shape[1]} tokens are beyond the model's context of {context}: cut them.")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < d_vocab:
        raise TextError(f"token ids from {int(ids.min())} to {int(ids.max())}: this model knows 0–{d_vocab - 1}.")


def _read_dataset(name: str, n_characters: int | None) -> str:
    from datasets import load_dataset

    path, _, column = name.partition("#")
    column = column or "text"
    try:
        rows = load_dataset(path, split="train", streaming=True)
        pieces: list[str] = []
        for row in rows:
            pieces.append(row[column])
            if n_characters is not None and sum(map(len, pieces)) >= n_characters:
                break
    except KeyError as error:
        raise TextError(f"data set {path} has no column {column}: name it as in datasets:{path}#title.") from error
    except Exception as error:
        raise TextError(f"cannot read data set {path}: {error}") from error
    if not pieces:
        raise TextError(f"data set {path} is empty.")
    return "\n\n".join(pieces)
