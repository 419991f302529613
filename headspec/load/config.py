"""The configuration of a model, and how many parameters it makes, without loading any weights."""

from typing import Any

import torch

from headspec.load.names import ModelName, Origin
from headspec.load.pythia import SHAPES


def read_config(source: ModelName, trust_remote_code: bool = False) -> Any:
    """The Hugging Face configuration that belongs to a name."""
    from transformers import AutoConfig, GPTNeoXConfig

    if source.origin is Origin.RANDOM:
        return GPTNeoXConfig(**SHAPES[source.location].config())
    return AutoConfig.from_pretrained(
        source.location, revision=source.revision or "main", trust_remote_code=trust_remote_code
    )


def count_parameters(config: Any, trust_remote_code: bool = False) -> int:
    """Parameters of the causal language model of a configuration: it is built without memory, on the meta device."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters())
