"""Prompts of several kinds, each with what follows it, for write_live_page.py."""

from collections.abc import Iterator
from statistics import mean
from typing import Any

import torch

from headspec.load.sources import read_text
from headspec.measure.texts import ScoredText
from headspec.probe.repeats import repeated_tokens

PROMPT, NEW = 256, 256
STEP = 64
"""Windows of one document begin so many tokens apart, so they overlap."""
MOST = 16
"""Prompts of a kind; of prose twice as many."""
VERSE, LIST = 55, 80
"""Letters in a line of the packaged text: verse and plays have fewer than the first, lists fewer than the second on the
average; in prose a line is a paragraph."""


def prompts_of(model: Any) -> dict[str, list[ScoredText]]:
    """Prompts with their continuation, one a ScoredText; text from `certify.txt`, whose documents are told by their
    lines."""
    found: dict[str, list[ScoredText]] = {"prose": [], "verse": [], "lists": []}
    for document in documents():
        tokens = model.tokenizer(document, add_special_tokens=False, return_tensors="pt").input_ids
        windows = tokens.unfold(1, PROMPT + NEW, STEP)[0]
        kind = kind_of(document)
        step = max(len(windows) // 4, 1) if kind == "prose" else 1
        found[kind] += [ScoredText(window[None].clone(), PROMPT - 1, kind) for window in windows[::step]]
    found = {kind: texts[: MOST * (1 + (kind == "prose"))] for kind, texts in found.items()}
    identity = model.identity
    twice = repeated_tokens(identity.vocabulary, PROMPT - 1, MOST, identity.bos, seed=1)
    found["repeats"] = [ScoredText(row[None], PROMPT - 1, "repeats") for row in twice]
    vocabulary = torch.tensor(identity.vocabulary)
    drawn = torch.randint(len(vocabulary), (MOST, PROMPT + NEW), generator=torch.Generator().manual_seed(2))
    found["random"] = [ScoredText(vocabulary[row][None], PROMPT - 1, "random") for row in drawn]
    return found


def documents() -> Iterator[str]:
    """Of the packaged `certify` text."""
    yield from (document.strip() for document in read_text("certify").split("<|endoftext|>") if document.strip())


def kind_of(document: str) -> str:
    """`prose`, `verse` or `lists`."""
    letters = mean(len(line) for line in document.splitlines())
    return "verse" if letters <= VERSE else "lists" if letters <= LIST else "prose"
