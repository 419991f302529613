"""The configuration says which heads are left; what no pruned model has is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from runtime_makers import mixed, pruned, source

from headspec.export.surgery import head_groups, pruned_config
from headspec.runtime.configuration import HeadGroup, PrunedGPTNeoXConfig

FULL = [{"heads": [0, 1, 2, 3]}]


def config(head_groups: Any, **options: Any) -> PrunedGPTNeoXConfig:
    """Of a model with 2 layers of 4 heads."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 50}
    return PrunedGPTNeoXConfig(**{**sizes, "head_groups": head_groups, **options})


def test_without_head_groups_every_head_is_there() -> None:
    assert config(None).groups(1) == [HeadGroup((0, 1, 2, 3))]


def test_groups_are_read_in_their_order() -> None:
    layer = [{"heads": [2]}, {"heads": [3, 0], "window": 8, "sinks": 4}, {"heads": [1], "window": 2}]
    assert config([layer, []]).groups(0) == [HeadGroup((2,)), HeadGroup((3, 0), 8, 4), HeadGroup((1,), 2, 0)]


def test_a_layer_may_have_no_heads() -> None:
    assert config([[], FULL]).groups(0) == []


def test_a_group_sees_everything_unless_told_otherwise() -> None:
    assert HeadGroup((0,)) == ((0,), 0, 0, "", 0, False, 0)


@pytest.mark.parametrize("groups", [[], [FULL], [FULL, FULL, FULL]])
def test_groups_of_another_number_of_layers_are_refused(groups: Any) -> None:
    with pytest.raises(ValueError, match=f"head_groups has {len(groups)} layers, the model 2"):
        config(groups)


@pytest.mark.parametrize(
    "layer",
    [[{"heads": [0, 0]}], [{"heads": [0, 1]}, {"heads": [1], "window": 3}], [{"heads": [4]}], [{"heads": [-1]}]],
)
def test_heads_that_come_twice_or_do_not_exist_are_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"head_groups of layer 1 name heads .* from 0 to 3"):
        config([FULL, layer])


@pytest.mark.parametrize(
    "group", [{"heads": []}, {"heads": [0], "window": -1}, {"heads": [0], "window": 4, "sinks": -1}]
)
def test_groups_without_heads_or_with_negative_numbers_are_refused(group: Any) -> None:
    with pytest.raises(ValueError, match=r"head_groups of layer 0: .* needs heads, a window"):
        config([[group], FULL])


def test_a_config_edited_by_hand_is_refused_when_it_is_read(tmp_path: Path) -> None:
    config([FULL, FULL]).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["head_groups"] = written["head_groups"][:1]
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="head_groups has 1 layers, the model 2"):
        PrunedGPTNeoXConfig.from_pretrained(tmp_path)


def test_a_config_comes_back_from_its_file(tmp_path: Path) -> None:
    before = config([[], [{"heads": [3, 1], "window": 8, "sinks": 0}]], headspec={"model": "made-up"})
    before.save_pretrained(tmp_path)
    after = PrunedGPTNeoXConfig.from_pretrained(tmp_path)
    assert [after.groups(layer) for layer in range(2)] == [[], [HeadGroup((3, 1), 8, 0)]]
    assert after.headspec == {"model": "made-up"}
    assert after.model_type == "headspec_gpt_neox"


def test_two_configs_share_no_origin() -> None:
    config(None).headspec["model"] = "made-up"
    assert config(None).headspec == {}


def test_heads_of_a_plan_are_grouped_by_window_and_sinks_full_ones_first() -> None:
    assert head_groups(mixed(), 0) == [HeadGroup((3,)), HeadGroup((1,), 3, 2), HeadGroup((2,), 8, 4)]
    assert head_groups(mixed(), 1) == [HeadGroup((0,), 1, 0), HeadGroup((1, 2), 5, 8), HeadGroup((3,), 40, 1)]
    assert head_groups(mixed(), 2) == []
    assert head_groups(mixed(), 3) == [HeadGroup((0, 1, 2, 3))]


def test_a_pruned_config_keeps_what_the_model_had() -> None:
    original = source("sequential").huggingface.config
    found = pruned_config(original, mixed("sequential"), {"digest": "abc"})
    for name in ("hidden_size", "num_attention_heads", "use_parallel_residual", "rope_parameters", "vocab_size",
                 "max_position_embeddings", "layer_norm_eps", "hidden_act", "eos_token_id"):  # fmt: skip
        assert getattr(found, name) == getattr(original, name), name
    assert found.headspec == {"digest": "abc"}


def test_the_config_of_the_source_stays_as_it_is() -> None:
    before = source().huggingface.config.to_dict()
    pruned().config.use_cache = False
    assert source().huggingface.config.to_dict() == before
