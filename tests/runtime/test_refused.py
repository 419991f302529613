"""What a pruned model cannot do is refused with words, before anything changes."""

from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from runtime_makers import hooked, in_chunks, left_padded, mixed, pruned, random_ids, same, source
from torch import Tensor
from transformers import DynamicCache, StaticCache

TOKENS = random_ids(2, 60)


@pytest.fixture
def untyped() -> Iterator[None]:
    """As users have it: no argument is checked against its annotation before it arrives."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def forward(tokens: Tensor | None = TOKENS, **options: Any) -> Any:
    with torch.no_grad():
        return pruned()(tokens, **options)


@pytest.mark.parametrize("use_cache", [True, False])
def test_more_tokens_than_the_context(use_cache: bool) -> None:
    assert forward(random_ids(1, 128), use_cache=use_cache).logits.shape[1] == 128
    with pytest.raises(ValueError, match="129 tokens are more than the model's context of 128"):
        forward(random_ids(1, 129), use_cache=use_cache)


def test_more_tokens_than_the_context_with_those_in_the_cache_leave_the_cache_as_it_was() -> None:
    model, tokens = pruned(), random_ids(1, 128)
    cache = model.make_cache()
    in_chunks(model, tokens[:, :100], [100], cache=cache)
    with pytest.raises(ValueError, match="129 tokens are more than"):
        in_chunks(model, random_ids(1, 29), [29], cache=cache)
    assert cache.get_seq_length() == 100
    same(in_chunks(model, tokens[:, 100:], [28], cache=cache), hooked(mixed(), tokens)[:, 100:])


@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(source().huggingface.config, max_cache_len=128)])
@pytest.mark.usefixtures("untyped")
def test_another_cache(make: Any) -> None:
    cache = make()
    with pytest.raises(ValueError, match=rf"{type(cache).__name__} cannot hold .*model.make_cache\(\)"):
        forward(past_key_values=cache)


@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(source().huggingface.config, max_cache_len=128)])
@pytest.mark.usefixtures("untyped")
def test_another_cache_in_generate(make: Any) -> None:
    with pytest.raises(ValueError, match="cannot hold what pruned heads remember"):
        pruned().generate(TOKENS, max_new_tokens=2, past_key_values=make(), pad_token_id=0)


def test_attention_patterns() -> None:
    with pytest.raises(ValueError, match="forms no attention patterns"):
        forward(output_attentions=True)


def test_tokens_and_embeddings_together() -> None:
    embedded = pruned().get_input_embeddings()(TOKENS).detach()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        forward(inputs_embeds=embedded)


def test_neither_tokens_nor_embeddings() -> None:
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        forward(None)


@pytest.mark.parametrize("shape", [(2, 59), (2, 61), (1, 60), (3, 60), (60,), (2, 1, 60, 60), (2, 1, 1, 60)])
def test_a_mask_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"attention_mask has the shape .*want .* = \(2, 60\)"):
        forward(attention_mask=torch.ones(shape, dtype=torch.long))


def test_a_mask_of_the_new_tokens_only() -> None:
    model = pruned()
    cache = model(TOKENS, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"want .* = \(2, 65\)"):
        model(TOKENS[:, :5], attention_mask=torch.ones(2, 5), past_key_values=cache)


@pytest.mark.parametrize("column", [0, 30, 59])
@pytest.mark.parametrize("padded", [False, True])
def test_a_mask_that_changes_the_past_leaves_the_cache_as_it_was(padded: bool, column: int) -> None:
    model, lengths = pruned(), [60, 40] if padded else [60, 60]
    tokens, mask = left_padded(TOKENS, lengths)
    cache = model.make_cache()
    in_chunks(model, tokens[:, :55], [55], mask[:, :55], cache=cache)
    other = mask.clone()
    other[1, min(column, 54)] ^= 1
    with pytest.raises(ValueError, match="hides other tokens of the past than when they were read"):
        in_chunks(model, tokens[:, 55:], [5], other, cache=cache)
    found = in_chunks(model, tokens[:, 55:], [5], mask, cache=cache)
    same(found[1], hooked(mixed(), TOKENS[1:, : lengths[1]])[0, -5:])


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int32])
def test_masks_of_any_number_format_are_taken(dtype: torch.dtype) -> None:
    tokens, mask = left_padded(TOKENS, [60, 20])
    found = forward(tokens, attention_mask=mask.to(dtype)).logits
    same(found[1, -20:], hooked(mixed(), TOKENS[1:, :20])[0])
