"""Where keys are kept: a full store keeps all, a ring the sinks and the latest; both attend alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_makers import a_step, chunkings, naive, same
from torch import Tensor

from headspec.runtime.configuration import HeadGroup
from headspec.runtime.stores import GROWTH, TAKE_BACK, FullStore, RingStore

GROUP = HeadGroup((0,), 3, 1)


def numbered(start: int, stop: int) -> Tensor:
    """Keys and values that are the numbers of their columns."""
    return torch.arange(start, stop, dtype=torch.float32).expand(2, 1, 1, -1)[..., None].clone()


def read(store: FullStore | RingStore, start: int, stop: int) -> None:
    store.attend(torch.zeros(1, 1, stop - start, 1), numbered(start, stop), a_step(start, stop - start))


def held(store: FullStore | RingStore) -> list[float]:
    assert store.buffer is not None
    return store.buffer[0].flatten().tolist()


def attended(store: FullStore | RingStore, query: Tensor, kv: Tensor, chunks: list[int], real: Tensor | None) -> Tensor:
    parts, start = [], 0
    for size in chunks:
        stop = start + size
        step = a_step(start, size, None if real is None else real[:, :stop])
        parts.append(store.attend(query[:, :, start:stop], kv[:, :, :, start:stop], step))
        start = stop
    return torch.cat(parts, 2)


# By hand.


def test_a_ring_holds_the_sink_and_the_last_window() -> None:
    store = RingStore(GROUP, 3)
    read(store, 0, 5)
    assert held(store) == [0, 3, 4, 2]  # column c in slot c modulo 3, behind the sink


def test_a_ring_overwrites_its_oldest_column() -> None:
    store = RingStore(GROUP, 3)
    for column in range(7):
        read(store, column, column + 1)
    assert held(store) == [0, 6, 4, 5]


@pytest.mark.parametrize("first", [1, 2, 3, 4, 6])
def test_a_ring_holds_the_same_however_the_columns_came(first: int) -> None:
    store = RingStore(GROUP, 3)
    read(store, 0, first)
    read(store, first, 8)
    assert held(store) == [0, 6, 7, 5]


def test_a_full_store_holds_every_column() -> None:
    store = FullStore(GROUP, 4, 1000)
    read(store, 0, 3)
    read(store, 3, 4)
    assert held(store) == [0, 1, 2, 3]


def test_a_full_store_grows_when_there_is_no_more_room_and_keeps_what_it_has() -> None:
    store = FullStore(HeadGroup((0,)), 4, 1000)
    read(store, 0, 4)
    read(store, 4, 6)
    assert held(store)[:6] == [0, 1, 2, 3, 4, 5]
    assert len(held(store)) == GROWTH


def test_a_full_store_that_was_told_nothing_grows_in_steps() -> None:
    store, sizes = FullStore(HeadGroup((0,)), 0, 1000), []
    for stop in (1, GROWTH, GROWTH + 1):
        read(store, 0 if stop == 1 else (1 if stop == GROWTH else GROWTH), stop)
        sizes.append(len(held(store)))
    assert sizes == [GROWTH, GROWTH, 2 * GROWTH]
    assert held(store)[: GROWTH + 1] == list(range(GROWTH + 1))


def test_bytes_are_those_of_the_buffer() -> None:
    store = RingStore(GROUP, 3)
    assert store.nbytes == 0
    read(store, 0, 5)
    assert store.nbytes == 2 * 4 * 4


def test_a_reset_store_holds_nothing() -> None:
    store = RingStore(GROUP, 3)
    read(store, 0, 9)
    store.reset()
    assert (store.nbytes, store.oldest) == (0, 0)


def test_rows_are_changed_in_keys_and_values() -> None:
    store = FullStore(HeadGroup((0,)), 2, 1000)
    store.attend(torch.zeros(2, 1, 2, 1), torch.arange(8.0).view(2, 2, 1, 2, 1), a_step(0, 2))
    store.change_rows(lambda rows: rows.flip(0))
    assert held(store) == [2, 3, 0, 1]
    assert store.buffer is not None
    assert store.buffer[1].flatten().tolist() == [6, 7, 4, 5]


def test_a_ring_of_fewer_slots_than_its_window_grows_when_more_columns_come() -> None:
    store = RingStore(HeadGroup((0,), 6, 1), 3)
    read(store, 0, 3)
    assert held(store) == [0, 0, 1, 2]
    read(store, 3, 4)
    assert held(store)[:5] == [0, 0, 1, 2, 3]
    read(store, 4, 9)
    assert held(store) == [0, 6, 7, 8, 3, 4, 5]


# Taking back.


def test_a_ring_that_has_overwritten_cannot_take_back() -> None:
    store = RingStore(GROUP, 3)
    read(store, 0, 9)
    with pytest.raises(RuntimeError, match=r"cannot take back 2 tokens: .*activate_past_recording"):
        store.check_crop(9, 7)


def test_a_ring_that_has_overwritten_nothing_can_take_back() -> None:
    store = RingStore(GROUP, 3)
    read(store, 0, 3)
    store.check_crop(3, 0)


def test_a_recording_ring_takes_back_as_many_as_it_says_and_no_more() -> None:
    store = RingStore(GROUP, 3)
    store.record_past(0)
    read(store, 0, 300)
    store.check_crop(300, 300 - TAKE_BACK)
    with pytest.raises(RuntimeError, match=f"up to {TAKE_BACK} can be taken back"):
        store.check_crop(300, 300 - TAKE_BACK - 1)


@pytest.mark.parametrize("n_before", [1, 2, 3, 4, 9])
def test_recording_that_starts_late_keeps_the_window(n_before: int) -> None:
    store = RingStore(GROUP, 3)
    read(store, 0, n_before)
    store.record_past(n_before)
    assert held(store)[0] == 0
    assert sorted(held(store)[1:])[-min(3, n_before) :] == list(range(max(0, n_before - 3), n_before))
    store.check_crop(n_before, n_before)
    read(store, n_before, n_before + 50)
    store.check_crop(n_before + 50, n_before)
    if n_before > 3:
        with pytest.raises(RuntimeError, match="cannot take back"):
            store.check_crop(n_before + 50, n_before - 1)


# As the definition says.


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(), n_tokens=st.integers(1, 60), window=st.integers(1, 20), sinks=st.integers(0, 5),
    padding=st.sampled_from((0.0, 0.4)), kind=st.sampled_from(("ring", "small ring", "wide ring", "recording", "full")),
)  # fmt: skip
def test_any_chunks_attend_as_defined(
    data: st.DataObject, n_tokens: int, window: int, sinks: int, padding: float, kind: str
) -> None:
    group = HeadGroup((0,)) if kind == "full" else HeadGroup((0,), window, sinks)
    store = (
        FullStore(group, 7, 1000)
        if kind == "full"
        else RingStore(group, {"wide ring": 60, "small ring": min(window, 5)}.get(kind, window))
    )
    if kind == "recording":
        store.record_past(0)
    random = torch.Generator().manual_seed(n_tokens)
    query = torch.randn(2, 1, n_tokens, 4, generator=random)
    kv = torch.randn(2, 2, 1, n_tokens, 4, generator=random)
    real = torch.rand(2, n_tokens, generator=random) >= padding if padding else None
    found = attended(store, query, kv, data.draw(chunkings(n_tokens)), real)
    same(found, naive(query, kv, group, real).float(), 1e-5)


@settings(max_examples=25, deadline=None)
@given(
    n_first=st.integers(0, 30), n_wrong=st.integers(1, 40), n_right=st.integers(1, 30), window=st.integers(1, 20),
    sinks=st.integers(0, 5), at_once=st.booleans(), early=st.booleans(), small=st.booleans(),
)  # fmt: skip
def test_what_was_taken_back_was_never_read(
    n_first: int, n_wrong: int, n_right: int, window: int, sinks: int, at_once: bool, early: bool, small: bool
) -> None:
    random = torch.Generator().manual_seed(n_first)
    query = torch.randn(1, 1, n_first + n_right, 4, generator=random)
    kv = torch.randn(2, 1, 1, n_first + n_right, 4, generator=random)
    group = HeadGroup((0,), window, sinks)
    store = RingStore(group, min(window, 5) if small else window)
    if early:
        store.record_past(0)
    if n_first:
        store.attend(query[:, :, :n_first], kv[:, :, :, :n_first], a_step(0, n_first))
    store.record_past(n_first)
    wrong = torch.randn(2, 1, 1, n_wrong, 4, generator=random)
    store.attend(torch.zeros(1, 1, n_wrong, 4), wrong, a_step(n_first, n_wrong))
    store.check_crop(n_first + n_wrong, n_first)
    found, column = [], n_first
    for size in [n_right] if at_once else [1] * n_right:
        stop = column + size
        found.append(store.attend(query[:, :, column:stop], kv[:, :, :, column:stop], a_step(column, size)))
        column = stop
    same(torch.cat(found, 2), naive(query, kv, group).float()[:, :, n_first:], 1e-5)
