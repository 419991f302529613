"""The cache of compressed heads as transformers handles it: rows move, tokens are taken back, all begins anew."""

from typing import Any

import pytest
import torch
from compression_reference import EXACT, FEW, MIXED, TEXTS, compressed, reference_logits
from runtime_makers import in_chunks, left_padded, random_ids, same

from headspec.runtime.cache import PrunedCache

TOKENS = random_ids(3, 100)
TWO = TOKENS[:2]


# Rows of the cache.


def opened(model: Any, n_prompt: int = 50, told: int = 0) -> PrunedCache:
    """A cache that has read the beginning of the first two texts."""
    cache = model.make_cache(prompt=told)
    in_chunks(model, TWO[:, :n_prompt], [n_prompt], cache=cache)
    return cache


@pytest.mark.parametrize("told", [0, 60])
@pytest.mark.parametrize("change", ["reorder_cache", "batch_select_indices"])
@pytest.mark.parametrize("text", [*TEXTS, "mixed"])
def test_rows_can_be_reordered_before_and_after_the_choice(text: str, change: str, told: int) -> None:
    wish = MIXED if text == "mixed" else text
    model = compressed(wish)
    cache, order = opened(model, 50, told), torch.tensor([1, 0, 0])
    getattr(cache, change)(order)
    found = in_chunks(model, TWO[order, 50:], [10, 1, 39], cache=cache)
    same(found, reference_logits(wish, TWO, told or 50)[order, 50:], EXACT)


@pytest.mark.parametrize("text", [*FEW, "mixed"])
def test_rows_can_be_repeated(text: str) -> None:
    wish = MIXED if text == "mixed" else text
    model = compressed(wish)
    cache = opened(model)
    cache.batch_repeat_interleave(2)
    found = in_chunks(model, TWO.repeat_interleave(2, 0)[:, 50:], [1, 49], cache=cache)
    same(found, reference_logits(wish, TWO, 50).repeat_interleave(2, 0)[:, 50:], EXACT)


@pytest.mark.parametrize("text", ["compress:snapkv:24:latest8", "compress:expected_attention:0.3:adakv"])
def test_padded_rows_keep_their_padding_when_they_are_reordered(text: str) -> None:
    tokens, mask = left_padded(TOKENS, [50, 6, 30])
    model, order = compressed(text), torch.tensor([2, 1, 1])
    cache, alone = model.make_cache(), model.make_cache()
    in_chunks(model, tokens, [50], mask, cache)
    in_chunks(model, tokens[order], [50], mask[order], alone)
    cache.reorder_cache(order)
    longer = torch.cat((mask[order], mask.new_ones(3, 50)), 1)
    found, expected = (in_chunks(model, TOKENS[:, 50:], [1, 49], longer[:, :], each) for each in (cache, alone))
    same(found, expected, EXACT)


# Taking back.


@pytest.mark.parametrize("recording", ["before", "after"])
@pytest.mark.parametrize("text", [*TEXTS, "mixed"])
def test_what_followed_the_prompt_can_be_taken_back(text: str, recording: str) -> None:
    wish = MIXED if text == "mixed" else text
    model = compressed(wish)
    cache = model.make_cache()
    if recording == "before":
        cache.activate_past_recording()
    in_chunks(model, TWO[:, :50], [50], cache=cache)
    if recording == "after":
        cache.activate_past_recording()
    in_chunks(model, random_ids(2, 40, seed=9), [30, *[1] * 10], cache=cache)
    cache.crop(-40)
    assert cache.get_seq_length() == 50
    same(in_chunks(model, TWO[:, 50:], [1, 49], cache=cache), reference_logits(wish, TWO, 50)[:, 50:], EXACT)


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_that_was_compressed_cannot_be_taken_back(text: str) -> None:
    model = compressed(text)
    cache = opened(model)
    cache.activate_past_recording()
    in_chunks(model, TWO[:, 50:], [5, 45], cache=cache)
    with pytest.raises(RuntimeError, match="cannot take back 51 tokens: 1 of them belong to a prompt that was compr"):
        cache.crop(-51)
    assert cache.get_seq_length() == 100


def test_a_full_ring_cannot_be_taken_back_unless_the_past_is_recorded() -> None:
    model = compressed("compress:snapkv:24:latest8")
    cache = opened(model)
    in_chunks(model, TWO[:, 50:], [50], cache=cache)
    with pytest.raises(RuntimeError, match="cannot take back 30 tokens: windowed heads have overwritten"):
        cache.crop(-30)


def test_every_key_that_follows_can_be_taken_back_without_recording() -> None:
    model = compressed("compress:snapkv:0.25")
    cache = opened(model)
    in_chunks(model, random_ids(2, 50, seed=9), [50], cache=cache)
    cache.crop(-50)
    expected = reference_logits("compress:snapkv:0.25", TWO, 50)[:, 50:]
    same(in_chunks(model, TWO[:, 50:], [50], cache=cache), expected, EXACT)


def test_a_part_of_a_prompt_cannot_be_taken_back_while_its_last_queries_are_watched() -> None:
    cache = opened(compressed("compress:snapkv:0.25"), 50, told=60)
    with pytest.raises(RuntimeError, match=r"cannot take back a part of a prompt whose last queries are being watched"):
        cache.crop(-1)


def test_a_part_of_a_prompt_can_be_taken_back_where_no_queries_are_watched() -> None:
    model = compressed("compress:expected_attention:0.3")
    cache = model.make_cache(prompt=60)
    in_chunks(model, torch.cat((TWO[:, :40], random_ids(2, 10, seed=9)), 1), [50], cache=cache)
    cache.crop(-10)
    found = in_chunks(model, TWO[:, 40:], [20, 40], cache=cache)
    same(found, reference_logits("compress:expected_attention:0.3", TWO, 60)[:, 40:], EXACT)


@pytest.mark.parametrize("text", TEXTS)
def test_after_a_reset_a_cache_is_as_new(text: str) -> None:
    model = compressed(text)
    cache = model.make_cache(prompt=50)
    in_chunks(model, random_ids(2, 90, seed=9), [50, 40], cache=cache)
    cache.reset()
    assert cache.nbytes == 0
    same(in_chunks(model, TWO, [30, 20, 1, 49], cache=cache), reference_logits(text, TWO, 50), EXACT)


@pytest.mark.parametrize("text", ["compress:snapkv:24:latest8", "compress:streaming:16", "window:16"])
def test_the_past_is_still_recorded_after_a_reset(text: str) -> None:
    model = compressed(text)
    cache = model.make_cache()
    cache.activate_past_recording()
    in_chunks(model, TWO, [50, 50], cache=cache)
    cache.reset()
    in_chunks(model, TWO, [50, 50], cache=cache)
    cache.crop(-40)
    assert cache.get_seq_length() == 60
