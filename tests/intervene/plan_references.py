"""What a plan should do, by Hugging Face's own models: edited weights, one attention mask a head, one row at a time.

Shares no code with headspec's hooks and masks: removed heads are cut out of the output projection and their constant
goes into its bias; windows are lists of keys. float64 throughout.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from tiny_models import VOCABULARY, bridge_of, tiny_llama, tiny_neox
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from headspec.load.plain import PlainModel, as_plain
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Window
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile

PADDING = 1
SLIDING_WINDOW = 24
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "parallel": lambda: tiny_neox(3),
    "sequential": lambda: tiny_neox(4, parallel=False),
    "grouped-query": lambda: tiny_llama(5),
}


@dataclass(frozen=True)
class Treatable:
    """One model in every form: with hooks, without, and as transformers makes it."""

    bridge: TransformerBridge
    plain: PlainModel
    make: Callable[[], PreTrainedModel]
    profile: HeadProfile

    def plan(self, heads: dict[str, str], seed: int = 0) -> HeadPlan:
        return plan_heads(self.profile, heads, seed=seed)

    def expected(self, plan: HeadPlan, tokens: Tensor) -> Tensor:
        """Logits of every row of `[row, token]` under a plan, by the reference."""
        model = treated(self.make(), plan)
        return torch.cat([logits(model, row[None]) for row in tokens])


def treatable(make: Callable[[], PreTrainedModel]) -> Treatable:
    fresh, bridge = make(), bridge_of(make())
    profile = probe_heads(bridge, random_ids(2, 60, seed=99), n_repeats=0, progress=False)
    return Treatable(bridge, as_plain(bridge), lambda: copy.deepcopy(fresh), profile)


def random_ids(n_rows: int, n_tokens: int, seed: int = 0) -> Tensor:
    """Token ids that are neither special nor padding."""
    return torch.randint(2, VOCABULARY, (n_rows, n_tokens), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, tokens: Tensor, **settings: Any) -> Tensor:
    """The logits of a bridge, a plain model or a Hugging Face model."""
    with torch.no_grad():
        found = model(tokens, **settings)
    return found if isinstance(found, Tensor) else found.logits


def padded(rows: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The first `length` tokens of each row with padding on their left, and the attention mask."""
    width = max(lengths)
    tokens, mask = torch.full((len(rows), width), PADDING), torch.zeros(len(rows), width, dtype=torch.int64)
    for index, length in enumerate(lengths):
        tokens[index, width - length :] = rows[index, :length]
        mask[index, width - length :] = 1
    return tokens, mask


def sees(query: int, key: int, window: Window | None) -> bool:
    """Whether a query may look at a key, in a row without padding."""
    if window is None:
        return key <= query
    return key <= query and (key in range(query - window.window + 1, query + 1) or key in range(window.sinks))


def treated(model: PreTrainedModel, plan: HeadPlan, sliding_window: int | None = None) -> PreTrainedModel:
    """A Hugging Face model (with eager attention) that does what a plan says; it is changed in place."""
    model = model.double()
    for layer, attention in enumerate(attentions(model)):
        _cut_out(output_of(attention), plan, layer)
        windows = [plan[f"L{layer}H{head}"] for head in range(plan.about.n_heads)]
        narrow = [window if isinstance(window, Window) else None for window in windows]
        attention.register_forward_pre_hook(_masked(narrow, sliding_window), with_kwargs=True)
    return model


def attentions(model: Any) -> list[nn.Module]:
    if model.config.model_type == "gpt_neox":
        return [layer.attention for layer in model.gpt_neox.layers]
    return [layer.self_attn for layer in model.model.layers]


def output_of(attention: Any) -> nn.Linear:
    return attention.dense if hasattr(attention, "dense") else attention.o_proj


def _cut_out(output: nn.Linear, plan: HeadPlan, layer: int) -> None:
    if output.bias is None:
        output.bias = nn.Parameter(torch.zeros_like(output.weight[:, 0]))
    for head, fill in plan.fills.items():
        if head.layer == layer:
            columns = slice(head.head * plan.about.d_head, (head.head + 1) * plan.about.d_head)
            with torch.no_grad():
                output.bias += output.weight[:, columns] @ torch.from_numpy(fill).double()
                output.weight[:, columns] = 0


def _masked(windows: list[Window | None], sliding_window: int | None) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Any:
        hidden = inputs[0] if inputs else keywords["hidden_states"]
        seen = torch.tensor([_all_seen(hidden.shape[1], window, sliding_window) for window in windows])
        mask = torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
        return inputs, {**keywords, "attention_mask": mask[None]}

    return hook


@cache
def _all_seen(n_tokens: int, window: Window | None, sliding_window: int | None) -> list[list[bool]]:
    own, places = Window(sliding_window, 0) if sliding_window else None, range(n_tokens)
    return [[sees(query, key, window) and sees(query, key, own) for key in places] for query in places]


def sliding_mistral() -> MistralForCausalLM:
    """A model in which no query sees a key that is `SLIDING_WINDOW` or more tokens back."""
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=128, sliding_window=SLIDING_WINDOW, initializer_range=0.2,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MistralForCausalLM(config).eval()


def installed(model: Any) -> list[tuple[str, int]]:
    """Every hook of TransformerLens and of torch that is installed, by the name of its place."""
    points = [
        (name, id(handle)) for name, point in getattr(model, "hook_dict", {}).items() for handle in point.fwd_hooks
    ]
    modules = model.huggingface if isinstance(model, PlainModel) else model
    torch_hooks = [
        (name, number)
        for name, module in modules.named_modules()
        for number in (*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks)
    ]
    return points + torch_hooks
