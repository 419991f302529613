"""Exported, pruned models: making transformers know them without code from their folder."""

from headspec.errors import ModelError

MODEL_TYPE = "headspec_gpt_neox"
"""`model_type` in the config.json of an exported model."""


def register() -> None:
    """Let `AutoModelForCausalLM` load exported models with headspec's own code: no `trust_remote_code` needed.

    Registers with transformers for this process; may be called again.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from headspec.runtime.configuration import PrunedGPTNeoXConfig
    from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM

    PrunedGPTNeoXConfig.register_for_auto_class()
    PrunedGPTNeoXForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    AutoConfig.register(MODEL_TYPE, PrunedGPTNeoXConfig, exist_ok=True)
    AutoModelForCausalLM.register(PrunedGPTNeoXConfig, PrunedGPTNeoXForCausalLM, exist_ok=True)


def refuse_pruned(model_type: str, purpose: str) -> None:
    """Refuse an exported model where its original is needed."""
    if model_type == MODEL_TYPE:
        raise ModelError(f"this model is an exported, pruned one, which cannot be {purpose}: use the original model.")
