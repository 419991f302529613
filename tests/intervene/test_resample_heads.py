"""Resampling replaces the z of chosen heads by draws from a bank, and nothing else; it is seeded and undone."""

from typing import Any

import numpy as np
import pytest
import torch
from plan_references import HEADS, Treatable, installed, logits, random_ids
from torch import Tensor

from headspec.errors import HeadspecError, TextError
from headspec.heads import HeadId
from headspec.intervene.ablate import apply_plan
from headspec.intervene.resample import resample_heads
from headspec.load.text import TokenWindows

TOKENS, BANK = random_ids(2, 40, seed=0), random_ids(3, 30, seed=1)
LONG = TOKENS.repeat(8, 1)


def resampled(model: Treatable, heads: list[str], seed: int = 0, tokens: Tensor = TOKENS, bank: Any = BANK) -> Tensor:
    with resample_heads(model.bridge, heads, bank, seed):
        return logits(model.bridge, tokens)


def z_of(model: Treatable, tokens: Tensor) -> dict[int, Tensor]:
    """`[row, query, head, d_head]` of both layers."""
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(tokens)
    return {layer: cache[f"blocks.{layer}.attn.hook_z"] for layer in range(2)}


def places(drawn: Tensor, bank: Tensor) -> list[int]:
    """Where in a bank `[row, query, d_head]` each drawn vector stands, -1 if nowhere."""
    kept = {vector.numpy().tobytes(): number for number, vector in enumerate(bank.flatten(0, 1))}
    return [kept.get(vector.numpy().tobytes(), -1) for vector in drawn.flatten(0, 1)]


# What is drawn.


def test_the_values_come_from_the_bank(each: Treatable) -> None:
    bank = torch.cat([z_of(each, row[None])[0] for row in BANK])
    with resample_heads(each.bridge, ["L0H1", "L0H3"], BANK):
        drawn = z_of(each, TOKENS)[0]
    for head in (1, 3):
        assert -1 not in places(drawn[:, :, head], bank[:, :, head])


def test_a_head_draws_from_its_own_values(each: Treatable) -> None:
    bank = torch.cat([z_of(each, row[None])[0] for row in BANK])
    with resample_heads(each.bridge, ["L0H1", "L0H3"], BANK):
        drawn = z_of(each, TOKENS)[0]
    assert set(places(drawn[:, :, 1], bank[:, :, 3])) == {-1}


def test_a_head_of_a_later_layer_draws_from_what_it_wrote_in_the_model_as_it_was(each: Treatable) -> None:
    bank = torch.cat([z_of(each, row[None])[1] for row in BANK])
    with resample_heads(each.bridge, ["L0H1", "L1H2"], BANK):
        drawn = z_of(each, TOKENS)[1]
    assert -1 not in places(drawn[:, :, 2], bank[:, :, 2])


def test_every_place_of_the_bank_is_drawn_about_as_often(neox: Treatable) -> None:
    bank = torch.cat([z_of(neox, row[None])[0] for row in BANK])
    with resample_heads(neox.bridge, ["L0H1"], BANK):
        drawn = z_of(neox, LONG)[0]
    counts = np.bincount(places(drawn[:, :, 1], bank[:, :, 1]), minlength=90)
    assert counts.sum() == 640
    assert counts.min() >= 1
    assert counts.max() <= 20


def test_every_query_and_row_has_a_draw_of_its_own(neox: Treatable) -> None:
    bank = torch.cat([z_of(neox, row[None])[0] for row in BANK])
    with resample_heads(neox.bridge, ["L0H1"], BANK):
        drawn = z_of(neox, TOKENS)[0][:, :, 1]
    assert len({*places(drawn[:1], bank[:, :, 1])}) > 20
    assert places(drawn[:1], bank[:, :, 1]) != places(drawn[1:], bank[:, :, 1])


def test_two_heads_of_a_layer_do_not_draw_the_same_places(neox: Treatable) -> None:
    bank = torch.cat([z_of(neox, row[None])[0] for row in BANK])
    with resample_heads(neox.bridge, ["L0H1", "L0H2"], BANK):
        drawn = z_of(neox, TOKENS)[0]
    assert places(drawn[:, :, 1], bank[:, :, 1]) != places(drawn[:, :, 2], bank[:, :, 2])


def test_from_a_bank_of_one_repeated_token_without_context_there_is_one_value_to_draw(neox: Treatable) -> None:
    plan = neox.plan(dict.fromkeys(HEADS, "window:1+0"))  # each token is read by itself
    with apply_plan(neox.bridge, plan), resample_heads(neox.bridge, ["L0H1"], torch.full((1, 20), 7)):
        drawn = z_of(neox, TOKENS)[0][:, :, 1]
    torch.testing.assert_close(drawn, drawn[:1, :1].expand_as(drawn), rtol=0, atol=1e-6)


def test_the_bank_is_filled_with_whatever_else_is_hooked_in_force(neox: Treatable) -> None:
    with apply_plan(neox.bridge, neox.plan({"L0H0": "random", "L0H2": "zero"})):
        bank = torch.cat([z_of(neox, row[None])[1] for row in BANK])
        with resample_heads(neox.bridge, ["L1H2"], BANK):
            drawn = z_of(neox, TOKENS)[1]
    assert -1 not in places(drawn[:, :, 2], bank[:, :, 2])


# What else changes.


def test_only_the_chosen_heads_change(each: Treatable) -> None:
    before = z_of(each, TOKENS)
    with resample_heads(each.bridge, ["L1H2", "L1H0"], BANK):
        after = z_of(each, TOKENS)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1][:, :, [1, 3]], before[1][:, :, [1, 3]])
    assert not (after[1][:, :, [0, 2]] == before[1][:, :, [0, 2]]).all(-1).any()


def test_resampling_changes_what_the_model_says(each: Treatable) -> None:
    assert not torch.allclose(resampled(each, ["L0H1"]), logits(each.bridge, TOKENS), atol=1e-3)


def test_no_heads_change_nothing(neox: Treatable) -> None:
    assert torch.equal(resampled(neox, []), logits(neox.bridge, TOKENS))


def test_after_the_block_the_model_is_what_it_was(each: Treatable) -> None:
    before, hooks = logits(each.bridge, TOKENS), installed(each.bridge)
    resampled(each, ["L0H1", "L1H2"])
    assert torch.equal(logits(each.bridge, TOKENS), before)
    assert installed(each.bridge) == hooks


def test_after_an_error_in_the_block_the_model_is_what_it_was(neox: Treatable) -> None:
    before, hooks = logits(neox.bridge, TOKENS), installed(neox.bridge)
    with pytest.raises(KeyboardInterrupt, match="in the middle"), resample_heads(neox.bridge, ["L0H1"], BANK):
        raise KeyboardInterrupt("in the middle")
    assert torch.equal(logits(neox.bridge, TOKENS), before)
    assert installed(neox.bridge) == hooks


def test_the_block_hands_out_the_model(neox: Treatable) -> None:
    with resample_heads(neox.bridge, ["L0H1"], BANK) as handed:
        assert handed is neox.bridge


def test_a_head_that_is_removed_outside_is_resampled_inside_as_the_constant_it_is(neox: Treatable) -> None:
    with apply_plan(neox.bridge, neox.plan({"L0H1": "random"})):
        expected = logits(neox.bridge, TOKENS)
        assert torch.equal(resampled(neox, ["L0H1"]), expected)


def test_a_plan_inside_counts_for_the_heads_it_removes(neox: Treatable) -> None:
    plan = neox.plan({"L0H1": "random"})
    with apply_plan(neox.bridge, plan):
        expected = logits(neox.bridge, TOKENS)
    with resample_heads(neox.bridge, ["L0H1"], BANK), apply_plan(neox.bridge, plan):
        assert torch.equal(logits(neox.bridge, TOKENS), expected)


# The seed.


def test_one_seed_draws_the_same(each: Treatable) -> None:
    assert torch.equal(resampled(each, ["L0H1", "L1H2"], seed=3), resampled(each, ["L0H1", "L1H2"], seed=3))


def test_two_seeds_draw_differently(each: Treatable) -> None:
    assert not torch.allclose(resampled(each, ["L0H1"], seed=0), resampled(each, ["L0H1"], seed=1), atol=1e-3)


def test_how_the_heads_are_listed_does_not_matter(neox: Treatable) -> None:
    first = resampled(neox, ["L1H2", "L0H1", "L0H3"])
    with resample_heads(neox.bridge, [HeadId(0, 3), "0.1", "L1H2", "l0h1"], BANK):
        assert torch.equal(logits(neox.bridge, TOKENS), first)


def test_every_call_goes_on_in_the_same_random_sequence(neox: Treatable) -> None:
    runs = []
    for _ in range(2):
        with resample_heads(neox.bridge, ["L0H1"], BANK, seed=4):
            runs.append([logits(neox.bridge, TOKENS) for _ in range(2)])
    assert not torch.allclose(*runs[0], atol=1e-3)
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_the_global_random_state_is_left_alone(neox: Treatable) -> None:
    before = torch.random.get_rng_state()
    resampled(neox, ["L0H1"])
    assert torch.equal(torch.random.get_rng_state(), before)


# What can be drawn from, and what is refused.


@pytest.mark.parametrize(
    "bank", [BANK, BANK.tolist(), BANK.numpy(), TokenWindows(BANK, "bank")], ids=["tensor", "list", "array", "windows"]
)
def test_the_bank_may_come_in_any_form(neox: Treatable, bank: Any) -> None:
    assert torch.equal(resampled(neox, ["L0H1"], bank=bank), resampled(neox, ["L0H1"]))


@pytest.mark.parametrize(("head", "reason"), [("L9H3", "unknown heads L9H3"), ("third", "'third' is not a head")])
def test_an_impossible_head_is_refused_and_nothing_hooked(neox: Treatable, head: str, reason: str) -> None:
    hooks = installed(neox.bridge)
    with pytest.raises(HeadspecError, match=reason), resample_heads(neox.bridge, ["L0H1", head], BANK):
        pass
    assert installed(neox.bridge) == hooks


@pytest.mark.parametrize("bank", [torch.zeros(2, 3, dtype=torch.int64), torch.full((1, 30), 10**6), torch.rand(2, 30)],
                         ids=["short", "unknown ids", "no ids"])  # fmt: skip
def test_a_bank_that_cannot_be_read_is_refused_and_nothing_hooked(neox: Treatable, bank: Tensor) -> None:
    hooks = installed(neox.bridge)
    with pytest.raises(TextError, match=r"tokens|token ids"), resample_heads(neox.bridge, ["L0H1"], bank):
        pass
    assert installed(neox.bridge) == hooks


def test_a_plain_model_is_refused_clearly(neox: Treatable) -> None:
    with pytest.raises(HeadspecError, match="load_model"), resample_heads(neox.plain, ["L0H1"], BANK):
        pass
