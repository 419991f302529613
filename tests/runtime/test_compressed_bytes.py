"""What compressed heads hold is what was asked: bytes by closed formula, and nothing of the prompt beside them."""

import gc
from typing import Any

import pytest
import torch
from compression_reference import compress_plan, compressed
from runtime_makers import in_chunks, random_ids
from torch import Tensor

from headspec.plan.size import keys_held
from headspec.runtime.cache import PrunedCache

N_HEADS, PER_KEY = 8, 2 * 16 * 4
"""Heads of the model, and bytes of a key and its value."""
PROMPT, NEW = 60, 40


def read(text: Any, n_prompt: int = PROMPT, expected: int = 0, rows: int = 1, n_new: int = 0) -> PrunedCache:
    model = compressed(text)
    cache = model.make_cache(expected=expected, prompt=n_prompt)
    tokens = random_ids(rows, n_prompt + n_new)
    in_chunks(model, tokens, [n_prompt, *[1] * n_new], cache=cache)
    return cache


def tensors_of(cache: PrunedCache) -> list[Tensor]:
    """Every tensor that hangs on the cache."""
    found, seen, open_things = {}, set(), [cache]
    while open_things:
        thing = open_things.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found[thing.untyped_storage().data_ptr()] = thing
        elif isinstance(thing, list | tuple | dict):
            open_things += list(thing.values() if isinstance(thing, dict) else thing)
        elif type(thing).__module__.startswith("headspec."):
            open_things += list(vars(thing).values())
    return list(found.values())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("compress:snapkv:0.25", 15), ("compress:snapkv:40", 40), ("compress:snapkv:100", 60),
        ("compress:expected_attention:0.3", 18), ("compress:random:0.5", 30), ("compress:snapkv:1", 1),
        ("compress:snapkv:0.001", 1),
        ("compress:snapkv:0.25:adakv", 15), ("compress:expected_attention:40:adakv", 40),
    ],
)  # fmt: skip
def test_at_the_end_of_a_prompt_the_budget_is_held_and_no_more(text: str, keys: int) -> None:
    assert read(text, expected=PROMPT).nbytes == N_HEADS * keys * PER_KEY


@pytest.mark.parametrize("text", ["compress:snapkv:0.25", "compress:expected_attention:0.25:adakv"])
def test_what_follows_is_held_beside_the_budget(text: str) -> None:
    cache = read(text, expected=PROMPT + NEW, n_new=NEW)
    assert cache.nbytes == N_HEADS * (15 + NEW) * PER_KEY


@pytest.mark.parametrize("expected", [0, PROMPT + NEW])
@pytest.mark.parametrize(
    "text", ["compress:snapkv:24:latest8", "compress:expected_attention:24:latest20:adakv", "compress:streaming:24"]
)
def test_a_bounded_budget_holds_while_text_is_written(text: str, expected: int) -> None:
    assert read(text, expected=expected, n_new=NEW).nbytes == N_HEADS * 24 * PER_KEY


def test_rows_hold_as_much_each() -> None:
    assert read("compress:snapkv:0.25", expected=PROMPT, rows=3).nbytes == 3 * N_HEADS * 15 * PER_KEY


@pytest.mark.parametrize("n_prompt", [1, 10, 60])
@pytest.mark.parametrize(
    "text",
    ["compress:snapkv:0.25", "compress:snapkv:24:latest8", "compress:streaming:24", "compress:streaming:64",
     "compress:expected_attention:0.5:adakv", "compress:expected_attention:50:latest20:adakv", "compress:random:30"],
)  # fmt: skip
def test_bytes_held_are_the_bytes_that_a_plan_claims(text: str, n_prompt: int) -> None:
    held = read(text, n_prompt, expected=n_prompt + 20, n_new=20).nbytes
    plan = compress_plan(text)
    assert held == PER_KEY * sum(keys_held(plan[head], n_prompt, 20) for head in plan.about.heads)


@pytest.mark.parametrize("chunks", [[PROMPT], [30, 30]])
@pytest.mark.parametrize(
    ("text", "keys"),
    [("compress:snapkv:0.25", 15), ("compress:streaming:16", 16), ("compress:expected_attention:9:adakv", 9)],
)
def test_nothing_of_the_prompt_is_left_beside_what_was_chosen(text: str, keys: int, chunks: list[int]) -> None:
    model = compressed(text)
    cache = model.make_cache(expected=PROMPT, prompt=PROMPT)
    in_chunks(model, random_ids(1, PROMPT), chunks, cache=cache)
    assert cache.nbytes == N_HEADS * keys * PER_KEY
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors_of(cache)) == cache.nbytes


def test_the_prompt_is_held_whole_until_it_is_complete() -> None:
    model = compressed("compress:snapkv:0.25")
    cache = model.make_cache(expected=PROMPT + NEW, prompt=PROMPT)
    in_chunks(model, random_ids(1, 59), [59], cache=cache)
    assert cache.nbytes == N_HEADS * PROMPT * PER_KEY


def test_no_tensor_as_long_as_the_prompt_outlives_it() -> None:
    model = compressed("compress:expected_attention:0.25")
    cache = model.make_cache(expected=200, prompt=200)
    with torch.no_grad():
        model(random_ids(1, 200), past_key_values=cache, logits_to_keep=1)
    gc.collect()
    lengths = [size for thing in gc.get_objects() if type(thing) is Tensor and thing.dim() == 5 for size in thing.shape]
    assert 200 not in lengths
