"""Is a checkpoint whole? A directory has its files, and the weights lack no tensor."""

from pathlib import Path
from typing import Any

from headspec.errors import ModelError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")


def check_directory(folder: Path) -> bool:
    """Refuse a model directory without config or weights; answers whether it has a tokenizer."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: a model directory is what save_pretrained writes.")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        raise ModelError(f"{folder} has a config.json but no weights (*.safetensors or pytorch_model*.bin).")
    return any((folder / file).exists() for file in TOKENIZER_FILES)


def complete_weights_class() -> Any:
    """An AutoModelForCausalLM that refuses a checkpoint with missing tensors instead of making them up at random."""
    from transformers import AutoModelForCausalLM

    class CompleteWeights(AutoModelForCausalLM):
        @classmethod
        def from_pretrained(cls, name: Any, *arguments: Any, **options: Any) -> Any:
            model, loading = super().from_pretrained(name, *arguments, output_loading_info=True, **options)
            missing = sorted(loading["missing_keys"])
            if missing:
                more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
                raise ModelError(f"the weights of {name} lack {', '.join(missing[:3])}{more}. Copy them anew.")
            return model

    return CompleteWeights
