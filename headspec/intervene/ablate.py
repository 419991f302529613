"""Carrying out a plan on a live model: `with apply_plan(model, plan):`, or as a list of hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headspec.errors import ModelError
from headspec.intervene.hooks import Hook, filling, windowing
from headspec.intervene.plain import plan_on_plain
from headspec.load.identity import huggingface_config, identify
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan, check_applicable
from headspec.plan.treatments import Window


@contextmanager
def apply_plan(model: Any, plan: HeadPlan) -> Iterator[Any]:
    """Treat the heads of a model as the plan says, inside the `with` block only.

    Works in `forward`, with a KV cache, in `generate()`, with left padding. Blocks nest: what an inner plan adds is
    undone at its end, and where both remove a head the inner fill counts; where both window it, it sees what both
    let it see. Hooks of your own stay in force. Heads are still computed: this shows what a plan costs in quality,
    not what it saves in time.

    Args:
        model: A TransformerBridge from `load_model`, or a PlainModel from `load_plain`.
        plan: Made for this model.

    Raises:
        RecordError: The plan was made for another model.
        HeadspecError: The plan compresses heads, which a live model cannot do.
    """
    _check(model, plan)
    if isinstance(model, PlainModel):
        with plan_on_plain(model, plan):
            yield model
        return
    with model.hooks(fwd_hooks=plan_hooks(model, plan)):
        yield model


def plan_hooks(model: Any, plan: HeadPlan) -> list[tuple[str, Hook]]:
    """The plan as `(hook name, function)` pairs: `model.run_with_hooks(tokens, fwd_hooks=plan_hooks(model, plan))`."""
    _check(model, plan)
    hooks: list[tuple[str, Hook]] = []
    for layer in range(plan.about.n_layers):
        if windows := plan.windows_in(layer):
            _check_heeds_scores(model, layer)
            hooks.append((_existing(model, f"blocks.{layer}.attn.hook_attn_scores"), windowing(windows)))
        if fills := plan.fills_in(layer):
            hooks.append((_existing(model, f"blocks.{layer}.attn.hook_z"), filling(fills)))
    return hooks


def _check(model: Any, plan: HeadPlan) -> None:
    """Refuse what cannot be done before anything is hooked."""
    plan.about.check_model(identify(model))
    check_applicable(plan)
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
