"""Compressed heads give what the naive reference gives, whichever way the text is read."""

from typing import Any

import pytest
import torch
from compression_reference import EXACT, FEW, KINDS, MIXED, TEXTS, compressed, reference_logits, source
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_makers import chunkings, in_chunks, left_padded, random_ids, same
from torch import Tensor

TOKENS = random_ids(3, 100)
TWO = TOKENS[:2]


def read(model: Any, chunks: list[int], n_prompt: int = 0, expected: int = 0, **options: Any) -> Tensor:
    """Logits of the first two texts, through a cache that knows the prompt's length."""
    return in_chunks(model, TWO, chunks, cache=model.make_cache(expected=expected, prompt=n_prompt), **options)


# The reference.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_prompt", [1, 3, 7, 20, 32, 60])
@pytest.mark.parametrize("text", TEXTS)
def test_logits_are_those_of_the_reference(text: str, n_prompt: int, kind: str) -> None:
    found = read(compressed(text, kind), [n_prompt, 100 - n_prompt])
    same(found, reference_logits(text, TWO, n_prompt, kind), EXACT)


@pytest.mark.parametrize("n_prompt", [10, 50])
def test_heads_of_a_layer_may_be_under_different_policies(n_prompt: int) -> None:
    found = read(compressed(MIXED), [n_prompt, 1, 30, 69 - n_prompt])
    same(found, reference_logits(MIXED, TWO, n_prompt), EXACT)


@pytest.mark.parametrize("text", ["compress:snapkv:1.0", "compress:expected_attention:1.0:adakv",
                                  "compress:random:200", "compress:snapkv:200:latest20"])  # fmt: skip
def test_a_budget_for_everything_changes_nothing(text: str) -> None:
    with torch.no_grad():
        expected = source().huggingface(TWO, use_cache=False).logits
    same(read(compressed(text), [60, 1, 39]), expected, EXACT)


@pytest.mark.parametrize("text", FEW)
def test_without_a_cache_every_key_is_seen(text: str) -> None:
    with torch.no_grad():
        expected = source().huggingface(TWO, use_cache=False).logits
        same(compressed(text)(TWO, use_cache=False).logits, expected, EXACT)


def test_a_small_budget_changes_the_logits() -> None:
    difference = reference_logits("compress:snapkv:0.25", TWO, 60) - reference_logits("compress:snapkv:1.0", TWO, 60)
    assert difference[:, :60].abs().max() == 0
    assert difference[:, 60:].abs().max() > 0.1


# Chunks.


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=5, deadline=None)
@given(data=st.data(), n_prompt=st.integers(1, 80))
def test_any_chunks_give_what_one_prompt_and_the_rest_give(text: str, data: st.DataObject, n_prompt: int) -> None:
    chunks = [*data.draw(chunkings(n_prompt)), *data.draw(chunkings(100 - n_prompt))]
    same(read(compressed(text), chunks, n_prompt), reference_logits(text, TWO, n_prompt), EXACT)


@pytest.mark.parametrize("text", TEXTS)
def test_token_by_token_gives_what_the_reference_gives(text: str) -> None:
    same(read(compressed(text), [50, *[1] * 50]), reference_logits(text, TWO, 50), EXACT)


@pytest.mark.parametrize("text", FEW)
def test_a_chunk_over_the_end_of_the_prompt_gives_what_two_give(text: str) -> None:
    same(read(compressed(text), [30, 50, 20], 40), reference_logits(text, TWO, 40), EXACT)


@pytest.mark.parametrize("expected", [1, 55, 70, 100, 10**6])
@pytest.mark.parametrize("text", FEW)
def test_the_cache_grows_where_less_was_expected(text: str, expected: int) -> None:
    found = read(compressed(text), [30, 20, *[1] * 30, 20], 50, expected)
    same(found, reference_logits(text, TWO, 50), EXACT)


def test_more_than_one_step_of_growth_is_right() -> None:
    tokens = random_ids(1, 256, seed=4)
    tokens = torch.cat((tokens, tokens), dim=1)[:, :256]
    model = compressed("compress:snapkv:0.5")
    found = in_chunks(model, tokens, [8, *[1] * 20, 228], cache=model.make_cache(expected=12, prompt=8))
    same(found, reference_logits("compress:snapkv:0.5", tokens, 8), EXACT)


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("text", ["compress:snapkv:0.25", "compress:snapkv:24:latest8:adakv"])
def test_the_observation_window_is_seen_where_only_the_last_logits_are_wanted(text: str, shortcut: bool) -> None:
    model = compressed(text)
    model.tricks.last_tokens = shortcut
    expected = reference_logits(text, TWO, 50)
    found = read(model, [20, 7, 1, 22, 30, 20], 50, logits_to_keep=1)
    same(found, expected[:, [19, 26, 27, 49, 79, 99]], EXACT)


@pytest.mark.parametrize("text", FEW)
def test_logits_stay_the_same_without_tricks(text: str) -> None:
    model = compressed(text)
    for name in vars(model.tricks):
        setattr(model.tricks, name, False)
    same(read(model, [40, 10, 1, 49], 50), reference_logits(text, TWO, 50), EXACT)


# Padding.


@pytest.mark.parametrize("chunks", [[50], [1, 9, 40]])
@pytest.mark.parametrize("text", [*TEXTS, "mixed"])
def test_padded_rows_give_what_each_gives_alone(text: str, chunks: list[int]) -> None:
    wish, lengths = MIXED if text == "mixed" else text, [50, 3, 21]
    tokens, mask = left_padded(TOKENS, lengths)
    tokens, mask = torch.cat((tokens, TOKENS[:, 60:]), 1), torch.cat((mask, mask.new_ones(3, 40)), 1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    model = compressed(wish)
    cache, parts, end = model.make_cache(prompt=50), [], 0
    with torch.no_grad():
        for part in tokens.split([*chunks, 1, 5, 34], dim=1):
            start, end = end, end + part.shape[1]
            options = {"attention_mask": mask[:, :end], "position_ids": places[:, start:end]}
            parts.append(model(part, past_key_values=cache, **options).logits)
    found = torch.cat(parts, dim=1)
    for row, length in enumerate(lengths):
        expected = reference_logits(wish, tokens[row : row + 1, 50 - length :], length)
        same(found[row : row + 1, 50 - length :], expected, EXACT)


@pytest.mark.parametrize("text", TEXTS)
def test_a_row_of_padding_leaves_the_others_alone(text: str) -> None:
    tokens, mask = left_padded(TOKENS, [50, 0, 50])
    found = in_chunks(compressed(text), torch.cat((tokens, TOKENS[:, 50:]), 1), [50, 1, 49],
                      torch.cat((mask, mask.new_ones(3, 50)), 1))  # fmt: skip
    same(found[::2], reference_logits(text, TOKENS[::2], 50), EXACT)


# Kinds of numbers, and of modes.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", [*FEW, "mixed"])
def test_half_precision_is_near_the_reference(text: str, dtype: torch.dtype) -> None:
    wish = MIXED if text == "mixed" else text
    found = read(compressed(wish).to(dtype), [50, 1, 49])
    assert found.dtype == dtype
    difference = found.float() - reference_logits(wish, TWO, 50)
    assert difference.abs().median() < (0.02 if dtype is torch.float16 else 0.1)  # a choice or two may differ


@pytest.mark.parametrize("text", FEW)
def test_with_gradients_the_logits_are_the_same(text: str) -> None:
    model = compressed(text)
    cache = model.make_cache(prompt=50)
    parts = [model(part, past_key_values=cache).logits for part in TWO.split([40, 10, 1, 49], dim=1)]
    same(torch.cat(parts, 1).detach(), reference_logits(text, TWO, 50), EXACT)


@pytest.mark.parametrize("text", FEW)
def test_gradients_reach_the_weights_through_what_follows_the_prompt(text: str) -> None:
    model = compressed(text).train()
    cache = model.make_cache(prompt=50)
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in TWO.split([50, 1, 30, 19], dim=1)]
    torch.cat(parts, 1).square().mean().backward()
    gradients = [weight.grad for weight in model.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("text", FEW)
def test_a_cache_begun_in_inference_mode_can_be_used_outside(text: str) -> None:
    model = compressed(text)
    cache, expected = model.make_cache(prompt=50), reference_logits(text, TWO, 50)
    with torch.inference_mode():
        model(TWO[:, :40], past_key_values=cache)
    found = [model(TWO[:, 40:50], past_key_values=cache).logits]
    with torch.inference_mode():
        found.append(model(TWO[:, 50:60], past_key_values=cache).logits)
    found.append(model(TWO[:, 60:], past_key_values=cache).logits)
    same(torch.cat([part.detach() for part in found], 1), expected[:, 40:], EXACT)


@pytest.mark.parametrize("text", FEW)
def test_embeddings_may_be_the_prompt(text: str) -> None:
    model = compressed(text)
    cache = model.make_cache()
    with torch.no_grad():
        embedded = model.get_input_embeddings()(TWO)
        found = [model(inputs_embeds=part, past_key_values=cache).logits for part in embedded.split([50, 50], 1)]
    same(torch.cat(found, 1), reference_logits(text, TWO, 50), EXACT)
