"""What a plan costs, measured on the packaged model."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from quality_figures import FEW, NONE, OF_NEEDLES, OF_REPEATS, OF_TEXT, value
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows
from headspec.measure.compare import compare
from headspec.measure.estimate import Estimate
from headspec.measure.quality import QualityReport, measure_plan, measure_quality
from headspec.measure.texts import ScoredText
from headspec.plan.make import plan_heads


@pytest.fixture(scope="module")
def zeroed(plain_demo: PlainModel, certify: TokenWindows) -> QualityReport:
    """The packaged model without its induction head, on ten windows."""
    return measure_plan(plain_demo, plan_heads(plain_demo, {"L1H7": "zero"}), certify)


@pytest.fixture(scope="module")
def kept(plain_demo: PlainModel, certify: TokenWindows) -> QualityReport:
    """The packaged model as it is, on ten windows."""
    return measure_plan(plain_demo, plan_heads(plain_demo, {}), certify, n_repeats=3, n_needles=8)


@pytest.fixture(scope="module")
def kept_bridge(demo: TransformerBridge, certify: TokenWindows) -> QualityReport:
    return measure_plan(demo, plan_heads(demo, {}), certify.tokens[:2], **FEW)


# A plan that keeps every head costs nothing.


@pytest.mark.parametrize("name", ["loss_increase", "perplexity_increase", "kl", "repeats_loss_increase", "repeats_kl"])
@pytest.mark.parametrize("which", ["kept", "kept_bridge"])
def test_keeping_every_head_costs_exactly_nothing(which: str, name: str, request: pytest.FixtureRequest) -> None:
    assert getattr(request.getfixturevalue(which), name) == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("which", ["kept", "kept_bridge"])
def test_keeping_every_head_agrees_everywhere(which: str, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(which).top1_agreement == Estimate(1.0, 1.0, 1.0)


def test_keeping_every_head_leaves_every_figure_as_it_was(kept: QualityReport) -> None:
    assert kept.loss == kept.loss_original
    assert kept.perplexity == kept.perplexity_original
    assert kept.induction_accuracy == kept.induction_accuracy_original
    assert kept.needle_accuracy == kept.needle_accuracy_original


# The induction head of the packaged model.


def test_without_its_induction_head_the_demo_loses_some_perplexity(zeroed: QualityReport) -> None:
    assert 1 < value(zeroed, "perplexity") - value(zeroed, "perplexity_original") < 8
    assert 0.05 < value(zeroed, "loss_increase") < 0.3


def test_without_its_induction_head_the_demo_diverges(zeroed: QualityReport) -> None:
    assert 0.1 < value(zeroed, "kl") < 0.4
    assert 0.5 < value(zeroed, "top1_agreement") < 0.85


def test_without_its_induction_head_the_demo_loses_several_nats_on_repeats(zeroed: QualityReport) -> None:
    assert value(zeroed, "repeats_loss_original") < 1.5
    assert 3 < value(zeroed, "repeats_loss_increase") < 9
    assert 2 < value(zeroed, "repeats_kl") < 9


def test_without_its_induction_head_the_demo_does_no_induction(zeroed: QualityReport) -> None:
    assert value(zeroed, "induction_accuracy_original") > 0.8
    assert value(zeroed, "induction_accuracy") < 0.2


def test_without_its_induction_head_the_demo_finds_no_needles(zeroed: QualityReport) -> None:
    assert value(zeroed, "needle_accuracy_original") > 0.5
    assert value(zeroed, "needle_accuracy") < 0.2


def test_the_cost_is_beyond_doubt(zeroed: QualityReport) -> None:
    for name in ("loss_increase", "perplexity_increase", "kl", "repeats_loss_increase", "repeats_kl"):
        assert getattr(zeroed, name).low > 0


def test_paired_intervals_are_narrower_than_the_losses_they_come_from(
    kept: QualityReport, zeroed: QualityReport
) -> None:
    loss, increase = zeroed.loss, zeroed.loss_increase
    assert increase.high - increase.low < loss.high - loss.low


def test_the_originals_figures_do_not_depend_on_the_plan(kept: QualityReport, zeroed: QualityReport) -> None:
    assert zeroed.loss_original == kept.loss_original
    assert zeroed.perplexity_original == kept.perplexity_original


def test_removing_more_costs_more(plain_demo: PlainModel, certify: TokenWindows, zeroed: QualityReport) -> None:
    plan = plan_heads(plain_demo, {f"L1H{head}": "zero" for head in range(8)})
    report = measure_plan(plain_demo, plan, certify.tokens[:4], **NONE)
    assert np.isfinite(value(report, "kl"))
    assert value(report, "kl") > value(zeroed, "kl")


# What the figures are.


def test_figures_of_the_text_are_those_of_compare(zeroed: QualityReport, demo: Any, certify: TokenWindows) -> None:
    def without(window: Tensor) -> Tensor:
        return demo.run_with_hooks(window, fwd_hooks=[("blocks.1.attn.hook_z", without_head)])

    def without_head(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, 7] = 0
        return z

    found = compare(demo, without, ScoredText(certify.tokens, 0, ""))
    assert value(zeroed, "loss_original") == pytest.approx(found.loss_original.mean(), abs=1e-5)
    assert value(zeroed, "loss") == pytest.approx(found.loss.mean(), abs=1e-5)
    assert value(zeroed, "kl") == pytest.approx(found.kl.mean(), abs=1e-5)
    assert value(zeroed, "top1_agreement") == pytest.approx(found.top1_agreement.mean(), abs=1e-3)


def test_perplexities_are_exp_of_the_losses(zeroed: QualityReport) -> None:
    for name in ("", "_original"):
        assert value(zeroed, f"perplexity{name}") == pytest.approx(math.exp(value(zeroed, f"loss{name}")))


def test_increases_are_those_of_the_figures(zeroed: QualityReport) -> None:
    assert value(zeroed, "loss_increase") == pytest.approx(value(zeroed, "loss") - value(zeroed, "loss_original"))
    ratio = value(zeroed, "perplexity") / value(zeroed, "perplexity_original")
    assert value(zeroed, "perplexity_increase") == pytest.approx(ratio - 1)


def test_every_value_lies_in_its_interval(zeroed: QualityReport) -> None:
    for name in (*OF_TEXT, *OF_REPEATS, *OF_NEEDLES):
        found = getattr(zeroed, name)
        assert found.low <= found.value <= found.high


def test_a_report_says_what_was_measured_on_what(zeroed: QualityReport, certify: TokenWindows) -> None:
    about = {field.name: getattr(zeroed, field.name) for field in fields(zeroed)[:6]}
    assert about == {
        "model": "demo", "text": "packaged certify.txt", "text_digest": certify.digest, "n_windows": 10, "window": 256,
        "seed": 0,
    }  # fmt: skip


def test_a_bridge_and_a_plain_model_give_the_same_report(demo: TransformerBridge, plain_demo: PlainModel) -> None:
    tokens = torch.randint(2, 1024, (3, 100), generator=torch.Generator().manual_seed(0))
    plan = plan_heads(demo, {"L0H2": "window:4+0", "L1H0": "window:16", "L1H3": "zero", "L3H5": "zero"})
    one, other = (measure_plan(model, plan, tokens, **FEW) for model in (demo, plain_demo))
    assert value(one, "kl") > 1e-3
    for name in (*OF_TEXT, *OF_REPEATS):
        assert value(one, name) == pytest.approx(value(other, name), rel=1e-4, abs=1e-5)


def test_words_can_be_measured_on(plain_demo: PlainModel) -> None:
    words = "The little girl went to the park with her mother and they saw a big dog. " * 3
    report = measure_plan(plain_demo, plan_heads(plain_demo, {"L1H7": "zero"}), words, **NONE)
    assert report.text == "text"
    assert report.n_windows == 1
    assert value(report, "kl") > 0


def test_a_hugging_face_model_can_be_the_treated_one(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    report = measure_quality(tiny_plain, tiny_plain.huggingface, tiny_ids, **NONE)
    assert value(report, "kl") == pytest.approx(0, abs=1e-6)
