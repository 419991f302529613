"""Budgets: which are refused, and which plans they let through. Plans are points made of numbers."""

import json
import math

import pytest
from sweep_makers import plain, plan_of

from headspec.errors import HeadspecError
from headspec.measure.estimate import Estimate
from headspec.search.budget import Budget
from headspec.search.point import Point

NAN = math.nan


def exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def point(
    kl: Estimate | float = 0.0, ppl: Estimate | float = 0.0, kept: Estimate | None = None, **treatments: str
) -> Point:
    return Point(
        plan_of(plain(), treatments),
        kl if isinstance(kl, Estimate) else exactly(kl),
        ppl if isinstance(ppl, Estimate) else exactly(ppl),
        None, None, kept,
    )  # fmt: skip


# Refused


def test_a_budget_without_a_limit_is_refused() -> None:
    with pytest.raises(HeadspecError, match="a budget needs a limit: max_kl, max_ppl_increase or max_kv_share"):
        Budget()


def test_induction_alone_is_no_limit() -> None:
    with pytest.raises(HeadspecError, match="a budget needs a limit"):
        Budget(min_induction_kept=0.5)


@pytest.mark.parametrize("name", ["max_kl", "max_ppl_increase", "max_kv_share", "min_induction_kept"])
@pytest.mark.parametrize("value", [-0.01, NAN])
def test_negative_limits_and_nan_are_refused(name: str, value: float) -> None:
    with pytest.raises(HeadspecError, match=f"{name} is a limit of 0 or more"):
        Budget(**{"max_kl": 1.0, name: value})


@pytest.mark.parametrize("name", ["max_kv_share", "min_induction_kept"])
@pytest.mark.parametrize("value", [1.01, 25.0, math.inf])
def test_shares_beyond_one_are_refused(name: str, value: float) -> None:
    with pytest.raises(HeadspecError, match=rf"{name} is a share in \[0, 1\]"):
        Budget(**{"max_kl": 1.0, name: value})


def test_a_limit_that_no_certificate_could_hold_is_refused() -> None:
    with pytest.raises(HeadspecError, match="max_kl"):
        Budget(max_kl=math.inf)


def test_shares_of_one_and_damage_of_zero_are_limits() -> None:
    assert Budget(max_kl=0.0, max_kv_share=1.0, min_induction_kept=1.0).limits_damage


def test_only_damage_limits_damage() -> None:
    assert Budget(max_ppl_increase=0.1).limits_damage
    assert not Budget(max_kv_share=0.5).limits_damage


# Kept and broken


def test_a_plan_on_the_limit_keeps_it() -> None:
    assert Budget(max_kl=0.1, max_ppl_increase=0.2).broken(point(0.1, 0.2)) == []


def test_the_bad_end_of_the_interval_counts() -> None:
    budget = Budget(max_kl=0.1)
    assert budget.broken(point(Estimate(0.05, 0.01, 0.12))) == ["KL up to 0.12 > 0.1"]
    assert budget.broken(point(Estimate(0.05, 0.01, 0.09))) == []


def test_every_broken_limit_has_its_words() -> None:
    words = Budget(max_kl=0.1, max_ppl_increase=0.02, max_kv_share=0.5).broken(
        point(0.3, 0.051, Estimate(0.8, 0.75, 0.85))
    )
    assert words == [
        "KL up to 0.3 > 0.1",
        "perplexity increase up to 0.051 > 0.02",
        "induction kept down to 0.750 < 0.9",
        "KV share 1.000 > 0.5",
    ]


def test_by_hand_the_size_of_a_plan_is_held_against_the_share() -> None:
    half = {f"L0H{head}": "zero" for head in range(4)}
    assert Budget(max_kv_share=0.5).broken(point(9.0, **half)) == []
    assert Budget(max_kv_share=0.49).broken(point(9.0, **half)) == ["KV share 0.500 > 0.49"]


def test_size_is_no_damage() -> None:
    assert Budget(max_kl=0.1, max_kv_share=0.5).damage_broken(point()) == []


def test_lost_induction_breaks_a_budget_of_damage() -> None:
    lost = point(kept=Estimate(0.95, 0.89, 1.0))
    assert Budget(max_kl=1.0).broken(lost) == ["induction kept down to 0.890 < 0.9"]
    assert Budget(max_kl=1.0, min_induction_kept=0.89).broken(lost) == []


def test_induction_is_not_judged_where_only_size_is_limited() -> None:
    assert Budget(max_kv_share=1.0).broken(point(kept=exactly(0.0))) == []


def test_induction_is_not_judged_where_the_original_can_hardly_do_it() -> None:
    assert Budget(max_kl=1.0).broken(point(kept=None)) == []


# One window gives no interval


@pytest.mark.parametrize("limit", ["max_kl", "max_ppl_increase"])
def test_damage_without_an_interval_is_never_within_a_budget(limit: str) -> None:
    unsure = Estimate(0.0, NAN, NAN)
    assert Budget(**{limit: 1.0}).broken(point(unsure, unsure)) != []


def test_induction_without_an_interval_is_never_within_a_budget() -> None:
    lost = point(kept=Estimate(0.0, NAN, NAN))
    assert Budget(max_kl=1.0).broken(lost) != []


def test_a_budget_is_plain_values() -> None:
    budget = Budget(max_kl=0.1, max_kv_share=0.5)
    assert json.loads(json.dumps(budget.to_dict())) == {
        "max_kl": 0.1, "max_ppl_increase": None, "max_kv_share": 0.5, "min_induction_kept": 0.9}  # fmt: skip
    assert Budget(**budget.to_dict()) == budget
