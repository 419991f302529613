"""Live treatment by hooks decides what the runtime decides, and writes what it writes."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from plan_references import random_ids, treatable
from tiny_models import bridge_of, tiny_llama, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.export.surgery import pruned_model
from headspec.intervene.ablate import apply_plan
from headspec.intervene.live import LiveGeneration, live_generate
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import load_text
from headspec.plan.make import plan_heads
from headspec.probe.collect import probe_heads
from headspec.runtime.adaptive import FULL, AdaptivePolicy, Verdict
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.record import LiveRecord
from headspec.runtime.thresholds import RoleThresholds

N_NEW = 40
OFTEN: dict[str, Any] = {"every": 4, "reclassify": 8}
POLICIES = {
    "defaults": {},
    "often": {**OFTEN, "dwell": 1},
    "snapkv": {"policy": "snapkv", **OFTEN},
    "snapkv when there are more keys": {"policy": "snapkv", "budget": 90, "latest": 40, **OFTEN},
    "shared": {"policy": "random", "budget": 0.3, "shared": True},
    "streaming": {"policy": "streaming", "budget": 24},
    "each its own window, two sinks": {"together": False, "sinks": 2, "observed": 32},
    "only at the prompt": {"reclassify": 0},
}
SNAPKV, RING = HeadGroup((), policy="snapkv", budget=0.4), HeadGroup((), policy="snapkv", budget=30, latest=12)


@dataclass(frozen=True)
class Both:
    """One model with hooks, and in the runtime with every head kept."""

    bridge: TransformerBridge
    plain: PlainModel
    head_map: HeadMap
    tokens: Tensor

    @property
    def runtime(self) -> Any:
        return pruned_model(self.plain.huggingface, plan_heads(self.plain, {}), head_map=self.head_map)

    def by_runtime(self, ids: Tensor, policy: Any, **settings: Any) -> tuple[Tensor, LiveRecord]:
        model = self.runtime
        past = model.make_cache(policy)
        settings = {"do_sample": False, "max_new_tokens": N_NEW, "pad_token_id": 0, **settings}
        found = model.generate(ids, past_key_values=past, attention_mask=torch.ones_like(ids), **settings)
        return found, past.record()

    def by_hooks(self, ids: Tensor, policy: Any, **settings: Any) -> LiveGeneration:
        settings = {"max_new_tokens": N_NEW, **settings}
        return live_generate(self.bridge, ids, policy, head_map=self.head_map, **settings)

    def check(self, ids: Tensor, policy: AdaptivePolicy) -> LiveRecord:
        """Both write and decide the same; the record."""
        tokens, record = self.by_runtime(ids, policy)
        found = self.by_hooks(ids, policy)
        assert torch.equal(found.tokens, tokens)
        assert found.record.changes == record.changes
        for name in ("n_classifications", "n_rows", "n_prompt", "n_read", "policy"):
            assert getattr(found.record, name) == getattr(record, name), name
        assert [moment.at for moment in found.record.held] == [moment.at for moment in record.held]
        return found.record


@pytest.fixture(scope="module")
def both(demo: TransformerBridge) -> Both:
    plain = load_plain("demo", device="cpu")
    profile = probe_heads(plain, load_text(plain, "probe", n_tokens=4096), engine="fast", progress=False)
    return Both(demo, plain, classify_heads(profile), load_text(plain, "select").tokens)


@cache
def tiny(parallel: bool = True) -> Both:
    """Random weights, whose heads differ under cut-offs that lie among them."""

    def make() -> Any:
        model = tiny_neox(7, n_layers=3, context=256, parallel=parallel)
        model.generation_config.eos_token_id = None
        return model

    plain, tokens = PlainModel(make(), "planted"), random_ids(3, 200, seed=5)
    profile = probe_heads(plain, tokens, engine="fast", n_repeats=8, progress=False)
    return Both(bridge_of(make()), plain, classify_heads(profile), tokens)


# As the runtime.


@pytest.mark.parametrize("settings", POLICIES.values(), ids=POLICIES)
def test_hooks_decide_and_write_what_the_runtime_does(both: Both, settings: dict[str, Any]) -> None:
    both.check(both.tokens[3:4, :120], AdaptivePolicy(**settings))


@pytest.mark.parametrize("name", ["defaults", "snapkv when there are more keys", "shared"])
def test_one_decision_holds_for_two_rows_as_in_the_runtime(both: Both, name: str) -> None:
    both.check(both.tokens[:2, :100], AdaptivePolicy(**POLICIES[name]))


@pytest.mark.parametrize("name", ["often", "snapkv"])
@pytest.mark.parametrize("length", [60, 79, 80])
def test_short_prompts_are_classified_when_the_runtime_does(both: Both, length: int, name: str) -> None:
    record = both.check(both.tokens[1:2, :length], AdaptivePolicy(**POLICIES[name]))
    assert record.changes[0].at == 80


def test_a_prompt_of_one_token_is_classified_when_the_runtime_does(both: Both) -> None:
    policy = AdaptivePolicy(policy="snapkv", observed=24, first_query=4, **OFTEN)
    assert both.check(both.tokens[:2, :1], policy).changes[0].at == 28


def test_the_demo_texts_have_heads_of_every_role(both: Both) -> None:
    """So that the test above can fail."""
    record = both.by_hooks(both.tokens[:2, :100], AdaptivePolicy(policy="snapkv"), max_new_tokens=3).record
    assert all(record.counts()[role] > 2 for role in ("dead", "positional", "gathering"))
    assert {change.treatment.partition(":")[0] for change in record.changes} == {"mean", "window", "compress"}


@pytest.mark.parametrize(("parallel", "length"), [(True, 100), (False, 100), (True, 50)])
def test_random_weights_are_treated_as_in_the_runtime(parallel: bool, length: int) -> None:
    cut = RoleThresholds(
        windowed_mass=0.3, windowed_share=0.2, windows=(3, 8, 16, 24), dead_spread=0.4, dead_spread_p95=0.6,
        dead_repeat_deviation=2.0,
    )  # fmt: skip
    policy = AdaptivePolicy(thresholds=cut, policy="snapkv", dwell=1, **OFTEN)
    record = tiny(parallel).check(tiny().tokens[:2, :length], policy)
    assert len(record.counts()) > 1


class Forced(AdaptivePolicy):
    """Treats the heads of each layer by number: at the prompt, and otherwise from 116 columns on."""

    first = (HeadGroup((), 8, 4), None, SNAPKV, FULL, RING, HeadGroup((), 150, 2), FULL, HeadGroup((), 3, 0))
    later = (None, FULL, None, HeadGroup((), 16, 4), None, RING, SNAPKV, HeadGroup((), 64, 4))

    def treatments(self, layer: int, n_read: int, verdicts: Any, now: Any) -> list[HeadGroup | None]:
        wanted = self.later if n_read >= 116 else self.first
        return [wanted[(head + layer) % len(wanted)] for head in range(len(now))]


@pytest.mark.parametrize(("rows", "policy"), [(1, ""), (2, "snapkv")])
def test_forced_treatments_and_later_others_are_those_of_the_runtime(both: Both, rows: int, policy: str) -> None:
    record = both.check(both.tokens[:rows, :100], Forced(policy=policy, **OFTEN))
    kinds = {(change.at >= 116, change.treatment.partition(":")[0]) for change in record.changes}
    assert {kind for later, kind in kinds if later} == {"mean", "window", "compress"}


@pytest.mark.parametrize("length", [100, 40])
def test_the_margins_by_which_heads_are_judged_are_those_of_the_runtime(both: Both, length: int) -> None:
    asked: list[tuple[float, tuple[float, ...] | None]] = []

    class Noting(Forced):
        first = (HeadGroup((), 108, 4), FULL, HeadGroup((), 8, 4), None, SNAPKV)
        later = first

        def verdict(self, dead: float, fits: Any, before: Verdict) -> Verdict:
            asked.append((dead, None if fits is None else tuple(fits)))
            return super().verdict(dead, fits, before)

    ids, policy = both.tokens[:2, :length], Noting(**OFTEN)
    expected, _ = both.by_runtime(ids, policy, max_new_tokens=60)
    by_runtime = list(asked)
    asked.clear()
    assert torch.equal(both.by_hooks(ids, policy, max_new_tokens=60).tokens, expected)
    assert [fits is None for _, fits in asked] == [fits is None for _, fits in by_runtime]
    assert {fits is None for _, fits in asked} == {True, False}
    for mine, theirs in zip(asked, by_runtime, strict=True):
        flat = [torch.tensor([dead, *(fits or ())]) for dead, fits in (mine, theirs)]
        torch.testing.assert_close(*flat, rtol=1e-4, atol=1e-4)


def test_a_layer_in_which_every_head_dies_is_as_in_the_runtime(both: Both) -> None:
    class Dying(Forced):
        def treatments(self, layer: int, n_read: int, verdicts: Any, now: Any) -> list[HeadGroup | None]:
            return [None] * len(now) if layer == 1 else list(now)

    assert "mean" in {change.treatment for change in both.check(both.tokens[:1, :90], Dying(**OFTEN)).changes}


def test_the_same_seed_draws_what_the_runtime_draws(both: Both) -> None:
    ids = both.tokens[:2, :90]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected, record = both.by_runtime(ids, AdaptivePolicy(), do_sample=True, temperature=0.8, top_k=0)
    found = both.by_hooks(ids, AdaptivePolicy(), temperature=0.8, seed=3)
    assert torch.equal(found.tokens, expected)
    assert found.record.changes == record.changes
    assert not torch.equal(both.by_hooks(ids, AdaptivePolicy(), temperature=0.8, seed=4).tokens, expected)


def test_watching_leaves_the_text_as_it_is(both: Both) -> None:
    ids = both.tokens[:2, :100]
    settings = {"max_new_tokens": N_NEW, "do_sample": False, "pad_token_id": 0}
    expected = both.plain.huggingface.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    found = both.by_hooks(ids, AdaptivePolicy(watch_only=True, policy="snapkv", **OFTEN))
    assert torch.equal(found.tokens, expected)
    assert found.record.counts()["dead"]
    assert {change.treatment for change in found.record.changes} == {"keep"}
    assert found.record.kv_share == 1


def test_without_a_head_map_no_head_dies(both: Both) -> None:
    record = live_generate(both.bridge, both.tokens[:1, :100], max_new_tokens=2).record
    assert "dead" not in record.counts()
    assert record.counts()["positional"]


def test_where_no_head_may_be_called_dead_none_is(both: Both) -> None:
    record = both.by_hooks(both.tokens[:1, :100], {"dead": False}, max_new_tokens=2).record
    assert "dead" not in record.counts()


# Without the runtime.


def test_a_windowed_head_shows_its_window_in_its_pattern(both: Both) -> None:
    seen: list[list[int]] = []

    def look(pattern: Tensor, hook: Any = None) -> None:
        seen.append((pattern[0, 0, -1] > 0).nonzero().flatten().tolist())

    with both.bridge.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", look)]):
        both.by_hooks(both.tokens[:1, :100], Forced(), max_new_tokens=3)
    assert seen == [list(range(100)), [0, 1, 2, 3, *range(93, 101)], [0, 1, 2, 3, *range(94, 102)]]


def test_windows_of_grouped_query_heads_are_those_of_a_plan_that_begins_after_the_prompt() -> None:
    llama, ids = treatable(lambda: tiny_llama(5)), random_ids(2, 90, seed=2)

    class Windows(AdaptivePolicy):
        def treatments(self, layer: int, n_read: int, verdicts: Any, now: Any) -> list[HeadGroup | None]:
            return [HeadGroup((), 5, 2), FULL, HeadGroup((), 9, 4), FULL]

    wish = {f"L{layer}H{head}": text for layer in range(2) for head, text in ((0, "window:5+2"), (2, "window:9"))}
    llama.bridge.original_model.generation_config.eos_token_id = None
    past, expected = DynamicCache(), ids
    with torch.no_grad():
        new = llama.bridge(ids, past_key_values=past)[:, -1:].argmax(-1)
        with apply_plan(llama.bridge, llama.plan(wish)):
            for _ in range(20):
                expected = torch.cat([expected, new], 1)
                new = llama.bridge(new, past_key_values=past)[:, -1:].argmax(-1)
    found = live_generate(llama.bridge, ids, Windows(), max_new_tokens=20)
    assert torch.equal(found.tokens, expected)
    assert {change.treatment for change in found.record.changes} == {"window:5+2", "keep", "window:9"}


def test_the_bytes_are_those_of_the_keys_that_each_treatment_needs(both: Both) -> None:
    record = both.by_hooks(both.tokens[:2, :100], Forced(), max_new_tokens=11).record
    keys = 12 + 0 + (40 + 10) + 110 + 30 + 110 + 110 + 3  # of each treatment of a layer; a window of 150 holds all
    per_key = 2 * 2 * 24 * 4  # rows, key and value, d_head, float32
    last = record.held[-1]
    protected = 110  # L2H1 does induction: it may not die, and keeps every key
    assert (last.at, last.kv_bytes, last.full_bytes) == (110, (4 * keys + protected) * per_key, 4 * 8 * 110 * per_key)


def test_the_bytes_are_those_of_the_runtimes_buffers_but_for_room_left(both: Both) -> None:
    ids = both.tokens[:2, :100]
    for policy in (AdaptivePolicy(policy="snapkv", shared=True), AdaptivePolicy(policy="streaming", budget=40)):
        (_, runtime), found = both.by_runtime(ids, policy), both.by_hooks(ids, policy)
        held, room = found.record.held[-1].kv_bytes, runtime.held[-1].kv_bytes
        assert held <= room <= 1.1 * held
