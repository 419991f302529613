"""Attention patterns of a few heads on a short text, with circuitsvis, offline.

circuitsvis asks a public site whether there is a network and then prefers a CDN; here the script that comes
with its package is put into the page, so that nothing is fetched.
"""

import html
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headspec.errors import HeadspecError, TextError
from headspec.files import write_whole
from headspec.heads import HeadId
from headspec.load.identity import identify
from headspec.load.text import as_windows, tokenize
from headspec.probe.memory import patterns_let_go

MOST_HEADS, MOST_TOKENS = 32, 64
"""More would be a page of many megabytes that no one can read."""


@dataclass(frozen=True)
class AttentionView:
    """HTML of a pattern view: shows itself in Jupyter, and saves as a page of its own."""

    body: str
    title: str

    def _repr_html_(self) -> str:
        return self.body

    def save(self, path: Path | str) -> Path:
        """Write a stand-alone page (1.3 MB: it carries its script)."""
        page = f'<!doctype html><meta charset="utf-8"><title>{html.escape(self.title)}</title>\n{self.body}'
        return write_whole(Path(path), lambda temporary: temporary.write_text(page, encoding="utf-8"))


def attention(model: Any, text: "str | torch.Tensor", heads: Sequence[HeadId | str]) -> AttentionView:
    """Draw the attention patterns of `heads` on `text` (or token ids).

    Hover over a pattern for its numbers, click to enlarge it. At most 32 heads; a text beyond 64 tokens is cropped,
    with a warning. Early in a text every head sees few keys: a pattern of 20 tokens says little about long contexts.
    """
    chosen = [HeadId.parse(head) for head in heads]
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
    patterns = _patterns(model, ids.to(identity.device), chosen)
    return AttentionView(_render(patterns, _token_texts(model, ids), chosen), f"attention in {identity.name}")


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


def _patterns(model: Any, ids: torch.Tensor, heads: list[HeadId]) -> torch.Tensor:
    kept: dict[int, torch.Tensor] = {}

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        kept[int(hook.name.split(".")[1])] = pattern[0].detach().float().cpu()

    names = {f"blocks.{head.layer}.attn.hook_pattern" for head in heads}
    with torch.no_grad(), patterns_let_go(model), model.hooks(fwd_hooks=[(name, keep) for name in sorted(names)]):
        model(as_windows(ids, model, least=1).tokens, return_type=None)
    return torch.stack([kept[head.layer][head.head] for head in heads])


def _token_texts(model: Any, ids: torch.Tensor) -> list[str]:
    if model.tokenizer is None:
        return [str(int(token)) for token in ids]
    return [model.tokenizer.decode([int(token)]) for token in ids]


def _render(patterns: torch.Tensor, tokens: list[str], heads: list[HeadId]) -> str:
    from circuitsvis.attention import attention_heads

    drawn = attention_heads(
        attention=patterns.numpy().round(4), tokens=tokens, attention_head_names=[str(head) for head in heads]
    ).local_src
    written = json.dumps(tokens)
    assert written in drawn, "circuitsvis writes tokens as JSON"
    # A token like </script> would end the script it stands in.
    return drawn.replace(written, written.replace("<", "\\u003c"))
