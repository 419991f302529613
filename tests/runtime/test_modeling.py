"""The pruned model gives the logits of the hooked one, however the text comes in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_makers import (
    KINDS,
    chunkings,
    hooked,
    in_chunks,
    keep_all,
    left_padded,
    mixed,
    plan_of,
    pruned,
    random_ids,
    same,
    source,
    wishes,
)
from torch import Tensor

CHUNKS = [[90], [1] * 90, [1, 89], [33, 1, 1, 40, 2, 13], [2, 3, 5, 7, 11, 13, 17, 19, 13]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@torch.no_grad()
def logits(model: object, tokens: Tensor, **options: object) -> Tensor:
    return model(tokens, **options).logits  # type: ignore[operator]


# Plans.


@pytest.mark.parametrize("cached", [False, True])
def test_the_mixed_plan_gives_the_logits_of_the_hooked_model(kind: str, cached: bool) -> None:
    tokens = random_ids(3, 120)
    same(logits(pruned(kind=kind), tokens, use_cache=cached), hooked(mixed(kind), tokens))


def test_the_mixed_plan_changes_the_logits(kind: str) -> None:
    tokens = random_ids(3, 120)
    assert (hooked(mixed(kind), tokens) - hooked(keep_all(kind), tokens)).abs().amax() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), n_rows=st.integers(1, 3), n_tokens=st.integers(1, 128), cached=st.booleans())
def test_every_plan_gives_the_logits_of_the_hooked_model(
    kind: str, data: st.DataObject, n_rows: int, n_tokens: int, cached: bool
) -> None:
    plan, tokens = plan_of(data.draw(wishes(kind)), kind), random_ids(n_rows, n_tokens)
    same(logits(pruned(plan, kind), tokens, use_cache=cached), hooked(plan, tokens))


@pytest.mark.parametrize("cached", [False, True])
def test_a_plan_that_keeps_all_heads_gives_the_logits_of_the_original(kind: str, cached: bool) -> None:
    tokens = random_ids(3, 128)
    found = logits(pruned(keep_all(kind), kind), tokens, use_cache=cached)
    same(found, logits(source(kind).huggingface, tokens), 1e-5)


@pytest.mark.parametrize("what", ["zero", "mean", "window:1+0", "window:64+8", "window:128+0"])
def test_one_treatment_for_all_heads_gives_the_logits_of_the_hooked_model(kind: str, what: str) -> None:
    model = source(kind)
    plan = plan_of({str(head): what for head in keep_all(kind).about.heads}, model.name)
    tokens = random_ids(2, 128)
    same(logits(pruned(plan, kind), tokens, use_cache=False), hooked(plan, tokens))
    same(in_chunks(pruned(plan, kind), tokens, [50, 1, 1, 30, 46]), hooked(plan, tokens))


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 7, 8, 9, 31, 32, 33, 65])
def test_texts_shorter_than_the_sinks_and_of_any_length_round_a_block(kind: str, n_tokens: int) -> None:
    tokens = random_ids(2, n_tokens)
    same(logits(pruned(kind=kind), tokens, use_cache=False), hooked(mixed(kind), tokens))


# Chunks.


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_text_in_chunks_gives_the_logits_of_the_text_at_once(kind: str, chunks: list[int]) -> None:
    tokens = random_ids(2, 90)
    same(in_chunks(pruned(kind=kind), tokens, chunks), hooked(mixed(kind), tokens))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), n_tokens=st.integers(1, 128), expected=st.sampled_from((0, 5, 128)))
def test_any_chunks_of_any_plan_give_the_logits_of_the_hooked_model(
    kind: str, data: st.DataObject, n_tokens: int, expected: int
) -> None:
    plan, chunks = plan_of(data.draw(wishes(kind)), kind), data.draw(chunkings(n_tokens))
    tokens, model = random_ids(2, n_tokens), pruned(plan, kind)
    same(in_chunks(model, tokens, chunks, cache=model.make_cache(expected=expected)), hooked(plan, tokens))


@settings(max_examples=15, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(1, 90), min_size=2, max_size=3))
def test_any_chunks_of_a_padded_batch_give_the_logits_of_each_row_alone(
    data: st.DataObject, lengths: list[int]
) -> None:
    plan, texts = plan_of(data.draw(wishes("parallel"))), random_ids(len(lengths), max(lengths))
    tokens, mask = left_padded(texts, lengths)
    found = in_chunks(pruned(plan), tokens, data.draw(chunkings(max(lengths))), mask)
    for row, length in enumerate(lengths):
        same(found[row, -length:], hooked(plan, texts[row : row + 1, :length])[0])


# Padding.


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("lengths", [[90, 7], [3, 90, 89], [1, 2], [60, 60]])
def test_a_padded_batch_gives_the_logits_of_each_row_alone(kind: str, lengths: list[int], cached: bool) -> None:
    texts = random_ids(len(lengths), max(lengths))
    tokens, mask = left_padded(texts, lengths)
    found = logits(pruned(kind=kind), tokens, attention_mask=mask, use_cache=cached)
    for row, length in enumerate(lengths):
        same(found[row, -length:], hooked(mixed(kind), texts[row : row + 1, :length])[0])


@pytest.mark.parametrize("chunks", [[70], [1] * 20 + [50], [30, 1, 39]])
def test_the_cache_remembers_padding_when_the_mask_is_left_out_later(chunks: list[int]) -> None:
    texts, model = random_ids(2, 90), pruned()
    tokens, mask = left_padded(texts, [90, 78])
    cache = model.make_cache()
    first = logits(model, tokens[:, :20], attention_mask=mask[:, :20], past_key_values=cache)
    found = torch.cat((first, in_chunks(model, tokens[:, 20:], chunks, cache=cache)), dim=1)
    same(found[1, 12:], hooked(mixed(), texts[1:, :78])[0])
    same(found[0], hooked(mixed(), texts[:1])[0])


@pytest.mark.parametrize("cached", [False, True])
def test_position_ids_that_count_real_tokens_give_the_same_logits(kind: str, cached: bool) -> None:
    tokens, mask = left_padded(random_ids(2, 90), [90, 40])
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    model = pruned(kind=kind)
    found = logits(model, tokens, attention_mask=mask, position_ids=places, use_cache=cached)
    expected = logits(model, tokens, attention_mask=mask, use_cache=cached)
    same(found[mask.bool()], expected[mask.bool()])


def test_position_ids_count_in_every_layer_as_in_the_hooked_model(kind: str) -> None:
    tokens, places = random_ids(2, 60), torch.arange(60)[None] * 2 + 3
    found = logits(pruned(kind=kind), tokens, position_ids=places)
    ones = torch.ones_like(tokens)  # without a mask transformers takes leaps for borders between texts
    same(found, hooked(mixed(kind), tokens, position_ids=places, attention_mask=ones))
    assert (found - hooked(mixed(kind), tokens)).abs().amax() > 1e-2


def test_a_mask_of_ones_is_no_mask(kind: str) -> None:
    tokens, model = random_ids(2, 50), pruned(kind=kind)
    assert torch.equal(logits(model, tokens, attention_mask=torch.ones_like(tokens)), logits(model, tokens))


@pytest.mark.parametrize("cached", [False, True])
@settings(max_examples=15, deadline=None)
@given(data=st.data(), n_tokens=st.integers(1, 70), seed=st.integers(0, 999), share=st.sampled_from((0.1, 0.5, 0.9)))
def test_any_mask_gives_the_logits_of_the_hooked_model_where_tokens_are_real(
    cached: bool, data: st.DataObject, n_tokens: int, seed: int, share: float
) -> None:
    plan, tokens = plan_of(data.draw(wishes("parallel"))), random_ids(2, n_tokens)
    mask = (torch.rand(2, n_tokens, generator=torch.Generator().manual_seed(seed)) > share).long()
    model, expected = pruned(plan), hooked(plan, tokens, attention_mask=mask)
    if cached:
        found = in_chunks(model, tokens, data.draw(chunkings(n_tokens)), mask)
    else:
        found = logits(model, tokens, attention_mask=mask, use_cache=False)
    same(found[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("cached", [False, True])
def test_rows_of_nothing_but_padding_stay_finite(kind: str, cached: bool) -> None:
    tokens, mask = random_ids(2, 50), torch.ones(2, 50, dtype=torch.long)
    mask[0] = 0
    found = logits(pruned(kind=kind), tokens, attention_mask=mask, use_cache=cached)
    assert found.isfinite().all()
    same(found[1], hooked(mixed(kind), tokens[1:])[0])
