"""The only place that boots a TransformerBridge: from the hub, a directory, the packaged model or random weights."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headspec.errors import ModelError
from headspec.load.device import choose_device, settle_on_mps
from headspec.load.identity import NAME_ATTRIBUTE, identify
from headspec.load.names import ModelName, Origin, resolve
from headspec.load.pythia import SHAPES

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: torch.dtype | str = torch.float32,
    device_map: Any = None,
    revision: str | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> "TransformerBridge":
    """Load a model as a TransformerBridge, in float32 unless `dtype` is given (Pythia's hub weights are fp16).

    Args:
        name: `demo`; an alias such as `pythia-70m`, `pythia-1b-deduped`, `pythia-70m@step1000`; a hub id; a
            local Hugging Face directory; or `random:pythia-2.8b`: random weights at the real shape, for timing.
        device: `auto` takes cuda, else mps, else cpu. On mps the logits are first compared with the CPU's.
        dtype: A torch dtype or its name.
        device_map: Handed on to accelerate (`"auto"`, or a mapping) instead of `device`.
        revision: Branch, tag or commit on the hub.
        seed: Draws random weights.
        trust_remote_code: Allow code from the checkpoint to run.

    Raises:
        ModelError: Unknown name, a directory without weights, damaged weights, an architecture TransformerLens lacks.
    """
    source = resolve(name, revision)
    dtype = _dtype(dtype)
    place = "cpu" if device_map is not None else choose_device(device)
    start = "cpu" if place == "mps" else place
    with _explained(source):
        if source.origin is Origin.RANDOM:
            model = _random(source, dtype, seed, start)
        else:
            model = _pretrained(source, start, dtype, device_map, trust_remote_code)
            setattr(model, NAME_ATTRIBUTE, source.name)
    model.eval()
    return settle_on_mps(model, identify(model).vocabulary) if place == "mps" else model


def reinitialised(model: Any, seed: int = 0) -> "TransformerBridge":
    """An untrained twin of `model`: same architecture and sizes, random weights, named `random:<name>`."""
    name = f"random:{identify(model).name.removeprefix('random:')}"
    config, device = model.original_model.config, identify(model).device
    return _from_config(config, torch.float32, seed, name, device, model.tokenizer)


def _random(source: ModelName, dtype: torch.dtype, seed: int, device: str) -> "TransformerBridge":
    from transformers import GPTNeoXConfig

    return _from_config(GPTNeoXConfig(**SHAPES[source.location].config()), dtype, seed, source.name, device)


def _from_config(
    config: Any, dtype: torch.dtype, seed: int, name: str, device: str, tokenizer: Any = None
) -> "TransformerBridge":
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").to(device).eval()
    model = build_bridge_from_module(
        hf, type(hf).__name__, hf_config=hf.config, tokenizer=tokenizer, model_name=name, dtype=dtype
    )
    setattr(model, NAME_ATTRIBUTE, name)
    return model


def _pretrained(
    source: ModelName, device: str, dtype: torch.dtype, device_map: Any, trust_remote_code: bool
) -> "TransformerBridge":
    from transformer_lens.model_bridge import TransformerBridge

    folder = Path(source.location) if source.origin is Origin.DIRECTORY else None
    if folder is not None:
        _check_directory(folder)
    placement = {"device": device} if device_map is None else {"device_map": device_map}
    model = TransformerBridge.boot_transformers(
        source.location, dtype=dtype, revision=source.revision, trust_remote_code=trust_remote_code, **placement
    )
    if folder is not None and not any((folder / file).exists() for file in TOKENIZER_FILES):
        # TransformerLens would go on with a two-token tokenizer, without a word.
        model.tokenizer = None
    return model


def _check_directory(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: a model directory is what save_pretrained writes.")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        raise ModelError(f"{folder} has a config.json but no weights (*.safetensors or pytorch_model*.bin).")


@contextmanager
def _explained(source: ModelName) -> Iterator[None]:
    """Turn what the libraries raise while loading into an error that says what to do."""
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype.*deprecated.*")
            yield
    except ModelError:
        raise
    except SafetensorError as error:
        raise ModelError(
            f"the weights in {source.location} are damaged or cut off: {error}. Copy them anew."
        ) from error
    except OSError as error:
        where = f"{source.location}" + (f" at revision {source.revision}" if source.revision else "")
        raise ModelError(
            f"cannot load {where}: {_first_line(error)} Is the name right, and the network or the hub's cache at hand?"
        ) from error
    except (KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"cannot load {source.name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"dtype {dtype!r}: choose float32, bfloat16 or float16.")
    return found
