"""What a comparison takes and refuses: half precision, large and infinite logits, other vocabularies."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measure_oracles import Told, draw, draw_tokens, planted
from measure_reference import MEASURES, assert_comparison, textbook_comparison
from torch import Tensor

from headspec.errors import ModelError
from headspec.load.plain import PlainModel
from headspec.measure.compare import compare, compare_logits
from headspec.measure.texts import ScoredText

# Numbers of all kinds.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_in_half_precision_are_compared_in_float32(dtype: torch.dtype) -> None:
    tokens, before, after = (
        draw_tokens(2, 20, 300),
        draw(2, 20, 300).to(dtype),
        draw(2, 20, 300, seed=1).to(dtype),
    )
    assert_comparison(planted(before, after, tokens), textbook_comparison(before, after, tokens))


def test_models_of_different_precision_can_be_compared() -> None:
    tokens, before, after = draw_tokens(2, 20, 11), draw(2, 20, 11), draw(2, 20, 11).bfloat16()
    assert_comparison(planted(before, after, tokens), textbook_comparison(before, after, tokens))


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_large_logits_give_no_nan(size: float) -> None:
    found = planted(draw(2, 20, 11) * size, draw(2, 20, 11, seed=1) * size, draw_tokens(2, 20, 11))
    for name in MEASURES:
        assert np.isfinite(getattr(found, name)).all()


def test_large_logits_give_the_textbooks_figures() -> None:
    tokens, before, after = (
        draw_tokens(2, 20, 11),
        draw(2, 20, 11, spread=1e4),
        draw(2, 20, 11, seed=1, spread=1e4),
    )
    assert_comparison(planted(before, after, tokens), textbook_comparison(before, after, tokens))


def test_tokens_that_neither_model_can_say_add_nothing_to_the_divergence() -> None:
    p = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    q = torch.tensor([[[0.25, 0.75, 0.0]]]).log()
    found = compare_logits(p, q, torch.tensor([[0]]))
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_a_token_that_the_original_cannot_say_adds_nothing_to_the_divergence() -> None:
    p, q = torch.tensor([[[0.5, 0.5, 0.0]]]).log(), torch.tensor([[[0.25, 0.25, 0.5]]]).log()
    assert compare_logits(p, q, torch.tensor([[0]])).kl == pytest.approx(math.log(2))


def test_a_token_that_only_the_treated_model_cannot_say_is_an_infinite_divergence() -> None:
    p, q = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[1.0, 0.0]]]).log()
    assert compare_logits(p, q, torch.tensor([[0]])).kl == math.inf


# What is refused, what is taken.


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(ModelError, match=r"logits of \(1, 19, 11\) and \(1, 19, 12\): not comparable"):
        planted(draw(2, 20, 11), draw(2, 20, 12), draw_tokens(2, 20, 11))


@pytest.mark.parametrize("answer", [None, "text", ("logits",), SimpleNamespace(hidden=1), SimpleNamespace(logits=None)])
def test_a_model_that_gives_no_logits_is_refused(answer: object) -> None:
    tokens = draw_tokens(2, 20, 11)
    with pytest.raises(ModelError, match="function gave no logits"):
        compare(Told(tokens, draw(2, 20, 11)), lambda window: answer, ScoredText(tokens, 0, ""))


def test_an_original_that_gives_no_logits_is_refused_by_name() -> None:
    tokens = draw_tokens(2, 20, 11)
    with pytest.raises(ModelError, match="Told gave no logits"):
        compare(Told(tokens, draw(2, 21, 11)), Told(tokens, draw(2, 20, 11)), ScoredText(tokens, 0, ""))


def test_logits_of_the_last_token_only_are_refused() -> None:
    tokens = draw_tokens(2, 20, 11)
    with pytest.raises(ModelError, match="gave no logits"):
        planted(draw(2, 20, 11), draw(2, 1, 11), tokens)


def test_one_number_a_token_is_no_logits() -> None:
    tokens = draw_tokens(2, 20, 11)
    with pytest.raises(ModelError, match="gave no logits"):
        compare(lambda window: torch.zeros(window.shape), Told(tokens, draw(2, 20, 11)), ScoredText(tokens, 0, ""))


def test_outputs_that_have_logits_will_do() -> None:
    tokens, before, after = draw_tokens(2, 20, 11), draw(2, 20, 11), draw(2, 20, 11, seed=1)
    told = Told(tokens, after)
    found = compare(
        Told(tokens, before), lambda window: SimpleNamespace(logits=told(window)), ScoredText(tokens, 0, "")
    )
    assert_comparison(found, vars(planted(before, after, tokens)), rtol=0, atol=0)


def test_a_hugging_face_model_is_compared_as_its_plain_model(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    found = compare(tiny_plain, tiny_plain.huggingface, ScoredText(tiny_ids, 0, ""))
    assert found.kl.max() < 1e-6
    np.testing.assert_allclose(found.loss, found.loss_original, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_windows_of_either_integer_type_are_compared(
    tiny_plain: PlainModel, tiny_ids: Tensor, dtype: torch.dtype
) -> None:
    found = compare(tiny_plain, tiny_plain, ScoredText(tiny_ids.to(dtype), 0, ""))
    expected = compare(tiny_plain, tiny_plain, ScoredText(tiny_ids, 0, ""))
    assert (found.loss == expected.loss).all()
