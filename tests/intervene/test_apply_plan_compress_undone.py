"""Compression ends with its block, adds up with plans around it, and is refused where it cannot be carried out."""

import copy
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from compress_makers import (
    FORMS,
    MIXED,
    N_PROMPT,
    N_TOKENS,
    SIZES,
    TOKENS,
    Compressible,
    callable_of,
    compressible,
    new_cache,
    read,
    same,
    seen_by,
    whole,
)
from plan_references import Treatable, installed, logits
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from headspec.errors import HeadspecError, ModelError
from headspec.intervene.ablate import apply_plan, plan_hooks
from headspec.plan.plan import HeadPlan

form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(params=SIZES)
def each(request: pytest.FixtureRequest) -> Compressible:
    """Either model."""
    return compressible(request.param)


@pytest.fixture
def model() -> Compressible:
    return compressible()


# Undone, and plans inside plans.


@form
def test_after_the_block_the_model_is_what_it_was(each: Compressible, form: str) -> None:
    model = each.form(form)
    before, hooks = logits(model, TOKENS), installed(model)
    whole(model, each.plan(MIXED), TOKENS, N_PROMPT)
    assert torch.equal(logits(model, TOKENS), before)
    assert installed(model) == hooks


def under(model: Any, *plans: HeadPlan) -> Tensor:
    """Logits of a whole text with one plan inside the other."""
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(apply_plan(model, plan, N_PROMPT))
        return logits(callable_of(model), TOKENS, use_cache=False)


@form
@pytest.mark.parametrize("split", [["L0H0", "L0H2"], ["L0H1", "L1H0"], ["L0H3", "L1H1", "L1H2"]])
def test_an_inner_plan_adds_to_the_outer_one(each: Compressible, form: str, split: list[str]) -> None:
    plan = each.plan(MIXED)
    expected = whole(each.form(form), plan, TOKENS, N_PROMPT)
    same(under(each.form(form), plan.only(split), plan.without(split)), expected)
    same(under(each.form(form), plan.without(split), plan.only(split)), expected)


@form
@pytest.mark.parametrize("other", ["window:20+2", "compress:streaming:16"])
def test_where_both_plans_treat_a_head_the_order_does_not_matter(model: Compressible, form: str, other: str) -> None:
    plans = [model.plan({"L0H0": "compress:random:12"}), model.plan({"L0H0": other})]
    both = under(model.form(form), *plans)
    same(both, under(model.form(form), *reversed(plans)))
    assert all((both - under(model.form(form), plan)).abs().max() > 1e-4 for plan in plans)


@pytest.mark.parametrize("other", ["window:20+2", "compress:streaming:16"])
def test_where_both_plans_treat_a_head_it_sees_what_both_let_it_see(model: Compressible, other: str) -> None:
    plans = [model.plan({"L0H0": "compress:random:12"}), model.plan({"L0H0": other})]
    first, second, both = (
        seen_by(model.bridge, "L0H0", lambda chosen=chosen: under(model.bridge, *chosen))[0]
        for chosen in (plans[:1], plans[1:], plans)
    )
    assert torch.equal(both, first & second)


@form
def test_two_models_under_one_plan_remember_texts_of_their_own(model: Compressible, form: str) -> None:
    one, plan, other_text = model.form(form), model.plan(MIXED), TOKENS.flip(1)
    other, pasts = copy.deepcopy(one), [new_cache(), new_cache()]
    with apply_plan(one, plan), apply_plan(other, plan):
        for past, reader, text in zip(pasts, (one, other), (TOKENS, other_text), strict=True):
            read(reader, text[:, :N_PROMPT], [N_PROMPT], past)
        found = read(one, TOKENS[:, N_PROMPT:], [N_TOKENS - N_PROMPT], pasts[0])
    same(found, model.expected(plan, TOKENS, N_PROMPT)[:, N_PROMPT:])


# Refused beforehand.


@pytest.fixture
def nothing_may_be_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **settings: Any) -> None:
        raise AssertionError("a hook was installed")

    monkeypatch.setattr(HookPoint, "add_hook", refuse)
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", refuse)


def enter(model: Any, plan: HeadPlan, prompt: int) -> None:
    with apply_plan(model, plan, prompt):
        raise AssertionError("the block was entered")


@pytest.mark.usefixtures("nothing_may_be_hooked")
@pytest.mark.parametrize("prompt", [-1, True])
@pytest.mark.parametrize("way", [enter, plan_hooks])
def test_a_prompt_that_is_no_number_of_columns_is_refused(model: Compressible, prompt: int, way: Any) -> None:
    with pytest.raises(HeadspecError, match=f"prompt {prompt}: want the number of columns"):
        way(model.bridge, model.plan(MIXED), prompt)


@pytest.mark.usefixtures("nothing_may_be_hooked")
@pytest.mark.parametrize("kind", ["bridge", "plain"])
def test_other_models_are_refused_by_the_names_of_the_heads(all_treatable: dict[str, Treatable], kind: str) -> None:
    llama = all_treatable["grouped-query"]
    plan = llama.plan({"L0H1": "mean", "L0H3": "compress:snapkv:0.5", "L1H1": "compress:random:8"})
    with pytest.raises(ModelError, match=r"L0H3, L1H1: .* GPT-NeoX .* only, not of planted \(llama\).* plan\.without"):
        enter(getattr(llama, kind), plan, 0)
