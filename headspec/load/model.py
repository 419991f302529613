"""The only place that boots a TransformerBridge: from the hub, a directory, the packaged model or random weights."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from headspec.errors import ModelError
from headspec.load.device import choose_device, settle_on_mps
from headspec.load.identity import NAME_ATTRIBUTE, identify
from headspec.load.names import ModelName, Origin, resolve
from headspec.load.pythia import SHAPES
from headspec.load.weights import check_directory, complete_weights_class

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    on_mps = place.startswith("mps")
    start = "cpu" if on_mps else place
    with _explained(source), _own_random_state(seed):
        if source.origin is Origin.RANDOM:
            model = _random(source.location, dtype, start)
        else:
            placement = {"device": start} if device_map is None else {"device_map": device_map}
            model = _pretrained(source, dtype, trust_remote_code, placement)
    setattr(model, NAME_ATTRIBUTE, source.name)
    model.eval()
    return settle_on_mps(model, identify(model).vocabulary) if on_mps else model


def reinitialised(model: Any, seed: int = 0) -> "TransformerBridge":
    """An untrained twin of `model`: same architecture and sizes, random weights, named `random:<name>`."""
    identity, config = identify(model), copy.deepcopy(model.original_model.config)
    with _own_random_state(seed):
        twin = _bridge(_untrained(config, _dtype(identity.dtype), identity.device), model.tokenizer)
    setattr(twin, NAME_ATTRIBUTE, f"random:{identity.name.removeprefix('random:')}")
    return twin


def _random(shape: str, dtype: torch.dtype, device: str) -> "TransformerBridge":
    from transformers import GPTNeoXConfig

    return _bridge(_untrained(GPTNeoXConfig(**SHAPES[shape].config()), dtype, device), tokenizer=None)


def _untrained(config: Any, dtype: torch.dtype, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").to(device)


def _bridge(hf: Any, tokenizer: Any) -> "TransformerBridge":
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    return build_bridge_from_module(hf.eval(), type(hf).__name__, hf_config=hf.config, tokenizer=tokenizer)


def _pretrained(
    source: ModelName, dtype: torch.dtype, trust_remote_code: bool, placement: dict[str, Any]
) -> "TransformerBridge":
    from transformer_lens.model_bridge import TransformerBridge

    complete = complete_weights_class()
    if source.origin is Origin.DIRECTORY and not check_directory(Path(source.location)):
        # Left to itself, TransformerLens would go on with a two-token tokenizer, without a word.
        hf = complete.from_pretrained(
            source.location, dtype=dtype, attn_implementation="eager", trust_remote_code=trust_remote_code,
            device_map=placement.get("device_map"),
        )  # fmt: skip
        return _bridge(hf.to(placement["device"]) if "device" in placement else hf, tokenizer=None)
    return TransformerBridge.boot_transformers(
        source.location, dtype=dtype, revision=source.revision, trust_remote_code=trust_remote_code,
        model_class=complete, **placement,
    )  # fmt: skip


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Draw from `seed`, and leave the user's random state as it was: loading initialises weights at random first."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def _explained(source: ModelName) -> Iterator[None]:
    """Turn what the libraries raise while loading into an error that says what to do."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype.*deprecated.*")
            yield
    except ModelError:
        raise
    except (SafetensorError, UnpicklingError) as error:
        raise ModelError(
            f"the weights in {source.location} are damaged or cut off: {_first_line(error)} Copy them anew."
        ) from error
    except OSError as error:
        where = f"{source.location}" + (f" at revision {source.revision}" if source.revision else "")
        raise ModelError(
            f"cannot load {where}: {_first_line(error)} Is the name right, and the network or the hub's cache at hand?"
        ) from error
    except StrictDataclassError as error:
        raise ModelError(
            f"cannot load {source.name}: its config.json is invalid: {' '.join(str(error).split())}"
        ) from error
    except (EOFError, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"cannot load {source.name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [f"{type(error).__name__}."])[0]


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: choose float32, bfloat16 or float16.")
    return found
