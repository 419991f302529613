"""Reading tokens through a cache: what all compared systems do alike, so that only their caches differ."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import HeadspecError


class Reading(ABC):
    """A Hugging Face model for causal language modelling, and one cache at a time; subclasses say which kind."""

    def __init__(self, model: Any):
        self.model = model
        self.cache: Any = None
        self.n_read, self.expected, self.batch = 0, 0, 0
        """Columns read and expected, and rows."""

    def start(self, prompt: int, expected: int, batch: int = 1) -> None:
        """Forget everything, and make an empty cache for `expected` columns, the first `prompt` of them a prompt."""
        context = self.model.config.max_position_embeddings
        if not (0 < prompt <= expected <= context and batch > 0):
            raise HeadspecError(
                f"prompt={prompt}, expected={expected}, batch={batch}: want 1 or more rows, and a prompt of 1 or more "
                f"of the expected tokens, which are at most the model's context of {context}."
            )
        self.forget()
        self.expected, self.batch = expected, batch
        self.cache = self._make_cache(prompt, expected)

    @torch.no_grad()
    def read(self, tokens: Int[Tensor, "batch token"], n_last: int = 1) -> Float[Tensor, "batch n_last vocabulary"]:
        """Read tokens through the cache; the logits of the last `n_last` of them, 0: of all."""
        batch, n_new = tokens.shape
        if self.cache is None:
            raise HeadspecError("no cache to read through: call start(prompt, expected, batch) first.")
        if batch != self.batch or self.n_read + n_new > self.expected:
            raise HeadspecError(
                f"{batch} rows of {n_new} tokens: start() was told of {self.batch} rows (with repeat) and "
                f"{self.expected} tokens, {self.n_read} of which have been read."
            )
        tokens = tokens.to(self.model.device)
        places = torch.arange(self.n_read, self.n_read + n_new, device=tokens.device).expand(batch, -1)
        options = {"position_ids": places, "past_key_values": self.cache, "use_cache": True, "logits_to_keep": n_last}
        logits = self._forward(tokens, **options).logits
        self.n_read += n_new
        return logits

    def _forward(self, tokens: Int[Tensor, "batch token"], **options: Any) -> Any:
        return self.model(tokens, **options)

    @torch.no_grad()
    def repeat(self, times: int) -> None:
        """Make `times` rows of every row of the cache, side by side."""
        if self.cache is None or not self.n_read:
            raise HeadspecError("there is nothing to repeat: read a prompt first.")
        self._repeat_rows(times)
        self.batch *= times

    def forget(self) -> None:
        """Drop the cache and its memory."""
        self.cache = None
        self.n_read, self.expected, self.batch = 0, 0, 0

    @property
    def kv_bytes(self) -> int:
        """Bytes that the cache holds now, for all rows together."""
        return 0 if self.cache is None else self._held()

    @abstractmethod
    def _make_cache(self, prompt: int, expected: int) -> Any:
        """An empty cache."""

    def _repeat_rows(self, times: int) -> None:
        self.cache.batch_repeat_interleave(times)

    def _held(self) -> int:
        """Bytes of the keys and values of a cache of transformers."""
        parts = [part for layer in self.cache.layers if layer.is_initialized for part in (layer.keys, layer.values)]
        return sum(part.numel() * part.element_size() for part in parts)
