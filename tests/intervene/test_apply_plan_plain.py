"""A plan on a plain model does what it does on the bridge; what it cannot do there is refused, never done wrong."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_references import (
    HEADS,
    MAKERS,
    SLIDING_WINDOW,
    Treatable,
    logits,
    padded,
    random_ids,
    sliding_mistral,
    treated,
)
from tiny_models import bridge_of
from torch import Tensor
from transformers import DynamicCache

from headspec.errors import ModelError
from headspec.intervene.ablate import apply_plan
from headspec.load.model import load_model, load_plain
from headspec.load.plain import PlainModel, as_plain
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.probe.collect import probe_heads

TOKENS = random_ids(3, 36)
MIXED = {"L0H1": "mean", "L0H2": "window:4+1", "L1H0": "random", "L1H3": "window:2+0"}
REMOVED = {"L0H1": "mean", "L0H2": "zero", "L1H0": "random"}
NEVER = 10**6
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": NEVER}
windows = st.builds(lambda window, sinks: f"window:{window}+{sinks}", st.integers(1, 40), st.integers(0, 12))
wishes = st.dictionaries(st.sampled_from(HEADS), st.one_of(st.sampled_from(("zero", "mean", "random")), windows))


def under(model: Any, plan: HeadPlan, tokens: Tensor = TOKENS, **settings: Any) -> Tensor:
    with apply_plan(model, plan):
        return logits(model, tokens, **settings)


def inside(plain: PlainModel, plan: HeadPlan, tokens: Tensor, **settings: Any) -> Tensor:
    """Logits of the Hugging Face model itself under a plan."""
    with apply_plan(plain, plan):
        return logits(plain.huggingface, tokens, **settings)


# The same as the bridge.


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=12, deadline=None)
@given(wish=wishes, seed=st.integers(0, 9), n_tokens=st.integers(1, 36))
def test_every_plan_gives_the_logits_of_the_bridge_and_of_the_reference(
    all_treatable: dict[str, Treatable], kind: str, wish: dict[str, str], seed: int, n_tokens: int
) -> None:
    model = all_treatable[kind]
    plan, tokens = model.plan(wish, seed), random_ids(2, n_tokens, seed)
    found = under(model.plain, plan, tokens)
    torch.testing.assert_close(found, under(model.bridge, plan, tokens), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.double(), model.expected(plan, tokens), rtol=0, atol=1e-5)


def test_a_plan_that_keeps_all_heads_changes_nothing(each: Treatable) -> None:
    assert torch.equal(under(each.plain, each.plan(dict.fromkeys(HEADS, "keep"))), logits(each.plain, TOKENS))


def test_a_plan_of_a_plain_model_is_taken_by_the_bridge_and_the_other_way_round(each: Treatable) -> None:
    from_plain, from_bridge = (plan_heads(model, {"L0H1": "zero"}) for model in (each.plain, each.bridge))
    torch.testing.assert_close(under(each.plain, from_bridge), under(each.bridge, from_plain), rtol=0, atol=1e-5)


def test_a_loaded_plain_model_is_treated_as_the_loaded_bridge(neox_folder: object) -> None:
    plain = load_plain(str(neox_folder), device="cpu")
    plan = plan_heads(probe_heads(plain, TOKENS, engine="fast", n_repeats=0, progress=False), MIXED)
    found, bridge = under(plain, plan), load_model(str(neox_folder), device="cpu")
    torch.testing.assert_close(found, under(bridge, plan), rtol=0, atol=1e-5)
    assert not torch.allclose(found, logits(plain, TOKENS), atol=1e-3)


def test_a_plain_model_in_bfloat16_can_be_treated(neox_folder: object) -> None:
    plain = load_plain(str(neox_folder), device="cpu", dtype="bfloat16")
    plan = plan_heads(probe_heads(plain, TOKENS, engine="fast", n_repeats=0, progress=False), MIXED)
    found = under(plain, plan)
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_gradients_do_not_reach_the_weights_of_removed_heads(neox: Treatable) -> None:
    plain = as_plain(bridge_of(neox.make()))
    with apply_plan(plain, neox.plan({"L1H1": "random", "L1H2": "window:3+1"})):
        plain(TOKENS).square().sum().backward()
    weight = plain.huggingface.gpt_neox.layers[1].attention.query_key_value.weight
    reached = weight.grad.unflatten(0, (4, -1)).abs().amax((1, 2)) > 0
    assert reached.tolist() == [True, False, True, True]


# Padding and caches.


def test_removed_heads_do_not_mind_padding(each: Treatable) -> None:
    plan, lengths = each.plan(REMOVED), [36, 20, 3]
    tokens, mask = padded(TOKENS, lengths)
    found, expected = inside(each.plain, plan, tokens, attention_mask=mask), each.expected(plan, TOKENS)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, -length:].double(), expected[row, :length], rtol=0, atol=1e-5)


def test_removed_heads_do_not_mind_a_cache(each: Treatable) -> None:
    plan, cache = each.plan(REMOVED), DynamicCache(config=each.plain.huggingface.config)
    parts = [
        inside(each.plain, plan, part, past_key_values=cache, use_cache=True) for part in TOKENS.split([20, 1, 15], 1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1).double(), each.expected(plan, TOKENS), rtol=0, atol=1e-5)


def test_removed_heads_stay_removed_in_generation(each: Treatable) -> None:
    plan, prompt = each.plan(REMOVED), TOKENS[:, :10]
    with apply_plan(each.plain, plan):
        found = each.plain.huggingface.generate(prompt, **GREEDY)
        for _ in range(found.shape[1] - 10):
            prompt = torch.cat([prompt, logits(each.plain, prompt)[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, prompt)


def test_windows_do_not_mind_padding(each: Treatable) -> None:
    plan, lengths = each.plan(MIXED), [36, 20, 3]
    tokens, mask = padded(TOKENS, lengths)
    found, expected = (
        inside(each.plain, plan, tokens, attention_mask=mask, use_cache=False),
        each.expected(plan, TOKENS),
    )
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, -length:].double(), expected[row, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("segments", [[36], [20, 16], [20, 1, 15], [1] * 36])
def test_windows_do_not_mind_a_cache(each: Treatable, segments: list[int]) -> None:
    plan, cache = each.plan(MIXED), DynamicCache(config=each.plain.huggingface.config)
    parts = [
        inside(each.plain, plan, part, past_key_values=cache, use_cache=True) for part in TOKENS.split(segments, 1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1).double(), each.expected(plan, TOKENS), rtol=0, atol=1e-5)


def test_windows_are_in_force_in_generation(each: Treatable) -> None:
    plan, prompt = each.plan(MIXED), TOKENS[:, :10]
    with apply_plan(each.plain, plan):
        found = each.plain.huggingface.generate(prompt, **GREEDY)
        for _ in range(found.shape[1] - 10):
            prompt = torch.cat([prompt, logits(each.plain, prompt)[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, prompt)


def test_a_mask_that_hides_nothing_is_no_padding(each: Treatable) -> None:
    plan = each.plan(MIXED)
    mask = torch.ones_like(TOKENS)
    found = inside(each.plain, plan, TOKENS, attention_mask=mask, use_cache=False)
    assert torch.equal(found, under(each.plain, plan))


# Attention of another kind.


def test_windows_with_eager_attention_are_right_or_refused(each: Treatable) -> None:
    plain, plan = PlainModel(each.make(), "planted"), each.plan(MIXED)
    for n_tokens in (1, 2, 36):
        tokens = TOKENS[:, :n_tokens]
        try:
            found = under(plain, plan, tokens)
        except ModelError:
            continue
        torch.testing.assert_close(found.double(), each.expected(plan, tokens), rtol=0, atol=1e-5)


def test_windows_with_eager_attention_are_not_refused_as_padded(each: Treatable) -> None:
    plain, found, reason = PlainModel(each.make(), "planted"), None, ""
    try:
        found = under(plain, each.plan({"L0H2": "window:4+1"}))
    except ModelError as error:
        reason = str(error)
    assert found is not None or "eager" in reason


@pytest.mark.parametrize("n_tokens", [10, SLIDING_WINDOW, 3 * SLIDING_WINDOW])
def test_windows_in_a_model_with_a_sliding_window_are_right_or_refused(n_tokens: int) -> None:
    plain, tokens = as_plain(bridge_of(sliding_mistral())), random_ids(1, n_tokens)
    plan = plan_heads(plain, {"L0H1": "window:3+1", "L1H2": "window:8+0", "L1H3": "window:30+4"})
    try:
        found = under(plain, plan, tokens)
    except ModelError:
        return
    expected = logits(treated(sliding_mistral(), plan, SLIDING_WINDOW), tokens)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
