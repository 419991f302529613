"""The configuration of compressed heads: what comes back from its file, and what no pruned model has."""

import json
from pathlib import Path
from typing import Any

import pytest
from compression_reference import compress_plan

from headspec.export.surgery import head_groups
from headspec.runtime.configuration import HeadGroup, PrunedGPTNeoXConfig
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM

GOOD = {"heads": [2, 0], "policy": "snapkv", "budget": 40, "shared": True, "latest": 8}


def config(group: dict[str, Any]) -> PrunedGPTNeoXConfig:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 50}
    return PrunedGPTNeoXConfig(**sizes, head_groups=[[group]])


@pytest.mark.parametrize("budget", [1, 1.0, 40, 0.25])
def test_a_compressed_group_comes_back_from_its_file_with_its_kind_of_budget(tmp_path: Path, budget: float) -> None:
    config({"heads": [2, 0], "policy": "snapkv", "budget": budget, "shared": True}).save_pretrained(tmp_path)
    (found,) = PrunedGPTNeoXConfig.from_pretrained(tmp_path).groups(0)
    assert found == HeadGroup((2, 0), policy="snapkv", budget=budget, shared=True)
    assert type(found.budget) is type(budget)


def test_only_what_is_set_is_written() -> None:
    assert HeadGroup((1,), policy="random", budget=0.5).to_dict() == {"heads": [1], "policy": "random", "budget": 0.5}
    assert HeadGroup.from_dict(GOOD).to_dict() == GOOD


def test_heads_of_a_plan_are_grouped_by_what_their_cache_does() -> None:
    plan = compress_plan({
        "L0H0": "window:5", "L0H1": "compress:snapkv:24:latest8", "L0H2": "compress:snapkv:24:latest8:adakv",
        "L1H0": "compress:expected_attention:0.5", "L1H3": "compress:expected_attention:0.5", "L1H1": "keep",
    })  # fmt: skip
    assert head_groups(plan, 0) == [
        HeadGroup((3,)), HeadGroup((1,), policy="snapkv", budget=24, latest=8),
        HeadGroup((2,), policy="snapkv", budget=24, shared=True, latest=8), HeadGroup((0,), 5, 4),
    ]  # fmt: skip
    assert head_groups(plan, 1) == [HeadGroup((1, 2)), HeadGroup((0, 3), policy="expected_attention", budget=0.5)]


def test_one_key_and_all_of_them_are_different_groups() -> None:
    plan = compress_plan({"L0H0": "compress:snapkv:1", "L0H1": "compress:snapkv:1.0"})
    assert len(head_groups(plan, 0)) == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"policy": "h2o"}, "a policy this model does not know: want one of snapkv, expected_attention"),
        ({"policy": ["snapkv"]}, "a policy this model does not know"),
        ({"policy": ""}, "needs a policy for budget, shared and latest"),
        ({"policy": "", "budget": 0, "latest": 0}, "needs a policy for budget, shared and latest"),
        ({"policy": "", "budget": 0, "shared": False}, "needs a policy for budget, shared and latest"),
        ({"window": 8}, "either a window with sinks, or a policy"),
        ({"sinks": 4}, "either a window with sinks, or a policy"),
        *[({"budget": budget, "latest": 0}, "needs a budget: a share of the keys like 0.5, or a number of keys")
          for budget in (0, -1, 0.0, 1.5, -0.5, float("nan"), "0.5", None, True)],
        ({"latest": 40}, "latest to be less than a budget in keys"),
        ({"latest": 41}, "latest to be less than a budget in keys"),
        ({"budget": 0.5}, "latest to be less than a budget in keys"),
        ({"latest": -1}, "needs heads, a window"),
        ({"latest": 1.5}, "needs heads, a window"),
        ({"shared": "yes"}, "shared to be true or false"),
        ({"policy": "streaming", "shared": False}, "needs a number of keys as budget, without shared and latest"),
        ({"policy": "streaming", "latest": 0}, "needs a number of keys as budget, without shared and latest"),
        ({"policy": "streaming", "shared": False, "latest": 0, "budget": 0.5}, "needs a number of keys as budget"),
    ],
)  # fmt: skip
def test_groups_that_no_pruned_model_has_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"head_groups of layer 0: .*{complaint}"):
        config(GOOD | change)


def test_an_unknown_word_in_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="head_groups is damaged"):
        config({**GOOD, "kernel": 7})


def test_a_config_edited_by_hand_is_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    PrunedGPTNeoXForCausalLM(config(GOOD)).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["head_groups"][0][0]["policy"] = "h2o"
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="a policy this model does not know"):
        PrunedGPTNeoXForCausalLM.from_pretrained(tmp_path)
