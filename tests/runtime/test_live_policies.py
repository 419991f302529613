"""What a policy may and may not do: who may die, what is known of whom, and a cache that is used for a second text."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from live_makers import ANYTHING, N_PROMPT, QUICK, facts, live, live_stores, scripted
from runtime_makers import GREEDY, in_chunks, random_ids

from headspec.runtime.adaptive import AdaptivePolicy, Verdict
from headspec.runtime.configuration import HeadGroup

TEXTS = random_ids(2, 68, seed=5)


@dataclass(frozen=True)
class Kill(AdaptivePolicy):
    """Wants every head dead."""

    def treatments(
        self, layer: int, n_read: int, verdicts: Sequence[Verdict], now: Sequence[HeadGroup | None]
    ) -> list[HeadGroup | None]:
        return [None] * len(now)


def test_no_policy_kills_a_protected_head() -> None:
    model = live(protected={0: [1], 1: [0, 2]})
    cache = model.make_cache(Kill(**QUICK))
    in_chunks(model, TEXTS[:, : N_PROMPT + 4], [N_PROMPT, 4], cache=cache)
    assert [store.alive for store in live_stores(cache)] == [[1], [0, 2]]


def test_without_deaths_induction_still_protects_from_windows() -> None:
    model = live()
    model.config.head_facts = {**facts(2, 4), "induction": [[0.9, 0.0, 0.0, 0.0]] * 2}
    thresholds = {"windowed_mass": 0.0, "windowed_share": 0.0, "windows": [4]}
    cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=thresholds, dead=False))
    in_chunks(model, TEXTS[:, :N_PROMPT], [N_PROMPT], cache=cache)
    roles = [change.role for change in cache.record().changes]
    assert roles == ["gathering", "positional", "positional", "positional"] * 2


@pytest.mark.parametrize("n_second", [24, 60])
def test_after_a_reset_generate_tells_of_the_new_prompt(n_second: int) -> None:
    model, policy = live(), AdaptivePolicy(**QUICK, thresholds=ANYTHING)
    used, fresh = model.make_cache(policy), model.make_cache(policy)
    model.generate(TEXTS[:, :40], past_key_values=used, max_new_tokens=8, **GREEDY)
    used.reset()
    found = [
        model.generate(TEXTS[:, :n_second], past_key_values=cache, max_new_tokens=20, **GREEDY)
        for cache in (used, fresh)
    ]
    assert torch.equal(*found)
    assert used.record() == fresh.record()
    assert used.record().n_prompt == n_second


def test_the_tokens_of_a_dead_head_count_from_its_death() -> None:
    model = live()
    cache = model.make_cache(scripted({N_PROMPT: {"L0H0": "mean"}, 48: {"L1H1": "mean"}}))
    in_chunks(model, TEXTS[:, : N_PROMPT + 20], [N_PROMPT] + [1] * 20, cache=cache)
    assert cache.record().skipped == 20 + 12


def test_bytes_of_columns_that_were_taken_back_are_forgotten() -> None:
    model = live()
    cache = model.make_cache(scripted({}))
    cache.activate_past_recording()
    in_chunks(model, TEXTS[:, : N_PROMPT + 12], [N_PROMPT] + [1] * 12, cache=cache)
    cache.crop(-8)
    moments = [moment.at for moment in cache.record().held]
    assert moments == sorted(moments)
    assert moments[-1] == N_PROMPT + 4


def test_padding_behind_a_prompt_is_refused() -> None:
    model = live()
    mask = torch.ones(2, N_PROMPT, dtype=torch.long)
    mask[1, -3:] = 0
    with pytest.raises(ValueError, match="pad on the left"):
        model(TEXTS[:, :N_PROMPT], attention_mask=mask, past_key_values=model.make_cache(AdaptivePolicy(**QUICK)))


def test_heads_that_move_under_inference_mode_may_go_on_with_gradients() -> None:
    model = live()
    cache = model.make_cache(scripted({N_PROMPT: {"L0H1": "window:4", "L1H2": "window:4"}}))
    with torch.inference_mode():
        in_chunks(model, TEXTS[:, :N_PROMPT], [N_PROMPT], cache=cache)
    logits = model(TEXTS[:, :1], past_key_values=cache).logits
    logits.sum().backward()
    assert model.lm_head.weight.grad is not None
