"""What a loaded model is: its name, sizes and the tokens it knows, read off the TransformerBridge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headspec.errors import ModelError

NAME_ATTRIBUTE = "headspec_name"
"""Where `load_model` leaves the name it was asked for; a bridge booted by hand goes by its own."""


@dataclass(frozen=True)
class Identity:
    """Facts about a loaded model."""

    name: str
    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    context: int
    dtype: str
    device: str
    """Where token ids must be put."""
    vocabulary: Sequence[int]
    """Ids of ordinary tokens: no special ones, and none that only pad the embedding matrix."""
    bos: int | None
    """The token that starts a text (or separates documents), None without a tokenizer."""

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: for timing and tests only."""
        return self.name.startswith("random:")


def identify(model: Any) -> Identity:
    """Read the facts off a TransformerBridge."""
    if not hasattr(model, "blocks") or not hasattr(model, "cfg"):
        raise ModelError(f"{type(model).__name__} is not a TransformerBridge: load it with headspec.load_model(name).")
    cfg, tokenizer = model.cfg, model.tokenizer
    parameter = next(model.original_model.parameters())
    return Identity(
        name=getattr(model, NAME_ATTRIBUTE, None) or cfg.model_name,
        n_layers=cfg.n_layers, n_heads=cfg.n_heads, d_head=cfg.d_head, d_model=cfg.d_model, context=cfg.n_ctx,
        dtype=str(parameter.dtype).removeprefix("torch."), device=str(cfg.device or parameter.device),
        vocabulary=_ordinary_ids(tokenizer, cfg.d_vocab),
        bos=_bos(tokenizer, cfg.d_vocab),
    )  # fmt: skip


def _ordinary_ids(tokenizer: Any, d_vocab: int) -> Sequence[int]:
    if tokenizer is None:
        return range(d_vocab)
    special = set(tokenizer.all_special_ids)
    return [token for token in range(min(len(tokenizer), d_vocab)) if token not in special]


def _bos(tokenizer: Any, d_vocab: int) -> int | None:
    if tokenizer is None:
        return None
    # TransformerLens gives a tokenizer without special tokens one of its own, which the embedding may lack.
    known = (token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None)
    return next((token for token in known if token < d_vocab), None)
