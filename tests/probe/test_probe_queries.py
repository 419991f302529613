"""Mean and covariance of the queries, on request: numpy's, of the queries of the Hugging Face model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accounts import random_ids
from reference import Array
from tiny_models import bridge_of, tiny_llama, tiny_neox
from torch import Tensor
from transformers import PreTrainedModel

from headspec.probe.collect import ENGINES, probe_heads
from headspec.probe.profile import HeadProfile

IDS = random_ids(3, 60)
TOLERANCE = 1e-5
MAKERS: dict[str, Callable[[], PreTrainedModel]] = {"neox": lambda: tiny_neox(2), "grouped": lambda: tiny_llama(2)}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[], PreTrainedModel]:
    return MAKERS[request.param]


@pytest.fixture(params=ENGINES)
def probe(request: pytest.FixtureRequest) -> Callable[..., HeadProfile]:
    """Probes a bridge (hooks, in segments) or the model inside it (fast), keeping the queries' moments."""

    def probe(model: PreTrainedModel, tokens: Tensor = IDS, **settings: Any) -> HeadProfile:
        settings = {"query_statistics": True, "segment": 25, "batch_size": 2, "progress": False} | settings
        return probe_heads(bridge_of(model), tokens, engine=request.param, **settings)

    return probe


def queries(model: Any) -> Array:
    """The queries before rotation, `[window, layer, token, head, d_head]`, in float64."""
    fused = model.config.model_type == "gpt_neox"
    layers = model.gpt_neox.layers if fused else model.model.layers
    projections = [layer.attention.query_key_value if fused else layer.self_attn.q_proj for layer in layers]
    seen: list[Tensor] = []
    for projection in projections:
        projection.register_forward_hook(lambda part, given, result: seen.append(result))
    with torch.no_grad():
        model.double()(IDS, use_cache=False)
    heads = torch.stack(seen, 1).unflatten(-1, (model.config.num_attention_heads, -1))
    return heads[..., : heads.shape[-1] // 3 if fused else None].numpy()


@pytest.mark.parametrize("first_query", [0, 16, 41])
def test_mean_and_covariance_are_numpys(
    make: Callable[[], PreTrainedModel], probe: Callable[..., HeadProfile], first_query: int
) -> None:
    profile = probe(make(), first_query=first_query)
    expected = queries(make())[:, :, first_query:]
    for layer, head in np.ndindex(2, 4):
        of_head = expected[:, layer, :, head].reshape(-1, 8)
        np.testing.assert_allclose(profile.query_mean[layer, head], of_head.mean(0), atol=TOLERANCE)
        covariance = np.cov(of_head, rowvar=False, bias=True)
        np.testing.assert_allclose(profile.query_covariance[layer, head], covariance, atol=TOLERANCE)


def test_repeats_are_not_mixed_in(probe: Callable[..., HeadProfile]) -> None:
    profile, without = probe(tiny_neox(2)), probe(tiny_neox(2), n_repeats=0)
    np.testing.assert_array_equal(profile.query_mean, without.query_mean)
    np.testing.assert_array_equal(profile.query_covariance, without.query_covariance)


def test_chosen_layers_have_the_moments_they_have_among_all(probe: Callable[..., HeadProfile]) -> None:
    every, some = probe(tiny_llama(2)), probe(tiny_llama(2), layers=[1])
    np.testing.assert_allclose(some.query_mean, every.query_mean[1:], atol=1e-6)
    np.testing.assert_allclose(some.query_covariance, every.query_covariance[1:], atol=1e-6)


def test_no_other_number_changes(probe: Callable[..., HeadProfile]) -> None:
    with_moments, without = probe(tiny_neox(2)), probe(tiny_neox(2), query_statistics=False)
    for name, grid in without.grids.items():
        np.testing.assert_array_equal(with_moments[name], grid, err_msg=name)


def test_unless_asked_for_there_are_none(probe: Callable[..., HeadProfile], tmp_path: Path) -> None:
    profile = probe(tiny_neox(2), query_statistics=False)
    assert (profile.query_mean, profile.query_covariance, profile.about.query_statistics) == (None, None, False)
    loaded = HeadProfile.load(profile.save(tmp_path / "profile.safetensors"))
    assert (loaded.query_mean, loaded.query_covariance) == (None, None)


def test_a_saved_profile_loads_with_its_moments(probe: Callable[..., HeadProfile], tmp_path: Path) -> None:
    profile = probe(tiny_neox(2))
    loaded = HeadProfile.load(profile.save(tmp_path / "profile.safetensors"))
    assert loaded.about.query_statistics
    np.testing.assert_array_equal(loaded.query_mean, profile.query_mean)
    np.testing.assert_array_equal(loaded.query_covariance, profile.query_covariance)
