"""Plans inside plans, beside hooks of your own, on several models; what is undone, and what is refused beforehand."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from plan_references import HEADS, Treatable, installed, logits, random_ids, sees
from tiny_models import bridge_of, tiny_llama, tiny_neox
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel

from headspec.errors import ModelError, RecordError
from headspec.heads import HeadId
from headspec.intervene.ablate import apply_plan, plan_hooks
from headspec.load.plain import PlainModel
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Window

TOKENS = random_ids(2, 40)
MIXED = {"L0H1": "mean", "L0H2": "window:4+1", "L1H0": "random", "L1H3": "window:2+0"}
REMOVED = {"L0H1": "mean", "L1H0": "random"}
FORMS = ("bridge", "plain")


def form(model: Treatable, kind: str) -> Any:
    return model.bridge if kind == "bridge" else model.plain


def under(model: Any, *plans: HeadPlan) -> Tensor:
    """Logits with one plan inside the other."""
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(apply_plan(model, plan))
        return logits(model, TOKENS)


def seen_by(bridge: TransformerBridge, head: str, *plans: HeadPlan) -> Tensor:
    """`[query, key]`: what a head sees of the first row with one plan inside the other."""
    place = HeadId.parse(head)
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(apply_plan(bridge, plan))
        _, cache = bridge.run_with_cache(TOKENS)
    return cache[f"blocks.{place.layer}.attn.hook_pattern"][0, place.head] > 0


def both_see(first: Window, second: Window) -> Tensor:
    return torch.tensor([[sees(q, k, first) and sees(q, k, second) for k in range(40)] for q in range(40)])


# Undone.


@pytest.mark.parametrize("kind", FORMS)
def test_after_the_block_the_model_is_what_it_was(each: Treatable, kind: str) -> None:
    model, plan = form(each, kind), each.plan(MIXED)
    before, hooks = logits(model, TOKENS), installed(model)
    inside = under(model, plan)
    assert not torch.allclose(inside, before, atol=1e-3)
    assert torch.equal(logits(model, TOKENS), before)
    assert installed(model) == hooks


@pytest.mark.parametrize("kind", FORMS)
def test_after_an_error_in_the_block_the_model_is_what_it_was(each: Treatable, kind: str) -> None:
    model = form(each, kind)
    before, hooks = logits(model, TOKENS), installed(model)
    with pytest.raises(KeyboardInterrupt, match="in the middle"), apply_plan(model, each.plan(MIXED)):
        raise KeyboardInterrupt("in the middle")
    assert torch.equal(logits(model, TOKENS), before)
    assert installed(model) == hooks


@pytest.mark.parametrize("kind", FORMS)
def test_after_an_error_in_the_model_the_model_is_what_it_was(neox: Treatable, kind: str) -> None:
    model = form(neox, kind)
    before, hooks = logits(model, TOKENS), installed(model)
    with pytest.raises(IndexError, match="index out of range"), apply_plan(model, neox.plan(MIXED)):
        logits(model, torch.tensor([[10**6]]))
    assert torch.equal(logits(model, TOKENS), before)
    assert installed(model) == hooks


@pytest.mark.parametrize("kind", FORMS)
def test_the_block_hands_out_the_model(neox: Treatable, kind: str) -> None:
    model = form(neox, kind)
    with apply_plan(model, neox.plan(MIXED)) as handed:
        assert handed is model


@pytest.mark.parametrize("kind", FORMS)
def test_hooks_are_installed_in_the_block_only(neox: Treatable, kind: str) -> None:
    model = form(neox, kind)
    before = installed(model)
    block = apply_plan(model, neox.plan(MIXED))
    assert installed(model) == before
    with block:
        assert len(installed(model)) > len(before)
    assert installed(model) == before


@pytest.mark.parametrize("kind", FORMS)
def test_thirty_plans_leave_no_hook_behind(neox: Treatable, kind: str) -> None:
    model, plan = form(neox, kind), neox.plan(MIXED)
    before = installed(model)
    for _ in range(30):
        with apply_plan(model, plan):
            pass
    assert installed(model) == before


@pytest.mark.parametrize("kind", FORMS)
def test_weights_are_never_touched(neox: Treatable, kind: str) -> None:
    weights = {name: value.clone() for name, value in neox.plain.huggingface.state_dict().items()}
    under(form(neox, kind), neox.plan(MIXED))
    assert all(torch.equal(value, weights[name]) for name, value in neox.plain.huggingface.state_dict().items())


# Plans inside plans.


@pytest.mark.parametrize("kind", FORMS)
def test_an_inner_plan_adds_to_the_outer_one(each: Treatable, kind: str) -> None:
    model, outer, inner = form(each, kind), each.plan(MIXED), each.plan({"L0H0": "zero", "L1H2": "random"})
    torch.testing.assert_close(under(model, outer, inner), under(model, outer | inner), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("inner", [{"L0H0": "window:3+1"}, {"L1H2": "window:3+1"}, {"L0H2": "window:2+1"}],
                         ids=["same layer", "both layers", "same head"])  # fmt: skip
def test_an_inner_window_adds_to_outer_windows(each: Treatable, kind: str, inner: dict[str, str]) -> None:
    model, outer = form(each, kind), each.plan({"L0H2": "window:4+1", "L1H3": "window:2+0"})
    together = outer | each.plan(inner)  # the smaller window is the inner one
    torch.testing.assert_close(under(model, outer, each.plan(inner)), under(model, together), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", FORMS)
def test_where_both_plans_remove_a_head_the_inner_fill_counts(each: Treatable, kind: str) -> None:
    model, first, second = form(each, kind), each.plan({"L0H1": "mean"}), each.plan({"L0H1": "random"})
    assert torch.equal(under(model, first, second), under(model, second))
    assert torch.equal(under(model, second, first), under(model, first))


@pytest.mark.parametrize("kind", FORMS)
def test_a_head_that_one_plan_removes_stays_removed_if_the_other_windows_it(each: Treatable, kind: str) -> None:
    model, removed, windowed = form(each, kind), each.plan({"L0H1": "random"}), each.plan({"L0H1": "window:3+1"})
    for found in (under(model, removed, windowed), under(model, windowed, removed)):
        torch.testing.assert_close(found, under(model, removed), rtol=0, atol=1e-5)


@pytest.mark.parametrize("heads", [["L0H1"], ["L0H0", "L0H1"], HEADS], ids=["one", "two", "all"])
@pytest.mark.parametrize(
    ("outer", "inner"),
    [("window:8+1", "window:3+2"), ("window:3+2", "window:8+1"), ("window:5+3", "window:5+3"),
     ("window:8+4", "window:2+0"), ("window:8+0", "window:2+1")],
)  # fmt: skip
def test_where_both_plans_window_a_head_it_sees_what_both_let_it_see(
    neox: Treatable, heads: list[str], outer: str, inner: str
) -> None:
    # the first real token, and everything up to there for sinks of the inner window.
    plans = [neox.plan(dict.fromkeys(heads, text)) for text in (outer, inner)]
    windows = [plan["L0H1"] for plan in plans]
    assert torch.equal(seen_by(neox.bridge, "L0H1", *plans), both_see(*windows))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMS)
def test_the_end_of_an_inner_plan_leaves_the_outer_one_in_force(each: Treatable, kind: str) -> None:
    model, outer, inner = form(each, kind), each.plan(MIXED), each.plan({"L0H1": "zero", "L1H2": "random"})
    before, alone = logits(model, TOKENS), under(model, outer)
    with apply_plan(model, outer):
        with pytest.raises(ValueError, match="inside"), apply_plan(model, inner):
            raise ValueError("inside")
        with apply_plan(model, inner):
            assert not torch.allclose(logits(model, TOKENS), alone, atol=1e-3)
        assert torch.equal(logits(model, TOKENS), alone)
    assert torch.equal(logits(model, TOKENS), before)


@pytest.mark.parametrize("kind", FORMS)
def test_the_same_plan_twice_is_the_plan_once(each: Treatable, kind: str) -> None:
    plan = each.plan(REMOVED)
    assert torch.equal(under(form(each, kind), plan, plan), under(form(each, kind), plan))


@pytest.mark.parametrize("kind", FORMS)
def test_plans_may_end_in_the_order_they_began(neox: Treatable, kind: str) -> None:
    model, first, second = form(neox, kind), neox.plan({"L0H1": "mean"}), neox.plan({"L1H2": "random"})
    before, hooks = logits(model, TOKENS), installed(model)
    blocks: list[AbstractContextManager[Any]] = [apply_plan(model, plan) for plan in (first, second)]
    for block in blocks:
        block.__enter__()
    blocks[0].__exit__(None, None, None)
    assert torch.equal(logits(model, TOKENS), under(model, second))
    blocks[1].__exit__(None, None, None)
    assert torch.equal(logits(model, TOKENS), before)
    assert installed(model) == hooks


# Hooks of your own.

Z = "blocks.0.attn.hook_z"


def halved(z: Tensor, hook: Any = None) -> Tensor:
    return z / 2


@pytest.mark.parametrize("add", [TransformerBridge.add_hook, TransformerBridge.add_perma_hook], ids=["hook", "perma"])
def test_a_hook_of_your_own_stays_in_force_during_and_after_a_plan(neox: Treatable, add: Callable[..., None]) -> None:
    bridge, plan = bridge_of(neox.make()), neox.plan({"L1H2": "random", "L1H3": "window:3+1"})
    add(bridge, Z, halved)
    before, hooks = logits(bridge, TOKENS), installed(bridge)
    with neox.bridge.hooks(fwd_hooks=[(Z, halved), *plan_hooks(neox.bridge, plan)]):
        expected = logits(neox.bridge, TOKENS)
    assert torch.equal(under(bridge, plan), expected)
    assert torch.equal(logits(bridge, TOKENS), before)
    assert installed(bridge) == hooks


def test_a_hook_before_the_plan_sees_the_heads_as_they_are_and_one_inside_sees_them_treated(neox: Treatable) -> None:
    bridge, plan = neox.bridge, neox.plan({"L0H1": "zero"})
    seen: dict[str, Tensor] = {}

    def look(name: str) -> Any:
        return [(Z, lambda z, hook=None: seen.update({name: z[:, :, 1].clone()}))]

    with bridge.hooks(fwd_hooks=look("before")), apply_plan(bridge, plan), bridge.hooks(fwd_hooks=look("inside")):
        logits(bridge, TOKENS)
    assert seen["before"].any()
    assert not seen["inside"].any()


def test_a_hook_added_inside_stays_after_the_block(neox: Treatable) -> None:
    bridge = bridge_of(neox.make())
    with apply_plan(bridge, neox.plan(MIXED)):
        bridge.add_hook(Z, halved)
    assert [handle.hook for handle in bridge.hook_dict[Z].fwd_hooks] != []
    with neox.bridge.hooks(fwd_hooks=[(Z, halved)]):
        assert torch.equal(logits(bridge, TOKENS), logits(neox.bridge, TOKENS))


def test_resetting_hooks_inside_the_block_does_no_harm(neox: Treatable) -> None:
    bridge = bridge_of(neox.make())
    before, hooks = logits(bridge, TOKENS), installed(bridge)
    with apply_plan(bridge, neox.plan(MIXED)):
        bridge.reset_hooks()
    assert torch.equal(logits(bridge, TOKENS), before)
    assert installed(bridge) == hooks


def test_a_hook_of_your_own_that_hides_the_first_token_does_not_move_the_sinks(neox: Treatable) -> None:
    def hide(scores: Tensor, hook: Any = None) -> Tensor:
        hidden = scores.clone()
        hidden[:, :, 1:, 0] = torch.finfo(scores.dtype).min
        return hidden

    with neox.bridge.hooks(fwd_hooks=[("blocks.0.attn.hook_attn_scores", hide)]):
        seen = seen_by(neox.bridge, "L0H1", neox.plan({"L0H1": "window:3+2"}))
    assert seen[30].nonzero().flatten().tolist() == [1, 28, 29, 30]


def test_torch_hooks_of_your_own_on_a_plain_model_stay_in_force(neox: Treatable) -> None:
    plain, calls = PlainModel(tiny_neox(3), "planted"), list[int]()
    dense = plain.huggingface.gpt_neox.layers[0].attention.dense
    dense.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    hooks = installed(plain)
    under(plain, neox.plan(REMOVED))
    logits(plain, TOKENS)
    assert calls == [1, 1]
    assert installed(plain) == hooks


# Several models.


def test_plans_on_two_models_do_not_meet(neox: Treatable) -> None:
    other = bridge_of(neox.make())
    first, second = neox.plan(MIXED), neox.plan({"L0H0": "zero", "L1H1": "window:3+1"})
    expected = [under(neox.bridge, first), under(neox.bridge, second)]
    with apply_plan(neox.bridge, first), apply_plan(other, second):
        found = [logits(neox.bridge, TOKENS), logits(other, TOKENS)]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_one_plan_serves_several_models_at_once(neox: Treatable) -> None:
    other, plan = bridge_of(tiny_neox(9)), neox.plan(MIXED)
    alone = [under(model, plan) for model in (neox.bridge, other)]
    with apply_plan(neox.bridge, plan), apply_plan(other, plan):
        found = [logits(model, TOKENS) for model in (neox.bridge, other)]
    assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))


@pytest.mark.parametrize("treated", FORMS)
def test_a_plain_twin_and_its_bridge_share_weights_but_no_plan(each: Treatable, treated: str) -> None:
    other = form(each, "plain" if treated == "bridge" else "bridge")
    before, hooks = logits(other, TOKENS), installed(other)
    with apply_plan(form(each, treated), each.plan(MIXED)):
        assert torch.equal(logits(other, TOKENS), before)
        assert installed(other) == hooks


# Refused beforehand.


@pytest.fixture
def nothing_may_be_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **settings: Any) -> None:
        raise AssertionError("a hook was installed")

    monkeypatch.setattr(HookPoint, "add_hook", refuse)
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", refuse)
    monkeypatch.setattr(nn.Module, "register_forward_hook", refuse)


def enter(model: Any, plan: HeadPlan) -> None:
    with apply_plan(model, plan):
        raise AssertionError("the block was entered")


WAYS = {
    "bridge": lambda model, plan: enter(model.bridge, plan),
    "plain": lambda model, plan: enter(model.plain, plan),
    "hooks": lambda model, plan: plan_hooks(model.bridge, plan),
}
way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@way
@pytest.mark.usefixtures("nothing_may_be_hooked")
def test_a_plan_for_a_model_of_another_name_is_refused_naming_both(neox: Treatable, way: Any) -> None:
    both = r"this plan was made for another \(2 × 4 heads of 8\), not for planted \(2 × 4 of 8\)"
    with pytest.raises(RecordError, match=rf"{both}.*use plan\.renamed\(name\)"):
        way(neox, neox.plan(MIXED).renamed("another"))


@way
@pytest.mark.usefixtures("nothing_may_be_hooked")
def test_a_plan_for_a_model_of_another_shape_is_refused_naming_both(neox: Treatable, way: Any) -> None:
    larger = plan_heads(PlainModel(tiny_neox(n_layers=3, n_heads=2), "planted"), {"L0H1": "zero"})
    with pytest.raises(RecordError, match=r"made for planted \(3 × 2 heads of 16\), not for planted \(2 × 4 of 8\)"):
        way(neox, larger)


@pytest.mark.parametrize("kind", FORMS)
def test_without_its_compressed_heads_the_plan_is_taken(neox: Treatable, kind: str) -> None:
    plan = neox.plan({**MIXED, "L0H3": "compress:snapkv:0.5"})
    assert torch.equal(under(form(neox, kind), plan.without(["L0H3"])), under(form(neox, kind), neox.plan(MIXED)))


@pytest.mark.parametrize("kind", FORMS)
def test_a_renamed_plan_is_taken(neox: Treatable, kind: str) -> None:
    model, plan = form(neox, kind), neox.plan(MIXED)
    assert torch.equal(under(model, plan.renamed("another").renamed("planted")), under(model, plan))


@pytest.mark.usefixtures("nothing_may_be_hooked")
@pytest.mark.parametrize("model", [tiny_llama(), "planted", None], ids=["hugging face", "name", "nothing"])
def test_what_is_no_model_of_headspecs_is_refused(neox: Treatable, model: Any) -> None:
    with pytest.raises(ModelError, match=r"is not a TransformerBridge: load it with headspec\.load_model"):
        enter(model, neox.plan(MIXED))


@pytest.mark.usefixtures("nothing_may_be_hooked")
@pytest.mark.parametrize(("text", "lacking"), [("zero", "hook_z"), ("window:8", "hook_attn_scores")])
def test_a_bridge_without_the_hook_points_is_refused_by_their_name(
    neox: Treatable, monkeypatch: pytest.MonkeyPatch, text: str, lacking: str
) -> None:
    known = {name: point for name, point in neox.bridge.hook_dict.items() if not name.endswith(lacking)}
    monkeypatch.setattr(type(neox.bridge), "hook_dict", known)
    with pytest.raises(ModelError, match=f"this model has no blocks.1.attn.{lacking}"):
        enter(neox.bridge, neox.plan({"L1H0": text}))


@pytest.mark.usefixtures("nothing_may_be_hooked")
def test_a_plain_model_that_is_built_otherwise_is_refused() -> None:
    config = GPT2Config(vocab_size=272, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    plain = PlainModel(GPT2LMHeadModel(config), "gpt2")
    with pytest.raises(ModelError, match="does not know its way around GPT2LMHeadModel"):
        enter(plain, plan_heads(plain, {"L0H1": "zero"}))
