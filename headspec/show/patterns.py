"""Attention patterns of a few heads on a short text, with circuitsvis, offline.

circuitsvis asks a public site whether there is a network and then prefers a CDN; here the script that comes
with its package is put into the page, so that nothing is fetched.
"""

import base64
import html
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headspec.errors import HeadspecError, TextError
from headspec.files import write_whole
from headspec.heads import HeadId
from headspec.load.identity import identify
from headspec.load.text import tokenize
from headspec.probe.patterns import patterns_of, token_texts
from headspec.show.patterns_image import draw_patterns, shown
from headspec.show.static import save_png
from headspec.show.twin import small_png

MOST_HEADS, MOST_TOKENS = 32, 64
"""More would be a page of many megabytes that no one can read."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """A pattern view: shows itself in Jupyter, as a PNG where no scripts run, and saves as a page of its own."""

    body: str
    """HTML with its script."""
    model: str
    heads: tuple[HeadId, ...]
    tokens: tuple[str, ...]
    patterns: np.ndarray
    """`[head, query, key]`."""

    @property
    def title(self) -> str:
        """What it shows."""
        return f"attention in {self.model}"

    def __repr__(self) -> str:
        return (
            f"<attention of {', '.join(map(str, self.heads))} of {self.model} on {len(self.tokens)} tokens; "
            "save(path) writes a page, save_png(path) a picture>"
        )

    def _repr_html_(self) -> str:
        return self.body

    def _repr_png_(self) -> bytes:
        return small_png(self._draw())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """The view, its static twin, and a line of text."""
        picture = base64.b64encode(self._repr_png_()).decode("ascii")
        return {"text/html": self.body, "image/png": picture, "text/plain": repr(self)}

    def save(self, path: Path | str) -> Path:
        """Write a stand-alone page (1.3 MB: it carries its script)."""
        page = (
            f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8"><title>{html.escape(self.title)}</title>\n'
            f"{self.body}\n</html>\n"
        )
        return write_whole(Path(path), lambda temporary: temporary.write_text(page, encoding="utf-8"))

    def save_png(self, path: Path | str) -> Path:
        """Write the static twin."""
        return save_png(self._draw(), Path(path))

    def _draw(self) -> Any:
        return draw_patterns(self.patterns, self.tokens, self.heads, self.title)


def attention(model: Any, text: "str | torch.Tensor", heads: HeadId | str | Sequence[HeadId | str]) -> AttentionView:
    """Draw the attention patterns of one or a few `heads` on `text` (or token ids).

    Hover over a pattern for its numbers, click to enlarge it. At most 32 heads; a text beyond 64 tokens is cropped,
    with a warning. Early in a text every head sees few keys: a pattern of 20 tokens says little about long contexts.

    Args:
        model: A TransformerBridge or a PlainModel.
        text: A sentence, or token ids of one.
        heads: `L3H7`, or several.
    """
    chosen = [HeadId.parse(head) for head in ([heads] if isinstance(heads, HeadId | str) else heads)]
    identity = identify(model)
    _check_heads(chosen, identity.name, identity.n_layers, identity.n_heads)
    ids = tokenize(model, text) if isinstance(text, str) else torch.as_tensor(text).reshape(-1)
    if len(ids) == 0:
        raise TextError("the text is empty: give a few words.")
    if len(ids) > MOST_TOKENS:
        warnings.warn(
            f"showing the first {MOST_TOKENS} of {len(ids)} tokens: a larger view is unreadable.", stacklevel=2
        )
        ids = ids[:MOST_TOKENS]
    found = patterns_of(model, ids, sorted({head.layer for head in chosen}))
    patterns = torch.stack([found[head.layer][head.head] for head in chosen]).numpy()
    tokens = token_texts(model, ids)
    body = _render(patterns, list(map(shown, tokens)), chosen)
    return AttentionView(body, identity.name, tuple(chosen), tuple(tokens), patterns)


def _check_heads(heads: list[HeadId], name: str, n_layers: int, n_heads: int) -> None:
    if not heads:
        raise HeadspecError("no heads given: name some, as in heads=['L3H7'].")
    if len(heads) > MOST_HEADS:
        raise HeadspecError(f"{len(heads)} heads are too many for one view: choose at most {MOST_HEADS}.")
    unknown = [str(head) for head in heads if head.layer >= n_layers or head.head >= n_heads]
    if unknown:
        raise HeadspecError(
            f"unknown heads {', '.join(unknown)}: {name} has layers 0–{n_layers - 1}, heads 0–{n_heads - 1}."
        )


def _render(patterns: np.ndarray, tokens: list[str], heads: list[HeadId]) -> str:
    from circuitsvis.attention import attention_heads

    drawn: str = attention_heads(
        attention=patterns.round(4), tokens=tokens, attention_head_names=[str(head) for head in heads]
    ).local_src
    written = json.dumps(tokens)
    assert written in drawn, "circuitsvis writes tokens as JSON"
    # A token like </script> would end the script it stands in.
    return drawn.replace(written, written.replace("<", "\\u003c"))
