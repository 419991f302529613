"""NaN and infinity are named: by layer and head where they first show, and by the weights they come from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accounts import random_ids
from tiny_models import bridge_of, tiny_neox
from transformers import PreTrainedModel

from headspec.errors import ModelError
from headspec.probe.collect import probe_heads

IDS = random_ids(2, 60)
GIVEN: dict[str, tuple[Callable[[PreTrainedModel], Any], str]] = {
    "hooks": (bridge_of, "hooks"),
    "fast": (lambda model: model, "fast"),
    "fast-bridge": (bridge_of, "fast"),
}
"""How a damaged model is handed in, and what reads it."""
QUERIES_AND_KEYS, VALUES = slice(48, 64), slice(64, 72)
"""Rows of head 2 in the fused projection of GPT-NeoX: 4 heads of 8 queries, 8 keys, 8 values each."""


@pytest.fixture(params=GIVEN)
def probe(request: pytest.FixtureRequest) -> Callable[..., Any]:
    hand_in, engine = GIVEN[request.param]
    return lambda model: probe_heads(hand_in(model), IDS, engine=engine, progress=False)


@torch.no_grad()
def damaged(edit: Callable[[Any], Any], n_heads: int = 4) -> PreTrainedModel:
    """A GPT-NeoX of two layers after `edit` of its layers."""
    model = tiny_neox(0, n_heads=n_heads)
    edit(model.gpt_neox.layers)
    return model


def nan_values(layers: Any) -> None:
    layers[1].attention.query_key_value.weight[VALUES] = float("nan")


def nan_mlp(layers: Any) -> None:
    layers[0].mlp.dense_h_to_4h.weight[0, 0] = float("nan")


def nan_norm(layers: Any) -> None:
    layers[0].input_layernorm.weight[:] = float("nan")


def large_scores(layers: Any) -> None:
    """Queries and keys of about 600: their product is beyond float16."""
    layers[1].attention.query_key_value.bias[QUERIES_AND_KEYS] = 600


def huge_scores(layers: Any) -> None:
    """Queries and keys of about 1e20: their product is beyond float32."""
    layers[1].attention.query_key_value.bias[QUERIES_AND_KEYS] = 1e20


def test_nan_in_the_values_of_a_head_is_named_by_layer_and_head(probe: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"gives NaN or infinity in the \w+ of L1H2\."):
        probe(damaged(nan_values))


@pytest.mark.parametrize("engine", ["hooks", "fast"])
def test_nan_weights_are_named_as_the_cause(engine: str) -> None:
    hand_in = bridge_of if engine == "hooks" else lambda model: model
    parameter = {
        "hooks": r"layers\.1\.\S*attention\.v\.\S*weight",
        "fast": r"layers\.1\.attention\.query_key_value\.weight",
    }
    with pytest.raises(ModelError, match=rf"So do the weights [^:]*{parameter[engine]}.*: they are damaged"):
        probe_heads(hand_in(damaged(nan_values)), IDS, engine=engine, progress=False)


def test_nan_in_a_bridges_own_copy_of_the_values_is_named() -> None:
    bridge = bridge_of(tiny_neox(0))
    with torch.no_grad():
        bridge.blocks[1].attn.v.weight[16:24] = float("nan")
    with pytest.raises(ModelError, match=r"of L1H2\. So do the weights \S*layers\.1\.\S*attention\.v\.\S*weight: they"):
        probe_heads(bridge, IDS, progress=False)


def test_damage_in_an_mlp_is_first_named_in_the_next_layer(probe: Callable[..., Any]) -> None:
    with pytest.raises(
        ModelError, match=r"in the \w+ of L1H0, L1H1, L1H2, L1H3\. So do the weights \S*layers\.0\.\S*mlp"
    ):
        probe(damaged(nan_mlp))


def test_of_many_heads_the_first_four_are_named_and_the_others_counted(probe: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"of L0H0, L0H1, L0H2, L0H3 and 4 more\."):
        probe(damaged(nan_norm, n_heads=8))


def test_infinite_scores_of_finite_weights_are_named_by_layer_and_head(probe: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"NaN or infinity in the attention of L1H2\. The weights are all finite"):
        probe(damaged(huge_scores))


def test_numbers_too_large_for_float32_suggest_float64(probe: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"is float32 too narrow\? Try .*float64"):
        probe(damaged(huge_scores))


def test_numbers_too_large_for_float16_suggest_float32() -> None:
    with pytest.raises(ModelError, match=r"L1H2\. .*: is float16 too narrow\? Try --dtype float32"):
        probe_heads(bridge_of(damaged(large_scores).half()), IDS, progress=False)


@pytest.mark.parametrize(("edit", "wider"), [(large_scores, torch.float32), (huge_scores, torch.float64)])
def test_the_wider_dtype_that_is_suggested_is_wide_enough(edit: Callable[[Any], Any], wider: torch.dtype) -> None:
    profile = probe_heads(bridge_of(damaged(edit).to(wider)), IDS, progress=False)
    assert all(np.isfinite(grid).all() for grid in profile.grids.values())
