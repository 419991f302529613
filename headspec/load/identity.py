"""What a loaded model is: its name, sizes and the tokens it knows, with a TransformerBridge around it or without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headspec.errors import ModelError
from headspec.load.pruned import MODEL_TYPE

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
    d_vocab: int
    """Rows of the embedding matrix."""
    vocabulary: Sequence[int]
    """Ids of ordinary tokens: no special ones, and none that only pad the embedding matrix."""
    bos: int | None
    """The token that starts a text (or separates documents), None without a tokenizer."""

    @property
    def random_weights(self) -> bool:
        """Whether the weights are random: for timing and tests only."""
        return self.name.startswith("random:")


def identify(model: Any) -> Identity:
    """Read the facts off a TransformerBridge or a PlainModel."""
    if hasattr(type(model), "identity"):
        return model.identity
    if not hasattr(model, "blocks") or not hasattr(model, "cfg"):
        raise ModelError(
            f"{type(model).__name__} is not a TransformerBridge: load it with headspec.load_model(name), or use "
            'engine="fast".'
        )
    cfg, tokenizer = model.cfg, model.tokenizer
    parameter = next(model.original_model.parameters())
    return Identity(
        name=getattr(model, NAME_ATTRIBUTE, None) or cfg.model_name,
        n_layers=cfg.n_layers, n_heads=cfg.n_heads, d_head=cfg.d_head, d_model=cfg.d_model, context=cfg.n_ctx,
        dtype=str(parameter.dtype).removeprefix("torch."), device=str(cfg.device or parameter.device),
        d_vocab=cfg.d_vocab, vocabulary=_ordinary_ids(tokenizer, cfg.d_vocab), bos=_bos(tokenizer, cfg.d_vocab),
    )  # fmt: skip


def identity_of_config(name: str, config: Any, tokenizer: Any, parameter: Any) -> Identity:
    """The same facts from a Hugging Face configuration and any one parameter."""
    if not hasattr(config, "max_position_embeddings"):
        raise ModelError(f'{name}: its configuration names no max_position_embeddings: use engine="hooks".')
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Identity(
        name=name, n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads, d_head=d_head,
        d_model=config.hidden_size, context=config.max_position_embeddings,
        dtype=str(parameter.dtype).removeprefix("torch."), device=str(parameter.device), d_vocab=config.vocab_size,
        vocabulary=_ordinary_ids(tokenizer, config.vocab_size), bos=_bos(tokenizer, config.vocab_size),
    )  # fmt: skip


def huggingface_config(model: Any) -> Any:
    """The transformers configuration of a TransformerBridge or a PlainModel."""
    return model.original_model.config if hasattr(model, "original_model") else model.huggingface.config


def prepends_bos(model: Any) -> bool:
    """Whether the model's family was trained with a BOS token in front of every text, by TransformerLens' account."""
    if hasattr(model, "cfg"):
        return bool(getattr(model.cfg, "default_prepend_bos", False))
    config = huggingface_config(model)
    if config.model_type in ("gpt_neox", MODEL_TYPE):  # spares the seconds that importing TransformerLens takes
        return False
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf

    architecture = type(model.huggingface).__name__
    known = build_bridge_config_from_hf(config, architecture, model.name, model.huggingface.dtype)
    return bool(ArchitectureAdapterFactory.select_architecture_adapter(known).cfg.default_prepend_bos)


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
