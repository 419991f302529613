"""Two models on the same tokens."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from measure_oracles import Told, draw, draw_tokens, planted
from measure_reference import MEASURES, assert_comparison, textbook_comparison
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from headspec.intervene.ablate import apply_plan
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows
from headspec.measure.compare import Comparison, compare, compare_logits, joined
from headspec.measure.texts import ScoredText
from headspec.plan.make import plan_heads


def one_query(before: list[float], after: list[float], target: int) -> Comparison:
    p, q = (torch.tensor([[probabilities]]).log() for probabilities in (before, after))
    return compare_logits(p, q, torch.tensor([[target]]))


# Worked by hand.


def test_loss_is_minus_the_log_of_the_targets_probability() -> None:
    found = one_query([0.5, 0.5], [0.25, 0.75], target=0)
    assert found.loss_original == pytest.approx(math.log(2))
    assert found.loss == pytest.approx(math.log(4))


def test_kl_is_from_the_original_to_the_treated() -> None:
    found = one_query([0.5, 0.5], [0.25, 0.75], target=0)
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))  # the other way round it is 0.1308


def test_kl_does_not_depend_on_the_target() -> None:
    kls = [one_query([0.2, 0.8], [0.6, 0.4], target).kl.item() for target in (0, 1)]
    assert kls[0] == kls[1]


def test_models_agree_where_they_find_the_same_token_most_likely() -> None:
    assert one_query([0.1, 0.9], [0.4, 0.6], target=0).top1_agreement == 1
    assert one_query([0.1, 0.9], [0.6, 0.4], target=0).top1_agreement == 0


def test_a_model_is_right_where_the_target_is_most_likely() -> None:
    found = one_query([0.1, 0.9], [0.6, 0.4], target=0)
    assert (found.accuracy_original, found.accuracy) == (0, 1)


def test_a_window_counts_as_the_mean_of_its_queries() -> None:
    p = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]).log()
    found = compare_logits(p, p, torch.tensor([[0, 0]]))
    assert found.loss == pytest.approx((math.log(2) + math.log(4)) / 2)


# Against the textbook.


@pytest.mark.parametrize("first", [0, 7, 18])
def test_planted_logits_give_the_textbooks_figures(first: int) -> None:
    tokens, before, after = draw_tokens(4, 20, 11), draw(4, 20, 11), draw(4, 20, 11, seed=1)
    assert_comparison(planted(before, after, tokens, first), textbook_comparison(before, after, tokens, first))


@pytest.mark.parametrize("length", [257, 258, 600])
def test_windows_of_more_queries_than_are_in_memory_together_give_the_textbooks_figures(length: int) -> None:
    tokens, before, after = draw_tokens(2, length, 5), draw(2, length, 5), draw(2, length, 5, seed=1)
    assert_comparison(planted(before, after, tokens), textbook_comparison(before, after, tokens))


def test_peaked_and_flat_distributions_give_the_textbooks_figures() -> None:
    tokens, before, after = (
        draw_tokens(2, 20, 50),
        draw(2, 20, 50, spread=30),
        draw(2, 20, 50, seed=1, spread=0.01),
    )
    assert_comparison(planted(before, after, tokens), textbook_comparison(before, after, tokens))


def test_every_measure_has_one_number_a_window() -> None:
    found = planted(draw(4, 20, 11), draw(4, 20, 11, seed=1), draw_tokens(4, 20, 11))
    assert [field.name for field in fields(Comparison)] == list(MEASURES)
    assert {getattr(found, name).shape for name in MEASURES} == {(4,)}


def test_predictions_before_the_first_and_after_the_last_query_do_not_count() -> None:
    tokens, before, after = draw_tokens(2, 20, 11), draw(2, 20, 11), draw(2, 20, 11, seed=1)
    others = after.clone()
    others[:, :7], others[:, -1] = 99, -99
    one, other = planted(before, after, tokens, 7), planted(before, others, tokens, 7)
    for name in MEASURES:
        assert (getattr(one, name) == getattr(other, name)).all()


def test_the_first_query_that_counts_does_count() -> None:
    tokens, before, after = draw_tokens(2, 20, 11), draw(2, 20, 11), draw(2, 20, 11, seed=1)
    others = after.clone()
    others[:, 7] = draw(2, 11, seed=5)
    assert (planted(before, after, tokens, 7).kl != planted(before, others, tokens, 7).kl).all()


# Equal models.


def test_identical_logits_have_no_divergence_at_all() -> None:
    logits = draw(3, 40, 200, spread=10)
    found = planted(logits, logits.clone(), draw_tokens(3, 40, 200))
    assert found.kl.tolist() == [0] * 3
    assert found.top1_agreement.tolist() == [1] * 3
    assert (found.loss == found.loss_original).all()
    assert (found.accuracy == found.accuracy_original).all()


def test_a_real_model_has_no_divergence_from_itself(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    found = compare(tiny_plain, tiny_plain, ScoredText(tiny_ids, 0, ""))
    assert found.kl.tolist() == [0] * 3
    assert found.top1_agreement.tolist() == [1] * 3


def test_logits_that_are_all_larger_by_the_same_are_the_same() -> None:
    logits, tokens = draw(3, 40, 200), draw_tokens(3, 40, 200)
    found = planted(logits, logits + 100, tokens)
    assert_comparison(found, textbook_comparison(logits, logits, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [1e-6, 1e-5, 1e-4])
def test_kl_of_nearly_equal_models_is_not_negative_beyond_rounding(step: float) -> None:
    logits = draw(8, 40, 1024)
    found = planted(logits, logits + step * draw(8, 40, 1024, seed=1), draw_tokens(8, 40, 1024))
    assert found.kl.min() > -1e-6


# One window at a time.


def test_models_are_given_one_window_at_a_time() -> None:
    tokens = draw_tokens(4, 20, 11)
    original, treated = Told(tokens, draw(4, 20, 11)), Told(tokens, draw(4, 20, 11, seed=1))
    compare(original, treated, ScoredText(tokens, 0, ""))
    assert original.seen == treated.seen == [(1, 20)] * 4


def test_a_windows_figures_do_not_depend_on_the_other_windows() -> None:
    tokens, before, after = draw_tokens(4, 20, 11), draw(4, 20, 11), draw(4, 20, 11, seed=1)
    together, alone = planted(before, after, tokens), planted(before[2:3], after[2:3], tokens[2:3])
    for name in MEASURES:
        assert getattr(together, name)[2] == getattr(alone, name)[0]


def test_a_broken_window_leaves_the_others_alone() -> None:
    tokens, before, after = draw_tokens(4, 20, 11), draw(4, 20, 11), draw(4, 20, 11, seed=1)
    after[1] = math.nan
    assert np.isnan(planted(before, after, tokens).kl).tolist() == [False, True, False, False]


def test_step_is_called_after_every_window() -> None:
    tokens, steps = draw_tokens(4, 20, 11), []
    model = Told(tokens, draw(4, 20, 11))
    compare(model, model, ScoredText(tokens, 0, ""), lambda: steps.append(len(model.seen)))
    assert steps == [2, 4, 6, 8]


def test_no_gradients_are_kept() -> None:
    tokens = draw_tokens(2, 20, 11)
    model = Told(tokens, draw(2, 20, 11).requires_grad_())
    compare(model, model, ScoredText(tokens, 0, ""))
    assert not model.grad_was_on


def test_joined_comparisons_are_the_windows_of_all() -> None:
    tokens, before, after = draw_tokens(4, 20, 11), draw(4, 20, 11), draw(4, 20, 11, seed=1)
    parts = [planted(before[piece], after[piece], tokens[piece]) for piece in (slice(0, 1), slice(1, 4))]
    assert_comparison(joined(parts), vars(planted(before, after, tokens)), rtol=0, atol=0)


def test_variants_are_joined_along_the_windows() -> None:
    one, other = (Comparison(*np.full((6, 3, windows), float(windows))) for windows in (2, 5))
    assert joined([one, other]).kl.tolist() == [[2] * 2 + [5] * 5] * 3


# Real models.


def test_a_bridge_and_a_plain_model_give_the_same_figures(
    demo: TransformerBridge, plain_demo: PlainModel, certify: TokenWindows
) -> None:
    text = ScoredText(certify.tokens[:3], 5, "")
    plan = plan_heads(demo, {"L1H7": "zero", "L2H3": "window:8"})
    found = []
    for model in (demo, plain_demo):

        def treated(window: Tensor, model: TransformerBridge | PlainModel = model) -> Tensor:
            with apply_plan(model, plan):
                return model(window)

        found.append(compare(model, treated, text))
    assert found[0].kl.min() > 0.01
    assert_comparison(found[0], vars(found[1]), rtol=0, atol=1e-5)


def test_a_bridge_and_a_plain_model_are_the_same_model(
    demo: TransformerBridge, plain_demo: PlainModel, certify: TokenWindows
) -> None:
    found = compare(demo, plain_demo, ScoredText(certify.tokens[:2], 0, ""))
    assert np.abs(found.kl).max() < 1e-5
    assert (found.top1_agreement == 1).all()


def test_a_real_models_figures_are_the_textbooks(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    def flatter(window: Tensor) -> Tensor:
        return tiny_plain(window) / 2

    with torch.no_grad():
        before = tiny_plain(tiny_ids)
    found = compare(tiny_plain, flatter, ScoredText(tiny_ids, 3, ""))
    assert_comparison(found, textbook_comparison(before, before / 2, tiny_ids, 3))
