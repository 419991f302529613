"""The fast engine reads the numbers that the hooks engine reads, from whatever is handed in, and refuses the rest."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accounts import random_ids
from comparing import COUNTS, EDGES, MEASURED, difference
from families import SLIDING_WINDOW, bloom, falcon, gpt2, sliding_mistral, softcapped_gemma
from tiny_models import bridge_of, tiny_llama, tiny_neox
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from headspec.errors import HeadspecError, ModelError
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows, load_text
from headspec.probe import fast
from headspec.probe.catalogue import BY_POSITION
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile
from headspec.probe.tiles import tile_sums

TOLERANCE = 1e-5
WINDOW, N_WINDOWS = 300, 3
assert WINDOW > 2 * fast.QUERY_BLOCK, "three blocks of queries, the last one shorter"
IDS = random_ids(2, 60)


@pytest.fixture(scope="module")
def windows(demo: TransformerBridge) -> TokenWindows:
    return load_text(demo, "certify", n_tokens=N_WINDOWS * WINDOW, window=WINDOW)


@pytest.fixture(scope="module")
def by_hooks(demo: TransformerBridge, windows: TokenWindows) -> HeadProfile:
    return probe_heads(demo, windows, progress=False)


@pytest.fixture(scope="module")
def by_fast(demo: TransformerBridge, windows: TokenWindows) -> HeadProfile:
    return fast_probe(demo, windows, batch_size=2)


def fast_probe(model: Any, tokens: Any = IDS, **settings: Any) -> HeadProfile:
    return probe_heads(model, tokens, engine="fast", progress=False, **settings)


# The same numbers.


def test_the_fast_engine_gives_the_numbers_of_the_hooks_engine(by_fast: HeadProfile, by_hooks: HeadProfile) -> None:
    assert difference(by_fast, by_hooks, MEASURED) <= TOLERANCE


def test_the_fast_engine_sums_over_the_bins_of_the_hooks_engine(by_fast: HeadProfile, by_hooks: HeadProfile) -> None:
    assert difference(by_fast, by_hooks, EDGES) == 0


def test_the_fast_engine_counts_what_the_hooks_engine_counts_but_for_ties(
    by_fast: HeadProfile, by_hooks: HeadProfile
) -> None:
    a_few_ties = 5 / (N_WINDOWS * (WINDOW - 16))
    assert difference(by_fast, by_hooks, COUNTS) <= a_few_ties


@pytest.mark.parametrize("choice", [{"layers": [1]}, {"layers": [3, 0]}, {"every": 2}], ids=str)
def test_chosen_layers_get_the_numbers_they_have_among_all(
    demo: TransformerBridge, windows: TokenWindows, by_hooks: HeadProfile, choice: dict[str, Any]
) -> None:
    some = fast_probe(demo, windows, **choice)
    rows = list(some.about.layers)
    assert rows in ([1], [0, 3], [0, 2])
    for name, grid in some.grids.items():
        np.testing.assert_allclose(grid, by_hooks[name][rows], atol=TOLERANCE, err_msg=name)
    for name in BY_POSITION:
        expected = by_hooks.by_position[name][:, rows]
        np.testing.assert_allclose(some.by_position[name], expected, atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(some.near_mass, by_hooks.near_mass[:, rows], atol=TOLERANCE)
    np.testing.assert_allclose(some.mean_z, by_hooks.mean_z[rows], atol=TOLERANCE)


@pytest.mark.parametrize("window", [17, 127, 128, 129, 256])
def test_windows_around_the_length_of_a_block_of_queries_give_the_same_numbers(window: int) -> None:
    model, tokens = bridge_of(tiny_neox(1, context=256)), random_ids(2, window)
    assert difference(fast_probe(model, tokens), probe_heads(model, tokens, progress=False)) <= TOLERANCE


@pytest.mark.parametrize(("limit", "heads"), [(1, {1}), (3 * 2 * fast.QUERY_BLOCK * WINDOW, {7, 1, 3, 2, 8})])
def test_heads_in_several_tiles_give_the_numbers_of_heads_in_one(
    demo: TransformerBridge, windows: TokenWindows, monkeypatch: pytest.MonkeyPatch, limit: int, heads: set[int]
) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "layers": [1], "n_repeats": 0}
    whole, seen = fast_probe(demo, windows, **settings), set[int]()
    monkeypatch.setattr(fast, "tile_limit", lambda device: limit)
    monkeypatch.setattr(
        fast, "tile_sums", lambda tile, *rest: seen.add(tile.pattern.shape[1]) or tile_sums(tile, *rest)
    )
    split = fast_probe(demo, windows, **settings)
    assert seen == heads
    assert difference(split, whole) <= 1e-6


@pytest.mark.parametrize("make", [tiny_neox, tiny_llama])
def test_a_bridge_a_plain_model_and_a_hugging_face_model_give_the_same_numbers(
    make: Callable[[int], PreTrainedModel],
) -> None:
    profile = fast_probe(make(3))
    assert difference(profile, fast_probe(PlainModel(make(3), "plain"))) == 0
    assert difference(profile, fast_probe(bridge_of(make(3)))) == 0


def test_a_loaded_plain_model_gives_the_numbers_of_the_bridge(windows: TokenWindows, by_fast: HeadProfile) -> None:
    profile = fast_probe(load_plain("demo", device="cpu"), windows, batch_size=2)
    assert difference(profile, by_fast) <= 1e-6
    assert profile.about == by_fast.about


@pytest.mark.parametrize("layers", [[0, 1], [1]])
def test_a_sliding_window_hides_the_keys_it_hides_from_the_hooks_engine(layers: list[int]) -> None:
    tokens = random_ids(2, 200)
    profile = fast_probe(sliding_mistral(), tokens, layers=layers)
    assert profile.offset_mass[..., SLIDING_WINDOW:].max() == 0
    by_hooks = probe_heads(bridge_of(sliding_mistral()), tokens, layers=layers, progress=False)
    assert difference(profile, by_hooks) <= TOLERANCE


def test_half_precision_gives_finite_numbers_near_those_of_float32(windows: TokenWindows, by_fast: HeadProfile) -> None:
    half = load_plain("demo", device="cpu", dtype="bfloat16")
    profile = fast_probe(half, windows, batch_size=2)
    assert profile.about.dtype == "bfloat16"
    assert all(np.isfinite(grid).all() for grid in profile.grids.values())
    names = ("normalized_entropy", "max_attention", "sink_attention_ratio", "share_of_layer", "output_spread")
    assert difference(profile, by_fast, tuple(f"grids.{name}" for name in names)) < 1e-2


def test_the_record_says_which_engine_read_it(by_fast: HeadProfile, by_hooks: HeadProfile) -> None:
    assert (by_fast.about.engine, by_fast.about.segment) == ("fast", WINDOW)
    assert by_hooks.about.engine == "hooks"


# What is refused.


@pytest.mark.parametrize("hand_in", [lambda model: model, bridge_of], ids=["hugging-face", "bridge"])
@pytest.mark.parametrize("make", [gpt2, falcon, softcapped_gemma, bloom])
def test_attention_that_it_does_not_know_is_refused_with_the_engine_that_does(
    make: Callable[[], PreTrainedModel], hand_in: Callable[[Any], Any]
) -> None:
    with pytest.raises(ModelError, match=r'use engine="hooks"'):
        fast_probe(hand_in(make()))


def test_softcapped_scores_are_refused_by_their_name() -> None:
    with pytest.raises(ModelError, match="does not know attention with softcap"):
        fast_probe(softcapped_gemma())


def test_a_model_with_projections_of_other_names_is_refused_by_its_type() -> None:
    with pytest.raises(ModelError, match="does not know its way around GPT2LMHeadModel"):
        fast_probe(gpt2())


def test_what_is_no_model_is_refused_by_its_type() -> None:
    with pytest.raises(ModelError, match="Linear is neither a TransformerBridge nor a Hugging Face model"):
        fast_probe(torch.nn.Linear(2, 2))


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(tiny: TransformerBridge) -> None:
    with pytest.raises(HeadspecError, match=r"engine 'warp': choose one of hooks, fast"):
        probe_heads(tiny, IDS, engine="warp", progress=False)


def test_the_hooks_engine_refuses_a_plain_model_and_names_the_engine_that_takes_it() -> None:
    with pytest.raises(ModelError, match=r'PlainModel has no hooks: use engine="fast"'):
        probe_heads(PlainModel(tiny_neox(), "plain"), IDS, progress=False)


def test_the_hooks_engine_refuses_a_hugging_face_model_and_names_the_engine_that_takes_it() -> None:
    with pytest.raises(ModelError, match=r'GPTNeoXForCausalLM is not a TransformerBridge: .*engine="fast"'):
        probe_heads(tiny_neox(), IDS, progress=False)
