"""The statistics that live generation shares with the probe, on patterns small enough to work out by hand."""

import math

import pytest
import torch
from torch import Tensor

from headspec.runtime.statistics import attention_entropy, near_mass, output_energy, sink_mass, window_masses

ROWS = [[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]
"""One head, three queries: each row is a query's attention on the keys 0, 1, 2."""


def pattern(*heads: list[list[float]]) -> Tensor:
    return torch.tensor([list(heads)])


def random_pattern(n_queries: int, n_keys: int, seed: int = 0) -> Tensor:
    """Two windows, three heads, queries at the end of the keys; causal, every row adds up to 1."""
    scores = 3 * torch.randn(2, 3, n_queries, n_keys, generator=torch.Generator().manual_seed(seed))
    hidden = torch.ones(n_queries, n_keys).triu(1 + n_keys - n_queries).bool()
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def test_entropy_of_all_attention_on_one_key_is_0() -> None:
    assert attention_entropy(pattern([[0.0, 1.0]])).item() == 0


def test_entropy_of_an_even_split_between_two_keys_is_log_2() -> None:
    assert attention_entropy(pattern([[0.5, 0.5]])).item() == pytest.approx(math.log(2))


def test_entropy_by_hand() -> None:
    quarter = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    expected = [0, quarter, 0.5 * math.log(2) + 0.5 * math.log(4)]
    assert attention_entropy(pattern(ROWS))[0, 0].tolist() == pytest.approx(expected)


def test_entropy_is_largest_for_uniform_attention() -> None:
    entropy = attention_entropy(random_pattern(6, 9))
    visible = torch.arange(4, 10)
    assert (entropy <= visible.log() + 1e-6).all()
    assert (entropy >= 0).all()


def test_hidden_keys_do_not_turn_entropy_into_nan() -> None:
    assert attention_entropy(random_pattern(5, 5)).isfinite().all()


@pytest.mark.parametrize(
    ("n_sinks", "expected"), [(0, [0, 0, 0]), (1, [1, 0.25, 0.5]), (2, [1, 1, 0.75]), (3, [1, 1, 1]), (9, [1, 1, 1])]
)
def test_sink_mass_is_the_attention_on_the_first_keys(n_sinks: int, expected: list[float]) -> None:
    assert sink_mass(pattern(ROWS), n_sinks)[0, 0].tolist() == expected


def test_near_mass_reads_backwards_from_the_query() -> None:
    near = near_mass(pattern(ROWS), torch.arange(3), 3)[0, 0]
    assert near.tolist() == [[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.25, 0.5]]


def test_near_mass_has_nothing_before_the_first_token() -> None:
    near = near_mass(pattern(ROWS), torch.arange(3), 5)[0, 0]
    assert near[:, 3:].abs().sum() == 0


def test_near_mass_leaves_sink_keys_out() -> None:
    near = near_mass(pattern(ROWS), torch.arange(3), 3, first_key=1)[0, 0]
    assert near.tolist() == [[0, 0, 0], [0.75, 0, 0], [0.25, 0.25, 0]]


def test_near_mass_counts_from_absolute_positions_in_a_later_segment() -> None:
    later = near_mass(pattern(ROWS[1:]), torch.tensor([1, 2]), 2)[0, 0]
    assert later.tolist() == [[0.75, 0.25], [0.25, 0.25]]


@pytest.mark.parametrize("n_sinks", [0, 1, 4])
def test_window_and_sinks_add_up_to_everything(n_sinks: int) -> None:
    attention, positions = random_pattern(4, 12), torch.arange(8, 12)
    total = near_mass(attention, positions, 12, first_key=n_sinks).sum(-1) + sink_mass(attention, n_sinks)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_near_mass_is_the_diagonal_of_a_loop() -> None:
    attention, positions = random_pattern(5, 9, seed=1), torch.arange(4, 9)
    near = near_mass(attention, positions, 6, first_key=2)
    for query, position in enumerate(positions.tolist()):
        for offset in range(6):
            key = position - offset
            expected = attention[:, :, query, key] if key >= 2 else torch.zeros(2, 3)
            assert torch.equal(near[:, :, query, offset], expected)


def test_output_energy_by_hand() -> None:
    w_o = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    gram = w_o @ w_o.mT
    z = torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]])
    assert output_energy(z, gram)[0, :, 0].tolist() == [9, 25]


def test_output_energy_is_the_squared_norm_of_what_the_head_writes() -> None:
    generator = torch.Generator().manual_seed(0)
    w_o = torch.randn(3, 4, 10, generator=generator, dtype=torch.float64)
    z = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    written = torch.einsum("bqhd,hdm->bqhm", z, w_o)
    torch.testing.assert_close(output_energy(z, w_o @ w_o.mT), written.square().sum(-1))


def test_window_masses_by_hand() -> None:
    weights = pattern([[0.0, 0.0, 0.1, 0.2, 0.0, 0.3, 0.4]])
    inside, sink = window_masses(weights, first=6, start=2, windows=(1, 2, 4), n_sinks=1)
    assert inside[0, 0, 0].tolist() == pytest.approx([0.4, 0.7, 0.9])
    assert sink[0, 0].tolist() == pytest.approx([0.1])


def test_window_masses_count_no_sink_twice() -> None:
    inside, sink = window_masses(pattern([[0.25, 0.25, 0.5]]), first=2, start=0, windows=(1, 3), n_sinks=2)
    assert inside.flatten().tolist() == [0.5, 0.5]
    assert sink.item() == 0.5


@pytest.mark.parametrize("n_sinks", [0, 2])
@pytest.mark.parametrize("start", [0, 5])
def test_window_masses_are_those_of_loops(start: int, n_sinks: int) -> None:
    found = random_pattern(8, 20)
    found[..., :start] = 0
    inside, sink = window_masses(found, 12, start, (2, 3, 9), n_sinks)
    for query, weights in enumerate(found[1, 2]):
        own = 12 + query
        for number, window in enumerate((2, 3, 9)):
            keys = [key for key in range(own - window + 1, own + 1) if key >= start + n_sinks]
            assert inside[1, 2, query, number].item() == pytest.approx(weights[keys].sum().item(), abs=1e-6)
        assert sink[1, 2, query].item() == pytest.approx(weights[start : start + n_sinks].sum().item(), abs=1e-6)


def test_a_window_of_all_keys_and_the_sinks_hold_everything() -> None:
    inside, sink = window_masses(random_pattern(8, 20), 12, 0, (1, 20), 3)
    assert (inside[..., -1] + sink).flatten().tolist() == pytest.approx([1.0] * 48)
