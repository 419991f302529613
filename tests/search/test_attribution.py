"""Forecasts from gradients: what they are by the textbook, what they leave alone, and what they refuse."""

from functools import lru_cache
from typing import Any

import attribution_reference as textbook
import numpy as np
import pytest
import torch
from sweep_makers import FAMILIES, ids, new_plain, plain, profile_of
from tiny_models import tiny_neox

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows
from headspec.measure.texts import ScoredText, repeats_text
from headspec.plan.make import plan_heads
from headspec.probe.collect import probe_heads
from headspec.search.attribution import attribute_heads
from headspec.search.cases import single_cases
from headspec.search.importance import MEASURES, HeadImportance
from headspec.search.sweep import sweep

TREATMENTS = ("zero", "mean", "window:3", "window:8+0")
TEXT, LATER = ids(3, 24), ScoredText(ids(3, 24, seed=1), 9, "from query 9 on")


@lru_cache
def forecast(family: str, later: bool = False) -> HeadImportance:
    model = plain(family)
    text = LATER if later else TokenWindows(TEXT, "numbers")
    return attribute_heads(model, text, profile_of(model), TREATMENTS, n_samples=2)


@lru_cache
def reference(family: str) -> textbook.TextbookModel:
    return textbook.TextbookModel(FAMILIES[family]())


def made_up(samples: Any, first_order: Any = None) -> HeadImportance:
    """One treatment, `mean`; samples are `[sample, layer, head]`, 10 queries a window."""
    samples = np.array(samples, float)[:, None]
    grid = np.zeros(samples.shape[1:]) if first_order is None else np.array(first_order, float)[None]
    return HeadImportance("planted", "numbers", "abc", ("mean",), 10, grid, grid, samples)


# By the textbook


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", TREATMENTS)
def test_first_order_is_that_of_autograd_on_the_whole_model(family: str, what: str) -> None:
    expected = textbook.first_order(reference(family), TEXT, 0, what, profile_of(plain(family)).mean_z)
    np.testing.assert_allclose(forecast(family).grid("first_order", what), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", ["zero", "window:3"])
def test_where_only_later_queries_count_first_order_is_that_of_their_loss(family: str, what: str) -> None:
    expected = textbook.first_order(reference(family), LATER.tokens, 9, what, profile_of(plain(family)).mean_z)
    np.testing.assert_allclose(forecast(family, later=True).grid("first_order", what), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_output_error_is_the_relative_size_of_the_change_of_the_output(family: str) -> None:
    for what in TREATMENTS:
        expected = textbook.output_error(reference(family), TEXT, 0, what, profile_of(plain(family)).mean_z)
        np.testing.assert_allclose(forecast(family).grid("output_error", what), expected, rtol=1e-4, atol=1e-7)


def test_output_error_of_mean_is_the_output_spread_of_a_profile() -> None:
    model, tokens = plain(), ids(4, 64)
    profile = probe_heads(model, TokenWindows(tokens, "numbers"), engine="fast", progress=False)
    found = attribute_heads(model, ScoredText(tokens, profile.about.first_query, "numbers"), profile, ["mean"])
    np.testing.assert_allclose(found.grid("output_error", "mean"), profile["output_spread"], rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_approaches_its_exact_value(family: str) -> None:
    model, tokens, treatments = plain(family), TEXT[:2, :16], ("mean", "window:3")
    found = attribute_heads(model, tokens, profile_of(model), treatments, n_samples=100).fisher
    mean_z = profile_of(model).mean_z
    expected = np.array([textbook.fisher(reference(family), tokens, 0, what, mean_z) for what in treatments])
    assert np.abs(found / expected - 1).max() < 5 * np.sqrt(2 / 200)  # the error of a mean of 200 squared normals
    assert abs(np.mean(found / expected) - 1) < 0.15


@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_of_a_small_change_is_the_kl_that_a_sweep_measures(family: str) -> None:
    model = new_plain(family)
    for name, weight in model.huggingface.named_parameters():
        if name.endswith(("attention.dense.weight", "o_proj.weight")):
            weight.data *= 0.05
    profile, treatments = profile_of(model), ("mean", "window:3")
    found = attribute_heads(model, TEXT, profile, treatments, n_samples=64)
    table = sweep(model, single_cases(profile, treatments), TEXT, n_repeats=0, progress=False).to_frame()
    for what in treatments:
        exact = table[table.treatment == what].kl.to_numpy().reshape(2, 4)
        ratios = found.grid("fisher", what) / exact
        assert abs(ratios.mean() - 1) < 0.2
        assert np.abs(ratios - 1).max() < 5 * np.sqrt(2 / (64 * len(TEXT)))


def test_fisher_counts_the_queries_from_the_first_that_counts_only() -> None:
    model = plain()
    text = repeats_text(model.identity, 2)
    assert text is not None
    assert text.first > 0
    cut = ScoredText(text.tokens[:, :31], 20, "cut")
    found = attribute_heads(model, cut, profile_of(model), ["mean"], n_samples=100)
    expected = textbook.fisher(reference("neox-parallel"), cut.tokens, 20, "mean", profile_of(model).mean_z)
    assert found.n_queries == 10
    assert np.abs(found.grid("fisher", "mean") / expected - 1).max() < 5 * np.sqrt(2 / 200)


def test_repeated_tokens_can_be_attributed() -> None:
    model = plain()
    text = repeats_text(model.identity, 2)
    found = attribute_heads(model, text, profile_of(model), ["zero"], n_samples=1)
    assert found.n_queries == 62  # of 63: nothing tells the first
    assert np.isfinite(found.fisher).all()


def test_a_window_that_hides_nothing_costs_nothing() -> None:
    found = attribute_heads(plain(), TEXT, None, ["window:24"])
    for measure in MEASURES:
        assert np.abs(found.grid(measure, "window:24")).max() < 1e-5, measure


def test_only_what_is_seen_before_the_last_token_changes_fisher() -> None:
    other = TEXT.clone()
    other[:, -1] = (other[:, -1] + 1) % 272
    first, second = (attribute_heads(plain(), tokens, None, ["zero"]) for tokens in (TEXT, other))
    np.testing.assert_allclose(first.fisher, second.fisher, rtol=1e-4)


# Heads together


def test_by_hand_fisher_is_half_the_mean_square_a_token() -> None:
    found = made_up([[[2.0, 0.0]], [[-4.0, 1.0]]])
    np.testing.assert_allclose(found.grid("fisher", "mean"), [[0.5 * (4 + 16) / 2 / 10, 0.5 * 1 / 2 / 10]])


def test_by_hand_heads_with_opposite_effects_cancel_in_a_forecast() -> None:
    about = profile_of(plain())
    samples = np.zeros((2, 2, 4))
    samples[:, 0, 1], samples[:, 1, 2], samples[:, 1, 3] = [1, -2], [-1, 2], [1, 1]
    found = made_up(samples)
    assert found.forecast(plan_heads(about, {"L0H1": "mean", "L1H2": "mean"})) == 0
    assert found.forecast(plan_heads(about, {"L0H1": "mean", "L1H3": "mean"})) == pytest.approx(0.5 * 2.5 / 10)


def test_the_forecast_of_one_head_is_its_fisher() -> None:
    found = forecast("llama-grouped")
    for what in TREATMENTS:
        for layer, head in np.ndindex(2, 4):
            plan = plan_heads(profile_of(plain("llama-grouped")), {HeadId(layer, head): what})
            assert found.forecast(plan) == pytest.approx(found.grid("fisher", what)[layer, head])


def test_the_forecast_of_two_heads_that_do_the_same_is_four_times_that_of_one() -> None:
    huggingface = tiny_neox(3)
    attention = huggingface.gpt_neox.layers[0].attention
    with torch.no_grad():
        attention.query_key_value.weight[24:48] = attention.query_key_value.weight[:24]
        attention.query_key_value.bias[24:48] = attention.query_key_value.bias[:24]
        attention.dense.weight[:, 8:16] = attention.dense.weight[:, :8]
    model = PlainModel(huggingface, "planted")
    found = attribute_heads(model, TEXT, None, ["zero"])
    one, both = ({"L0H0": "zero"}, {"L0H0": "zero", "L0H1": "zero"})
    assert found.forecast(plan_heads(model, both)) == pytest.approx(4 * found.forecast(plan_heads(model, one)), 1e-4)


def test_the_forecast_of_nothing_is_nothing() -> None:
    assert forecast("neox-parallel").forecast(plan_heads(plain(), {})) == 0


def test_a_forecast_of_a_treatment_that_was_not_attributed_is_refused() -> None:
    plan = plan_heads(plain(), {"L0H0": "window:5"})
    with pytest.raises(HeadspecError, match="window:5 was not attributed: there are zero, mean"):
        forecast("neox-parallel").forecast(plan)


# Rankings and tables


def test_by_hand_michel_divides_by_the_length_of_the_layer() -> None:
    found = made_up(np.zeros((1, 2, 2)), [[3, 4], [0, 0]])
    np.testing.assert_allclose(found.grid("michel", "mean"), [[0.6, 0.8], [0, 0]])


def test_michel_has_length_one_in_every_layer() -> None:
    np.testing.assert_allclose(np.linalg.norm(forecast("neox-sequential").michel, axis=-1), 1)


def test_a_ranking_starts_with_the_head_that_costs_least() -> None:
    found = made_up([[[3.0, 1.0], [0.5, 2.0]]], [[1, 2], [3, 0]])
    assert [str(head) for head in found.ranking("mean")] == ["L1H0", "L0H1", "L1H1", "L0H0"]
    assert [str(head) for head in found.ranking("mean", "first_order")] == ["L1H1", "L0H0", "L0H1", "L1H0"]


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(HeadspecError, match="measure 'taylor': choose one of fisher, first_order"):
        forecast("neox-parallel").grid("taylor", "mean")


def test_the_frame_has_a_row_a_head_and_treatment_with_the_numbers_of_the_grids() -> None:
    found = forecast("neox-parallel")
    frame = found.to_frame()
    assert len(frame) == len(TREATMENTS) * 8
    row = frame[(frame["head"] == "L1H2") & (frame.treatment == "window:3")].iloc[0]
    for measure in MEASURES:
        assert row[measure] == found.grid(measure, "window:3")[1, 2], measure


# What is left alone


@pytest.mark.parametrize("requires", [True, False])
def test_nothing_in_the_model_is_changed(requires: bool) -> None:
    model = new_plain()
    model.huggingface.requires_grad_(requires)
    before = {name: value.clone() for name, value in model.huggingface.state_dict().items()}
    attribute_heads(model, TEXT, profile_of(model), TREATMENTS)
    assert all(each.grad is None and each.requires_grad == requires for each in model.huggingface.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.huggingface.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.huggingface.state_dict().items())


def test_frozen_weights_give_the_same_forecasts() -> None:
    model = new_plain()
    model.huggingface.requires_grad_(False)
    found = attribute_heads(model, TEXT, profile_of(model), TREATMENTS, n_samples=2)
    for measure in MEASURES:
        np.testing.assert_allclose(
            getattr(found, measure), getattr(forecast("neox-parallel"), measure), rtol=1e-4, atol=1e-7
        )


def test_no_hook_stays_where_a_pass_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_plain()
    monkeypatch.setattr("headspec.search.layerwise.LayerWise.block", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        attribute_heads(model, TEXT, None, ["zero"])
    assert not any(module._forward_pre_hooks for module in model.huggingface.modules())


def test_it_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        found = attribute_heads(plain(), TEXT, None, ["zero"])
        assert not torch.is_grad_enabled()
    np.testing.assert_allclose(found.first_order[0], forecast("neox-parallel").grid("first_order", "zero"), rtol=1e-4)


def test_draws_come_from_the_seed_and_from_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (attribute_heads(plain(), TEXT, None, ["zero"], seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)
    assert torch.equal(before, torch.random.get_rng_state())


def test_there_is_a_sample_for_each_window_and_draw() -> None:
    assert forecast("neox-parallel").samples.shape == (3 * 2, len(TREATMENTS), 2, 4)


# Refused


def test_compression_of_a_text_that_is_not_continued_is_refused() -> None:
    with pytest.raises(HeadspecError, match=r"compress:snapkv:0\.5: only what follows a prompt suffers from it"):
        attribute_heads(plain(), TEXT, None, ["compress:snapkv:0.5"])


@pytest.mark.parametrize("fill", ["mean", "random"])
def test_a_fill_without_its_profile_is_refused(fill: str) -> None:
    with pytest.raises(HeadspecError, match="comes from a HeadProfile"):
        attribute_heads(plain(), TEXT, None, [fill])


def test_the_profile_of_another_model_is_refused() -> None:
    with pytest.raises(RecordError, match=r"this plan was made for planted .* not for other"):
        attribute_heads(new_plain(name="other"), TEXT, profile_of(plain()), ["mean"])
