"""Carrying out a plan on a live model: `with apply_plan(model, plan):`, or as a list of hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headspec.errors import ModelError
from headspec.intervene.hooks import Hook, filling, windowing
from headspec.intervene.plain import plan_on_plain
from headspec.load.identity import identify
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan, check_applicable


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
    if isinstance(model, PlainModel):
        plan.about.check_model(identify(model))
        check_applicable(plan)
        with plan_on_plain(model, plan):
            yield model
        return
    with model.hooks(fwd_hooks=plan_hooks(model, plan)):
        yield model


def plan_hooks(model: Any, plan: HeadPlan) -> list[tuple[str, Hook]]:
    """The plan as `(hook name, function)` pairs: `model.run_with_hooks(tokens, fwd_hooks=plan_hooks(model, plan))`."""
    plan.about.check_model(identify(model))
    check_applicable(plan)
    hooks: list[tuple[str, Hook]] = []
    for layer in range(plan.about.n_layers):
        if windows := plan.windows_in(layer):
            hooks.append((_existing(model, f"blocks.{layer}.attn.hook_attn_scores"), windowing(windows)))
        if fills := plan.fills_in(layer):
            hooks.append((_existing(model, f"blocks.{layer}.attn.hook_z"), filling(fills)))
    return hooks


def _existing(model: Any, name: str) -> str:
    if name not in model.hook_dict:
        raise ModelError(f"this model has no {name}: headspec treats decoders with ordinary softmax attention.")
    return name
