"""Attention over all keys, windows and rings: by hand where all seen keys count alike, then as defined."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_makers import a_step, naive, same
from torch import Tensor

from headspec.runtime.attention import BLOCK, pick_sinks, ring_mask, see_all, see_ring, see_window
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.tricks import Tricks

PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]).bool()


def numbered(n_keys: int) -> Tensor:
    """Keys and values of one head; a key is 0 and its value is 10 to the power of its column."""
    values = 10.0 ** torch.arange(n_keys, dtype=torch.float64)
    return torch.stack((torch.zeros_like(values), values)).view(2, 1, 1, n_keys, 1)


def digits(found: Tensor) -> list[list[int]]:
    """Which columns each query saw, from a mean of powers of 10."""
    return [_columns(value) for value in found.flatten().tolist()]


def _columns(mean: float) -> list[int]:
    for number in range(1, 10):
        text = f"{round(mean * number)}"[::-1]
        if set(text) <= {"0", "1"} and text.count("1") == number:
            return [column for column, digit in enumerate(text) if digit == "1"]
    raise AssertionError(f"{mean} is no mean of powers of 10")


def random_heads(batch: int, n_heads: int, n_queries: int, n_keys: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, n_heads, n_queries, 4, generator=random) * 2
    return query, torch.randn(2, batch, n_heads, n_keys, 4, generator=random) * 2


def window_of(query: Tensor, kv: Tensor, group: HeadGroup, real: Tensor | None = None, **tricks: bool) -> Tensor:
    """`see_window` over a whole text."""
    n_total = kv.shape[3]
    whole = a_step(0, n_total, real)
    step = a_step(n_total - query.shape[2], query.shape[2], real, Tricks(**tricks))
    return see_window(query, kv, pick_sinks(kv, group, whole), group, step)


# By hand.


def test_all_keys_up_to_the_query_are_seen() -> None:
    found = see_all(torch.zeros(1, 1, 4, 1).double(), numbered(4), a_step(0, 4))
    assert digits(found) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_after_a_cache_all_keys_up_to_the_query_are_seen() -> None:
    found = see_all(torch.zeros(1, 1, 2, 1).double(), numbered(4), a_step(2, 2))
    assert digits(found) == [[0, 1, 2], [0, 1, 2, 3]]


def test_padding_is_not_seen_and_sees_itself() -> None:
    found = see_all(torch.zeros(1, 1, 4, 1).double(), numbered(4), a_step(0, 4, PADDED[:, :4]))
    assert digits(found) == [[0], [1], [2], [2, 3]]


@pytest.mark.parametrize("bands", [True, False])
@pytest.mark.parametrize(
    ("window", "sinks", "expected"),
    [
        (1, 0, [[0], [1], [2], [3], [4], [5]]),
        (2, 0, [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]),
        (2, 1, [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]),
        (1, 3, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 5]]),
        (9, 2, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]),
    ],
)
def test_a_window_sees_its_last_keys_and_the_sinks(
    bands: bool, window: int, sinks: int, expected: list[list[int]]
) -> None:
    query, group = torch.zeros(1, 1, 6, 1).double(), HeadGroup((0,), window, sinks)
    assert digits(window_of(query, numbered(6), group, bands=bands)) == expected


@pytest.mark.parametrize("bands", [True, False])
def test_the_sinks_of_a_padded_row_are_its_first_real_tokens(bands: bool) -> None:
    query, group = torch.zeros(1, 1, 8, 1).double(), HeadGroup((0,), 2, 1)
    found = digits(window_of(query, numbered(8), group, PADDED, bands=bands))
    assert found == [[0], [1], [2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6], [2, 6, 7]]


def test_sinks_are_picked_from_the_new_columns_and_kept_from_before() -> None:
    group, kv = HeadGroup((0,), 2, 3), numbered(4)
    first = pick_sinks(kv[:, :, :, :2], group, a_step(0, 2))
    assert first[1].flatten().tolist() == [1, 10, 0]
    assert pick_sinks(kv[:, :, :, 2:], group, a_step(2, 2), first)[1].flatten().tolist() == [1, 10, 100]


def test_a_ring_that_is_full_of_what_is_seen_needs_no_mask() -> None:
    assert ring_mask(a_step(9, 1), HeadGroup((0,), 4, 2), 4) is None


@pytest.mark.parametrize(
    ("n_past", "expected"),
    [
        (0, [1, 0, 0, 0, 0]),
        (1, [1, 1, 0, 0, 0]),
        (2, [1, 1, 0, 0, 1]),
        (3, [1, 1, 1, 0, 1]),
    ],
)
def test_columns_that_are_sinks_are_seen_once(n_past: int, expected: list[int]) -> None:
    mask = ring_mask(a_step(n_past, 1), HeadGroup((0,), 3, 2), 3)
    assert mask is not None
    assert mask.flatten().int().tolist() == expected


def test_a_ring_with_room_to_take_back_shows_the_window_only() -> None:
    mask = ring_mask(a_step(9, 1), HeadGroup((0,), 2, 1), 5)  # slots hold the columns 5, 6, 7, 8, 9
    assert mask is not None
    assert mask.flatten().int().tolist() == [1, 0, 0, 0, 1, 1]


# As the definition says.


@settings(max_examples=40, deadline=None)
@given(
    n_keys=st.integers(1, 3 * BLOCK), n_queries=st.integers(1, 3 * BLOCK), window=st.integers(1, 40),
    sinks=st.integers(0, 6), padding=st.sampled_from((0.0, 0.2, 0.8)), bands=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_windows_are_as_defined(
    n_keys: int, n_queries: int, window: int, sinks: int, padding: float, bands: bool, seed: int
) -> None:
    query, kv = random_heads(2, 1, min(n_queries, n_keys), n_keys, seed)
    group = HeadGroup((0,), window, sinks)
    real = torch.rand(2, n_keys, generator=torch.Generator().manual_seed(seed)) >= padding if padding else None
    same(window_of(query, kv, group, real, bands=bands), naive(query, kv, group, real).float(), 1e-5)


@settings(max_examples=25, deadline=None)
@given(n_keys=st.integers(1, 60), n_queries=st.integers(1, 60), padding=st.sampled_from((0.0, 0.3)))
def test_full_attention_is_as_defined(n_keys: int, n_queries: int, padding: float) -> None:
    n_queries = min(n_queries, n_keys)
    query, kv = random_heads(2, 2, n_queries, n_keys)
    real = torch.rand(2, n_keys, generator=torch.Generator().manual_seed(1)) >= padding if padding else None
    found = see_all(query, kv, a_step(n_keys - n_queries, n_queries, real))
    same(found, naive(query, kv, HeadGroup((0, 1)), real).float(), 1e-5)


@settings(max_examples=25, deadline=None)
@given(
    n_keys=st.integers(1, 40), window=st.integers(1, 20), spare=st.sampled_from((0, 3)), sinks=st.integers(0, 5),
    padding=st.sampled_from((0.0, 0.4)),
)  # fmt: skip
def test_rings_are_as_defined(n_keys: int, window: int, spare: int, sinks: int, padding: float) -> None:
    group, slots = HeadGroup((0,), window, sinks), window + spare
    query, kv = random_heads(2, 1, 1, n_keys)
    real = torch.rand(2, n_keys, generator=torch.Generator().manual_seed(2)) >= padding if padding else None
    ring = torch.full((2, 2, 1, sinks + slots, 4), 99.0)  # rubbish where nothing was written
    ring[:, :, :, :sinks] = pick_sinks(kv, group, a_step(0, n_keys, real))
    for column in range(n_keys):
        ring[:, :, :, sinks + column % slots] = kv[:, :, :, column]
    found = see_ring(query, ring, group, a_step(n_keys - 1, 1, real))
    same(found, naive(query, kv, group, real).float(), 1e-5)


def test_dropout_leaves_the_mean_of_a_window_as_it_is() -> None:
    query, kv = torch.zeros(1, 1, 4000, 1), torch.stack((torch.zeros(4000), torch.ones(4000))).view(2, 1, 1, 4000, 1)
    group, step = HeadGroup((0,), 8, 2), a_step(0, 4000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = see_window(query, kv, pick_sinks(kv, group, step), group, step, dropout=0.5)
    assert found.std() > 0.1
    assert abs(found.mean() - 1) < 0.03
