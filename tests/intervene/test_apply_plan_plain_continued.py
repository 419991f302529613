"""A plan on a plain model holds however the text comes, and whichever attention the model was loaded with."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from plan_references import HEADS, Treatable, logits, padded, random_ids
from torch import Tensor
from transformers import DynamicCache, StaticCache

from headspec.errors import ModelError
from headspec.intervene.ablate import apply_plan
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan

TOKENS, LENGTHS = random_ids(3, 36), [36, 20, 3]
MIXED = {"L0H1": "mean", "L0H2": "window:4+1", "L1H0": "random", "L1H2": "window:9+3", "L1H3": "window:2+0"}
MAKERS: dict[str, Callable[[Treatable], PlainModel]] = {
    "sdpa": lambda model: model.plain,
    "eager": lambda model: PlainModel(model.make(), "planted"),
}


@pytest.fixture(params=MAKERS)
def plain(request: pytest.FixtureRequest, each: Treatable) -> PlainModel:
    """Every model with either attention."""
    return MAKERS[request.param](each)


def inside(plain: PlainModel, tokens: Tensor, *plans: HeadPlan, **settings: Any) -> Tensor:
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(apply_plan(plain, plan))
        return logits(plain.huggingface, tokens, **settings)


def check_rows(found: Tensor, expected: Tensor) -> None:
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[row, -length:].double(), expected[row, :length].double(), rtol=0, atol=1e-5)


def test_a_whole_text_is_read_as_the_reference_reads_it(each: Treatable, plain: PlainModel) -> None:
    plan = each.plan(MIXED)
    found = inside(plain, TOKENS, plan, use_cache=False)
    torch.testing.assert_close(found.double(), each.expected(plan, TOKENS), rtol=0, atol=1e-5)


def test_left_padded_rows_are_what_they_are_one_by_one(each: Treatable, plain: PlainModel) -> None:
    plan, (tokens, mask) = each.plan(MIXED), padded(TOKENS, LENGTHS)
    found = inside(plain, tokens, plan, attention_mask=mask, use_cache=False)
    assert found.isfinite().all()
    check_rows(found, each.expected(plan, TOKENS))


@pytest.mark.parametrize("segments", [[10, 1, 20, 5], [35, 1], [1, 35]])
def test_left_padded_rows_may_come_in_segments(each: Treatable, plain: PlainModel, segments: list[int]) -> None:
    plan, (tokens, mask) = each.plan(MIXED), padded(TOKENS, LENGTHS)
    cache, parts, seen = DynamicCache(config=plain.huggingface.config), [], 0
    for part in tokens.split(segments, 1):
        seen += part.shape[1]
        given = {"attention_mask": mask[:, :seen], "past_key_values": cache, "use_cache": True}
        parts.append(inside(plain, part, plan, **given))
    check_rows(torch.cat(parts, 1), each.expected(plan, TOKENS))


def test_a_static_cache_makes_the_whole_too_or_is_refused(each: Treatable, plain: PlainModel) -> None:
    plan, cache = each.plan(MIXED), StaticCache(config=plain.huggingface.config, max_cache_len=50)
    try:
        parts = [
            inside(plain, part, plan, past_key_values=cache, use_cache=True) for part in TOKENS.split([20, 1, 15], 1)
        ]
    except ModelError:
        return
    torch.testing.assert_close(torch.cat(parts, 1).double(), each.expected(plan, TOKENS), rtol=0, atol=1e-5)


def test_generation_from_left_padded_rows_is_that_of_the_bridge(each: Treatable, plain: PlainModel) -> None:
    plan, (tokens, mask) = each.plan(MIXED), padded(TOKENS, [10, 4, 7])
    with apply_plan(plain, plan), apply_plan(each.bridge, plan):
        found = plain.huggingface.generate(
            tokens, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=10**6
        )
        expected = each.bridge.generate(
            tokens, attention_mask=mask, max_new_tokens=8, do_sample=False, stop_at_eos=False, return_type="tokens",
            verbose=False,
        )  # fmt: skip
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "wishes",
    [
        [dict.fromkeys(HEADS, "window:8+0"), dict.fromkeys(HEADS, "window:2+1")],
        [MIXED, {"L0H2": "window:2+2", "L1H1": "window:5", "L0H3": "zero"}],
        [{"L0H0": "window:3+1"}, {"L0H1": "window:3+1"}, {"L0H1": "window:9+0", "L0H2": "mean"}],
    ],
    ids=["all heads twice", "mixed", "three"],
)
def test_padded_rows_under_plans_within_plans_are_those_of_the_bridge(
    each: Treatable, plain: PlainModel, wishes: list[dict[str, str]]
) -> None:
    plans, (tokens, mask) = [each.plan(wish) for wish in wishes], padded(TOKENS, LENGTHS)
    found = inside(plain, tokens, *plans, attention_mask=mask, use_cache=False)
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(apply_plan(each.bridge, plan))
        expected = logits(each.bridge, tokens, attention_mask=mask)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[row, -length:], expected[row, -length:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bridge", "plain"])
def test_plans_within_plans_hold_in_segments_too(each: Treatable, kind: str) -> None:
    outer, inner = (each.plan(dict.fromkeys(HEADS, text)) for text in ("window:12+0", "window:2+1"))
    model = each.bridge if kind == "bridge" else each.plain.huggingface
    cache = DynamicCache(config=each.plain.huggingface.config)
    with ExitStack() as stack:
        for plan in (outer, inner):
            stack.enter_context(apply_plan(each.bridge if kind == "bridge" else each.plain, plan))
        whole = logits(model, TOKENS, use_cache=False)
        parts = [logits(model, part, past_key_values=cache, use_cache=True) for part in TOKENS.split([8, 20, 8], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


def test_a_masked_token_in_the_middle_is_no_sink(each: Treatable, plain: PlainModel) -> None:
    mask = torch.ones_like(TOKENS)
    mask[0, 1:3] = 0
    plan = each.plan({"L0H2": "window:4+2", "L1H1": "window:9+3"})
    found = inside(plain, TOKENS, plan, attention_mask=mask, use_cache=False)
    with apply_plan(each.bridge, plan):
        expected = logits(each.bridge, TOKENS, attention_mask=mask, position_ids=torch.arange(36)[None])
    torch.testing.assert_close(found[0, 3:], expected[0, 3:], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_is_found_in_half_precision(neox: Treatable, dtype: torch.dtype, attention: str) -> None:
    model = neox.make().to(dtype)
    model.set_attn_implementation(attention)
    plain, plan, (tokens, mask) = PlainModel(model, "planted"), neox.plan(MIXED), padded(TOKENS, LENGTHS)
    rounding = (logits(plain, TOKENS).float() - logits(neox.bridge, TOKENS)).abs().max()
    found, expected = inside(plain, tokens, plan, attention_mask=mask, use_cache=False), neox.expected(plan, TOKENS)
    for row, length in enumerate(LENGTHS):
        assert (found[row, -length:].double() - expected[row, :length]).abs().max() < 3 * rounding
