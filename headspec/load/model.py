"""Loading models, from the hub, a directory, the packaged model or random weights.

The only place that boots a TransformerBridge; `load_plain` does without one.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headspec.errors import ModelError
from headspec.load.config import read_config
from headspec.load.device import choose_device, settle_on_mps
from headspec.load.explained import explained
from headspec.load.identity import NAME_ATTRIBUTE, huggingface_config, identify
from headspec.load.names import ModelName, Origin, resolve
from headspec.load.plain import PlainModel
from headspec.load.pruned import refuse_pruned, register
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
    want = _wanted(name, device, dtype, device_map, revision, trust_remote_code)
    with explained(want.source), _own_random_state(seed):
        random = want.source.origin is Origin.RANDOM
        model = _bridge(_untrained_shape(want, "eager"), tokenizer=None) if random else _pretrained_bridge(want)
    setattr(model, NAME_ATTRIBUTE, want.source.name)
    model.eval()
    return _settled(model, want)


def load_plain(
    name: str,
    *,
    device: str = "auto",
    dtype: torch.dtype | str = torch.float32,
    device_map: Any = None,
    revision: str | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> PlainModel:
    """Load a model without a TransformerBridge: nothing to hook, but no second copy of q, k and v in memory either.

    For `probe_heads(..., engine="fast")`. Arguments and errors as for `load_model`.
    """
    want = _wanted(name, device, dtype, device_map, revision, trust_remote_code)
    with explained(want.source), _own_random_state(seed):
        random = want.source.origin is Origin.RANDOM
        hf = _untrained_shape(want, "sdpa") if random else _pretrained(want, "sdpa")
        tokenizer = None if random else _tokenizer(want)
    return _settled(PlainModel(hf.eval(), want.source.name, tokenizer), want)


def load_shape(name: str, *, dtype: torch.dtype | str = torch.float32) -> PlainModel:
    """A model without its weights, on the meta device: sizes and name, and nothing that computes.

    Arguments and errors as for `load_model`; needs the configuration only.
    """
    want = _wanted(name, "cpu", dtype, None, None, False)
    with explained(want.source), torch.device("meta"):
        return PlainModel(_untrained(read_config(want.source), want.dtype, "meta", "sdpa").eval(), want.source.name)


def reinitialised(model: Any, seed: int = 0) -> Any:
    """An untrained twin of a bridge or plain model: same kind and sizes, random weights, named `random:<name>`."""
    identity, plain = identify(model), isinstance(model, PlainModel)
    config = copy.deepcopy(huggingface_config(model))
    name = f"random:{identity.name.removeprefix('random:')}"
    with _own_random_state(seed):
        hf = _untrained(config, _dtype(identity.dtype), identity.device, "sdpa" if plain else "eager")
        twin = PlainModel(hf.eval(), name, model.tokenizer) if plain else _bridge(hf, model.tokenizer)
    if not plain:
        setattr(twin, NAME_ATTRIBUTE, name)
    return twin


@dataclass(frozen=True)
class _Wanted:
    """What is to be loaded, how and where to."""

    source: ModelName
    dtype: torch.dtype
    place: str
    """The device asked for."""
    device_map: Any
    trust_remote_code: bool

    @property
    def start(self) -> str:
        """Where it is loaded first: what is meant for mps is compared with the CPU."""
        return "cpu" if self.place.startswith("mps") else self.place


def _wanted(
    name: str, device: str, dtype: torch.dtype | str, device_map: Any, revision: str | None, trust_remote_code: bool
) -> _Wanted:
    source = resolve(name, revision)
    place = "cpu" if device_map is not None else choose_device(device)
    return _Wanted(source, _dtype(dtype), place, device_map, trust_remote_code)


def _settled(model: Any, want: _Wanted) -> Any:
    return settle_on_mps(model, identify(model).vocabulary) if want.place.startswith("mps") else model


def _untrained_shape(want: _Wanted, attention: str) -> Any:
    return _untrained(read_config(want.source), want.dtype, want.start, attention)


def _untrained(config: Any, dtype: torch.dtype, device: str, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).to(device)


def _bridge(hf: Any, tokenizer: Any) -> "TransformerBridge":
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    return build_bridge_from_module(hf.eval(), type(hf).__name__, hf_config=hf.config, tokenizer=tokenizer)


def _has_tokenizer(source: ModelName) -> bool:
    return source.origin is not Origin.DIRECTORY or check_directory(Path(source.location))


def _pretrained(want: _Wanted, attention: str) -> Any:
    """The Hugging Face model of a directory or hub id."""
    if want.source.origin is Origin.DIRECTORY:
        check_directory(Path(want.source.location))
    register()  # exported models load with headspec's own code
    hf = complete_weights_class().from_pretrained(
        want.source.location, dtype=want.dtype, attn_implementation=attention, revision=want.source.revision or "main",
        trust_remote_code=want.trust_remote_code, device_map=want.device_map,
    )  # fmt: skip
    return hf if want.device_map is not None else hf.to(want.start)


def _pretrained_bridge(want: _Wanted) -> "TransformerBridge":
    from transformer_lens.model_bridge import TransformerBridge

    has_tokenizer = _has_tokenizer(want.source)
    if want.source.origin is Origin.DIRECTORY:
        register()
        refuse_pruned(read_config(want.source, want.trust_remote_code).model_type, "hooked (load_plain loads it)")
    if not has_tokenizer:
        # Left to itself, TransformerLens would go on with a two-token tokenizer, without a word.
        return _bridge(_pretrained(want, "eager"), tokenizer=None)
    placement = {"device": want.start} if want.device_map is None else {"device_map": want.device_map}
    return TransformerBridge.boot_transformers(
        want.source.location, dtype=want.dtype, revision=want.source.revision, model_class=complete_weights_class(),
        trust_remote_code=want.trust_remote_code, **placement,
    )  # fmt: skip


def _tokenizer(want: _Wanted) -> Any:
    from transformers import AutoTokenizer

    if not _has_tokenizer(want.source):
        return None
    return AutoTokenizer.from_pretrained(
        want.source.location, revision=want.source.revision or "main", trust_remote_code=want.trust_remote_code
    )


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Draw from `seed`, and leave the user's random state as it was: loading initialises weights at random first."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: choose float32, bfloat16 or float16.")
    return found
