"""A Hugging Face model as it is: no TransformerBridge around it, so no hooks and no copies of its weights."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headspec.errors import ModelError
from headspec.load.device import same_logits
from headspec.load.identity import Identity, identify, identity_of_config


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A Hugging Face model with its name and tokenizer; `load_plain` makes one."""

    huggingface: Any
    """A transformers PreTrainedModel for causal language modelling."""
    name: str
    tokenizer: Any = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits `[batch, token, vocabulary]` of token ids."""
        return self.huggingface(tokens, use_cache=False).logits

    @property
    def identity(self) -> Identity:
        """Name, sizes and vocabulary, as `identify` gives them for a bridge too."""
        parameter = next(self.huggingface.parameters())
        return identity_of_config(self.name, self.huggingface.config, self.tokenizer, parameter)

    def to(self, device: str) -> "PlainModel":
        """Move the weights."""
        self.huggingface.to(device)
        return self


def as_plain(model: Any, instead: str = 'use engine="hooks"') -> PlainModel:
    """The plain model inside whatever was given; of a TransformerBridge a twin that shares its weights.

    Args:
        model: A PlainModel, a TransformerBridge or a Hugging Face model.
        instead: What the error tells to do with a bridge that was changed.

    Raises:
        ModelError: A bridge that computes something else than its Hugging Face model: weights were edited after
            booting, or hooks are installed that change activations.
    """
    if isinstance(model, PlainModel):
        return model
    if not hasattr(model, "blocks"):
        if not hasattr(model, "config") or not isinstance(model, nn.Module):
            raise ModelError(f"{type(model).__name__} is neither a TransformerBridge nor a Hugging Face model.")
        config: Any = model.config
        return PlainModel(model, config.name_or_path or type(model).__name__)
    plain = PlainModel(_twin(model), identify(model).name, model.tokenizer)
    _check_same(model, plain, instead)
    return plain


def _twin(bridge: Any) -> Any:
    """A Hugging Face model around the very tensors of a bridge: nothing is copied."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(bridge.original_model.config)  # from_config writes into it
    config.output_attentions = False  # which TransformerLens sets
    try:
        with torch.device("meta"):
            twin = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    except ValueError as error:
        raise ModelError(
            f"{type(bridge.original_model).__name__} has no attention that could be replaced ({error}): use "
            'engine="hooks".'
        ) from error
    for path, module in twin.named_modules():
        source = _unwrapped(bridge.original_model, path)
        for own, theirs in ((module._parameters, source._parameters), (module._buffers, source._buffers)):
            own.update({name: theirs[name] for name, value in own.items() if value is not None})
    twin.generation_config = bridge.original_model.generation_config
    return twin


def _unwrapped(model: Any, path: str) -> Any:
    """The original module at `path` of a model whose modules TransformerLens has wrapped."""
    module = model
    for part in path.split(".") if path else []:
        module = getattr(_original(module), part)
    return _original(module)


def _original(module: Any) -> Any:
    while getattr(module, "original_component", None) is not None:
        module = module.original_component
    return module


def _check_same(bridge: Any, plain: PlainModel, instead: str) -> None:
    """Compare the logits of a few tokens: a bridge whose weights were edited computes something else."""
    identity = identify(bridge)
    hooked = any(point.fwd_hooks for point in bridge.hook_dict.values())
    n_tokens = min(identity.context, 512) if hooked else 32  # a hook may act on far tokens only (a window)
    places = [i * len(identity.vocabulary) // n_tokens for i in range(n_tokens)]
    tokens = torch.tensor([[identity.vocabulary[place] for place in places]], device=identity.device)
    with torch.no_grad():
        expected, found = bridge(tokens), plain(tokens)
    damaged = not bool(expected.isfinite().all()) and not bool(found.isfinite().all())
    tolerated = max(1e-3, 12 * torch.finfo(expected.dtype).eps)  # bfloat16 differs by 3 % from one attention to another
    if damaged or same_logits(expected, found, tolerated):  # the probe itself names what is damaged
        return
    raise ModelError(
        f"{identity.name}: this TransformerBridge gives other logits than its Hugging Face model (edited weights, or "
        f"hooks that change activations), which would be overlooked here: {instead}."
    )
