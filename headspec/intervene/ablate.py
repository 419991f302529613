"""Carrying out a plan on a live model: `with apply_plan(model, plan):`, or as a list of hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headspec.errors import ModelError
from headspec.intervene.compress import check_prompt, compressed_heads
from headspec.intervene.hooks import Hook, compressing, filling, windowing
from headspec.intervene.plain import plan_on_plain
from headspec.load.identity import huggingface_config, identify
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Window


@contextmanager
def apply_plan(model: Any, plan: HeadPlan, prompt: int = 0) -> Iterator[Any]:
    """Treat the heads of a model as the plan says, inside the `with` block only.

    Works in `forward`, with a KV cache, in `generate()`, with left padding. Blocks nest: what an inner plan adds is
    undone at its end, and where both remove a head the inner fill counts; where both window it, it sees what both
    let it see. Hooks of your own stay in force. Heads are still computed, and keys kept: this shows what a plan costs
    in quality, not what it saves in time or memory.

    Compressed heads (GPT-NeoX only) read the prompt with every key. When it is complete they choose the keys that later
    queries see, and remember the choice until a call without a past begins the next text. So read one text (or batch)
    at a time, inside the block from its beginning, through a DynamicCache or by `generate()`. Beams are right, as those
    of one text share its prompt; tokens after the prompt may be taken back from the cache. Any other cache than that of
    the text is a ModelError where its length or number of rows tells.

    Args:
        model: A TransformerBridge from `load_model`, or a PlainModel from `load_plain`.
        plan: Made for this model.
        prompt: Columns of the prompt, padding in front included, after which compressed heads choose, in whichever
            pieces they come. 0: what the first call brings is the prompt, so of a whole text without a KV cache nothing
            is hidden. Windows do not heed it.

    Raises:
        RecordError: The plan was made for another model.
        ModelError: It compresses heads of something else than a GPT-NeoX, or gives windows where they would do nothing.
    """
    _check(model, plan, prompt)
    if isinstance(model, PlainModel):
        with plan_on_plain(model, plan, prompt):
            yield model
        return
    with model.hooks(fwd_hooks=plan_hooks(model, plan, prompt)):
        yield model


def plan_hooks(model: Any, plan: HeadPlan, prompt: int = 0) -> list[tuple[str, Hook]]:
    """The plan as `(hook name, function)` pairs: `model.run_with_hooks(tokens, fwd_hooks=plan_hooks(model, plan))`.

    The hooks of compressed heads remember the text that is being read: make new ones for another model.
    """
    _check(model, plan, prompt)
    hooks: list[tuple[str, Hook]] = []
    for layer in range(plan.about.n_layers):
        if windows := plan.windows_in(layer):
            _check_heeds_scores(model, layer)
            hooks.append((_existing(model, f"blocks.{layer}.attn.hook_attn_scores"), windowing(windows)))
        if compressed := compressed_heads(model, plan, layer, partial(_w_o, model, layer), prompt):
            found = compressing(compressed).items()
            hooks += [(_existing(model, f"blocks.{layer}.attn.{place}"), hook) for place, hook in found]
        if fills := plan.fills_in(layer):
            hooks.append((_existing(model, f"blocks.{layer}.attn.hook_z"), filling(fills)))
    return hooks


def _w_o(model: Any, layer: int) -> Float[Tensor, "head d_head d_model"]:
    return model.blocks[layer].attn.W_O


def _check(model: Any, plan: HeadPlan, prompt: int) -> None:
    """Refuse what cannot be done before anything is hooked."""
    plan.about.check_model(identify(model))
    check_prompt(prompt)
    compressed, kind = plan.heads(Compress), huggingface_config(model).model_type
    if compressed and kind != "gpt_neox":
        raise ModelError(
            f"{', '.join(map(str, compressed))}: headspec compresses heads of GPT-NeoX models (Pythia) only, not of "
            f"{plan.about.model} ({kind}). Removing heads and windows work: use plan.without(…) for these heads."
        )
    own = getattr(huggingface_config(model), "sliding_window", None)
    if plan.heads(Window) and own is not None and own < plan.about.context:
        raise ModelError(
            f"{plan.about.model} has a sliding window of {own} keys of its own: headspec gives windows to heads with "
            "full attention only. Removing heads works."
        )


def _check_heeds_scores(model: Any, layer: int) -> None:
    """Refuse models whose own attention runs first and is only shown at `hook_attn_scores` (OPT, GPT-Neo)."""
    if type(model.blocks[layer].attn).__name__ == "AttentionBridge":
        raise ModelError(
            f"TransformerLens computes the attention of {identify(model).name} without heeding hook_attn_scores, so a "
            "window would do nothing: headspec can only remove heads of this model."
        )


def _existing(model: Any, name: str) -> str:
    if name not in model.hook_dict:
        raise ModelError(f"this model has no {name}: headspec treats decoders with ordinary softmax attention.")
    return name
