"""Will it fit into memory? Estimated before anything is loaded, with what would fit instead.

Counts what is certainly needed (weights, copies, cache, activations), so that a refusal is never a mistake by much.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from headspec.errors import ModelError
from headspec.load.config import count_parameters, read_config
from headspec.load.device import choose_device
from headspec.load.explained import explained
from headspec.load.memory import available_bytes
from headspec.load.names import resolve
from headspec.load.pythia import SHAPES

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that memory depends on."""

    n_parameters: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    fused: bool
    """Whether queries, keys and values are one matrix, which a TransformerBridge copies into three."""

    @classmethod
    def of(cls, config: Any, n_parameters: int) -> "Sizes":
        """Read off a Hugging Face configuration."""
        config = config.get_text_config()
        n_heads, d_model = config.num_attention_heads, config.hidden_size
        return cls(
            n_parameters=n_parameters, n_layers=config.num_hidden_layers, n_heads=n_heads,
            n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads, d_model=d_model,
            d_head=getattr(config, "head_dim", None) or d_model // n_heads,
            d_mlp=getattr(config, "intermediate_size", None) or 4 * d_model, fused=config.model_type == "gpt_neox",
        )  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """The choices that memory depends on."""

    engine: str = "hooks"
    dtype: str = "float32"
    window: int = 2048
    segment: int = 256
    batch_size: int = 1
    controls: bool = False
    """Whether an untrained twin of the model will be probed too."""

    def options(self, instead_of: "Choices") -> str:
        """What differs from another choice, as options of the command line."""
        values = {"engine": self.engine, "dtype": self.dtype, "batch-size": self.batch_size}
        old = {"engine": instead_of.engine, "dtype": instead_of.dtype, "batch-size": instead_of.batch_size}
        changed = [f"--{name} {value}" for name, value in values.items() if value != old[name]]
        return " ".join([*changed, *(["--no-controls"] if self.controls != instead_of.controls else [])])


def memory_needed(sizes: Sizes, choices: Choices) -> dict[str, int]:
    """Bytes by purpose."""
    width, hooks = BYTES.get(choices.dtype, 4), choices.engine == "hooks"
    tokens = choices.batch_size * (min(choices.segment, choices.window) if hooks else choices.window)
    needed = {"weights": sizes.n_parameters * width}
    if hooks and sizes.fused and sizes.n_parameters:
        needed["the bridge's copies of q, k and v"] = 3 * sizes.d_model**2 * sizes.n_layers * width
    if choices.controls:
        needed["an untrained twin (controls)"] = sum(needed.values())
    if hooks and choices.window > choices.segment:
        keys_and_values = 2 * sizes.n_layers * sizes.n_kv_heads * sizes.d_head
        needed["KV cache"] = keys_and_values * choices.window * choices.batch_size * width
    patterns = 2 * sizes.n_heads * tokens * choices.window * width if hooks else 0
    needed["activations"] = patterns + 2 * tokens * sizes.d_mlp * width
    return needed


def check_memory(name: str, sizes: Sizes, choices: Choices, device: str) -> None:
    """Refuse, before anything is loaded, what will not fit into the memory of `device`."""
    needed, available = memory_needed(sizes, choices), available_bytes(device)
    total = sum(needed.values())
    if total <= available:
        return
    parts = " + ".join(f"{_gb(part)} {purpose}" for purpose, part in needed.items() if part)
    fitting = [
        f"{other.options(choices)} ({_gb(need)})"
        for other in _alternatives(choices)
        if (need := sum(memory_needed(sizes, other).values())) <= available
    ]
    advice = f"What would fit: {'; '.join(fitting[:3])}." if fitting else _smaller(sizes, choices, available)
    raise ModelError(f"{name} needs about {_gb(total)} ({parts}), and {_gb(available)} are free on {device}. {advice}")


def check_before_loading(
    name: str,
    engine: str,
    load: dict[str, Any],
    *,
    n_tokens: int,
    window: int | None = None,
    segment: int = 256,
    batch_size: int = 1,
    controls: bool = False,
    **_: Any,
) -> None:
    """Refuse a model that will not fit together with its probe; `load` are the arguments of `load_model`.

    With a `device_map` the weights may lie anywhere: nothing is checked.
    """
    if load.get("device_map") is not None:
        return
    source, trust = resolve(name, load.get("revision")), load.get("trust_remote_code", False)
    with explained(source):
        config = read_config(source, trust)
        sizes = Sizes.of(config, count_parameters(config, trust))
    dtype = str(load.get("dtype", "float32")).removeprefix("torch.")
    context = getattr(config.get_text_config(), "max_position_embeddings", None)  # models with ALiBi name none
    window = min(window or context or n_tokens, n_tokens)
    twin = controls and not name.startswith("random:")
    choices = Choices(engine, dtype, window, segment, batch_size, twin)
    check_memory(name, sizes, choices, choose_device(load.get("device", "auto")))


def _alternatives(choices: Choices) -> Iterator[Choices]:
    """Other ways to run the same probe, nearest first."""
    for dtype in dict.fromkeys((choices.dtype, "bfloat16")):
        for controls in dict.fromkeys((choices.controls, False)):
            for engine in dict.fromkeys((choices.engine, "fast")):
                for batch_size in dict.fromkeys((choices.batch_size, 1)):
                    yield replace(choices, engine=engine, dtype=dtype, controls=controls, batch_size=batch_size)


def _smaller(sizes: Sizes, choices: Choices, available: int) -> str:
    if not sizes.n_parameters:
        return "Use shorter windows."
    frugal = replace(choices, engine="fast", dtype="bfloat16", controls=False, batch_size=1)
    for name, shape in reversed(SHAPES.items()):
        own = Sizes(shape.n_parameters, shape.n_layers, shape.n_heads, shape.n_heads, shape.d_model,
                    shape.d_model // shape.n_heads, 4 * shape.d_model, fused=True)  # fmt: skip
        if (need := sum(memory_needed(own, frugal).values())) <= available:
            return f"The largest Pythia that would fit is {name} with {frugal.options(choices)} ({_gb(need)})."
    return "Free some memory."


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
