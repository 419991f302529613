"""Loss, KL and top-1 from hidden states: by hand, and as the textbook has them from logits in float64."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from headspec.measure import readout
from headspec.measure.compare import Comparison, compare_logits
from headspec.measure.readout import Readout
from headspec.measure.texts import ScoredText

D_MODEL, WORDS = 12, 40
ALL = slice(0, None)
NAMES = ("loss_original", "loss", "kl", "top1_agreement", "accuracy_original", "accuracy")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def drawn(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    made.weight.copy_(weight)
    if bias is not None:
        made.bias.copy_(bias)
    return made


def random_linear(bias: bool = False, seed: int = 7) -> nn.Linear:
    return linear(drawn(WORDS, D_MODEL, seed=seed), drawn(WORDS, seed=seed + 1, spread=3) if bias else None)


def a_text(n_windows: int, n_tokens: int, first: int = 0, words: int = WORDS) -> ScoredText:
    tokens = torch.randint(words, (n_windows, n_tokens), generator=torch.Generator().manual_seed(2))
    return ScoredText(tokens, first, "random")


def textbook(unembedding: nn.Linear, text: ScoredText, before: Tensor, after: Tensor) -> dict[str, np.ndarray]:
    """`[..., window]` each, with every distribution written out in float64."""
    weight, bias = unembedding.weight.double(), unembedding.bias
    logits = [h[..., text.first : -1, :].double() @ weight.T + (0 if bias is None else bias) for h in (before, after)]
    p, q = (each.log_softmax(-1).expand(logits[1].shape) for each in logits)
    targets = text.tokens[:, text.first + 1 :].expand(q.shape[:-1])
    measures = (
        -p.gather(-1, targets[..., None])[..., 0], -q.gather(-1, targets[..., None])[..., 0],
        (p.exp() * (p - q)).sum(-1), p.argmax(-1) == q.argmax(-1), p.argmax(-1) == targets, q.argmax(-1) == targets,
    )  # fmt: skip
    return {name: measure.double().mean(-1).numpy() for name, measure in zip(NAMES, measures, strict=True)}


def assert_equal(found: Comparison, expected: dict[str, np.ndarray], atol: float = 1e-5) -> None:
    for name in NAMES:
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-5, atol=atol, err_msg=name)


# By hand: two words with logits h and 0.


def two_words(original: float, variant: float, target: int) -> Comparison:
    text = ScoredText(torch.tensor([[0, target]]), 0, "two words")
    hidden = torch.tensor([[[original], [5.0]]])
    compared = Readout(linear(torch.tensor([[1.0], [0.0]])), text, hidden)
    return compared.compare(torch.tensor([[[variant], [-5.0]]]), ALL)


def test_a_variant_that_is_three_to_one_sure_has_the_divergence_worked_out_by_hand() -> None:
    assert two_words(0.0, math.log(3), 0).kl.item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)


def test_loss_is_the_negative_log_probability_of_the_token_that_comes() -> None:
    likely, unlikely = two_words(0.0, math.log(3), 0), two_words(0.0, math.log(3), 1)
    assert likely.loss_original.item() == pytest.approx(math.log(2), abs=1e-7)
    assert likely.loss.item() == pytest.approx(math.log(4 / 3), abs=1e-7)
    assert unlikely.loss.item() == pytest.approx(math.log(4), abs=1e-7)


def test_the_most_likely_word_is_compared_with_the_originals_and_with_the_token_that_comes() -> None:
    same, other = two_words(1.0, 2.0, 0), two_words(1.0, -2.0, 0)
    assert (same.top1_agreement.item(), same.accuracy_original.item(), same.accuracy.item()) == (1, 1, 1)
    assert (other.top1_agreement.item(), other.accuracy_original.item(), other.accuracy.item()) == (0, 1, 0)


def test_an_unembedding_bias_counts() -> None:
    text, hidden = ScoredText(torch.tensor([[0, 1]]), 0, "two words"), torch.zeros(1, 2, 1)
    biased = linear(torch.tensor([[1.0], [0.0]]), torch.tensor([math.log(3), 0.0]))
    assert Readout(biased, text, hidden).compare(hidden, ALL).loss.item() == pytest.approx(math.log(4), abs=1e-7)


# The textbook.


@settings(max_examples=40, deadline=None)
@given(
    bias=st.booleans(),
    n_windows=st.integers(1, 4),
    n_tokens=st.integers(2, 12),
    n_cases=st.none() | st.integers(1, 3),
    at_once=st.integers(1, 20),
    data=st.data(),
)
def test_any_variants_on_any_windows_have_the_textbooks_measures(
    bias: bool, n_windows: int, n_tokens: int, n_cases: int | None, at_once: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, n_tokens - 2), "first")
    start = data.draw(st.integers(0, n_windows - 1), "start")
    windows = slice(start, data.draw(st.integers(start + 1, n_windows + 2), "stop"))
    text, unembedding = a_text(n_windows, n_tokens, first), random_linear(bias)
    hidden, noise = drawn(n_windows, n_tokens, D_MODEL), drawn(n_cases or 1, n_windows, n_tokens, D_MODEL, seed=1)
    variants = (hidden + 0.5 * noise)[:, windows]
    variants = variants[0] if n_cases is None else variants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "QUERIES_AT_ONCE", at_once)
        found = Readout(unembedding, text, hidden).compare(variants, windows)
    some = ScoredText(text.tokens[windows], first, "some")
    assert_equal(found, textbook(unembedding, some, hidden[windows], variants))


@pytest.mark.parametrize("bias", [False, True])
def test_hidden_states_have_the_measures_of_their_logits(bias: bool) -> None:
    text, unembedding = a_text(3, 30, first=4), random_linear(bias)
    before, after = drawn(3, 30, D_MODEL), drawn(3, 30, D_MODEL, seed=1)
    found = Readout(unembedding, text, before).compare(after, ALL)
    expected = compare_logits(unembedding(before)[:, 4:-1], unembedding(after)[:, 4:-1], text.targets)
    assert_equal(found, {name: getattr(expected, name) for name in NAMES})


@pytest.mark.parametrize("spread", [10.0, 1000.0])
@pytest.mark.parametrize("bias", [False, True])
def test_large_logits_neither_overflow_nor_lose_the_divergence(spread: float, bias: bool) -> None:
    text, unembedding = a_text(2, 30), random_linear(bias)
    before, after = (drawn(2, 30, D_MODEL, seed=seed, spread=spread) for seed in (0, 1))
    found = Readout(unembedding, text, before).compare(after, ALL)
    assert_equal(found, textbook(unembedding, text, before, after), atol=1e-6 * spread)


def test_words_far_below_the_likely_ones_do_no_harm() -> None:
    unembedding = linear(drawn(WORDS, D_MODEL), torch.full((WORDS,), -1e4).index_fill(0, torch.tensor([0, 1]), 0.0))
    text, before, after = a_text(2, 20, words=2), drawn(2, 20, D_MODEL, seed=3), drawn(2, 20, D_MODEL, seed=4)
    found = Readout(unembedding, text, before).compare(after, ALL)
    assert_equal(found, textbook(unembedding, text, before, after))


# The same hidden states again.


@pytest.mark.parametrize("at_once", [1, 3, 512])
@pytest.mark.parametrize("n_cases", [1, 3])
def test_the_same_hidden_states_have_no_divergence_however_they_are_batched(
    monkeypatch: pytest.MonkeyPatch, at_once: int, n_cases: int
) -> None:
    hidden = drawn(3, 33, D_MODEL, spread=3)
    again = Readout(random_linear(True), a_text(3, 33), hidden)
    monkeypatch.setattr(readout, "QUERIES_AT_ONCE", at_once)
    found = again.compare(hidden.expand(n_cases, -1, -1, -1)[:, 1:], slice(1, 3))
    assert found.kl.shape == (n_cases, 2)
    assert np.abs(found.kl).max() < 1e-6
    assert (found.top1_agreement == 1).all()
    assert (found.accuracy == found.accuracy_original).all()


def test_the_last_hidden_state_predicts_nothing_that_is_known_and_does_not_count() -> None:
    before, after = drawn(2, 10, D_MODEL), drawn(2, 10, D_MODEL, seed=1)
    compared = Readout(random_linear(), a_text(2, 10), before)
    changed = torch.cat([after[:, :-1], 1e3 + after[:, -1:]], 1)
    np.testing.assert_array_equal(compared.compare(after, ALL).kl, compared.compare(changed, ALL).kl)


def test_hidden_states_before_the_first_query_that_counts_do_not_count() -> None:
    before, after = drawn(2, 10, D_MODEL), drawn(2, 10, D_MODEL, seed=1)
    compared = Readout(random_linear(), a_text(2, 10, first=4), before)
    changed = torch.cat([1e3 + after[:, :4], after[:, 4:]], 1)
    np.testing.assert_array_equal(compared.compare(after, ALL).loss, compared.compare(changed, ALL).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_precision_give_finite_measures_near_those_of_float32(dtype: torch.dtype) -> None:
    text, unembedding = a_text(3, 30), random_linear(True)
    before, after = drawn(3, 30, D_MODEL), drawn(3, 30, D_MODEL, seed=1)
    expected = textbook(unembedding, text, before, after)
    other = Readout(unembedding.to(dtype), text, before.to(dtype)).compare(after.to(dtype), ALL)
    for name in ("loss", "loss_original", "kl"):
        np.testing.assert_allclose(getattr(other, name), expected[name], rtol=0.05, err_msg=name)


def test_a_divergence_in_half_precision_is_zero_for_the_same_hidden_states() -> None:
    hidden = drawn(3, 30, D_MODEL).bfloat16()
    found = Readout(random_linear().bfloat16(), a_text(3, 30), hidden).compare(hidden, ALL)
    assert np.abs(found.kl).max() < 1e-6


def test_every_measure_has_a_number_a_window_of_every_variant_also_those_of_the_original() -> None:
    hidden, variants = drawn(3, 10, D_MODEL), drawn(2, 3, 10, D_MODEL, seed=1)
    found = Readout(random_linear(), a_text(3, 10), hidden).compare(variants, ALL)
    assert {getattr(found, name).shape for name in NAMES} == {(2, 3)}
    assert {getattr(found, name).dtype for name in NAMES} == {np.dtype(np.float64)}
