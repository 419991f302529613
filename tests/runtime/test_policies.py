"""What each policy thinks of a key: small cases by hand, then the formulas of the papers as loops in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from compression_reference import HORIZON, Text, expected_attention, rotation, snapkv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headspec.runtime.policies import (
    POLICIES,
    ExpectedAttention,
    Prompt,
    QueryFacts,
    RandomChoice,
    SnapKV,
    Streaming,
    mean_rotation,
)


def prompt_of(keys: Any, values: Any = None, queries: Any = None, frequencies: Any = ()) -> Prompt:
    """`[head, key, d_head]` each; the last key lies at position n − 1."""
    keys = torch.as_tensor(keys, dtype=torch.float32)
    values = torch.ones_like(keys) if values is None else torch.as_tensor(values, dtype=torch.float32)
    queries = keys[:, :0] if queries is None else torch.as_tensor(queries, dtype=torch.float32)
    frequencies = torch.as_tensor(frequencies, dtype=torch.float32)
    angles = ((keys.shape[1] - 1) * frequencies).repeat(2)
    return Prompt(keys, values, queries, (angles.cos(), angles.sin()), frequencies)


def drawn(
    seed: int, n_heads: int, n_keys: int, d_head: int = 8, rotary: int = 4
) -> tuple[Prompt, QueryFacts, list[Text]]:
    """A random prompt, as the policies and as the reference want it."""
    draw = np.random.default_rng(seed)
    keys, values, queries = draw.standard_normal((3, n_heads, n_keys, d_head))
    w_o = draw.standard_normal((n_heads, d_head, 20))
    mean = draw.standard_normal((n_heads, d_head))
    covariance = np.stack([np.cov(draw.standard_normal((d_head, 3 * d_head))) for _ in range(n_heads)])
    frequencies = 100.0 ** -(np.arange(0, rotary, 2) / max(rotary, 1))
    gram = w_o @ w_o.swapaxes(1, 2)
    facts = QueryFacts(*(torch.tensor(part, dtype=torch.float32) for part in (mean, covariance, gram)))
    texts = [
        Text(keys[i], values[i], queries[i], w_o[i], np.concatenate([mean[i][None], covariance[i]]), frequencies)
        for i in range(n_heads)
    ]
    return prompt_of(keys, values, queries[:, -32:], frequencies), facts, texts


def near(found: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), torch.as_tensor(np.stack(expected)), rtol=tolerance, atol=1e-9)


# SnapKV.


def test_votes_are_the_mean_attention_of_the_queries_that_see_a_key() -> None:
    """Two queries: at the second key, e^0 : e^0, at the third e^(ln 2 / √1) : e^0 : e^0."""
    keys, queries = [[[math.log(2)], [0.0], [0.0]]], [[[0.0], [1.0]]]
    found = SnapKV().scores(prompt_of(keys, queries=queries), None, 3, 0)
    near(found, [[(1 / 2 + 2 / 4) / 2, (1 / 2 + 1 / 4) / 2, 1 / 4]])


def test_votes_are_smoothed_over_five_open_neighbours() -> None:
    """One query that attends to all eight keys alike, the last of which is protected: votes of 1/8, zeros beyond."""
    found = SnapKV().scores(prompt_of(torch.zeros(1, 8, 2), queries=torch.zeros(1, 1, 2)), None, 1, 0)
    near(found[:, :7], [np.array([3, 4, 5, 5, 5, 4, 3]) / 40])


def test_only_the_last_32_queries_vote() -> None:
    prompt, _, _ = drawn(0, 2, 60)
    more = torch.cat((torch.randn(2, 5, 8), prompt.queries), dim=1)
    assert torch.equal(SnapKV().scores(prompt._replace(queries=more), None, 9, 0), SnapKV().scores(prompt, None, 9, 0))


@pytest.mark.parametrize(("budget", "protected"), [(1, 0), (2, 1), (7, 3), (63, 31), (64, 32), (1000, 32)])
@pytest.mark.parametrize("policy", [SnapKV(), RandomChoice()])
def test_the_observation_window_stays_or_half_the_budget(policy: Any, budget: int, protected: int) -> None:
    assert policy.protected(budget) == protected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 80), st.data())
def test_snapkv_is_what_the_paper_says(seed: int, n_heads: int, n_keys: int, data: st.DataObject) -> None:
    prompt, _, texts = drawn(seed, n_heads, n_keys)
    protected = data.draw(st.integers(0, min(32, n_keys)))
    found = SnapKV().scores(prompt, None, protected, 0)[:, : n_keys - protected]
    near(found, [snapkv(text, n_keys - protected)[: n_keys - protected] for text in texts])


# Expected attention.


def test_without_rotation_and_spread_a_key_weighs_what_the_mean_query_gives_it() -> None:
    """Weights e^(μ k / √1) = 1 : 3, values of length 2 and 1 through W_O of 1."""
    facts = QueryFacts(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    found = ExpectedAttention().scores(prompt_of([[[0.0], [math.log(3)]]], [[[2.0], [-1.0]]]), facts, 0, 0)
    near(found, [[2 / 4, 3 / 4]])


def test_the_spread_of_queries_favours_long_keys() -> None:
    """E e^(q k) = e^(k² / 2) for q of N(0, 1): keys of 0 and √(2 ln 3) weigh 1 : 3."""
    facts = QueryFacts(torch.zeros(1, 1), torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    found = ExpectedAttention().scores(prompt_of([[[0.0], [-math.sqrt(2 * math.log(3))]]]), facts, 0, 0)
    near(found, [[1 / 4, 3 / 4]])


def test_a_value_counts_by_what_it_writes() -> None:
    """W_O stretches the first dimension to 3, and takes the second away."""
    gram = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])
    facts = QueryFacts(torch.zeros(1, 2), torch.zeros(1, 2, 2), gram)
    found = ExpectedAttention().scores(prompt_of(torch.zeros(1, 2, 2), [[[2.0, 5.0], [0.0, 7.0]]]), facts, 0, 0)
    near(found, [[3.0, 0.0]])


def test_a_quarter_turn_a_position_averages_to_nothing() -> None:
    """512 positions are 128 full turns; the dimension that is not rotated stays."""
    found = mean_rotation(prompt_of(torch.zeros(1, 6, 3), frequencies=[math.pi / 2]), HORIZON, 3)
    torch.testing.assert_close(found, torch.diag(torch.tensor([0.0, 0.0, 1.0])), rtol=0, atol=1e-4)


def test_over_one_position_the_mean_is_the_rotation_at_the_next() -> None:
    frequencies = [0.3, 0.05]
    found = mean_rotation(prompt_of(torch.zeros(1, 6, 5), frequencies=frequencies), 1, 5)
    torch.testing.assert_close(found, torch.tensor(rotation(6, frequencies, 5)).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rotary", [0, 2, 4, 8])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 80))
def test_expected_attention_is_what_the_paper_says(rotary: int, seed: int, n_heads: int, n_keys: int) -> None:
    prompt, facts, texts = drawn(seed, n_heads, n_keys, rotary=rotary)
    near(ExpectedAttention().scores(prompt, facts, 0, 0), [expected_attention(text, n_keys) for text in texts], 1e-4)


def test_expected_weights_are_those_of_queries_drawn_from_the_gaussian() -> None:
    """The closed form against a million queries N(R̄μ, R̄ΣR̄ᵀ)."""
    prompt, facts, _ = drawn(3, 1, 6)
    turn = mean_rotation(prompt, HORIZON, 8)
    covariance = turn @ facts.query_covariance[0] @ turn.T + 1e-6 * torch.eye(8)
    gaussian = torch.distributions.MultivariateNormal(turn @ facts.query_mean[0], covariance)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        queries = gaussian.sample((10**6,))
    weights = (queries @ prompt.keys[0].T / 8**0.5).exp().mean(0)
    lengths = ((prompt.values[0] @ facts.output_gram[0]) * prompt.values[0]).sum(-1).sqrt()
    expected = weights / weights.sum() * lengths
    torch.testing.assert_close(ExpectedAttention().scores(prompt, facts, 0, 0)[0], expected, rtol=0.03, atol=0)


def test_expected_attention_sees_no_queries_and_protects_none() -> None:
    assert ExpectedAttention().observed == ExpectedAttention().protected(100) == 0


# The controls.


def test_streaming_likes_the_latest() -> None:
    assert Streaming().scores(prompt_of(torch.zeros(2, 4, 3)), None, 0, 0).tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(("budget", "protected"), [(2, 0), (4, 0), (5, 1), (64, 60)])
def test_streaming_keeps_all_but_four_for_the_latest(budget: int, protected: int) -> None:
    assert Streaming().protected(budget) == protected


def random_scores(n_keys: int, seed: int = 1) -> Tensor:
    return RandomChoice().scores(prompt_of(torch.zeros(2, n_keys, 3)), None, 0, seed)


def test_random_scores_are_the_same_for_the_same_seed() -> None:
    assert torch.equal(random_scores(30), random_scores(30))
    assert not torch.equal(random_scores(30), random_scores(30, seed=2))


def test_random_scores_differ_by_head_and_key() -> None:
    assert random_scores(30).unique().numel() == 60


def test_random_scores_count_from_the_end_whatever_comes_before() -> None:
    assert torch.equal(random_scores(30)[:, -10:], random_scores(10))


# All.


@pytest.mark.parametrize("name", POLICIES)
def test_scores_of_half_precision_are_finite_numbers_in_float32(name: str) -> None:
    prompt, facts, _ = drawn(0, 2, 40)
    half = Prompt(*(part.half() for part in prompt[:3]), prompt.now, prompt.frequencies)
    found = POLICIES[name].scores(half, QueryFacts(*(part.half() for part in facts)), 5, 0)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "random"])
def test_a_head_is_judged_on_its_own(name: str) -> None:
    prompt, facts, _ = drawn(0, 3, 40)
    alone = Prompt(*(part[1:2] for part in prompt[:3]), prompt.now, prompt.frequencies)
    found = POLICIES[name].scores(alone, QueryFacts(*(part[1:2] for part in facts)), 5, 0)
    torch.testing.assert_close(found[0], POLICIES[name].scores(prompt, facts, 5, 0)[1])
