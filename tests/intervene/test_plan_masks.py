"""Which keys a windowed head sees, worked out by hand and key by key."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_references import sees

from headspec.intervene.masks import HIDDEN, seen_keys, visible_keys
from headspec.intervene.plain import causal_mask, head_masks
from headspec.plan.treatments import Window

LOWEST = torch.finfo(torch.float32).min
some = settings(max_examples=60, deadline=None)


def rows(mask: torch.Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]


def causal(n_queries: int, n_keys: int, padding: int = 0, unused: int = 0) -> torch.Tensor:
    """What the last queries see, `[1, query, key]`: nothing before the padding, nothing after themselves."""
    seen = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    seen[:, :padding] = False
    return torch.cat([seen, torch.zeros(n_queries, unused, dtype=torch.bool)], dim=1)[None]


def test_a_whole_text_under_a_window_of_two_and_one_sink() -> None:
    assert rows(visible_keys(causal(5, 5), 2, 1)[0]) == ["x....", "xx...", "xxx..", "x.xx.", "x..xx"]


def test_without_sinks_only_the_window_is_left() -> None:
    assert rows(visible_keys(causal(4, 4), 1, 0)[0]) == ["x...", ".x..", "..x.", "...x"]


def test_the_queries_may_be_the_last_of_the_keys() -> None:
    assert rows(visible_keys(causal(2, 6), 2, 1)[0]) == ["x..xx.", "x...xx"]
    assert rows(visible_keys(causal(1, 6), 2, 1)[0]) == ["x...xx"]


def test_a_cache_may_be_longer_than_what_was_read() -> None:
    assert rows(visible_keys(causal(1, 6, unused=3), 2, 1)[0]) == ["x...xx..."]


def test_left_padding_moves_the_sinks_of_each_row() -> None:
    seen = visible_keys(torch.cat([causal(1, 8), causal(1, 8, padding=3)]), 2, 2)
    assert [rows(row)[0] for row in seen] == ["xx....xx", "...xx.xx"]


@some
@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 14), st.integers(0, 6), st.integers(0, 5))
def test_every_mask_is_what_the_definition_says_key_by_key(
    n_queries: int, n_cached: int, window: int, sinks: int, padding: int
) -> None:
    n_keys = n_queries + n_cached + padding
    mask = visible_keys(causal(n_queries, n_keys, padding), window, sinks)[0]
    for index in range(n_queries):
        query = n_keys - n_queries + index
        for key in range(n_keys):
            real = padding <= key <= query
            expected = real and sees(query - padding, key - padding, Window(window, sinks))
            assert bool(mask[index, key]) == expected, (query, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("own", [-3.0, 5.0, -1.1e4])
def test_padding_is_told_from_scores_and_from_windows_in_every_dtype(dtype: torch.dtype, own: float) -> None:
    scores = torch.full((1, 1, 1, 5), own, dtype=dtype)
    lowest = torch.finfo(dtype).min
    scores[..., 0] += lowest if abs(own) < 100 else 0
    scores[..., 1], scores[..., 2], scores[..., 3] = lowest, -torch.inf, HIDDEN * lowest
    assert rows(seen_keys(scores)[0]) == [("." if abs(own) < 100 else "x") + "..xx"]


def test_what_a_window_hides_gets_no_attention() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        scores = torch.tensor([-3e4, HIDDEN * torch.finfo(dtype).min], dtype=dtype)
        assert scores.softmax(-1).tolist() == [1, 0]


def test_a_head_that_was_narrowed_before_does_not_hide_the_first_key() -> None:
    scores = torch.zeros(1, 2, 1, 5)
    scores[:, 0, :, :4] = LOWEST
    assert rows(seen_keys(scores)[0]) == ["xxxxx"]


def test_heads_of_a_plain_model_have_masks_of_their_own() -> None:
    masks = head_masks(causal_mask(4, "cpu"), {1: Window(2, 0), 2: Window(1, 1)}, 3)
    assert [rows(mask) for mask in masks[0]] == [
        ["x...", "xx..", "xxx.", "xxxx"],
        ["x...", "xx..", ".xx.", "..xx"],
        ["x...", "xx..", "x.x.", "x..x"],
    ]


@some
@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 25))
def test_no_query_is_left_without_its_own_key_or_sees_a_later_one(n_tokens: int, window: int, sinks: int) -> None:
    mask = head_masks(causal_mask(n_tokens, "cpu"), {0: Window(window, sinks)}, 1)[0, 0]
    assert mask.diagonal().all()
    assert not mask.triu(1).any()
    assert mask.sum(-1).tolist() == [min(query + 1, window + sinks) for query in range(n_tokens)]
