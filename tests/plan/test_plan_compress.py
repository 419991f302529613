"""Plans that compress caches: their short text, the statistics of queries they carry, and the keys they leave."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_makers import CONTEXT, D_HEAD, made_up_profile
from safetensors.numpy import load_file

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.size import keys_held, plan_size
from headspec.plan.treatments import Allocation, Compress, parse_treatment
from headspec.probe.profile import HeadProfile

WRITTEN = {
    "compress:snapkv:0.25": Compress("snapkv", 0.25),
    "compress:snapkv:1": Compress("snapkv", 1),
    "compress:snapkv:1.0": Compress("snapkv", 1.0),
    "compress:expected_attention:64:latest32": Compress("expected_attention", 64, 32),
    "compress:snapkv:0.5:adakv": Compress("snapkv", 0.5, 0, Allocation.ADAKV),
    "compress:snapkv:64:latest32:adakv": Compress("snapkv", 64, 32, Allocation.ADAKV),
    "compress:streaming:64": Compress("streaming", 64),
    "compress:random:0.5": Compress("random", 0.5),
}
EXPECTING = {"L0H1": "compress:expected_attention:0.5", "L1H2": "compress:expected_attention:40:latest8:adakv"}


@pytest.fixture(scope="module")
def probed() -> HeadProfile:
    """The made-up profile with statistics of queries. Shared: leave it as it is."""
    draw = np.random.default_rng(7)
    vectors = draw.standard_normal((2, 4, 30, D_HEAD)).astype(np.float32)
    covariance = np.einsum("lhnd,lhne->lhde", vectors, vectors) / 30
    return replace(made_up_profile(), query_mean=vectors.mean(2), query_covariance=covariance)


@pytest.fixture
def expecting(probed: HeadProfile) -> HeadPlan:
    return plan_heads(probed, {**EXPECTING, "L0H0": "mean", "L1H0": "compress:snapkv:0.25"})


# Texts.


@pytest.mark.parametrize("text", WRITTEN)
def test_each_text_is_read_and_written(text: str) -> None:
    assert parse_treatment(text) == WRITTEN[text]
    assert str(WRITTEN[text]) == text


@given(st.sampled_from(["snapkv", "expected_attention", "random"]), st.integers(1, 10**5), st.data(), st.booleans())
def test_what_is_written_is_read_back(policy: str, budget: int, data: st.DataObject, shared: bool) -> None:
    latest = data.draw(st.integers(0, budget - 1))
    treatment = Compress(policy, budget, latest, "adakv" if shared else "uniform")
    assert parse_treatment(str(treatment)) == treatment


def test_options_may_come_in_any_order() -> None:
    assert parse_treatment("compress:snapkv:64:adakv:latest32") == parse_treatment("compress:snapkv:64:latest32:adakv")


def test_an_allocation_may_be_given_by_its_word() -> None:
    assert Compress("snapkv", 8, allocation="adakv").allocation is Allocation.ADAKV


def test_one_key_and_all_keys_are_different_treatments() -> None:
    assert Compress("snapkv", 1) != Compress("snapkv", 1.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("compress:h2o:0.5", "policy 'h2o': choose one of snapkv, expected_attention, streaming, random"),
        ("compress:snapkv:0", "budget 0: want a share of the keys like 0.5, or a number of keys"),
        ("compress:snapkv:1.5", "budget 1.5: want a share"),
        ("compress:snapkv:64:latest64", "latest 64 of budget 64: want less than a budget in keys"),
        ("compress:snapkv:0.5:latest8", "latest 8 of budget 0.5: want less than a budget in keys"),
        ("compress:snapkv:64:latest-1", "latest -1: want a number of keys, 0 or more"),
        ("compress:streaming:0.5", "streaming keeps the sinks and the latest keys: give a number of keys only"),
        ("compress:streaming:64:latest8", "streaming keeps the sinks"),
        ("compress:streaming:64:adakv", "streaming keeps the sinks"),
        ("compress:snapkv:64:latest", "is no treatment"),
        ("compress:snapkv:64:pyramid", "is no treatment"),
        ("compress:snapkv:64:latest8:adakv:adakv", "is no treatment"),
        ("compress:snapkv:64:latest8:latest16", "is no treatment"),
        ("compress:snapkv:64:adakv:adakv", "is no treatment"),
    ],
)
def test_texts_that_mean_nothing_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(HeadspecError, match=complaint):
        parse_treatment(text)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"latest": True}, "latest True: want a number"), ({"latest": -1}, "latest -1: want a number"),
     ({"allocation": "pyramid"}, "allocation 'pyramid': choose uniform or adakv")],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HeadspecError, match=complaint):
        Compress("snapkv", 64, **options)


@pytest.mark.parametrize(
    ("text", "bounded", "needs_queries"),
    [("compress:snapkv:64", False, False), ("compress:snapkv:64:latest1", True, False),
     ("compress:streaming:64", True, False), ("compress:expected_attention:0.5", False, True)],
)  # fmt: skip
def test_a_treatment_knows_whether_it_is_bounded_and_needs_queries(
    text: str, bounded: bool, needs_queries: bool
) -> None:
    treatment = parse_treatment(text)
    assert isinstance(treatment, Compress)
    assert (treatment.bounded, treatment.needs_queries) == (bounded, needs_queries)


# Statistics of queries.


def test_a_plan_carries_mean_and_covariance_of_the_heads_that_need_them(expecting: HeadPlan, probed: Any) -> None:
    assert [str(head) for head in expecting.queries] == ["L0H1", "L1H2"]
    facts = expecting.queries[HeadId(1, 2)]
    np.testing.assert_array_equal(facts[0], probed.query_mean[1, 2])
    np.testing.assert_array_equal(facts[1:], probed.query_covariance[1, 2])


@pytest.mark.parametrize("given_profile", [True, False])
def test_expected_attention_without_statistics_of_queries_is_refused(profile: HeadProfile, given_profile: bool) -> None:
    source = profile if given_profile else plan_source()
    with pytest.raises(HeadspecError, match=r"L0H1: expected attention needs the statistics of queries: give profile="):
        plan_heads(source, {"L0H1": "compress:expected_attention:0.5"})


def plan_source() -> Any:
    from tiny_models import tiny_neox

    from headspec.load.plain import PlainModel

    return PlainModel(tiny_neox(), "made-up")


def test_other_policies_need_no_statistics() -> None:
    plan = plan_heads(plan_source(), {"L0H1": "compress:snapkv:0.5", "L0H2": "compress:streaming:9"})
    assert not plan.queries


def test_a_plan_without_the_statistics_it_needs_is_refused(expecting: HeadPlan) -> None:
    with pytest.raises(HeadspecError, match=r"no query statistics for L0H1, L1H2 under expected attention: make the"):
        replace(expecting, queries={})


@pytest.mark.parametrize("facts", [np.zeros((D_HEAD, D_HEAD)), np.zeros(D_HEAD), np.full((1 + D_HEAD, D_HEAD), np.nan)])
def test_statistics_of_another_shape_or_not_finite_are_refused(expecting: HeadPlan, facts: np.ndarray) -> None:
    with pytest.raises(HeadspecError, match=f"query statistics of L0H1 must be {1 + D_HEAD} rows of finite numbers"):
        replace(expecting, queries={**expecting.queries, HeadId(0, 1): facts})


def test_a_plan_keeps_copies_of_its_statistics(expecting: HeadPlan) -> None:
    facts = np.zeros((1 + D_HEAD, D_HEAD), np.float32)
    plan = replace(expecting, queries={**expecting.queries, HeadId(0, 1): facts})
    facts += 1
    assert not plan.queries[HeadId(0, 1)].any()


def changed(plan: HeadPlan) -> HeadPlan:
    """The same with one number of the statistics changed."""
    facts = plan.queries[HeadId(0, 1)].copy()
    facts[3, 3] += 1
    return replace(plan, queries={**plan.queries, HeadId(0, 1): facts})


def test_plans_with_other_statistics_are_other_plans(expecting: HeadPlan) -> None:
    assert changed(expecting) != expecting
    assert changed(expecting).digest != expecting.digest


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan)), lambda plan: plan | plan,
            lambda plan: plan.only(plan.treatments), lambda plan: plan.without([]),
            lambda plan: plan.certified({"loss": 1})],
)  # fmt: skip
def test_the_statistics_stay_with_the_plan(expecting: HeadPlan, way: Any) -> None:
    found = way(expecting)
    assert found == expecting
    assert found.digest == expecting.digest


def test_a_part_of_a_plan_has_the_statistics_of_its_heads(expecting: HeadPlan) -> None:
    assert list(expecting.only(["L1H2", "L0H0"]).queries) == [HeadId(1, 2)]
    assert list(expecting.without(["L1H2"]).queries) == [HeadId(0, 1)]


def test_of_two_plans_the_statistics_of_the_right_one_count(expecting: HeadPlan) -> None:
    both = expecting | changed(expecting)
    assert both == changed(expecting)
    assert (changed(expecting) | expecting) == expecting


def test_a_head_that_the_right_plan_treats_otherwise_has_no_statistics(expecting: HeadPlan, probed: Any) -> None:
    assert list((expecting | plan_heads(probed, {"L0H1": "window:8"})).queries) == [HeadId(1, 2)]


# The record.


def test_a_saved_plan_loads_as_it_was(expecting: HeadPlan, tmp_path: Path) -> None:
    loaded = HeadPlan.load(expecting.save(tmp_path / "plan.json"))
    assert loaded == expecting
    assert loaded.digest == expecting.digest
    assert list(loaded.fills) == [HeadId(0, 0)]


def test_statistics_lie_beside_the_fill_vectors(expecting: HeadPlan, tmp_path: Path) -> None:
    found = load_file(expecting.save(tmp_path / "plan.json").with_suffix(".safetensors"))
    assert {name: vector.shape for name, vector in found.items()} == {
        "L0H0": (D_HEAD,), "L0H1.queries": (1 + D_HEAD, D_HEAD), "L1H2.queries": (1 + D_HEAD, D_HEAD)
    }  # fmt: skip


def test_a_head_put_under_expected_attention_by_hand_is_refused(expecting: HeadPlan, tmp_path: Path) -> None:
    path = expecting.save(tmp_path / "plan.json")
    values = json.loads(path.read_text())
    values["treatments"]["L1H0"] = "compress:expected_attention:0.5"
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match="no query statistics for L1H0 under expected attention"):
        HeadPlan.load(path)


# Sizes.


@pytest.mark.parametrize(
    ("text", "n_prompt", "n_new", "held"),
    [
        ("compress:snapkv:0.25", 40, 0, 10), ("compress:snapkv:0.25", 40, 7, 17), ("compress:snapkv:0.25", 1, 3, 4),
        ("compress:snapkv:64", 40, 7, 47), ("compress:snapkv:16:adakv", 40, 7, 23),
        ("compress:snapkv:16:latest8", 40, 7, 16), ("compress:snapkv:16:latest8", 10, 3, 13),
        ("compress:snapkv:16:latest8", 10, 9, 16), ("compress:streaming:16", 40, 100, 16),
        ("compress:streaming:16", 3, 4, 7), ("compress:random:1.0", 40, 2, 42), ("compress:random:1", 40, 2, 3),
    ],
)  # fmt: skip
def test_a_head_holds_its_budget_and_what_follows_or_its_budget_only(
    text: str, n_prompt: int, n_new: int, held: int
) -> None:
    assert keys_held(parse_treatment(text), n_prompt, n_new) == held


def test_a_plan_of_the_models_context_saves_what_its_budgets_leave_out(expecting: HeadPlan) -> None:
    """Of 64 keys: 32, 40 and 16 are left to the compressed heads, none to the removed one, all to the other four."""
    assert CONTEXT == 64
    assert plan_size(expecting).kv_bytes == (32 + 40 + 16 + 4 * 64) * 2 * D_HEAD * 4
