"""Comparing hidden states gives what comparing their logits gives."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from measure_reference import MEASURES, assert_comparison, textbook_comparison
from torch import Tensor, nn

from headspec.measure.compare import Comparison, compare_logits
from headspec.measure.readout import Readout
from headspec.measure.texts import ScoredText

D_MODEL, D_VOCAB = 16, 50


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def draw(*shape: int, seed: int = 0, spread: float = 1) -> Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unembedding_of(bias: bool) -> nn.Linear:
    linear = nn.Linear(D_MODEL, D_VOCAB, bias=bias)
    linear.weight.copy_(draw(D_VOCAB, D_MODEL, seed=3))
    if bias:
        linear.bias.copy_(draw(D_VOCAB, seed=4, spread=2))
    return linear


def text_of(n_windows: int, length: int, first: int = 0) -> ScoredText:
    generator = torch.Generator().manual_seed(9)
    return ScoredText(torch.randint(0, D_VOCAB, (n_windows, length), generator=generator), first, "random")


def whole(text: ScoredText) -> slice:
    return slice(0, len(text.tokens))


def through_logits(unembedding: nn.Linear, text: ScoredText, hidden: Tensor, other: Tensor) -> Comparison:
    before, after = (unembedding(h)[:, text.first : -1] for h in (hidden, other))
    return compare_logits(before, after, text.targets)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("first", [0, 5])
def test_hidden_states_give_the_textbooks_figures(bias: bool, first: int) -> None:
    text, hidden, other = text_of(3, 20, first), draw(3, 20, D_MODEL), draw(3, 20, D_MODEL, seed=1)
    unembedding = unembedding_of(bias)
    found = Readout(unembedding, text, hidden).compare(other, whole(text))
    expected = textbook_comparison(unembedding(hidden), unembedding(other), text.tokens, first)
    assert_comparison(found, expected)


def test_more_queries_than_are_unembedded_together_give_the_same_as_their_logits() -> None:
    text, hidden, other = text_of(3, 400), draw(3, 400, D_MODEL), draw(3, 400, D_MODEL, seed=1)
    unembedding = unembedding_of(bias=True)
    found = Readout(unembedding, text, hidden).compare(other, whole(text))
    assert_comparison(found, vars(through_logits(unembedding, text, hidden, other)))


def test_several_variants_are_compared_as_each_alone() -> None:
    text, hidden, variants = text_of(3, 20, 4), draw(3, 20, D_MODEL), draw(2, 5, 3, 20, D_MODEL, seed=1)
    readout = Readout(unembedding_of(bias=False), text, hidden)
    together = readout.compare(variants, whole(text))
    for name in MEASURES:
        assert getattr(together, name).shape == (2, 5, 3)
    alone = readout.compare(variants[1, 3], whole(text))
    assert_comparison(alone, {name: getattr(together, name)[1, 3] for name in MEASURES})


def test_some_windows_are_compared_as_those_windows_of_all() -> None:
    text, hidden, other = text_of(5, 20, 4), draw(5, 20, D_MODEL), draw(5, 20, D_MODEL, seed=1)
    readout = Readout(unembedding_of(bias=False), text, hidden)
    all_of_them, some = readout.compare(other, slice(0, 5)), readout.compare(other[2:4], slice(2, 4))
    assert_comparison(some, {name: getattr(all_of_them, name)[2:4] for name in MEASURES})


def test_the_originals_own_hidden_states_have_no_divergence_at_all() -> None:
    text, hidden = text_of(3, 20), draw(3, 20, D_MODEL, spread=10)
    found = Readout(unembedding_of(bias=True), text, hidden).compare(hidden, whole(text))
    assert found.kl.tolist() == [0] * 3
    assert found.top1_agreement.tolist() == [1] * 3
    assert (found.loss == found.loss_original).all()


@pytest.mark.parametrize("step", [1e-5, 1e-3])
def test_a_small_divergence_is_not_lost_in_rounding(step: float) -> None:
    text, hidden = text_of(3, 40), draw(3, 40, D_MODEL).double()
    other, unembedding = hidden + step * draw(3, 40, D_MODEL, seed=1), unembedding_of(bias=False)
    found = Readout(unembedding, text, hidden.float()).compare(other.float(), whole(text))
    exact = unembedding_of(bias=False).double()
    expected = textbook_comparison(exact(hidden), exact(other), text.tokens)
    np.testing.assert_allclose(found.kl, expected["kl"], rtol=0.05, atol=1e-6)


def test_large_logits_give_the_textbooks_figures() -> None:
    text, hidden, other = text_of(3, 20), draw(3, 20, D_MODEL, spread=2e3), draw(3, 20, D_MODEL, seed=1, spread=2e3)
    unembedding = unembedding_of(bias=False)
    found = Readout(unembedding, text, hidden).compare(other, whole(text))
    assert_comparison(found, textbook_comparison(unembedding(hidden), unembedding(other), text.tokens), atol=0.01)


def test_hidden_states_are_left_alone() -> None:
    text, hidden, other = text_of(3, 20), draw(3, 20, D_MODEL), draw(3, 20, D_MODEL, seed=1)
    Readout(unembedding_of(bias=False), text, hidden).compare(other, whole(text))
    assert torch.equal(hidden, draw(3, 20, D_MODEL))
    assert torch.equal(other, draw(3, 20, D_MODEL, seed=1))


def test_hidden_states_in_bfloat16_give_about_the_same_as_their_logits() -> None:
    text, hidden, other = text_of(3, 20), draw(3, 20, D_MODEL).bfloat16(), draw(3, 20, D_MODEL, seed=1).bfloat16()
    unembedding = unembedding_of(bias=False).bfloat16()
    found = Readout(unembedding, text, hidden).compare(other, whole(text))
    assert_comparison(found, vars(through_logits(unembedding, text, hidden, other)), rtol=0.02, atol=0.02)
