"""The cache of a pruned model: what it weighs, what it takes back, how its rows are moved."""

import copy

import pytest
import torch
from runtime_makers import (
    KINDS,
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
    storages,
)
from torch import Tensor
from transformers import DynamicCache

from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.runtime.cache import PrunedCache
from headspec.runtime.stores import TAKE_BACK

TOKENS = random_ids(2, 100)
WINDOWS = {f"L{layer}H{head}": "window:6+2" for layer in range(4) for head in range(4)}
GONE = dict.fromkeys(WINDOWS, "zero")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def filled(plan: HeadPlan, n_tokens: int, expected: int, kind: str = "parallel") -> PrunedCache:
    """A cache after a prompt and some single tokens."""
    model = pruned(plan, kind)
    cache, n_prompt = model.make_cache(expected=expected), max(n_tokens - 3, 1)
    in_chunks(model, TOKENS[:, :n_tokens], [n_prompt] + [1] * (n_tokens - n_prompt), cache=cache)
    return cache


def state(cache: PrunedCache) -> tuple[list[int], list[Tensor]]:
    buffers = [store.buffer.clone() for layer in cache.layers for store in layer.stores]
    return [layer.length for layer in cache.layers], buffers


# Bytes.


def test_bytes_by_hand() -> None:
    plan = plan_of({**GONE, "L0H1": "keep", "L2H3": "window:6+2"})
    # 2 rows × (keys and values) × 8 numbers × 4 bytes = 128 a key; 50 keys in full and 6 + 2
    assert filled(plan, 50, 50).nbytes == 128 * 58


def test_an_empty_cache_weighs_nothing() -> None:
    assert pruned().make_cache(expected=100).nbytes == 0


@pytest.mark.parametrize("expected", [0, 50, 100, 128])
def test_bytes_are_those_of_the_storages(kind: str, expected: int) -> None:
    cache = filled(mixed(kind), 80, expected, kind)
    assert cache.nbytes == storages(cache) > 0


@pytest.mark.parametrize("n_tokens", [60, 100])
@pytest.mark.parametrize("wish", [{}, WINDOWS, GONE, {"L0H1": "zero", "L1H2": "window:8", "L2H0": "window:32+0"}])
def test_a_filled_cache_weighs_what_the_plan_says(wish: dict[str, str], n_tokens: int) -> None:
    plan = plan_of(wish)
    promised = 2 * plan_size(plan, n_tokens).kv_bytes
    assert abs(filled(plan, n_tokens, n_tokens).nbytes - promised) <= 0.02 * promised


@pytest.mark.parametrize("n_tokens", [4, 20, 70])
def test_in_a_text_shorter_than_its_window_a_ring_weighs_at_most_its_sinks_more(n_tokens: int) -> None:
    plan = plan_of({"L0H1": "window:64+8", "L1H2": "window:64+8"})
    promised, key = 2 * plan_size(plan, n_tokens).kv_bytes, 2 * 4 * plan.about.d_head
    assert promised <= filled(plan, n_tokens, n_tokens).nbytes <= promised + 2 * 2 * 8 * key


def test_windows_stop_growing(kind: str) -> None:
    heads = {str(head): "window:6+2" for head in keep_all(kind).about.heads}
    sizes = {filled(plan_of(heads, kind), n_tokens, 0, kind).nbytes for n_tokens in (8, 30, 100)}
    assert len(sizes) == 1


def test_half_precision_takes_half_the_bytes() -> None:
    model = copy.deepcopy(pruned()).to(torch.bfloat16)
    cache = model.make_cache(expected=80)
    in_chunks(model, TOKENS[:, :80], [80], cache=cache)
    assert cache.nbytes == filled(mixed(), 80, 80).nbytes / 2


def test_without_rings_every_key_is_kept() -> None:
    model = pruned(plan_of(WINDOWS))
    model.tricks.rings = False
    cache = model.make_cache(expected=100)
    in_chunks(model, TOKENS, [50, 1, 49], cache=cache)
    assert cache.nbytes >= 2 * plan_size(keep_all(), 100).kv_bytes


# Columns.


def test_columns_are_counted(kind: str) -> None:
    model, lengths = pruned(kind=kind), []
    cache = model.make_cache()
    for size in (5, 1, 20):
        in_chunks(model, TOKENS[:, :size], [size], cache=cache)
        lengths.append(cache.get_seq_length())
    assert lengths == [5, 6, 26]


@pytest.mark.parametrize("wish", [GONE, {**GONE, "L3H0": "keep"}, {**GONE, "L0H0": "keep"}])
def test_layers_without_heads_count_columns(wish: dict[str, str]) -> None:
    cache = filled(plan_of(wish), 20, 0)
    assert [cache.get_seq_length(layer) for layer in range(4)] == [20] * 4


def test_room_that_was_too_small_grows(kind: str) -> None:
    model = pruned(kind=kind)
    same(in_chunks(model, TOKENS, [3, 1, 60, 36], cache=model.make_cache(expected=7)), hooked(mixed(kind), TOKENS))


def test_buffers_made_for_the_text_stay_where_they_are() -> None:
    model = pruned()
    cache = model.make_cache(expected=100)
    in_chunks(model, TOKENS[:, :10], [10], cache=cache)
    before = [store.buffer.data_ptr() for layer in cache.layers for store in layer.stores]
    in_chunks(model, TOKENS[:, 10:], [30, 1, 59], cache=cache)
    assert [store.buffer.data_ptr() for layer in cache.layers for store in layer.stores] == before


# Taking back.


@pytest.mark.parametrize("n_wrong", [1, 50])
@pytest.mark.parametrize("n_first", [1, 50])
@pytest.mark.parametrize("late", [False, True])
def test_tokens_taken_back_were_never_read(kind: str, n_wrong: int, n_first: int, late: bool) -> None:
    model = pruned(kind=kind)
    cache = model.make_cache()
    if not late:
        cache.activate_past_recording()
    first = in_chunks(model, TOKENS[:, :n_first], [n_first], cache=cache)
    cache.activate_past_recording()
    in_chunks(model, random_ids(2, n_wrong, seed=8), [n_wrong], cache=cache)
    cache.crop(-n_wrong)
    assert cache.get_seq_length() == n_first
    rest = in_chunks(model, TOKENS[:, n_first : n_first + 22], [1, 1, 20], cache=cache)
    same(torch.cat((first, rest), 1), hooked(mixed(kind), TOKENS[:, : n_first + 22]))


def test_tokens_can_be_taken_back_again_and_again() -> None:
    model, parts = pruned(), []
    cache = model.make_cache()
    cache.activate_past_recording()
    for start in range(0, 100, 4):
        in_chunks(model, random_ids(2, 3, seed=start), [3], cache=cache)
        cache.crop(-3)
        parts.append(in_chunks(model, TOKENS[:, start : start + 4], [4], cache=cache))
    same(torch.cat(parts, 1), hooked(mixed(), TOKENS))


def test_padding_can_be_taken_back() -> None:
    model, (tokens, mask) = pruned(), left_padded(TOKENS, [60, 20])
    cache = model.make_cache()
    cache.activate_past_recording()
    in_chunks(model, tokens[:, :50], [50], mask[:, :50], cache=cache)
    cache.crop(-40)  # row 1 is all padding again
    found = in_chunks(model, tokens[:, 10:], [5, 45], mask, cache=cache)
    same(found[1, -20:], hooked(mixed(), TOKENS[1:, :20])[0])
    same(found[0], hooked(mixed(), TOKENS[:1, :60])[0, 10:])


def test_nothing_can_be_taken_back_where_windows_have_overwritten_it() -> None:
    cache = filled(mixed(), 60, 0)
    before = state(cache)
    with pytest.raises(RuntimeError, match="cannot take back 2 tokens: windowed heads have overwritten"):
        cache.crop(-2)
    after = state(cache)
    assert after[0] == before[0] == [60] * 4
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(after[1], before[1], strict=True))


def test_without_windows_anything_can_be_taken_back() -> None:
    model = pruned(keep_all())
    cache = model.make_cache()
    in_chunks(model, TOKENS, [100], cache=cache)
    cache.crop(-70)
    same(in_chunks(model, TOKENS[:, 30:], [70], cache=cache), hooked(keep_all(), TOKENS)[:, 30:])


def test_taking_nothing_back_changes_nothing() -> None:
    cache = filled(mixed(), 60, 0)
    cache.crop(0)
    assert cache.get_seq_length() == 60


@pytest.mark.parametrize("tokens", [1, 60, -61, -1000])
@pytest.mark.parametrize("wish", [{}, WINDOWS, GONE])
def test_more_than_there_is_cannot_be_taken_back_and_nothing_changes(wish: dict[str, str], tokens: int) -> None:
    model = pruned(plan_of(wish))
    cache = model.make_cache()
    cache.activate_past_recording()
    in_chunks(model, TOKENS[:, :60], [60], cache=cache)
    before = state(cache)
    with pytest.raises(ValueError, match=rf"crop\({tokens}\): want .* from 0 to -60"):
        cache.crop(tokens)
    assert state(cache)[0] == before[0]
    same(in_chunks(model, TOKENS[:, 60:], [1, 39], cache=cache), hooked(plan_of(wish), TOKENS)[:, 60:])


def test_recording_keeps_so_many_more_keys_and_no_more() -> None:
    model = pruned(plan_of(WINDOWS))
    cache = model.make_cache()
    cache.activate_past_recording()
    in_chunks(model, TOKENS, [100], cache=cache)
    assert cache.nbytes <= 2 * 16 * (6 + 2 + TAKE_BACK) * 64


# Rows.


def moved(change: str, argument: object, rows: list[int], padded: bool, kind: str) -> None:
    """Rows of a cache are changed; then it must go on as if these rows had been read from the start."""
    model, lengths = pruned(kind=kind), [100, 75] if padded else [100, 100]
    tokens, mask = left_padded(TOKENS, lengths)
    cache = model.make_cache()
    in_chunks(model, tokens[:, :40], [38, 2], mask[:, :40] if padded else None, cache=cache)
    getattr(cache, change)(argument)
    found = in_chunks(model, tokens[rows, 40:], [1, 1, 58], mask[rows] if padded else None, cache=cache)
    for row, old in enumerate(rows):
        same(found[row], hooked(mixed(kind), TOKENS[old : old + 1, : lengths[old]])[0, -60:])


@pytest.mark.parametrize("padded", [False, True])
def test_rows_are_reordered(kind: str, padded: bool) -> None:
    moved("reorder_cache", torch.tensor([1, 1]), [1, 1], padded, kind)
    moved("reorder_cache", torch.tensor([1, 0]), [1, 0], padded, kind)


@pytest.mark.parametrize("padded", [False, True])
def test_rows_are_repeated(kind: str, padded: bool) -> None:
    moved("batch_repeat_interleave", 2, [0, 0, 1, 1], padded, kind)


@pytest.mark.parametrize("padded", [False, True])
def test_rows_are_selected(kind: str, padded: bool) -> None:
    moved("batch_select_indices", torch.tensor([1]), [1], padded, kind)


# Copies, forgetting, other ways to use it.


def test_a_reset_cache_is_as_new(kind: str) -> None:
    model = pruned(kind=kind)
    cache = model.make_cache()
    tokens, mask = left_padded(random_ids(3, 60, seed=9), [60, 20, 1])
    in_chunks(model, tokens, [60], mask, cache=cache)
    cache.reset()
    assert (cache.get_seq_length(), cache.nbytes, cache.real) == (0, 0, None)
    same(in_chunks(model, TOKENS, [50, 1, 49], cache=cache), hooked(mixed(kind), TOKENS))


def test_a_copy_goes_its_own_way() -> None:
    model = pruned()
    cache = model.make_cache()
    in_chunks(model, TOKENS[:, :40], [40], cache=cache)
    in_chunks(model, random_ids(2, 30, seed=4), [1, 29], cache=copy.deepcopy(cache))
    same(in_chunks(model, TOKENS[:, 40:], [60], cache=cache), hooked(mixed(), TOKENS)[:, 40:])


def test_a_cache_begun_in_inference_mode_goes_on_outside_it() -> None:
    model = pruned()
    cache = model.make_cache()
    with torch.inference_mode():
        model(TOKENS[:, :40], past_key_values=cache)
    same(in_chunks(model, TOKENS[:, 40:], [1, 59], cache=cache), hooked(mixed(), TOKENS)[:, 40:])


def test_gradients_go_through_a_cache_as_in_the_original() -> None:
    gradients = []
    for model, cache in ((pruned(keep_all()), None), (copy.deepcopy(source().huggingface), DynamicCache())):
        cache = model.make_cache() if cache is None else cache
        logits = [model(part, past_key_values=cache, use_cache=True).logits for part in TOKENS.split([50, 50], 1)]
        torch.cat(logits, 1).logsumexp(-1).sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_other_models_cannot_write_into_it() -> None:
    with pytest.raises(NotImplementedError, match="works with that model only"):
        source().huggingface(TOKENS, past_key_values=pruned().make_cache(), use_cache=True)
