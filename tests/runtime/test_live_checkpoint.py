"""Live treatment of a checkpoint that was pruned already: what the plan treats stays, the rest is watched."""

from typing import Any

import pytest
import torch
from compression_reference import EXACT
from live_makers import ANYTHING, N_PROMPT, QUICK, Script, live, live_stores, reference, scripted, treated
from runtime_makers import in_chunks, left_padded, random_ids, same

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.stores import GROWTH

N_TOKENS = 64
TEXTS = random_ids(2, N_TOKENS, seed=21)
CHUNKS = [N_PROMPT] + [1] * (N_TOKENS - N_PROMPT)
PLANS: dict[str, dict[str, str]] = {
    "a window": {"L0H0": "window:5", "L1H3": "window:3+1"},
    "removed": {"L0H1": "zero", "L1H0": "zero", "L1H2": "zero"},
    "compressed": {"L0H2": "compress:snapkv:0.5", "L1H0": "compress:streaming:12"},
    "all kinds": {
        "L0H0": "window:5", "L0H2": "zero", "L1H0": "compress:snapkv:0.4", "L1H1": "zero", "L1H2": "window:6"
    },
    "a layer removed": {f"L0H{head}": "zero" for head in range(4)},
    "a layer windowed": {f"L0H{head}": "window:4" for head in range(4)} | {"L1H0": "window:4"},
    "one head left": {f"L{layer}H{head}": "window:6" for layer in range(2) for head in range(4) if head != 1},
}  # fmt: skip
WISH: Script = {
    N_PROMPT: {"L0H1": "mean", "L0H3": "window:4", "L1H3": "mean", "L1H2": "compress:snapkv:0.5"},
    48: {"L0H0": "window:4", "L1H0": "mean", "L1H1": "window:3"},
}  # fmt: skip


def watched(plan: dict[str, str]) -> dict[int, list[int]]:
    return {layer: [head for head in range(4) if f"L{layer}H{head}" not in plan] for layer in range(2)}


def together(plan: dict[str, str], script: Script) -> dict[int, dict[str, str]]:
    """What is done with all heads: windows and removals from the beginning, compression after the prompt."""
    done: dict[int, dict[str, str]] = {0: {}, N_PROMPT: {}}
    for head, what in plan.items():
        done[N_PROMPT if what.startswith("compress") else 0][head] = what
    for column, wanted in script.items():
        done.setdefault(column, {}).update({head: what for head, what in wanted.items() if head not in plan})
    return done


@pytest.mark.parametrize("name", PLANS)
def test_heads_of_the_plan_and_live_ones_give_the_logits_of_the_reference(name: str) -> None:
    model = live(plan=PLANS[name])
    cache = model.make_cache(scripted(WISH, heads=watched(PLANS[name])))
    found = in_chunks(model, TEXTS, CHUNKS, cache=cache)
    same(found, torch.stack(reference(together(PLANS[name], WISH), list(TEXTS))), EXACT)


def test_padding_and_chunks_make_no_difference() -> None:
    plan = PLANS["all kinds"]
    tokens, mask = left_padded(TEXTS, [N_TOKENS, N_TOKENS - 13])
    model = live(plan=plan)
    cache = model.make_cache(scripted(WISH, heads=watched(plan)), prompt=N_PROMPT)
    found = in_chunks(model, tokens, [17, 17, 6, 8, *[1] * 16], mask, cache)
    for row, expected in zip(found, reference(together(plan, WISH), [TEXTS[0], TEXTS[1, :-13]]), strict=True):
        same(row[-len(expected) :], expected, EXACT)


@pytest.mark.parametrize("name", PLANS)
def test_the_record_has_the_heads_that_are_watched_under_their_numbers(name: str) -> None:
    model = live(plan=PLANS[name])
    cache = model.make_cache(scripted(WISH, heads=watched(PLANS[name])))
    in_chunks(model, TEXTS, CHUNKS, cache=cache)
    expected = {f"L{layer}H{head}": "keep" for layer, heads in watched(PLANS[name]).items() for head in heads}
    for wanted in WISH.values():
        expected |= {head: what for head, what in wanted.items() if head in expected}
    assert treated(cache) == expected


def test_facts_go_by_the_number_of_a_head_in_the_original() -> None:
    model = live(plan={"L0H0": "zero", "L1H1": "window:4"}, protected={0: [0, 2], 1: [3]})
    cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=ANYTHING))
    in_chunks(model, TEXTS, CHUNKS, cache=cache)
    roles = {place: change.role for place, change in cache.record().at(N_TOKENS).items()}
    assert {place for place, role in roles.items() if role == "dead"} == {(0, 1), (0, 3), (1, 0), (1, 2)}


def test_bytes_are_compared_with_those_of_the_checkpoints_heads() -> None:
    model = live(plan=PLANS["removed"])
    cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=ANYTHING))
    in_chunks(model, TEXTS[:1], CHUNKS, cache=cache)
    assert cache.record().held[-1] == (N_TOKENS, 0, 5 * GROWTH * 2 * 16 * 4)


def test_a_checkpoint_that_leaves_nothing_to_watch_has_an_empty_record() -> None:
    plan = {f"L{layer}H{head}": "window:6" for layer in range(2) for head in range(4)}
    model = live(plan=plan)
    cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=ANYTHING))
    found = in_chunks(model, TEXTS, CHUNKS, cache=cache)
    assert torch.equal(found, in_chunks(model, TEXTS, CHUNKS))
    assert (live_stores(cache), cache.record().changes) == ([], ())


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 3}])
def test_watching_a_pruned_checkpoint_changes_nothing(options: dict[str, Any]) -> None:
    model, found = live(plan=PLANS["all kinds"]), []
    policy = AdaptivePolicy(**QUICK, thresholds=ANYTHING, watch_only=True)
    for cache in (None, model.make_cache(policy)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            found.append(
                model.generate(TEXTS[:, :N_PROMPT], past_key_values=cache, max_new_tokens=20, pad_token_id=0,
                               eos_token_id=10**6, **{"do_sample": False, **options})
            )  # fmt: skip
    assert torch.equal(*found)
