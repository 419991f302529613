"""A plan on a live model does what editing the weights and masking the attention of Hugging Face's own model does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_references import (
    HEADS,
    MAKERS,
    SLIDING_WINDOW,
    Treatable,
    installed,
    logits,
    output_of,
    random_ids,
    sees,
    sliding_mistral,
    treatable,
    treated,
)
from tiny_models import bridge_of, tiny_neox
from torch import Tensor

from headspec.errors import ModelError
from headspec.heads import HeadId
from headspec.intervene.ablate import apply_plan, plan_hooks
from headspec.load.model import load_model
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Window
from headspec.probe.collect import probe_heads

TOKENS = random_ids(2, 40)
FILLS = ("zero", "mean", "random")
WINDOWS = ("window:1+0", "window:8", "window:3+0", "window:2+7", "window:30+20", "window:40", "window:1+40")
windows = st.builds(lambda window, sinks: f"window:{window}+{sinks}", st.integers(1, 45), st.integers(0, 12))
wishes = st.dictionaries(st.sampled_from(HEADS), st.one_of(st.sampled_from(FILLS), windows), min_size=1)
some = settings(max_examples=12, deadline=None)


def under(model: Treatable, plan: HeadPlan, tokens: Tensor = TOKENS) -> Tensor:
    with apply_plan(model.bridge, plan):
        return logits(model.bridge, tokens)


def check_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def everywhere(text: str) -> dict[str, str]:
    return dict.fromkeys(HEADS, text)


# By hand.


def test_with_every_head_removed_a_token_is_read_by_itself(each: Treatable) -> None:
    found = under(each, each.plan(everywhere("random")))
    alone = under(each, each.plan(everywhere("random")), TOKENS.reshape(-1, 1))
    torch.testing.assert_close(found.flatten(0, 1), alone[:, 0], rtol=0, atol=1e-5)


def test_with_windows_of_one_key_everywhere_a_token_is_read_by_itself(each: Treatable) -> None:
    found = under(each, each.plan(everywhere("window:1+0")))
    torch.testing.assert_close(found.flatten(0, 1), logits(each.bridge, TOKENS.reshape(-1, 1))[:, 0], rtol=0, atol=1e-5)


def test_two_layers_of_windows_of_five_keys_reach_eight_tokens_back(each: Treatable) -> None:
    plan, place = each.plan(everywhere("window:5+0")), 20
    before = under(each, plan)
    for back in range(12):
        changed = TOKENS.clone()
        changed[:, place - back] = 271 - changed[:, place - back]
        moved = (under(each, plan, changed) - before)[:, place].abs().amax(-1)
        assert ((moved > 1e-4) == (back <= 8)).all(), back


def test_sinks_are_seen_from_everywhere_and_their_neighbours_are_not(each: Treatable) -> None:
    plan, place = each.plan(everywhere("window:1+2")), 30
    before = under(each, plan)
    for key in range(place):
        changed = TOKENS.clone()
        changed[:, key] = 271 - changed[:, key]
        moved = (under(each, plan, changed) - before)[:, place].abs().amax(-1)
        assert ((moved > 1e-4) == (key < 2)).all(), key


def test_the_z_of_a_removed_head_is_its_fill_at_every_place(each: Treatable) -> None:
    plan = each.plan({"L0H1": "mean", "L1H2": "random", "L1H0": "zero"})
    with apply_plan(each.bridge, plan):
        _, cache = each.bridge.run_with_cache(TOKENS)
    for head, fill in plan.fills.items():
        z = cache[f"blocks.{head.layer}.attn.hook_z"][:, :, head.head]
        assert torch.equal(z, torch.from_numpy(fill).expand_as(z)), head


@pytest.mark.parametrize("text", WINDOWS)
def test_a_windowed_head_sees_its_window_and_its_sinks_and_nothing_else(each: Treatable, text: str) -> None:
    with apply_plan(each.bridge, each.plan({"L1H2": text})):
        _, cache = each.bridge.run_with_cache(TOKENS)
    pattern, window = cache["blocks.1.attn.hook_pattern"], each.plan({"L1H2": text})["L1H2"]
    assert isinstance(window, Window)
    expected = torch.tensor([[sees(query, key, window) for key in range(40)] for query in range(40)])
    causal = torch.ones(40, 40, dtype=torch.bool).tril()
    for head in range(4):
        assert torch.equal(pattern[:, head] > 0, (expected if head == 2 else causal).expand(2, -1, -1)), head


def test_sinks_inside_the_window_are_not_counted_twice(each: Treatable) -> None:
    with apply_plan(each.bridge, each.plan({"L0H0": "window:8+4"})):
        _, cache = each.bridge.run_with_cache(TOKENS)
    seen = (cache["blocks.0.attn.hook_pattern"][0, 0] > 0).sum(-1).tolist()
    assert seen == [min(query + 1, 8 + 4) for query in range(40)]


def test_a_windows_attention_adds_up_to_1(each: Treatable) -> None:
    with apply_plan(each.bridge, each.plan(everywhere("window:3+1"))):
        _, cache = each.bridge.run_with_cache(TOKENS)
    torch.testing.assert_close(cache["blocks.1.attn.hook_pattern"].sum(-1), torch.ones(2, 4, 40))


# Nothing to do.


def test_a_plan_that_keeps_all_heads_changes_nothing(each: Treatable) -> None:
    before = logits(each.bridge, TOKENS)
    assert torch.equal(under(each, each.plan(everywhere("keep"))), before)
    assert plan_hooks(each.bridge, each.plan({})) == []


@pytest.mark.parametrize("text", ["window:128", "window:40+0", "window:39+1", "window:1+40", "window:20+30"])
def test_windows_that_reach_the_first_token_change_nothing(each: Treatable, text: str) -> None:
    assert torch.equal(under(each, each.plan(everywhere(text))), logits(each.bridge, TOKENS))


@pytest.mark.parametrize("n_tokens", [1, 2, 5])
def test_a_text_shorter_than_the_windows_is_read_as_ever(each: Treatable, n_tokens: int) -> None:
    short = TOKENS[:, :n_tokens]
    assert torch.equal(under(each, each.plan(everywhere("window:5")), short), logits(each.bridge, short))


def test_kept_heads_of_a_treated_layer_are_as_they_were(each: Treatable) -> None:
    _, before = each.bridge.run_with_cache(TOKENS)
    with apply_plan(each.bridge, each.plan({"L0H1": "random", "L0H2": "window:2+0"})):
        _, after = each.bridge.run_with_cache(TOKENS)
    z = "blocks.0.attn.hook_z"
    assert torch.equal(after[z][:, :, [0, 3]], before[z][:, :, [0, 3]])
    assert not torch.allclose(after[z][:, :, [1, 2]], before[z][:, :, [1, 2]])


# Equal to the reference.


def test_the_reference_of_a_plan_that_keeps_all_heads_is_the_model(each: Treatable) -> None:
    check_equal(logits(each.bridge, TOKENS), logits(each.make().double(), TOKENS))
    check_equal(logits(each.bridge, TOKENS), each.expected(each.plan({}), TOKENS))


@pytest.mark.parametrize("fill", FILLS)
def test_removing_one_head_is_cutting_it_out_of_the_weights(each: Treatable, fill: str) -> None:
    for name in HEADS:
        plan = each.plan({name: fill}, seed=2)
        check_equal(under(each, plan), each.expected(plan, TOKENS))


def test_the_mean_that_is_filled_in_is_that_of_the_profile(neox: Treatable) -> None:
    model = neox.make().double()
    output, c = output_of(model.gpt_neox.layers[1].attention), torch.from_numpy(neox.profile.mean_z[1, 2]).double()
    with torch.no_grad():
        output.bias += output.weight[:, 16:24] @ c
        output.weight[:, 16:24] = 0
    check_equal(under(neox, neox.plan({"L1H2": "mean"})), logits(model, TOKENS))


@pytest.mark.parametrize("fill", FILLS)
def test_removing_every_head_is_cutting_them_all_out(each: Treatable, fill: str) -> None:
    plan = each.plan(everywhere(fill))
    check_equal(under(each, plan), each.expected(plan, TOKENS))


@pytest.mark.parametrize("text", WINDOWS)
def test_windowing_one_head_is_masking_its_attention(each: Treatable, text: str) -> None:
    for name in ("L0H0", "L1H3"):
        plan = each.plan({name: text})
        check_equal(under(each, plan), each.expected(plan, TOKENS))


@pytest.mark.parametrize("text", WINDOWS)
def test_windowing_every_head_is_masking_all_attention(each: Treatable, text: str) -> None:
    plan = each.plan(everywhere(text))
    check_equal(under(each, plan), each.expected(plan, TOKENS))


@pytest.mark.parametrize("kind", MAKERS)
@some
@given(wish=wishes, seed=st.integers(0, 99), n_tokens=st.integers(1, 40))
def test_every_plan_is_its_reference(
    all_treatable: dict[str, Treatable], kind: str, wish: dict[str, str], seed: int, n_tokens: int
) -> None:
    model = all_treatable[kind]
    plan, tokens = model.plan(wish, seed), random_ids(2, n_tokens, seed)
    check_equal(under(model, plan, tokens), model.expected(plan, tokens))


def test_treatments_change_something(each: Treatable) -> None:
    for text in (*FILLS, "window:3+0", "window:2+1"):
        for name in HEADS:
            moved = (under(each, each.plan({name: text})) - logits(each.bridge, TOKENS)).abs().max()
            assert moved > 1e-3, (name, text)


def test_a_loaded_plan_does_what_the_saved_one_did(neox: Treatable, tmp_path: object) -> None:
    plan = neox.plan({"L0H1": "random", "L0H3": "mean", "L1H0": "window:3+1"}, seed=6)
    loaded = HeadPlan.load(plan.save(f"{tmp_path}/plan.json"))
    assert torch.equal(under(neox, loaded), under(neox, plan))


def test_a_model_with_more_layers_and_heads_is_treated_at_the_right_places() -> None:
    deep = treatable(lambda: tiny_neox(7, n_layers=3, n_heads=8, d_model=32))
    plan = deep.plan({"L2H7": "random", "L0H5": "window:3+1", "L1H4": "mean", "L2H6": "window:2+0"})
    check_equal(under(deep, plan), deep.expected(plan, TOKENS))


def test_windows_are_refused_in_a_model_that_has_a_sliding_window_of_its_own() -> None:
    bridge, tokens = bridge_of(sliding_mistral()), random_ids(1, 3 * SLIDING_WINDOW)
    with pytest.raises(ModelError, match=f"sliding window of {SLIDING_WINDOW} keys of its own"):
        plan_hooks(bridge, plan_heads(bridge, {"L0H1": "window:3+1"}))
    plan = plan_heads(bridge, {"L0H1": "zero"})
    with apply_plan(bridge, plan):
        found = logits(bridge, tokens)
    check_equal(found, logits(treated(sliding_mistral(), plan, SLIDING_WINDOW), tokens))


# Other numbers.


def test_a_model_in_double_precision_comes_closer_to_its_reference(neox: Treatable) -> None:
    bridge = bridge_of(neox.make().double())
    plan = neox.plan({"L0H1": "mean", "L0H2": "window:3+1", "L1H3": "random", "L1H0": "window:8"})
    with apply_plan(bridge, plan):
        torch.testing.assert_close(logits(bridge, TOKENS), neox.expected(plan, TOKENS), rtol=0, atol=1e-6)


def test_a_bfloat16_model_is_treated_as_exactly_as_its_numbers_allow(neox_folder: object) -> None:
    exact, rough = (load_model(str(neox_folder), device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    profile = probe_heads(exact, TOKENS, n_repeats=0, progress=False)
    plan = plan_heads(profile, {"L0H1": "mean", "L0H2": "window:3+1", "L1H3": "random", "L1H0": "window:2+0"})
    before = [logits(model, TOKENS).float() for model in (exact, rough)]
    with apply_plan(exact, plan), apply_plan(rough, plan):
        after = [logits(model, TOKENS) for model in (exact, rough)]
    assert after[1].dtype == torch.bfloat16
    assert after[1].isfinite().all()
    rounding = (before[0] - before[1]).abs().max()
    assert (after[0] - after[1].float()).abs().max() < 3 * rounding < (after[0] - before[0]).abs().max()


def test_a_profile_in_float32_fills_a_model_in_bfloat16(neox_folder: object) -> None:
    rough = load_model(str(neox_folder), device="cpu", dtype="bfloat16")
    profile = probe_heads(rough, TOKENS, n_repeats=0, progress=False)
    plan = plan_heads(profile, {"L0H1": "mean"})
    with apply_plan(rough, plan):
        _, cache = rough.run_with_cache(TOKENS)
    z = cache["blocks.0.attn.hook_z"][0, 0, 1]
    assert torch.equal(z, torch.from_numpy(plan.fills[HeadId(0, 1)]).bfloat16())


# Hooks as a list, gradients, other ways to run.


def test_the_plan_as_a_list_of_hooks_does_the_same(each: Treatable) -> None:
    plan = each.plan({"L0H1": "random", "L0H3": "window:3+1", "L1H0": "window:8", "L1H1": "mean"})
    before = installed(each.bridge)
    hooks = plan_hooks(each.bridge, plan)
    assert installed(each.bridge) == before
    with torch.no_grad():
        found = each.bridge.run_with_hooks(TOKENS, fwd_hooks=hooks)
    assert torch.equal(found, under(each, plan))
    assert installed(each.bridge) == before


def test_treated_layers_have_one_hook_for_each_kind(each: Treatable) -> None:
    plan = each.plan({"L0H1": "random", "L0H3": "window:3+1", "L0H2": "window:8", "L1H1": "mean", "L1H2": "zero"})
    assert sorted(name for name, _ in plan_hooks(each.bridge, plan)) == [
        "blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_z", "blocks.1.attn.hook_z"
    ]  # fmt: skip


def test_the_plan_is_in_force_where_each_heads_result_is_computed(neox: Treatable) -> None:
    bridge = bridge_of(neox.make())
    bridge.set_use_attn_result(True)
    plan = neox.plan({"L0H1": "random", "L1H0": "window:3+1", "L1H1": "mean"})
    with apply_plan(bridge, plan):
        check_equal(logits(bridge, TOKENS), neox.expected(plan, TOKENS))


def test_the_plan_is_in_force_in_compatibility_mode(neox: Treatable) -> None:
    bridge = bridge_of(neox.make())
    bridge.enable_compatibility_mode(no_processing=True)
    plan = neox.plan({"L0H1": "random", "L1H0": "window:3+1", "L1H1": "mean"})
    with apply_plan(bridge, plan):
        check_equal(logits(bridge, TOKENS), neox.expected(plan, TOKENS))


def test_gradients_pass_a_treated_layer_and_do_not_reach_removed_heads(neox: Treatable) -> None:
    bridge, z = bridge_of(neox.make()), {}

    def keep(activation: Tensor, hook: object = None) -> Tensor:
        z["z"] = activation.detach().requires_grad_()
        return z["z"]

    plan = neox.plan({"L1H1": "random", "L1H2": "window:3+1"})
    with bridge.hooks(fwd_hooks=[("blocks.1.attn.hook_z", keep)]), apply_plan(bridge, plan):
        bridge(TOKENS).square().sum().backward()
    reached = z["z"].grad.abs().amax((0, 1, 3)) > 0
    assert reached.tolist() == [True, False, True, True]


def test_the_users_tokens_and_fills_are_left_as_they_are(neox: Treatable) -> None:
    plan, tokens = neox.plan({"L0H1": "random", "L1H0": "window:3+1"}), TOKENS.clone()
    before = {head: fill.copy() for head, fill in plan.fills.items()}
    under(neox, plan, tokens)
    assert torch.equal(tokens, TOKENS)
    for head, fill in before.items():
        np.testing.assert_array_equal(plan.fills[head], fill)
