"""How likely a continuation is: what one forward pass over prompt and continuation says."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from one_pass import CONTINUATION, IDS, PROMPT, close, in_one_pass
from tiny_models import bridge_of, tiny_llama, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from headspec.intervene.ablate import apply_plan
from headspec.load.model import load_model, load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import tokenize
from headspec.measure.score import Score, score
from headspec.plan.make import plan_heads

TREATMENTS = {"L0H1": "window:3+1", "L0H2": "zero", "L1H0": "window:5+0", "L1H1": "window:9+2", "L1H3": "zero"}


@pytest.fixture(scope="module")
def bridge() -> TransformerBridge:
    return bridge_of(tiny_neox())


# Worked by hand.


def test_the_loss_is_the_mean_of_minus_log_p() -> None:
    found = Score(torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[True, False]]))
    assert found.loss == pytest.approx(1.5 * math.log(2))


def test_the_accuracy_is_the_share_of_greedy_tokens() -> None:
    assert Score(torch.zeros(1, 4), torch.tensor([[True, False, False, False]])).accuracy == 0.25


# One forward pass over everything.


def test_a_score_is_that_of_one_forward_pass(model: Any) -> None:
    close(score(model, PROMPT, CONTINUATION), in_one_pass(model))


def test_a_continuation_of_one_token_is_scored_by_the_prompts_last_logits(model: Any) -> None:
    found = score(model, PROMPT, CONTINUATION[:, :1])
    assert found.log_probabilities.shape == (3, 1)
    close(found, in_one_pass(model, PROMPT, CONTINUATION[:, :1]))


def test_a_prompt_of_one_token_will_do(model: Any) -> None:
    close(score(model, IDS[:, :1], IDS[:, 1:]), in_one_pass(model, IDS[:, :1], IDS[:, 1:]))


def test_one_sequence_is_a_batch_of_one(model: Any) -> None:
    found = score(model, PROMPT[1], CONTINUATION[1])
    assert found.log_probabilities.shape == (1, 15)
    close(found, in_one_pass(model)[1:2])


def test_rows_do_not_see_each_other(model: Any) -> None:
    for row in range(3):
        close(score(model, PROMPT[row], CONTINUATION[row]), in_one_pass(model)[row : row + 1])


def test_greedy_tokens_are_the_most_likely_ones(neox: Any) -> None:
    with torch.no_grad():
        best = neox(IDS).logits[:, 24:-1].argmax(-1)
    for number in range(4):
        rest = CONTINUATION.clone()
        rest[:, 0] = best[:, 0] if number % 2 else (best[:, 0] + 1) % 256
        assert score(neox, PROMPT, rest).greedy[:, 0].tolist() == [bool(number % 2)] * 3
    assert torch.equal(score(neox, PROMPT, CONTINUATION).greedy, best == CONTINUATION)


def test_what_the_model_generates_is_greedy_throughout(neox: Any) -> None:
    generated = neox.generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=8, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert score(neox, PROMPT, generated[:, 25:]).accuracy == 1


def test_the_loss_of_a_score_is_that_of_its_log_probabilities(neox: Any) -> None:
    assert score(neox, PROMPT, CONTINUATION).loss == pytest.approx(-in_one_pass(neox).mean().item(), abs=1e-5)


def test_the_packaged_models_score_is_that_of_one_forward_pass(demo: TransformerBridge, plain_demo: PlainModel) -> None:
    expected = in_one_pass(plain_demo)
    for model in (demo, plain_demo, plain_demo.huggingface):
        close(score(model, PROMPT, CONTINUATION), expected)


def test_a_model_in_bfloat16_is_scored_in_float32() -> None:
    model = tiny_neox().bfloat16()
    found = score(model, PROMPT, CONTINUATION)
    assert found.log_probabilities.dtype == torch.float32
    torch.testing.assert_close(found.log_probabilities, in_one_pass(model), rtol=0, atol=0.2)


def test_no_gradients_are_kept(model: Any) -> None:
    assert not score(model, PROMPT, CONTINUATION).log_probabilities.requires_grad


# Text and ids.


@pytest.mark.parametrize("load", [load_model, load_plain])
def test_text_is_scored_as_its_tokens(neox_folder: Path, load: Callable[..., Any]) -> None:
    model = load(str(neox_folder), device="cpu")
    ids = [tokenize(model, text) for text in ("Once upon", " a time")]
    found = score(model, "Once upon", " a time")
    assert found.log_probabilities.shape == (1, 7)
    assert torch.equal(found.log_probabilities, score(model, *ids).log_probabilities)


def test_text_and_ids_can_be_mixed(neox_folder: Path) -> None:
    model = load_plain(str(neox_folder), device="cpu")
    mixed = score(model, "Once upon", tokenize(model, " a time"))
    assert torch.equal(mixed.log_probabilities, score(model, "Once upon", " a time").log_probabilities)


@pytest.mark.parametrize("kind", [Tensor.tolist, Tensor.numpy, Tensor.int], ids=["list", "numpy", "int32"])
def test_ids_of_other_kinds_are_scored_as_the_same_ids(neox: Any, kind: Callable[[Tensor], Any]) -> None:
    found = score(neox, kind(PROMPT), kind(CONTINUATION))
    assert torch.equal(found.log_probabilities, score(neox, PROMPT, CONTINUATION).log_probabilities)


# Under a plan.


def test_a_bridge_under_a_plan_is_scored_as_in_one_forward_pass_under_it(bridge: TransformerBridge) -> None:
    with apply_plan(bridge, plan_heads(bridge, TREATMENTS)):
        found, expected = score(bridge, PROMPT, CONTINUATION), in_one_pass(bridge)
    close(found, expected)
    assert (expected - in_one_pass(bridge)).abs().max() > 0.1


def test_a_llama_under_a_plan_is_scored_as_in_one_forward_pass_under_it() -> None:
    model = bridge_of(tiny_llama())
    with apply_plan(model, plan_heads(model, TREATMENTS)):
        found, expected = score(model, PROMPT, CONTINUATION), in_one_pass(model)
    close(found, expected)
    assert (expected - in_one_pass(model)).abs().max() > 0.1


def test_the_packaged_model_under_a_plan_is_scored_as_in_one_forward_pass_under_it(demo: TransformerBridge) -> None:
    with apply_plan(demo, plan_heads(demo, {"L1H7": "zero", "L0H1": "window:4", "L2H3": "window:30+0"})):
        close(score(demo, PROMPT, CONTINUATION), in_one_pass(demo))


def test_windows_hold_for_a_continuation_of_one_token(bridge: TransformerBridge) -> None:
    with apply_plan(bridge, plan_heads(bridge, TREATMENTS)):
        close(score(bridge, PROMPT, CONTINUATION[:, :1]), in_one_pass(bridge, PROMPT, CONTINUATION[:, :1]))


def test_after_the_plan_the_score_is_what_it_was(bridge: TransformerBridge) -> None:
    before = score(bridge, PROMPT, CONTINUATION)
    with apply_plan(bridge, plan_heads(bridge, TREATMENTS)):
        score(bridge, PROMPT, CONTINUATION)
    assert torch.equal(score(bridge, PROMPT, CONTINUATION).log_probabilities, before.log_probabilities)


def test_a_plain_model_without_some_heads_is_scored_as_its_bridge(bridge: TransformerBridge) -> None:
    plain = PlainModel(tiny_neox(), "planted")
    plan = plan_heads(bridge, {"L0H2": "zero", "L1H3": "zero"})
    with apply_plan(bridge, plan):
        expected = in_one_pass(bridge)
    with apply_plan(plain, plan):
        close(score(plain, PROMPT, CONTINUATION), expected)


@pytest.mark.parametrize("length", [1, 15])
def test_plain_models_under_a_plan_are_scored_as_a_bridge_under_it(
    bridge: TransformerBridge, demo: TransformerBridge, plain_demo: PlainModel, length: int
) -> None:
    rest = CONTINUATION[:, :length]
    for one, plain in ((bridge, PlainModel(tiny_neox(), "planted")), (demo, plain_demo)):  # eager, sdpa
        plan = plan_heads(one, TREATMENTS)
        with apply_plan(one, plan):
            expected = in_one_pass(one, PROMPT, rest)
        with apply_plan(plain, plan):
            close(score(plain, PROMPT, rest), expected)
