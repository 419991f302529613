"""A continuation is read through the cache that the prompt has filled."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from one_pass import CONTINUATION, PROMPT, close, in_one_pass
from tiny_models import tiny_llama, tiny_neox
from torch import Tensor
from transformers import DynamicCache

from headspec.measure.score import score


class Recording(DynamicCache):
    """Notes how many keys of each layer come in together."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[tuple[int, int]] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *rest: Any, **more: Any) -> Any:
        self.came.append((layer_idx, keys.shape[2]))
        return super().update(keys, values, layer_idx, *rest, **more)


class Forgetful(DynamicCache):
    """Keeps the last keys of the prompt only, as a policy that compresses after the prompt does."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept = kept

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *rest: Any, **more: Any) -> Any:
        is_prompt = layer_idx >= len(self.layers) or self.layers[layer_idx].get_seq_length() == 0
        found = super().update(keys, values, layer_idx, *rest, **more)
        if is_prompt:
            layer = self.layers[layer_idx]
            layer.keys, layer.values = layer.keys[:, :, -self.kept :], layer.values[:, :, -self.kept :]
        return found


def test_the_prompt_goes_into_the_cache_first_and_the_continuation_is_read_through_it(model: Any) -> None:
    cache = Recording()
    close(score(model, PROMPT, CONTINUATION, cache=cache), in_one_pass(model))
    assert cache.came == [(0, 25), (1, 25), (0, 14), (1, 14)]
    assert cache.get_seq_length() == 39


def test_a_continuation_of_one_token_is_not_read_through_the_cache(model: Any) -> None:
    cache = Recording()
    score(model, PROMPT, CONTINUATION[:, :1], cache=cache)
    assert cache.came == [(0, 25), (1, 25)]


def test_every_score_starts_with_an_empty_cache(model: Any) -> None:
    first, second = (score(model, PROMPT, CONTINUATION) for _ in range(2))
    assert torch.equal(first.log_probabilities, second.log_probabilities)


def test_a_cache_that_forgets_nothing_changes_nothing(model: Any) -> None:
    close(score(model, PROMPT, CONTINUATION, cache=Forgetful(25)), in_one_pass(model))


def test_a_cache_that_forgets_changes_the_score_from_the_second_token_on(model: Any) -> None:
    change = (score(model, PROMPT, CONTINUATION, cache=Forgetful(8)).log_probabilities - in_one_pass(model)).abs()
    assert change[:, 0].max() < 1e-4
    assert change[:, 1:].max() > 0.01


@pytest.mark.parametrize("make", [tiny_neox, tiny_llama])
def test_after_a_prompt_of_which_keys_are_forgotten_the_continuation_keeps_its_places(
    make: Callable[[], Any],
) -> None:
    model = make()
    seen = torch.ones(40, 40, dtype=torch.bool).tril()
    seen[25:, : 25 - 8] = False  # for the prompt's own queries everything was still there
    mask = torch.zeros(1, 1, 40, 40).masked_fill(~seen, torch.finfo(torch.float32).min).expand(3, -1, -1, -1)
    expected = in_one_pass(model, attention_mask=mask, position_ids=torch.arange(40).expand(3, -1))
    close(score(model, PROMPT, CONTINUATION, cache=Forgetful(8)), expected)
