"""What transformers wants to know of a pruned model, and a `from_pretrained` that fills no gaps."""

from typing import Any

from transformers import PreTrainedModel

from .configuration import PrunedGPTNeoXConfig
from .linear import FastLinear


class PrunedPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of the model."""

    config_class = PrunedGPTNeoXConfig
    base_model_prefix = "gpt_neox"
    supports_gradient_checkpointing = True
    _no_split_modules = ["PrunedLayer"]  # noqa: RUF012  transformers' way
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for module in self.modules():  # before anything is moved or converted
            if isinstance(module, FastLinear):
                module.check_not_packed()
        return super()._apply(fn, recurse)

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers' `from_pretrained`, but a checkpoint whose config and weights disagree is refused.

        transformers would fill the gaps with random numbers.
        """
        strict = not kwargs.get("ignore_mismatched_sizes", False)
        kwargs["ignore_mismatched_sizes"] = True  # so that all that is wrong comes to light below
        model, found = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        wrong = {
            word: sorted(map(str, found.get(f"{word}_keys", ()))) for word in ("missing", "unexpected", "mismatched")
        }
        if strict and any(wrong.values()):
            words = "; ".join(f"{word}: {', '.join(keys[:4])}" for word, keys in wrong.items() if keys)
            raise ValueError(f"config.json and weights of {name} disagree ({words}). Copy or export the model anew.")
        return (model, found) if output_loading_info else model
