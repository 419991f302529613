"""Memory and work of live treatment: bytes by closed formula, nothing of the prompt beside, smaller projections."""

from typing import Any

import pytest
import torch
from live_makers import ANYTHING, N_PROMPT, QUICK, Script, live, live_stores, scripted
from runtime_makers import in_chunks, random_ids
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.cache import PrunedCache
from headspec.runtime.compressed import CompressedStore
from headspec.runtime.slices import Slices
from headspec.runtime.stores import GROWTH, Store

PER_KEY, D_HEAD, D_MODEL, N_HEADS = 2 * 16 * 4, 16, 64, 4
"""Bytes of a key and its value; sizes of the model, which has two layers."""
N_ROWS, N_TOKENS = 2, 60
TEXTS = random_ids(N_ROWS, N_TOKENS, seed=6)
MIX = {
    "L0H0": "mean", "L0H1": "window:4", "L0H2": "compress:snapkv:0.5", "L1H0": "compress:streaming:10",
    "L1H1": "mean", "L1H2": "window:2+1", "L1H3": "window:2+1",
}  # fmt: skip
KEYS = {"mean": 0, "window:4": 8, "window:2+1": 3, "compress:snapkv:0.5": N_PROMPT // 2, "compress:streaming:10": 10}
LATER: Script = {N_PROMPT: {"L0H0": "mean", "L0H1": "window:4"}, 48: {"L0H2": "window:4", "L1H1": "mean"}}


def read(script: Script, n_tokens: int, expected: int = 0, **options: Any) -> PrunedCache:
    model = live()
    cache = model.make_cache(scripted(script), expected=expected, **options)
    in_chunks(model, TEXTS[:, :n_tokens], [N_PROMPT] + [1] * (n_tokens - N_PROMPT), cache=cache)
    return cache


def hanging_on(thing: Any) -> list[Tensor]:
    """Every tensor that a cache keeps alive, but for weights."""
    found, seen, open_things = {}, set(), [thing]
    while open_things:
        thing = open_things.pop()
        if id(thing) in seen or isinstance(thing, Slices):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found[thing.untyped_storage().data_ptr()] = thing
        elif isinstance(thing, list | tuple | dict):
            open_things += list(thing.values() if isinstance(thing, dict) else thing)
        elif type(thing).__module__.startswith("headspec."):
            open_things += list(vars(thing).values())
    return list(found.values())


def buffers(cache: PrunedCache) -> list[Tensor]:
    """Of all heads."""
    stores: list[Store] = [store for live in live_stores(cache) for store in live._stores()]
    stores += [part for store in stores if isinstance(store, CompressedStore) for part in [store.whole, *store.parts]]
    return [store.buffer for store in stores if store.buffer is not None]


def really_held(cache: PrunedCache) -> int:
    storages = {buffer.untyped_storage().data_ptr(): buffer.untyped_storage().nbytes() for buffer in buffers(cache)}
    return sum(storages.values())


@pytest.mark.parametrize("n_tokens", [N_PROMPT, N_TOKENS])
def test_bytes_are_those_of_the_keys_that_each_head_may_see(n_tokens: int) -> None:
    cache = read({N_PROMPT: MIX}, n_tokens, expected=n_tokens)
    follow = {"compress:snapkv:0.5": n_tokens - N_PROMPT}
    keys = sum(KEYS[what] + follow.get(what, 0) for what in MIX.values()) + (2 * N_HEADS - len(MIX)) * n_tokens
    assert cache.nbytes == N_ROWS * PER_KEY * keys


def test_where_the_end_is_not_known_full_heads_grow_in_steps() -> None:
    cache = read({N_PROMPT: dict.fromkeys(("L0H0", "L0H1", "L0H2", "L0H3"), "mean")}, N_TOKENS)
    assert cache.nbytes == N_ROWS * PER_KEY * N_HEADS * GROWTH


@pytest.mark.parametrize("script", [{N_PROMPT: MIX}, LATER, {48: MIX}], ids=["at the prompt", "both", "later"])
@pytest.mark.parametrize("n_tokens", [N_PROMPT, 48, 49, N_TOKENS])
def test_bytes_claimed_are_bytes_held(script: Script, n_tokens: int) -> None:
    cache = read(script, n_tokens)
    assert cache.nbytes == really_held(cache)
    assert cache.record().held[-1] == (
        n_tokens,
        cache.nbytes,
        N_ROWS * PER_KEY * 2 * N_HEADS * GROWTH,
    )  # with room to grow


@pytest.mark.parametrize("how", ["whole", "chunks", "last logits"])
def test_right_after_the_prompt_nothing_of_it_is_kept_beside(how: str) -> None:
    model = live()
    cache = model.make_cache(scripted({N_PROMPT: MIX}), expected=N_PROMPT, prompt=N_PROMPT)
    chunks = [16, 24] if how == "chunks" else [N_PROMPT]
    in_chunks(model, TEXTS[:, :N_PROMPT], chunks, cache=cache, **({"logits_to_keep": 1} if how != "whole" else {}))
    whole = N_ROWS * N_HEADS * N_PROMPT * PER_KEY  # of a layer
    of_buffers = {buffer.untyped_storage().data_ptr() for buffer in buffers(cache)}
    others = [one for one in hanging_on(cache) if one.untyped_storage().data_ptr() not in of_buffers]
    assert sum(one.untyped_storage().nbytes() for one in others) < whole
    assert max(one.untyped_storage().nbytes() for one in others) <= N_ROWS * N_HEADS * 32 * D_HEAD * 4  # queries


@pytest.mark.parametrize("script", [{N_PROMPT: MIX}, LATER], ids=["at the prompt", "both"])
def test_no_view_keeps_a_larger_buffer_alive(script: Script) -> None:
    for buffer in buffers(read(script, N_TOKENS)):
        assert buffer.untyped_storage().nbytes() == buffer.numel() * buffer.element_size()


def test_dead_layers_hold_nothing() -> None:
    cache = read({N_PROMPT: {f"L{layer}H{head}": "mean" for layer in range(2) for head in range(4)}}, N_TOKENS)
    assert cache.nbytes == 0
    assert cache.record().kv_share == 0
    assert cache.record().skipped == 8 * (N_TOKENS - N_PROMPT)


def test_the_record_has_bytes_at_the_prompt_at_every_look_and_now() -> None:
    model, seen = live(), dict[int, int]()
    cache = model.make_cache(scripted(LATER), expected=N_TOKENS)
    for start, stop in [(0, N_PROMPT), *((column, column + 1) for column in range(N_PROMPT, N_TOKENS - 2))]:
        model(TEXTS[:, start:stop], past_key_values=cache)
        seen[stop] = cache.nbytes
    held = cache.record().held
    assert [moment.at for moment in held] == [N_PROMPT, 44, 48, 52, 56, 58]
    assert [moment.kv_bytes for moment in held] == [seen[moment.at] for moment in held]


def test_heads_that_come_under_a_treatment_later_join_those_that_are() -> None:
    parts = live_stores(read(LATER, N_TOKENS))[0].parts
    assert sorted((sorted(part.heads), part.treatment.window) for part in parts) == [([1, 2], 4), ([3], 0)]


def test_positional_heads_of_a_layer_are_one_group_where_they_share_a_window() -> None:
    model = live()
    cache = model.make_cache(AdaptivePolicy(thresholds=ANYTHING, dead=False, **QUICK))
    in_chunks(model, TEXTS[:, :N_PROMPT], [N_PROMPT], cache=cache)
    assert [[part.heads for part in store.parts] for store in live_stores(cache)] == [[[0, 1, 2, 3]]] * 2


# Work.


def linear_work(cache: PrunedCache, model: Any) -> int:
    """Multiplications of all projections for one more token."""
    with FlopCounterMode(display=False) as counter:
        model(TEXTS[:1, :1], past_key_values=cache)
    counts = counter.get_flop_counts()["Global"]
    return sum(count for what, count in counts.items() if "mm" in str(what) and "bmm" not in str(what)) // 2


@pytest.mark.parametrize("dead", [["L0H1"], ["L0H0", "L0H3", "L1H2"], [f"L0H{head}" for head in range(4)]])
def test_dead_heads_are_not_multiplied(dead: list[str]) -> None:
    work = []
    for script in ({}, {N_PROMPT: dict.fromkeys(dead, "mean")}):
        model = live()
        cache = model.make_cache(scripted(script))
        in_chunks(model, TEXTS[:1, :N_PROMPT], [N_PROMPT], cache=cache)
        work.append(linear_work(cache, model))
    assert work[0] - work[1] == len(dead) * 4 * D_HEAD * D_MODEL


def test_the_rows_of_dead_heads_are_gone_from_the_projections() -> None:
    cache = read(LATER, 50)
    first, second = (layer.slices for layer in cache.layers)
    assert first is not None
    assert second is not None
    assert (first.alive, second.alive) == ((1, 2, 3), (0, 2, 3))
    assert first.qkv.weight.shape == (3 * 3 * D_HEAD, D_MODEL)
    assert first.dense.weight.shape == (D_MODEL, 3 * D_HEAD)


def test_the_model_stays_as_it_is() -> None:
    model = live()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model(TEXTS).logits
    in_chunks(model, TEXTS, [N_PROMPT] + [1] * 20, cache=model.make_cache(scripted({N_PROMPT: MIX})))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model(TEXTS).logits, plain)


@torch.no_grad()
def test_two_caches_of_a_model_know_nothing_of_each_other() -> None:
    model = live()
    caches = [model.make_cache(scripted(script)) for script in ({N_PROMPT: MIX}, {})]
    found: list[list[Tensor]] = [[], []]
    for part in TEXTS.split([N_PROMPT] + [1] * 20, dim=1):
        for logits, cache in zip(found, caches, strict=True):
            logits.append(model(part, past_key_values=cache).logits)
    for logits, script in zip(found, ({N_PROMPT: MIX}, {}), strict=True):
        alone = in_chunks(model, TEXTS, [N_PROMPT] + [1] * 20, cache=model.make_cache(scripted(script)))
        assert torch.equal(torch.cat(logits, 1), alone)
