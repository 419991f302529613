"""Heads that are classified again: what can still be done is done, what was freed stays gone."""

from typing import Any

import pytest
import torch
from compression_reference import EXACT, KINDS
from live_makers import ANYTHING, N_PROMPT, NOTHING, QUICK, Script, live, live_stores, reference, scripted, treated
from runtime_makers import in_chunks, left_padded, random_ids, same
from torch import Tensor

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.cache import PrunedCache
from headspec.runtime.record import LiveRecord
from headspec.runtime.thresholds import RoleThresholds

N_TOKENS = 76
TEXTS = random_ids(2, N_TOKENS, seed=11)
CHUNKS = [N_PROMPT] + [1] * (N_TOKENS - N_PROMPT)
LOOSE = RoleThresholds(
    windowed_mass=0.48, windowed_share=0.3, windows=(3, 8, 12), dead_spread=0.22, dead_spread_p95=0.45
)
CHANGING: dict[str, Any] = {**QUICK, "thresholds": LOOSE, "dwell": 1, "hysteresis": 0.0, "least": 1}
EVERY_HEAD = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]


def read(policy: AdaptivePolicy, chunks: list[int] = CHUNKS, **options: Any) -> tuple[Tensor, PrunedCache]:
    model = live(**options)
    cache = model.make_cache(policy)
    return in_chunks(model, TEXTS, chunks, cache=cache), cache


def wanted(script: Script, **options: Any) -> Tensor:
    return torch.stack(reference(script, list(TEXTS), **options))


def script_of(record: LiveRecord) -> dict[int, dict[str, str]]:
    """What was done and when, as the record has it."""
    script: dict[int, dict[str, str]] = {}
    before: dict[tuple[int, int], str] = {}
    for change in record.changes:
        if before.get((change.layer, change.head), "keep") != change.treatment:
            script.setdefault(change.at, {})[f"L{change.layer}H{change.head}"] = change.treatment
        before[change.layer, change.head] = change.treatment
    return script


# By a script.


@pytest.mark.parametrize("back", ["keep", "window:70", "compress:snapkv:0.5", "mean"])
def test_a_window_that_has_dropped_nothing_can_be_given_up(back: str) -> None:
    script = {N_PROMPT: {"L0H1": "window:48", "L1H0": "window:60"}, 48: {"L0H1": back, "L1H0": back}}
    found, cache = read(scripted(script))
    same(found, wanted(script), EXACT)
    assert treated(cache)["L0H1"] == back


@pytest.mark.parametrize("back", ["keep", "window:70", "window:3", "compress:snapkv:0.5"])
def test_a_window_that_has_dropped_keys_stays(back: str) -> None:
    first = {N_PROMPT: {"L0H1": "window:47", "L1H0": "window:5"}}
    found, cache = read(scripted({**first, 48: {"L0H1": back, "L1H0": back}}))
    same(found, wanted(first), EXACT)
    assert (treated(cache)["L0H1"], treated(cache)["L1H0"]) == ("window:47", "window:5")


@pytest.mark.parametrize("back", ["keep", "window:4", "compress:snapkv:0.2"])
def test_what_was_compressed_stays_so(back: str) -> None:
    first = {N_PROMPT: {"L0H1": "compress:snapkv:0.5"}}
    found, _ = read(scripted({**first, 48: {"L0H1": back}}))
    same(found, wanted(first), EXACT)


@pytest.mark.parametrize("back", ["keep", "window:4", "compress:snapkv:0.2"])
def test_the_dead_stay_dead(back: str) -> None:
    first = {N_PROMPT: {"L0H1": "mean", "L1H0": "mean"}}
    found, _ = read(scripted({**first, 48: {"L0H1": back, "L1H0": back}}))
    same(found, wanted(first), EXACT)


def test_every_kind_of_head_can_die_later() -> None:
    pairs = {"L0H0 L0H1": "window:4", "L0H2 L0H3": "compress:snapkv:0.3:adakv", "L1H0 L1H1": "compress:streaming:9"}
    first = {head: what for pair, what in pairs.items() for head in pair.split()}
    dead = ["L0H1", "L0H2", "L1H0", "L1H3"]
    script = {N_PROMPT: first, 52: dict.fromkeys(dead, "mean"), 60: {"L0H0": "mean", "L0H3": "mean"}}
    found, cache = read(scripted(script))
    same(found, wanted(script), EXACT)
    assert cache.layers[0].slices is not None
    assert cache.layers[0].slices.alive == ()


def test_heads_that_die_one_by_one_leave_what_the_dead_together_leave() -> None:
    order = [EVERY_HEAD[i] for i in (6, 1, 0, 4, 3, 7, 2, 5)]
    script = {N_PROMPT + 4 * number: {head: "mean"} for number, head in enumerate(order)}
    found, cache = read(scripted(script))
    same(found, wanted(script), EXACT)
    assert cache.nbytes == 0


@pytest.mark.parametrize("what", ["compress:snapkv:0.5", "compress:snapkv:18:latest6"])
def test_keys_are_chosen_by_the_last_queries_where_no_head_of_a_layer_was_left_in_full(what: str) -> None:
    script = {N_PROMPT: dict.fromkeys(EVERY_HEAD, "window:60"), 56: {"L0H1": what, "L1H3": what}}
    found, _ = read(scripted(script))
    same(found, wanted(script), EXACT)


def test_joining_a_ring_gives_the_logits_of_rings_apart() -> None:
    together = {N_PROMPT: {"L0H3": "window:5", "L0H0": "window:5"}, 48: {"L0H1": "window:5"}, 56: {"L0H2": "window:5"}}
    found, cache = read(scripted(together))
    same(found, wanted(together), EXACT)
    assert [part.treatment.window for part in live_stores(cache)[0].parts] == [5]


# By what the heads do.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {}, {"together": False}, {"policy": "snapkv", "budget": 0.5}, {"policy": "streaming", "budget": 14},
        {"policy": "snapkv", "budget": 24, "latest": 8, "shared": True}, {"sinks": 0}, {"memory": 0.0, "least": 1},
        {"dwell": 2, "hysteresis": 0.1, "least": 8, "reclassify": 8},
    ],
)  # fmt: skip
def test_what_the_record_says_is_what_was_computed(kind: str, options: dict[str, Any]) -> None:
    found, cache = read(AdaptivePolicy(**{**CHANGING, **options}), kind=kind)
    same(found, wanted(script_of(cache.record()), kind=kind), EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_in_these_texts_roles_differ_and_change(kind: str) -> None:
    _, cache = read(AdaptivePolicy(**CHANGING), kind=kind)
    assert {"dead", "positional"} <= set(cache.record().counts())
    assert cache.record().flips()


def test_a_budget_in_keys_is_kept_once_it_is_exceeded() -> None:
    policy = AdaptivePolicy(**QUICK, thresholds=NOTHING, policy="snapkv", budget=50, latest=10)
    found, cache = read(policy)
    script = {52: dict.fromkeys(EVERY_HEAD, "compress:snapkv:50:latest10")}
    assert script_of(cache.record()) == script
    same(found, wanted(script), EXACT)


def test_without_reclassification_the_first_decision_stands() -> None:
    policy = AdaptivePolicy(**{**QUICK, "reclassify": 0}, thresholds=NOTHING, policy="snapkv", budget=50, latest=10)
    found, cache = read(policy)
    assert cache.record().n_classifications == 1
    same(found, wanted({}), EXACT)


@pytest.mark.parametrize("protected", [{}, {0: [0, 2], 1: [3]}, {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}])
def test_protected_heads_never_die(protected: dict[int, list[int]]) -> None:
    _, cache = read(AdaptivePolicy(**QUICK, thresholds=ANYTHING, dwell=1), protected=protected)
    alive = {place for place, change in cache.record().at(N_TOKENS).items() if change.role != "dead"}
    assert alive == {(layer, head) for layer, heads in protected.items() for head in heads}


def test_without_a_head_map_no_head_dies() -> None:
    _, cache = read(AdaptivePolicy(**QUICK, thresholds=ANYTHING, dwell=1), known=False)
    assert set(cache.record().counts()) == {"positional"}


def test_a_forced_death_needs_a_head_map() -> None:
    found, cache = read(scripted({N_PROMPT: {"L0H0": "mean"}}), known=False)
    same(found, wanted({}), EXACT)
    assert treated(cache)["L0H0"] == "keep"


@pytest.mark.parametrize("name", ["qkv", "dense"])
def test_heads_of_a_hooked_projection_do_not_die(name: str) -> None:
    model = live()
    model.gpt_neox.layers[0].attention.get_submodule(name).register_forward_hook(lambda *_: None)
    cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=ANYTHING))
    in_chunks(model, TEXTS, CHUNKS, cache=cache)
    roles: dict[int, set[str]] = {layer: set() for layer in range(2)}
    for (layer, _), change in cache.record().at(N_TOKENS).items():
        roles[layer].add(change.role)
    assert roles == {0: {"positional"}, 1: {"dead"}}


def test_one_row_that_needs_its_keys_keeps_them_for_the_batch() -> None:
    model, alone = live(known=False), []
    for rows in (TEXTS[:1], TEXTS[1:], TEXTS):
        cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=LOOSE))
        in_chunks(model, rows[:, :N_PROMPT], [N_PROMPT], cache=cache)
        alone.append({place for place, change in cache.record().at(N_TOKENS).items() if change.role == "positional"})
    assert alone[2] == alone[0] & alone[1]
    assert alone[2] < alone[0] | alone[1]


def test_a_row_too_short_to_be_judged_decides_nothing_for_the_batch() -> None:
    tokens, mask = left_padded(TEXTS, [N_PROMPT, 5])
    model = live()
    cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=ANYTHING))
    in_chunks(model, tokens, [N_PROMPT], mask, cache)
    assert set(cache.record().counts()) == {"gathering"}
