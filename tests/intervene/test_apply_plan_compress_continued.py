"""Compression holds however a text comes: in pieces, left-padded, in generation, one text after the other."""

from itertools import pairwise
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
    in_pieces,
    new_cache,
    read,
    same,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_references import logits, padded
from torch import Tensor
from transformers import StaticCache

from headspec.errors import ModelError
from headspec.export.surgery import pruned_model
from headspec.intervene.ablate import apply_plan
from headspec.plan.plan import HeadPlan

form = pytest.mark.parametrize("form", FORMS)
FEW = ("compress:snapkv:0.25", "compress:snapkv:24:latest12", "compress:expected_attention:0.3:adakv",
       "compress:random:24:latest8:adakv")  # fmt: skip
LENGTHS = [N_PROMPT, 30, 5]
PROMPTS, MASK = padded(TOKENS, LENGTHS)
N_NEW = 12


@pytest.fixture(params=SIZES)
def each(request: pytest.FixtureRequest) -> Compressible:
    """Either model."""
    return compressible(request.param)


@pytest.fixture
def model() -> Compressible:
    return compressible()


# Pieces.


@settings(max_examples=15, deadline=None)
@given(cut=st.sets(st.integers(1, N_TOKENS - 1), max_size=8), prompt=st.integers(1, 60), form=st.sampled_from(FORMS))
def test_a_prompt_may_come_in_any_pieces_and_end_inside_one(cut: set[int], prompt: int, form: str) -> None:
    model = compressible()
    plan, edges = model.plan(MIXED), [0, *sorted(cut), N_TOKENS]
    pieces = [high - low for low, high in pairwise(edges)]
    same(in_pieces(model.form(form), plan, TOKENS, pieces, prompt), model.expected(plan, TOKENS, prompt))


@form
@pytest.mark.parametrize("text", FEW)
def test_a_prompt_in_pieces_is_read_as_by_the_pruned_model(each: Compressible, text: str, form: str) -> None:
    plan, pieces = each.plan(text), [20, 1, N_PROMPT - 21, 10, N_TOKENS - N_PROMPT - 10]
    found = in_pieces(each.form(form), plan, TOKENS, pieces, N_PROMPT)
    same(found, each.expected(plan, TOKENS, N_PROMPT))


# Padding.


def extended(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The padded prompts with the next tokens of each row, and their mask."""
    following = torch.stack([TOKENS[row, length : length + N_NEW] for row, length in enumerate(LENGTHS)])
    return torch.cat([PROMPTS, following], 1), torch.cat([mask, torch.ones_like(following)], 1)


def check_rows(model: Compressible, plan: HeadPlan, found: Tensor) -> None:
    for row, length in enumerate(LENGTHS):
        expected = model.expected(plan, TOKENS[row : row + 1, : length + N_NEW], length)
        same(found[row : row + 1, -length - N_NEW :], expected)


@form
@pytest.mark.parametrize("text", [*FEW, "mixed"])
def test_left_padded_rows_are_what_they_are_one_by_one(each: Compressible, text: str, form: str) -> None:
    plan, (tokens, mask) = each.plan(MIXED if text == "mixed" else text), extended(MASK)
    check_rows(each, plan, whole(each.form(form), plan, tokens, N_PROMPT, attention_mask=mask))


@form
@pytest.mark.parametrize("text", [*FEW, "mixed"])
def test_left_padded_rows_may_come_through_a_cache(each: Compressible, text: str, form: str) -> None:
    plan, (tokens, mask) = each.plan(MIXED if text == "mixed" else text), extended(MASK)
    check_rows(each, plan, in_pieces(each.form(form), plan, tokens, [N_PROMPT, 1, 1, N_NEW - 2], mask=mask))


@form
def test_left_padded_prompts_may_come_in_pieces(each: Compressible, form: str) -> None:
    plan, (tokens, mask) = each.plan(MIXED), extended(MASK)
    found = in_pieces(each.form(form), plan, tokens, [10, 36, 3, N_NEW - 1], N_PROMPT, mask)
    assert found.isfinite().all()
    check_rows(each, plan, found)


# Generation.

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": N_NEW}


def generate(model: Any, tokens: Tensor, mask: Tensor | None = None, use_cache: bool = True, **options: Any) -> Any:
    """Greedy, never ending early."""
    given: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if hasattr(model, "blocks"):
        return model.generate(tokens, verbose=False, stop_at_eos=False, return_type="tokens",
                              use_past_kv_cache=use_cache, **GREEDY, **given)  # fmt: skip
    endless = {"pad_token_id": 1, "eos_token_id": 10**6, "use_cache": use_cache}
    return callable_of(model).generate(tokens, **GREEDY, **endless, **given, **options)


def from_pruned(model: Compressible, plan: HeadPlan, tokens: Tensor, **options: Any) -> Tensor:
    return generate(pruned_model(model.sdpa.huggingface, plan), tokens, **options)


@form
@pytest.mark.parametrize("text", [*FEW, "mixed"])
def test_generation_is_that_of_the_pruned_model_token_for_token(each: Compressible, text: str, form: str) -> None:
    plan, tokens = each.plan(MIXED if text == "mixed" else text), TOKENS[:, :N_PROMPT]
    with apply_plan(each.form(form), plan):
        found = generate(each.form(form), tokens)
    assert found.tolist() == from_pruned(each, plan, tokens).tolist()


@form
def test_generation_without_a_cache_needs_the_prompt_and_gives_the_same(each: Compressible, form: str) -> None:
    plan, tokens = each.plan(MIXED), TOKENS[:, :N_PROMPT]
    with apply_plan(each.form(form), plan, N_PROMPT):
        found = generate(each.form(form), tokens, use_cache=False)
    assert found.tolist() == from_pruned(each, plan, tokens).tolist()


@form
def test_generation_from_left_padded_rows_is_that_from_each(each: Compressible, form: str) -> None:
    plan = each.plan(MIXED)
    with apply_plan(each.form(form), plan):
        found = generate(each.form(form), PROMPTS, MASK)
    for row, length in enumerate(LENGTHS):
        alone = from_pruned(each, plan, TOKENS[row : row + 1, :length])[0]
        assert found[row, N_PROMPT - length :].tolist() == alone.tolist()


@pytest.mark.parametrize("form", ["sdpa", "eager"])
def test_beams_are_those_of_the_pruned_model(each: Compressible, form: str) -> None:
    plan, tokens = each.plan(MIXED), TOKENS[:, :N_PROMPT]
    with apply_plan(each.form(form), plan):
        found = generate(each.form(form), tokens, num_beams=3)
    assert found.tolist() == from_pruned(each, plan, tokens, num_beams=3).tolist()


@form
def test_compression_changes_what_is_generated_inside_the_block_only(model: Compressible, form: str) -> None:
    tokens = TOKENS[:, :N_PROMPT]
    before = generate(model.form(form), tokens)
    with apply_plan(model.form(form), model.plan("compress:random:4")):
        assert not torch.equal(generate(model.form(form), tokens), before)
    assert torch.equal(generate(model.form(form), tokens), before)


# One text after the other.


@form
def test_a_new_prompt_begins_anew(each: Compressible, form: str) -> None:
    plan, other = each.plan(MIXED), TOKENS.flip(1)[:2, :60]
    with apply_plan(each.form(form), plan):
        read(each.form(form), TOKENS, [N_PROMPT, 5, N_TOKENS - N_PROMPT - 5])
        found = read(each.form(form), other, [20, 40])
    same(found, each.expected(plan, other, 20))


@form
def test_a_prompt_that_was_given_up_leaves_no_trace(model: Compressible, form: str) -> None:
    plan = model.plan(MIXED)
    with apply_plan(model.form(form), plan, N_PROMPT):
        read(model.form(form), TOKENS.flip(1)[:2, :20], [20])
        found = read(model.form(form), TOKENS, [30, N_TOKENS - 30])
    same(found, model.expected(plan, TOKENS, N_PROMPT))


@pytest.mark.parametrize("form", ["sdpa", "eager"])
def test_a_whole_text_without_a_cache_may_be_read_in_between(model: Compressible, form: str) -> None:
    plan, past = model.plan(MIXED), new_cache()
    with apply_plan(model.form(form), plan):
        read(model.form(form), TOKENS[:, :N_PROMPT], [N_PROMPT], past)
        logits(model.form(form), TOKENS.flip(1))
        found = read(model.form(form), TOKENS[:, N_PROMPT:], [N_TOKENS - N_PROMPT], past)
    same(found, model.expected(plan, TOKENS, N_PROMPT)[:, N_PROMPT:])


@form
def test_tokens_after_the_prompt_may_be_taken_back(each: Compressible, form: str) -> None:
    plan, past = each.plan(MIXED), new_cache()
    wrong = torch.cat([TOKENS[:, : N_PROMPT + 5], TOKENS[:, :9]], 1)
    with apply_plan(each.form(form), plan):
        read(each.form(form), wrong, [N_PROMPT, 14], past)
        past.crop(-9)
        found = read(each.form(form), TOKENS[:, N_PROMPT + 5 :], [1, N_TOKENS - N_PROMPT - 6], past)
    same(found, each.expected(plan, TOKENS, N_PROMPT)[:, N_PROMPT + 5 :])


@form
def test_a_prompt_cannot_be_taken_back(model: Compressible, form: str) -> None:
    past = new_cache()
    with apply_plan(model.form(form), model.plan(MIXED)):
        read(model.form(form), TOKENS, [N_PROMPT, N_TOKENS - N_PROMPT], past)
        past.crop(N_PROMPT - 1 - N_TOKENS)
        with pytest.raises(ModelError, match=r"cache of 47 columns .* layer 0 have read 80 .* the prompt cannot"):
            read(model.form(form), TOKENS[:, :1], [1], past)


@form
def test_a_cache_that_was_read_before_the_block_is_refused(model: Compressible, form: str) -> None:
    past = new_cache()
    read(model.form(form), TOKENS[:, :20], [20], past)
    with apply_plan(model.form(form), model.plan(MIXED)):  # noqa: SIM117
        with pytest.raises(ModelError, match=r"cache of 20 columns in 3 rows, .* read 0 columns: read one text at a"):
            read(model.form(form), TOKENS[:, 20:], [N_TOKENS - 20], past)


@form
def test_a_cache_with_other_rows_is_refused(model: Compressible, form: str) -> None:
    past = new_cache()
    with apply_plan(model.form(form), model.plan(MIXED)):
        read(model.form(form), TOKENS[:, :20], [20], past)
        past.batch_repeat_interleave(2)
        with pytest.raises(ModelError, match=r"in 6 rows, .* have read 20 columns in 3 rows"):
            read(model.form(form), TOKENS[:, 20:].repeat(2, 1), [N_TOKENS - 20], past)


@form
def test_a_static_cache_is_refused(model: Compressible, form: str) -> None:
    past = StaticCache(config=model.sdpa.huggingface.config, max_cache_len=N_TOKENS + 10)
    with apply_plan(model.form(form), model.plan(MIXED)), pytest.raises(ModelError, match=r"use a D|through a D"):
        read(model.form(form), TOKENS, [20, N_TOKENS - 20], past)
