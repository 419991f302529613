"""How the text is fed (segments, batches, chosen layers) changes memory and speed, never the numbers."""

import numpy as np
import pytest
from accounts import random_ids
from comparing import COUNTS, EDGES, MEASURED, difference, flat
from tiny_models import bridge_of, tiny_llama, tiny_neox
from transformer_lens.model_bridge import TransformerBridge

from headspec.load.text import TokenWindows, load_text
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile

TOLERANCE = 1e-5
WINDOW, N_WINDOWS = 300, 3


@pytest.fixture(scope="module")
def windows(demo: TransformerBridge) -> TokenWindows:
    return load_text(demo, "certify", n_tokens=N_WINDOWS * WINDOW, window=WINDOW)


@pytest.fixture(scope="module")
def one_shot(demo: TransformerBridge, windows: TokenWindows) -> HeadProfile:
    return probe_heads(demo, windows, segment=WINDOW, batch_size=1, progress=False)


@pytest.mark.parametrize("segment", [16, 64, 100, 256, WINDOW - 1, 4096])
def test_segments_of_any_length_give_the_numbers_of_one_shot(
    demo: TransformerBridge, windows: TokenWindows, one_shot: HeadProfile, segment: int
) -> None:
    cut = probe_heads(demo, windows, segment=segment, progress=False)
    assert difference(one_shot, cut, MEASURED) <= TOLERANCE
    assert difference(one_shot, cut, EDGES) == 0
    a_few_ties = 5 / (N_WINDOWS * (WINDOW - 16))
    assert difference(one_shot, cut, COUNTS) <= a_few_ties


def test_token_by_token_gives_the_numbers_of_one_shot(tiny: TransformerBridge) -> None:
    tokens = random_ids(1, 40)
    assert difference(
        probe_heads(tiny, tokens, segment=1, progress=False), probe_heads(tiny, tokens, progress=False)
    ) <= TOLERANCE  # fmt: skip


def test_segments_give_the_numbers_of_one_shot_with_grouped_queries() -> None:
    llama, tokens = bridge_of(tiny_llama(1)), random_ids(2, 100)
    assert difference(
        probe_heads(llama, tokens, segment=32, progress=False), probe_heads(llama, tokens, progress=False)
    ) <= TOLERANCE  # fmt: skip


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_windows_that_go_through_together_give_the_same_numbers(
    demo: TransformerBridge, windows: TokenWindows, one_shot: HeadProfile, batch_size: int
) -> None:
    together = probe_heads(demo, windows, segment=WINDOW, batch_size=batch_size, progress=False)
    assert difference(one_shot, together, MEASURED) <= TOLERANCE


def test_windows_keep_their_order_in_the_record(tiny: TransformerBridge) -> None:
    tokens = random_ids(3, 60)
    forward = probe_heads(tiny, tokens, batch_size=2, progress=False)
    backward = probe_heads(tiny, tokens.flip(0), batch_size=2, progress=False)
    for name, values in forward.by_window.items():
        np.testing.assert_allclose(values, backward.by_window[name][::-1], atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("layers", [[1], [3], [0, 2], [3, 1, 1]])
def test_chosen_layers_get_the_numbers_they_have_among_all(
    demo: TransformerBridge, windows: TokenWindows, one_shot: HeadProfile, layers: list[int]
) -> None:
    some = probe_heads(demo, windows, segment=WINDOW, layers=layers, progress=False)
    rows = sorted(set(layers))
    assert some.about.layers == tuple(rows)
    for name, grid in some.grids.items():
        np.testing.assert_allclose(grid, one_shot[name][rows], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(some.near_mass, one_shot.near_mass[:, rows], atol=1e-6)
    np.testing.assert_allclose(some.mean_z, one_shot.mean_z[rows], atol=1e-6)


def test_chosen_layers_come_in_their_order_in_the_model() -> None:
    deep = bridge_of(tiny_neox(0, n_layers=9))
    assert probe_heads(deep, random_ids(1, 20), layers=[8, 1], progress=False).about.layers == (1, 8)


def test_every_second_layer_gets_the_numbers_it_has_among_all(
    demo: TransformerBridge, windows: TokenWindows, one_shot: HeadProfile
) -> None:
    some = probe_heads(demo, windows, segment=WINDOW, every=2, progress=False)
    assert some.about.layers == (0, 2)
    for name, grid in some.grids.items():
        np.testing.assert_allclose(grid, one_shot[name][[0, 2]], atol=1e-6, err_msg=name)


def test_the_same_call_gives_the_same_numbers(tiny: TransformerBridge, tiny_profile: HeadProfile) -> None:
    again = flat(probe_heads(tiny, random_ids(3, 80), progress=False))
    for name, array in flat(tiny_profile).items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
