"""What is not measured, and how the model is left."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from measure_oracles import Told
from quality_figures import FEW, NONE, value
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from headspec.errors import ModelError, RecordError, TextError
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows
from headspec.measure.quality import QualityReport, measure_plan, measure_quality
from headspec.plan.make import plan_heads


def n_hooks(model: Any) -> int:
    if isinstance(model, PlainModel):
        modules = list(model.huggingface.modules())
        return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules)
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values())


# The model afterwards.


@pytest.mark.parametrize("name", ["demo", "plain_demo"])
def test_no_hooks_are_left(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    before = n_hooks(model)
    plan = plan_heads(model, {"L1H7": "zero", "L0H1": "window:4"})
    measure_plan(model, plan, torch.arange(2, 42), n_repeats=1, n_needles=1)
    assert n_hooks(model) == before


@pytest.mark.parametrize("name", ["demo", "plain_demo"])
def test_no_hooks_are_left_after_an_error(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    before = n_hooks(model)

    def fail() -> None:
        raise KeyboardInterrupt("enough")

    plan = plan_heads(model, {"L1H7": "zero", "L0H1": "window:4"})
    with pytest.raises(KeyboardInterrupt, match="enough"):
        measure_plan(model, plan, torch.arange(2, 42), step=fail)
    assert n_hooks(model) == before


def test_the_model_computes_what_it_did_before(measure: Callable[..., QualityReport], tiny_plain: Any) -> None:
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        before = tiny_plain(tokens)
        measure(**FEW)
        assert torch.equal(tiny_plain(tokens), before)


def test_hooks_of_ones_own_stay_in_force_in_the_original_and_in_the_treated(demo: TransformerBridge) -> None:
    tokens = torch.randint(2, 1024, (2, 40), generator=torch.Generator().manual_seed(0))

    def flatten(z: Tensor, hook: Any) -> Tensor:
        return z * 0

    plain = measure_plan(demo, plan_heads(demo, {}), tokens, **NONE)
    with demo.hooks(fwd_hooks=[("blocks.1.attn.hook_z", flatten)]):
        hooked = measure_plan(demo, plan_heads(demo, {"L1H7": "zero"}), tokens, **NONE)
    assert value(hooked, "kl") == 0
    assert value(hooked, "loss_original") != value(plain, "loss_original")


# What is refused.


@pytest.fixture
def passes(plain_demo: PlainModel) -> Iterator[list[int]]:
    """How often the packaged model was run."""
    seen: list[int] = []
    handle = plain_demo.huggingface.register_forward_hook(lambda *arguments: seen.append(1))
    yield seen
    handle.remove()


def test_a_plan_for_another_model_is_refused_before_anything_is_computed(
    plain_demo: PlainModel, tiny_plain: PlainModel, certify: TokenWindows, passes: list[int]
) -> None:
    with pytest.raises(RecordError, match=r"this plan was made for tiny .*, not for demo"):
        measure_plan(plain_demo, plan_heads(tiny_plain, {"L0H1": "zero"}), certify)
    assert not passes


def test_a_plan_for_another_model_is_refused_for_a_bridge_too(
    demo: TransformerBridge, tiny_plain: PlainModel, certify: TokenWindows
) -> None:
    with pytest.raises(RecordError, match=r"this plan was made for tiny .*, not for demo"):
        measure_plan(demo, plan_heads(tiny_plain, {"L0H1": "zero"}), certify)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.arange(16), "the text has 16 tokens; 17 or more"),
        (torch.zeros(1, 513, dtype=torch.int64), "beyond the model's context of 512"),
        (torch.full((1, 20), 1024), "token ids from 1024 to 1024"),
        (torch.zeros(1, 20), "want whole numbers"),
    ],
    ids=["short", "long", "unknown", "fractions"],
)
def test_tokens_that_do_not_fit_are_refused_before_anything_is_computed(
    plain_demo: PlainModel, passes: list[int], tokens: Tensor, message: str
) -> None:
    with pytest.raises(TextError, match=message):
        measure_plan(plain_demo, plan_heads(plain_demo, {}), tokens)
    assert not passes


def test_a_treated_model_that_gives_no_logits_is_refused(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    with pytest.raises(ModelError, match="gave no logits"):
        measure_quality(tiny_plain, lambda window: None, tiny_ids)


def test_an_original_that_is_no_loaded_model_is_refused(tiny_ids: Tensor) -> None:
    told = Told(tiny_ids, torch.zeros(3, 40, 272))
    with pytest.raises(ModelError, match="Told is not a TransformerBridge"):
        measure_quality(told, told, tiny_ids)
