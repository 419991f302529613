"""The statistics of attention patterns, on patterns small enough to work out by hand."""

import math

import pytest
import torch
from torch import Tensor

from headspec.probe import statistics
from headspec.runtime.statistics import attention_entropy

ROWS = [[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.125, 0.375]]
POSITIONS = torch.arange(3)


def pattern(rows: list[list[float]] = ROWS) -> Tensor:
    return torch.tensor([[rows]])


def uniform(n_keys: int) -> Tensor:
    """Every query attends evenly to all it can see."""
    return (torch.ones(n_keys, n_keys).tril() / torch.arange(1, n_keys + 1)[:, None])[None, None]


def random_pattern(n_queries: int, n_keys: int, seed: int = 0) -> Tensor:
    scores = 3 * torch.randn(2, 3, n_queries, n_keys, generator=torch.Generator().manual_seed(seed))
    hidden = torch.ones(n_queries, n_keys).triu(1 + n_keys - n_queries).bool()
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def test_normalized_entropy_by_hand() -> None:
    entropy = torch.tensor([[[0.0, math.log(2), math.log(2)]]])
    expected = [0, 1, math.log(2) / math.log(3)]
    assert statistics.normalized_entropy(entropy, POSITIONS)[0, 0].tolist() == pytest.approx(expected)


def test_normalized_entropy_of_the_first_query_is_0_not_nan() -> None:
    assert statistics.normalized_entropy(torch.zeros(1, 1, 1), torch.tensor([0])).item() == 0


def test_normalized_entropy_of_uniform_attention_is_1() -> None:
    entropy = statistics.normalized_entropy(attention_entropy(uniform(7)), torch.arange(7))
    assert entropy[0, 0].tolist() == pytest.approx([0, *[1] * 6])


def test_uniform_score_is_log_of_the_visible_keys_minus_entropy() -> None:
    entropy = attention_entropy(pattern())
    expected = [math.log(n_keys) - value for n_keys, value in zip((1, 2, 3), entropy[0, 0].tolist(), strict=True)]
    assert statistics.uniform_score(entropy, POSITIONS)[0, 0].tolist() == pytest.approx(expected)


def test_uniform_score_is_the_divergence_from_uniform_attention() -> None:
    attention, positions = random_pattern(4, 6), torch.arange(2, 6)
    divergence = torch.xlogy(attention, attention * (positions + 1.0)[:, None]).sum(-1)
    found = statistics.uniform_score(attention_entropy(attention), positions)
    torch.testing.assert_close(found, divergence, rtol=0, atol=1e-5)


def test_uniform_score_of_uniform_attention_is_0() -> None:
    assert statistics.uniform_score(attention_entropy(uniform(9)), torch.arange(9)).abs().max() < 1e-6


def test_max_attention_says_how_large_and_how_far_back() -> None:
    largest, offset = statistics.max_attention(pattern(), POSITIONS)
    assert largest[0, 0].tolist() == [1, 0.75, 0.5]
    assert offset[0, 0].tolist() == [0, 0, 2]


def test_max_attention_counts_from_absolute_positions_in_a_later_segment() -> None:
    _, offset = statistics.max_attention(pattern(ROWS[2:]), torch.tensor([2]))
    assert offset.item() == 2


@pytest.mark.parametrize(("offset", "expected"), [(0, [1, 0.75, 0.375]), (1, [0, 0.25, 0.125]), (2, [0, 0, 0.5])])
def test_mass_at_offset_by_hand(offset: int, expected: list[float]) -> None:
    assert statistics.mass_at_offset(pattern(), POSITIONS, offset)[0, 0].tolist() == expected


def test_mass_beyond_the_first_token_is_0() -> None:
    assert statistics.mass_at_offset(pattern(), POSITIONS, 3).abs().sum() == 0


def test_mass_at_offset_1_of_a_previous_token_head_is_1() -> None:
    shifted = torch.eye(6)[[0, 0, 1, 2, 3, 4]][None, None]
    assert statistics.mass_at_offset(shifted, torch.arange(6), 1)[0, 0].tolist() == [0, 1, 1, 1, 1, 1]


def test_mass_at_offset_of_period_minus_1_finds_induction() -> None:
    period, first_copy = 3, 1
    attention = torch.zeros(1, 1, 3, 7)
    for query, position in enumerate(range(4, 7)):
        attention[0, 0, query, position - period + first_copy] = 1
    assert statistics.mass_at_offset(attention, torch.arange(4, 7), period - 1)[0, 0].tolist() == [1, 1, 1]


def test_offset_mass_by_hand() -> None:
    found = statistics.offset_mass(pattern(), POSITIONS, (0, 1, 2))[0, 0]
    assert found.tolist() == [[1, 0, 0], [0.75, 0.25, 0], [0.375, 0.125, 0.5]]


@pytest.mark.parametrize("first_query", [0, 150])
def test_offset_mass_is_a_loop_over_the_keys(first_query: int) -> None:
    n_keys = 200
    attention, positions = random_pattern(n_keys - first_query, n_keys), torch.arange(first_query, n_keys)
    edges = statistics.offset_edges(n_keys)
    found = statistics.offset_mass(attention, positions, edges)
    expected = torch.zeros_like(found)
    for query, position in enumerate(positions.tolist()):
        for key in range(position + 1):
            place = max(index for index, edge in enumerate(edges) if edge <= position - key)
            expected[:, :, query, place] += attention[:, :, query, key]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_offset_mass_adds_up_to_1() -> None:
    found = statistics.offset_mass(random_pattern(130, 300), torch.arange(170, 300), statistics.offset_edges(300))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 130))


def test_value_weighted_sink_share_by_hand() -> None:
    norms = torch.tensor([[[1.0, 2.0, 4.0]]])
    found = statistics.value_weighted_sink_share(pattern(), norms, 1)[0, 0]
    assert found.tolist() == pytest.approx([1, 0.25 / 1.75, 0.5 / (0.5 + 0.25 + 1.5)])


def test_value_weighted_sink_share_with_equal_values_is_the_sink_mass() -> None:
    attention = random_pattern(4, 9)
    found = statistics.value_weighted_sink_share(attention, torch.full((2, 3, 9), 0.5), 4)
    torch.testing.assert_close(found, attention[..., :4].sum(-1))


def test_value_weighted_sink_share_of_a_sink_without_value_is_0() -> None:
    norms = torch.tensor([[[0.0, 1.0, 1.0]]])
    assert statistics.value_weighted_sink_share(pattern(ROWS[1:]), norms, 1)[0, 0].tolist() == [0, 0]


def test_value_weighted_sink_share_without_any_value_is_0_not_nan() -> None:
    assert statistics.value_weighted_sink_share(pattern(), torch.zeros(1, 1, 3), 2).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize(
    ("context", "last"), [(1, (0,)), (64, (62, 63)), (65, (63, 64)), (128, (63, 64)), (129, (64, 128))]
)
def test_offset_edges_end_below_the_context(context: int, last: tuple[int, ...]) -> None:
    edges = statistics.offset_edges(context)
    assert edges[-len(last) :] == last
    assert edges[: min(64, context)] == tuple(range(min(64, context)))


@pytest.mark.parametrize(
    ("context", "first_query", "expected"),
    [
        (1, 0, (0,)),
        (2, 1, (0, 1)),
        (17, 16, (0, 1, 2, 4, 8, 16)),
        (40, 20, (0, 1, 2, 4, 8, 16, 20, 32)),
        (9, 16, (0, 1, 2, 4, 8)),
        (8, 0, (0, 1, 2, 4)),
    ],
)
def test_position_edges_are_powers_of_two_and_the_first_query(
    context: int, first_query: int, expected: tuple[int, ...]
) -> None:
    assert statistics.position_edges(context, first_query) == expected


def test_a_bin_starts_at_its_edge_and_ends_before_the_next() -> None:
    found = statistics.bins(torch.tensor([0, 1, 3, 4, 7, 8, 100]), (0, 1, 4, 8))
    assert found.tolist() == [0, 1, 1, 2, 2, 3, 3]


def test_bins_keep_the_shape_of_what_they_count() -> None:
    assert statistics.bins(torch.arange(6).view(1, 2, 3), (0, 2)).tolist() == [[[0, 0, 1], [1, 1, 1]]]
