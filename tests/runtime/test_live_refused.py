"""What live generation refuses, and in which words."""

from typing import Any

import pytest
import torch
from compression_reference import compress_plan, source
from live_makers import N_PROMPT, QUICK, facts, live, scripted
from runtime_makers import GREEDY, in_chunks, random_ids

from headspec.export.surgery import pruned_model
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.configuration import PrunedGPTNeoXConfig
from headspec.runtime.packing import ONEDNN

TOKENS = random_ids(2, 60)


def test_a_policy_may_be_given_as_a_dictionary() -> None:
    assert live().make_cache({"every": 8, "thresholds": {"windows": [4]}}).policy.thresholds.windows == (4,)


@pytest.mark.parametrize("policy", [300, "snapkv", AdaptivePolicy().thresholds, [8], True])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(TypeError, match=r"is no AdaptivePolicy: sizes are given by name, as in make_cache\(expected="):
        live().make_cache(policy)


def test_an_unknown_setting_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match="windows"):
        live().make_cache({"windows": [8]})


@pytest.mark.parametrize("prompt", [-1, 257, 1.5, "40"])
def test_a_prompt_that_cannot_be_is_refused(prompt: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="prompt"):
        live().make_cache(AdaptivePolicy(), prompt=prompt)


@pytest.mark.skipif(not ONEDNN, reason="weights are packed by oneDNN only")
def test_packed_weights_are_refused() -> None:
    model = pruned_model(source().huggingface, compress_plan({}))
    model.pack_weights()
    with pytest.raises(RuntimeError, match=r"packed weights cannot be treated live, .* load anew"):
        model.make_cache(AdaptivePolicy())
    model.make_cache()


@pytest.mark.parametrize("kind", ["made", "left out"])
def test_a_cache_without_a_policy_has_no_record(kind: str) -> None:
    model = live()
    cache = model.make_cache() if kind == "made" else model(TOKENS).past_key_values
    with pytest.raises(ValueError, match=r"nothing is recorded: this cache has no AdaptivePolicy\. Use model\.make_"):
        cache.record()


def test_a_cache_that_has_read_nothing_has_an_empty_record() -> None:
    record = live().make_cache(AdaptivePolicy()).record()
    assert (record.n_read, record.changes, record.kv_share, record.skipped) == (0, (), 0, 0)


def test_a_mask_that_changes_its_mind_about_the_past_is_refused() -> None:
    model = live()
    cache = model.make_cache(scripted({}))
    in_chunks(model, TOKENS, [N_PROMPT, 20], cache=cache)
    mask = torch.ones(2, 61, dtype=torch.long)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="hides other tokens of the past"):
        model(TOKENS[:, :1], attention_mask=mask, past_key_values=cache)


def test_holes_in_the_padding_are_refused_where_keys_are_chosen() -> None:
    mask = torch.ones(2, N_PROMPT, dtype=torch.long)
    mask[0, 3] = 0
    cache = live().make_cache(AdaptivePolicy(**QUICK, policy="snapkv"))
    with pytest.raises(ValueError, match="pad on the left"):
        live()(TOKENS[:, :N_PROMPT], attention_mask=mask, past_key_values=cache)


@pytest.mark.parametrize("policy", [AdaptivePolicy(), scripted({N_PROMPT: {"L0H0": "mean", "L0H1": "window:4"}})])
def test_other_caches_are_refused_beside_it(policy: AdaptivePolicy) -> None:
    model = live()
    with pytest.raises(ValueError, match="cache_implementation='static'"):
        model.generate(TOKENS, past_key_values=model.make_cache(policy), cache_implementation="static", **GREEDY)


# The configuration.


def config(**changes: Any) -> PrunedGPTNeoXConfig:
    """Of a model with 2 layers of 4 heads."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 50}
    return PrunedGPTNeoXConfig(**sizes, head_facts=facts(2, 4) | changes)


def test_facts_that_fit_are_taken() -> None:
    assert config(protected=[[0, 3], []]).head_facts["protected"] == [[0, 3], []]
    assert PrunedGPTNeoXConfig(head_facts=None).head_facts is None


@pytest.mark.parametrize(
    "changes",
    [
        {"induction": [[0.0] * 4]}, {"induction": [[0.0] * 3, [0.0] * 4]}, {"induction": []},
        {"repeat_deviation": [[0.0] * 4] * 3}, {"repeat_deviation": [[], []]}, {"protected": [[]]}, {"protected": []},
    ],
)  # fmt: skip
def test_facts_of_other_heads_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="head_facts do not fit this checkpoint: want induction and repeat_deviation"):
        config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"induction": None}, {"induction": [0.0, 0.0]}, {"induction": [["high"] * 4] * 2}, {"protected": None},
        {"protected": [[4], []]}, {"protected": [None, []]}, {"protected": [["L0H1"], []]}, {"protected": [3, 1]},
    ],
)  # fmt: skip
def test_facts_that_are_damaged_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="head_facts do not fit"):
        config(**changes)


@pytest.mark.parametrize("missing", ["induction", "repeat_deviation", "protected"])
def test_facts_that_lack_a_part_are_refused(missing: str) -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 50}
    known = {name: value for name, value in facts(2, 4).items() if name != missing}
    with pytest.raises(ValueError, match="head_facts do not fit"):
        PrunedGPTNeoXConfig(**sizes, head_facts=known)
