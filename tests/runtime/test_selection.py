"""Which keys stay, by hand: sinks first, then the best, within the budget; and where heads share it, AdaKV's rule."""

from typing import Any

import pytest
import torch
from compression_reference import best as naive_best
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headspec.runtime.configuration import HeadGroup
from headspec.runtime.policies import Prompt
from headspec.runtime.selection import Choice, best, budget_of, choose_keys, latest_of


def columns(kept: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in kept]


def chosen(n_keys: int, policy: str, budget: float, **options: Any) -> Choice:
    """Of two heads: under SnapKV all keys are alike to the first, and key 9 draws everything of the second."""
    keys = torch.zeros(2, n_keys, 2)
    keys[1, 9:10] = 50
    prompt = Prompt(keys, keys, torch.ones(2, min(32, n_keys), 2), (torch.ones(2), torch.zeros(2)), torch.zeros(1))
    return choose_keys(HeadGroup((0, 1), policy=policy, budget=budget, **options), prompt, None)


# Budgets.


@pytest.mark.parametrize(
    ("budget", "n_keys", "keys"),
    [(0.5, 10, 5), (0.25, 10, 2), (0.3, 1, 1), (0.01, 10, 1), (1.0, 7, 7), (64, 100, 64), (64, 10, 10), (1, 10, 1)],
)
def test_a_budget_is_a_share_of_the_prompt_or_a_number_of_keys(budget: float, n_keys: int, keys: int) -> None:
    assert budget_of(HeadGroup((0,), policy="snapkv", budget=budget), n_keys) == keys


@pytest.mark.parametrize(("budget", "latest"), [(64, 60), (5, 1), (4, 1), (1, 1)])
def test_streaming_keeps_all_but_the_sinks_for_the_latest(budget: int, latest: int) -> None:
    assert latest_of(HeadGroup((0,), policy="streaming", budget=budget)) == latest


# The best of each head.


def test_the_first_four_come_before_the_best() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 2.0, 0.5], [9.0, 0.0, 0.0, 0.0, 4.0, 1.0, 2.0, 3.0]])
    assert columns(best(scores, 6, shared=False)) == [[0, 1, 2, 3, 5, 6], [0, 1, 2, 3, 4, 7]]


@pytest.mark.parametrize("shared", [False, True])
def test_a_budget_below_four_is_the_first_keys(shared: bool) -> None:
    assert columns(best(torch.tensor([[0.0, 1.0, 5.0, 9.0, 9.0]] * 2), 2, shared)) == [[0, 1], [0, 1]]


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_is_chosen_of_nothing(shared: bool) -> None:
    assert columns(best(torch.zeros(2, 0), 0, shared)) == [[], []]


def test_heads_that_share_a_budget_give_it_to_the_best_keys_of_all() -> None:
    scores = torch.tensor([[0.0, 0, 0, 0, 1, 2, 3, 4], [0.0, 0, 0, 0, 5, 6, 7, 8]])
    assert columns(best(scores, 6, shared=True)) == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_a_fifth_of_its_even_budget_is_left_to_each_head() -> None:
    """Of 30 keys a head, 6 stay whatever the others have: the four sinks and the best two."""
    scores = torch.stack((torch.arange(100.0), torch.arange(1000.0, 1100)))
    kept = best(scores, 30, shared=True)
    assert columns(kept)[0] == [0, 1, 2, 3, 98, 99]
    assert columns(kept)[1] == [0, 1, 2, 3, *range(50, 100)]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 60), st.data(), st.booleans(), st.integers(0, 10**6))
def test_choices_are_those_of_the_rule(n_heads: int, n_keys: int, data: st.DataObject, shared: bool, seed: int) -> None:
    number = data.draw(st.integers(0, n_keys))
    scores = torch.rand(n_heads, n_keys, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = naive_best(list(scores.numpy()), n_keys, number, "adakv" if shared else "uniform")
    assert columns(best(scores, number, shared)) == [sorted(keys) for keys in expected]


@given(st.integers(1, 4), st.integers(1, 60), st.data())
def test_heads_that_share_a_budget_keep_it_to_the_key(n_heads: int, n_keys: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, n_keys))
    kept = best(torch.rand(n_heads, n_keys), number, shared=True)
    assert int(kept.sum()) == n_heads * number


def test_the_scores_are_left_as_they_are() -> None:
    scores = torch.rand(2, 10)
    before = scores.clone()
    best(scores, 6, shared=True)
    assert torch.equal(scores, before)


# Whole choices.


def test_snapkv_keeps_sinks_the_best_and_its_observation_window() -> None:
    found = chosen(100, "snapkv", 40)
    assert set(columns(found.kept)[1]) >= {0, 1, 2, 3, 7, 8, 9, 10, 11, *range(80, 100)}
    assert found.kept.sum(1).tolist() == [40, 40]
    assert (found.ring, found.in_ring) == (0, 0)


def test_a_bounded_budget_is_chosen_keys_and_a_ring_of_the_latest() -> None:
    found = chosen(100, "snapkv", 40, latest=30)
    assert columns(found.kept)[1] == [0, 1, 2, 3, 7, 8, 9, 10, 11, columns(found.kept)[1][-1]]
    assert not found.kept[:, 70:].any()
    assert (found.ring, found.in_ring) == (30, 30)


def test_streaming_keeps_four_sinks_and_the_latest() -> None:
    found = chosen(100, "streaming", 64)
    assert columns(found.kept) == [[0, 1, 2, 3]] * 2
    assert (found.ring, found.in_ring) == (60, 60)


@pytest.mark.parametrize(
    ("n_keys", "front", "ring", "in_ring"), [(2, 2, 62, 0), (4, 4, 60, 0), (30, 4, 60, 26), (64, 4, 60, 60)]
)
def test_streaming_has_its_sinks_however_short_the_prompt(n_keys: int, front: int, ring: int, in_ring: int) -> None:
    found = chosen(n_keys, "streaming", 64)
    assert columns(found.kept) == [list(range(front))] * 2
    assert (found.ring, found.in_ring) == (ring, in_ring)


@pytest.mark.parametrize(
    ("n_keys", "front", "ring", "in_ring"), [(1, 1, 39, 0), (10, 4, 36, 6), (34, 4, 36, 30), (38, 8, 32, 30)]
)
def test_a_prompt_shorter_than_a_bounded_budget_leaves_the_rest_to_the_ring(
    n_keys: int, front: int, ring: int, in_ring: int
) -> None:
    found = chosen(n_keys, "snapkv", 40, latest=30)
    assert columns(found.kept) == [list(range(front))] * 2
    assert (found.ring, found.in_ring) == (ring, in_ring)


@pytest.mark.parametrize("n_keys", [1, 3, 10, 40])
@pytest.mark.parametrize("shared", [False, True])
def test_a_prompt_within_the_budget_is_kept_whole(n_keys: int, shared: bool) -> None:
    assert bool(chosen(n_keys, "snapkv", 40, shared=shared).kept.all())


@pytest.mark.parametrize("policy", ["snapkv", "random", "streaming"])
@settings(max_examples=40, deadline=None)
@given(n_keys=st.integers(1, 120), budget=st.integers(1, 150), data=st.data())
def test_what_is_kept_and_the_ring_together_are_the_budget(
    policy: str, n_keys: int, budget: int, data: st.DataObject
) -> None:
    latest = 0 if policy == "streaming" else data.draw(st.integers(0, budget - 1))
    shared = policy != "streaming" and data.draw(st.booleans())
    found = chosen(n_keys, policy, budget, latest=latest, shared=shared)
    assert int(found.kept.sum()) + 2 * found.in_ring == 2 * min(budget, n_keys)
    if latest or policy == "streaming":
        assert int(found.kept.sum()) + 2 * found.ring == 2 * budget
