"""A plan holds however the text comes: in segments with a KV cache, left-padded, token by token in generation."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_references import HEADS, MAKERS, Treatable, logits, padded, random_ids, treated
from tiny_models import bridge_of
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache, StaticCache

from headspec.intervene.ablate import apply_plan
from headspec.load.model import load_model
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.probe.collect import probe_heads

N_TOKENS = 36
TOKENS = random_ids(3, N_TOKENS)
MIXED = {"L0H0": "mean", "L0H1": "window:4", "L0H3": "window:2+0", "L1H0": "window:9+1", "L1H2": "random"}
NO_SINKS = dict.fromkeys(HEADS, "window:5+0")
PLANS = {"mixed": MIXED, "no sinks": NO_SINKS}
windows = st.builds(lambda window, sinks: f"window:{window}+{sinks}", st.integers(1, 40), st.integers(0, 8))
wishes = st.dictionaries(st.sampled_from(HEADS), st.one_of(st.sampled_from(("zero", "mean", "random")), windows))
cuts = st.sets(st.integers(1, N_TOKENS - 1), max_size=8)
some = settings(max_examples=10, deadline=None)


@pytest.fixture(params=PLANS)
def wish(request: pytest.FixtureRequest) -> dict[str, str]:
    return PLANS[request.param]


def in_segments(bridge: TransformerBridge, plan: HeadPlan, tokens: Tensor, cut: set[int], **settings: Any) -> Tensor:
    """Logits of tokens that go through the model piece by piece, with a KV cache."""
    cache, parts = DynamicCache(config=bridge.original_model.config), []
    edges = [0, *sorted(cut), tokens.shape[1]]
    mask = settings.pop("attention_mask", None)
    with apply_plan(bridge, plan):
        for low, high in pairwise(edges):
            seen = {} if mask is None else {"attention_mask": mask[:, :high]}
            parts.append(logits(bridge, tokens[:, low:high], past_key_values=cache, **seen, **settings))
    return torch.cat(parts, 1)


def check_rows(found: Tensor, lengths: list[int], expected: Tensor) -> None:
    """Each left-padded row is what the row by itself is."""
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, -length:].double(), expected[row, :length], rtol=0, atol=1e-5)


def check_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


# A KV cache.


@pytest.mark.parametrize("size", [1, 7, 35])
def test_segments_of_one_size_make_the_whole(each: Treatable, wish: dict[str, str], size: int) -> None:
    plan, cut = each.plan(wish), set(range(size, N_TOKENS, size))
    check_equal(in_segments(each.bridge, plan, TOKENS, cut), each.expected(plan, TOKENS))


@pytest.mark.parametrize("kind", MAKERS)
@some
@given(wish=wishes, cut=cuts, seed=st.integers(0, 9))
def test_segments_of_any_sizes_make_the_whole(
    all_treatable: dict[str, Treatable], kind: str, wish: dict[str, str], cut: set[int], seed: int
) -> None:
    model = all_treatable[kind]
    plan = model.plan(wish, seed)
    check_equal(in_segments(model.bridge, plan, TOKENS, cut), model.expected(plan, TOKENS))


def test_a_plan_that_begins_in_the_middle_windows_what_was_cached_before(neox: Treatable) -> None:
    plan = neox.plan({"L1H1": "window:3+1", "L1H2": "window:2+0"})  # of the last layer: the cache is not changed
    cache = DynamicCache(config=neox.bridge.original_model.config)
    logits(neox.bridge, TOKENS[:, :20], past_key_values=cache)
    with apply_plan(neox.bridge, plan):
        found = logits(neox.bridge, TOKENS[:, 20:], past_key_values=cache)
    check_equal(found, neox.expected(plan, TOKENS)[:, 20:])


def test_a_static_cache_makes_the_whole_too(neox: Treatable) -> None:
    plan = neox.plan({"L0H1": "window:4", "L1H0": "window:9+1"})
    cache = StaticCache(config=neox.bridge.original_model.config, max_cache_len=N_TOKENS + 10)
    with apply_plan(neox.bridge, plan):
        parts = [logits(neox.bridge, part, past_key_values=cache) for part in TOKENS.split([20, 1, 15], 1)]
    check_equal(torch.cat(parts, 1), neox.expected(plan, TOKENS))


# Padding.


@pytest.mark.parametrize("lengths", [[36, 20, 3], [1, 36, 35], [4, 5, 6]])
def test_left_padded_rows_are_what_they_are_one_by_one(
    each: Treatable, wish: dict[str, str], lengths: list[int]
) -> None:
    plan, (tokens, mask) = each.plan(wish), padded(TOKENS, lengths)
    with apply_plan(each.bridge, plan):
        found = logits(each.bridge, tokens, attention_mask=mask)
    check_rows(found, lengths, each.expected(plan, TOKENS))


def test_padding_does_not_become_nan(each: Treatable, wish: dict[str, str]) -> None:
    tokens, mask = padded(TOKENS, [36, 5, 1])
    with apply_plan(each.bridge, each.plan(wish)):
        assert logits(each.bridge, tokens, attention_mask=mask).isfinite().all()


@pytest.mark.parametrize("kind", MAKERS)
@some
@given(wish=wishes, lengths=st.lists(st.integers(1, N_TOKENS), min_size=3, max_size=3), seed=st.integers(0, 9))
def test_rows_of_any_lengths_are_what_they_are_one_by_one(
    all_treatable: dict[str, Treatable], kind: str, wish: dict[str, str], lengths: list[int], seed: int
) -> None:
    model = all_treatable[kind]
    plan, (tokens, mask) = model.plan(wish, seed), padded(TOKENS, lengths)
    with apply_plan(model.bridge, plan):
        found = logits(model.bridge, tokens, attention_mask=mask)
    check_rows(found, lengths, model.expected(plan, TOKENS))


def test_the_sinks_are_the_first_real_tokens_of_a_row(neox: Treatable) -> None:
    tokens, mask = padded(TOKENS, [36, 30])
    with apply_plan(neox.bridge, neox.plan({"L0H1": "window:4+2"})):
        _, cache = neox.bridge.run_with_cache(tokens[:2], attention_mask=mask[:2])
    seen = [(row[1, 35] > 0).nonzero().flatten().tolist() for row in cache["blocks.0.attn.hook_pattern"]]
    assert seen == [[0, 1, 32, 33, 34, 35], [6, 7, 32, 33, 34, 35]]


def test_sinks_inside_the_window_of_a_padded_row_are_not_counted_twice(neox: Treatable) -> None:
    tokens, mask = padded(TOKENS, [36, 20])
    with apply_plan(neox.bridge, neox.plan({"L0H1": "window:4+2"})):
        _, cache = neox.bridge.run_with_cache(tokens[:2], attention_mask=mask[:2])
    seen = (cache["blocks.0.attn.hook_pattern"][1, 1, 16:] > 0).sum(-1).tolist()
    assert seen == [min(query + 1, 4 + 2) for query in range(20)]


def test_left_padded_rows_are_what_they_are_one_by_one_in_compatibility_mode(neox: Treatable) -> None:
    bridge, plan, lengths = bridge_of(neox.make()), neox.plan(MIXED), [36, 20, 3]
    bridge.enable_compatibility_mode(no_processing=True)
    tokens, mask = padded(TOKENS, lengths)
    with apply_plan(bridge, plan):
        found = logits(bridge, tokens, attention_mask=mask)
    assert found.isfinite().all()
    check_rows(found, lengths, neox.expected(plan, TOKENS))


def test_padding_on_the_right_does_not_change_what_comes_before(each: Treatable, wish: dict[str, str]) -> None:
    tokens, mask = TOKENS.clone(), torch.ones_like(TOKENS)
    tokens[0, 20:], mask[0, 20:], tokens[1, 35:], mask[1, 35:] = 1, 0, 1, 0
    plan = each.plan(wish)
    with apply_plan(each.bridge, plan):
        found, expected = logits(each.bridge, tokens, attention_mask=mask), each.expected(plan, TOKENS)
    for row, length in enumerate((20, 35, 36)):
        check_equal(found[row, :length], expected[row, :length])


def test_a_masked_token_in_the_middle_is_no_sink(neox: Treatable) -> None:
    mask = torch.ones(1, N_TOKENS, dtype=torch.int64)
    mask[0, 1:3] = 0
    with apply_plan(neox.bridge, neox.plan({"L0H1": "window:4+2"})):
        _, cache = neox.bridge.run_with_cache(TOKENS[:1], attention_mask=mask)
    assert (cache["blocks.0.attn.hook_pattern"][0, 1, 30] > 0).nonzero().flatten().tolist() == [0, 3, 27, 28, 29, 30]


# Both.


@pytest.mark.parametrize("cut", [{20}, set(range(1, N_TOKENS)), {5, 6, 30}], ids=["two", "one by one", "four"])
def test_left_padded_rows_may_come_in_segments(each: Treatable, wish: dict[str, str], cut: set[int]) -> None:
    lengths = [36, 20, 33]
    plan, (tokens, mask) = each.plan(wish), padded(TOKENS, lengths)
    found = in_segments(each.bridge, plan, tokens, cut, attention_mask=mask)
    check_rows(found, lengths, each.expected(plan, TOKENS))


# Generation.

GREEDY: dict[str, Any] = {"do_sample": False, "stop_at_eos": False, "return_type": "tokens"}


def continued(model: Treatable, plan: HeadPlan, row: Tensor, n_new: int) -> list[int]:
    """The greedy continuation of one row by the reference, a whole forward pass for each token."""
    reference = treated(model.make(), plan)
    for _ in range(n_new):
        row = torch.cat([row, logits(reference, row[None])[0, -1:].argmax(-1)])
    return row.tolist()


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_generate_goes_on_as_whole_forward_passes_do(each: Treatable, wish: dict[str, str], use_cache: bool) -> None:
    plan, prompt = each.plan(wish), TOKENS[:2, :10]
    with apply_plan(each.bridge, plan):
        found = each.bridge.generate(prompt, max_new_tokens=10, verbose=False, use_past_kv_cache=use_cache, **GREEDY)
    assert found.tolist() == [continued(each, plan, row, 10) for row in prompt]


def test_generate_goes_on_from_left_padded_rows_as_from_each(each: Treatable, wish: dict[str, str]) -> None:
    plan, lengths = each.plan(wish), [10, 4, 7]
    tokens, mask = padded(TOKENS, lengths)
    with apply_plan(each.bridge, plan):
        found = each.bridge.generate(tokens, max_new_tokens=8, verbose=False, attention_mask=mask, **GREEDY)
    for row, length in enumerate(lengths):
        assert found[row, 10 - length :].tolist() == continued(each, plan, TOKENS[row, :length], 8)


def test_a_plan_changes_what_is_generated(each: Treatable) -> None:
    prompt = TOKENS[:, :10]
    before = each.bridge.generate(prompt, max_new_tokens=10, verbose=False, **GREEDY)
    with apply_plan(each.bridge, each.plan(NO_SINKS)):
        inside = each.bridge.generate(prompt, max_new_tokens=10, verbose=False, **GREEDY)
    after = each.bridge.generate(prompt, max_new_tokens=10, verbose=False, **GREEDY)
    assert not torch.equal(inside, before)
    assert torch.equal(after, before)


@pytest.fixture(scope="module")
def reading(neox_folder: object) -> TransformerBridge:
    """A bridge with a tokenizer, which hf_generate needs."""
    return load_model(str(neox_folder), device="cpu")


@pytest.fixture
def read_plan(reading: TransformerBridge, wish: dict[str, str]) -> HeadPlan:
    return plan_heads(probe_heads(reading, TOKENS.clamp(max=257), n_repeats=0, progress=False), wish)


def whole_passes(bridge: TransformerBridge, tokens: Tensor, n_new: int) -> Tensor:
    for _ in range(n_new):
        tokens = torch.cat([tokens, logits(bridge, tokens)[:, -1:].argmax(-1)], 1)
    return tokens


def test_hf_generate_goes_on_as_whole_forward_passes_do(reading: TransformerBridge, read_plan: HeadPlan) -> None:
    prompt = TOKENS[:, :10].clamp(max=257)
    with apply_plan(reading, read_plan):
        found = reading.hf_generate(prompt, max_new_tokens=10, **GREEDY)
        assert torch.equal(found, whole_passes(reading, prompt, 10))


def test_generate_from_text_goes_on_as_whole_forward_passes_do(reading: TransformerBridge, read_plan: HeadPlan) -> None:
    text = "The quick brown fox"
    with apply_plan(reading, read_plan):
        found = reading.generate(text, max_new_tokens=8, verbose=False, prepend_bos=False, **GREEDY)
        assert torch.equal(found, whole_passes(reading, reading.to_tokens(text, prepend_bos=False), 8))
