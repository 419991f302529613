"""Plans by hand: which heads and treatments are taken, and what stands in for removed heads."""

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_makers import CONTEXT, made_up_map, made_up_profile
from tiny_models import bridge_of, tiny_neox

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.load.plain import PlainModel
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import KEEP, Compress, Fill, Keep, Remove, Window
from headspec.probe.profile import HeadProfile

L0H0, L0H1, L1H2 = HeadId(0, 0), HeadId(0, 1), HeadId(1, 2)
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]


# Which heads, and what happens to them.


def test_a_plan_answers_for_every_head_and_keeps_those_not_mentioned(profile: HeadProfile) -> None:
    plan = plan_heads(profile, {"L0H1": "zero", "L1H2": "window:8"})
    expected = {"L0H1": Remove(Fill.ZERO), "L1H2": Window(8)}
    assert {name: plan[name] for name in HEADS} == {name: expected.get(name, KEEP) for name in HEADS}


def test_a_head_may_be_asked_for_in_any_spelling(mixed: HeadPlan) -> None:
    assert mixed["L1H0"] == mixed["1.0"] == mixed["l1h0"] == mixed[HeadId(1, 0)] == Window(8, 0)


def test_treated_heads_are_counted_and_in_order(mixed: HeadPlan) -> None:
    assert len(mixed) == 5
    assert [str(head) for head in mixed.treatments] == ["L0H1", "L0H3", "L1H0", "L1H2", "L1H3"]


def test_a_head_that_is_kept_by_name_counts_as_not_mentioned(profile: HeadProfile) -> None:
    plan = plan_heads(profile, {"L0H1": "keep", "L1H2": Keep()})
    assert len(plan) == 0
    assert plan == plan_heads(profile, {})


def test_pairs_do_as_well_as_a_mapping(profile: HeadProfile) -> None:
    pairs: list[tuple[Any, Any]] = [("0.1", Remove(Fill.ZERO)), (L1H2, "window:8")]
    assert plan_heads(profile, iter(pairs)) == plan_heads(profile, {"L0H1": "zero", "L1H2": Window(8)})


def test_treatments_are_counted_by_their_text(mixed: HeadPlan) -> None:
    assert mixed.counts() == {
        "keep": 3, "zero": 1, "mean": 1, "random": 1, "window:8+0": 1, "compress:snapkv:0.5": 1
    }  # fmt: skip


def test_heads_are_found_by_the_kind_of_their_treatment(mixed: HeadPlan) -> None:
    found = {kind: [str(head) for head in mixed.heads(kind)] for kind in (Remove, Window, Compress, Keep)}
    assert found == {
        Remove: ["L0H1", "L0H3", "L1H2"],
        Window: ["L1H0"],
        Compress: ["L1H3"],
        Keep: ["L0H0", "L0H2", "L1H1"],
    }


def test_fills_and_windows_of_a_layer_go_by_the_number_of_the_head(mixed: HeadPlan) -> None:
    assert [list(mixed.fills_in(layer)) for layer in (0, 1)] == [[1, 3], [2]]
    assert [mixed.windows_in(layer) for layer in (0, 1)] == [{}, {0: Window(8, 0)}]


@pytest.mark.parametrize("head", ["L9H3", "L2H0", "L0H4"])
def test_a_head_that_the_model_lacks_is_refused_by_its_name(profile: HeadProfile, head: str) -> None:
    with pytest.raises(HeadspecError, match=f"unknown heads {head}: made-up has layers 0–1, heads 0–3"):
        plan_heads(profile, {"L0H0": "mean", head: "zero"})


def test_all_heads_that_the_model_lacks_are_named(profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match="unknown heads L0H4, L9H3"):
        plan_heads(profile, {"L9H3": "keep", "L0H4": "window:8", "L0H0": "zero"})


def test_a_head_that_the_model_lacks_cannot_be_asked_for(mixed: HeadPlan) -> None:
    with pytest.raises(HeadspecError, match="unknown heads L9H3"):
        mixed["L9H3"]


@pytest.mark.parametrize("name", ["L1", "H3", "L1H", "1,4", "L-1H0", "", "head 3"])
def test_what_is_no_head_is_refused(profile: HeadProfile, name: str) -> None:
    with pytest.raises(HeadspecError, match="is not a head: write it like L3H7"):
        plan_heads(profile, {name: "zero"})


@pytest.mark.parametrize(
    "treatments",
    [
        [("L1H2", "zero"), ("L1H2", "window:8")],
        [("L1H2", "zero"), ("L1H2", "zero")],
        [("L1H2", "keep"), ("L1H2", "zero")],
        {"L1H2": "zero", "1.2": "window:8"},
        {"L1H2": "zero", HeadId(1, 2): "zero"},
        {"L1H2": "zero", "L01H02": "mean"},
    ],
    ids=["pairs", "the same twice", "kept first", "two spellings", "name and id", "zeros in front"],
)
def test_a_head_that_is_there_twice_is_refused(profile: HeadProfile, treatments: Any) -> None:
    with pytest.raises(HeadspecError, match=r"L1H2 is in the plan twice, as (zero|keep) and as .*: choose one"):
        plan_heads(profile, treatments)


@pytest.mark.parametrize("text", [f"window:{CONTEXT + 1}", f"window:1+{CONTEXT + 1}"])
def test_a_window_beyond_the_context_is_refused(profile: HeadProfile, text: str) -> None:
    with pytest.raises(HeadspecError, match=r"L0H1: window.* is beyond the model's context of 64 keys"):
        plan_heads(profile, {"L0H1": text})


def test_a_window_as_long_as_the_context_is_taken(profile: HeadProfile) -> None:
    assert plan_heads(profile, {"L0H1": f"window:{CONTEXT}+{CONTEXT}"})["L0H1"] == Window(CONTEXT, CONTEXT)


@pytest.mark.parametrize("text", ["window:0", "compress:h2o:0.5", "average"])
def test_an_impossible_treatment_is_refused(profile: HeadProfile, text: str) -> None:
    with pytest.raises(HeadspecError, match=r"window 0|policy 'h2o'|'average' is no treatment"):
        plan_heads(profile, {"L0H1": text})


# Which model.


def test_a_plan_knows_its_model_and_where_its_fills_come_from(profile: HeadProfile) -> None:
    about = plan_heads(profile, {"L0H0": "mean"}, seed=5).about
    assert (about.model, about.n_layers, about.n_heads, about.d_head, about.d_model) == ("made-up", 2, 4, 8, 32)
    assert (about.context, about.text, about.text_digest, about.seed) == (CONTEXT, "numbers", "abc", 5)
    assert about.profile == profile.digest


def test_a_plan_without_a_profile_names_none() -> None:
    assert plan_heads(made_up_map(), {"L0H0": "zero"}).about.profile == ""


def test_a_plan_can_be_for_a_loaded_model() -> None:
    about = plan_heads(bridge_of(tiny_neox()), {"L0H0": "zero"}).about
    assert (about.model, about.n_layers, about.n_heads, about.d_head, about.context) == ("planted", 2, 4, 8, 128)


def test_a_plan_for_a_plain_model_is_that_of_the_bridge() -> None:
    plain = PlainModel(tiny_neox(), "planted")
    assert plan_heads(plain, {"L0H0": "zero"}).about == plan_heads(bridge_of(tiny_neox()), {"L0H0": "zero"}).about


@pytest.mark.parametrize("fill", ["mean", "random"])
def test_a_fill_that_needs_a_profile_is_refused_without_one(fill: str) -> None:
    with pytest.raises(HeadspecError, match=f"L0H1={fill}: this fill comes from a HeadProfile: give profile="):
        plan_heads(made_up_map(), {"L0H1": fill})


@pytest.mark.parametrize("text", ["zero", "window:8", "compress:snapkv:0.5", "keep"])
def test_other_treatments_need_no_profile(text: str) -> None:
    assert str(plan_heads(made_up_map(), {"L0H1": text})["L0H1"]) == text


def test_a_profile_of_another_model_is_refused_naming_both() -> None:
    with pytest.raises(RecordError, match=r"made for another .* not for made-up"):
        plan_heads(made_up_map(), {"L0H1": "mean"}, profile=made_up_profile(model="another"))


def test_a_head_that_was_not_probed_cannot_be_filled() -> None:
    some = made_up_profile(layers=(1,))
    assert plan_heads(some, {"L1H0": "mean", "L0H0": "zero"}).fills.keys() == {HeadId(1, 0), L0H0}
    with pytest.raises(RecordError, match="layer 0 was not probed"):
        plan_heads(some, {"L0H0": "mean"})


# What stands in for removed heads.


def test_zero_fills_with_zeros(profile: HeadProfile) -> None:
    fill = plan_heads(profile, {"L0H1": "zero"}).fills[L0H1]
    np.testing.assert_array_equal(fill, np.zeros(8, np.float32))


def test_mean_fills_with_the_mean_of_that_head(profile: HeadProfile) -> None:
    fill = plan_heads(profile, {"L1H2": "mean"}).fills[L1H2]
    np.testing.assert_array_equal(fill, profile.mean_z[1, 2])


def test_mean_of_a_profile_of_some_layers_is_that_of_the_right_layer() -> None:
    some = made_up_profile(layers=(1,))
    np.testing.assert_array_equal(plan_heads(some, {"L1H2": "mean"}).fills[L1H2], some.mean_z[0, 2])


@pytest.mark.parametrize("name", HEADS)
def test_a_random_fill_is_as_long_as_the_heads_z_is_on_average(profile: HeadProfile, name: str) -> None:
    head = HeadId.parse(name)
    fill = plan_heads(profile, {name: "random"}).fills[head]
    assert np.linalg.norm(fill) == pytest.approx(profile.z_norm[head.layer, head.head], rel=1e-5)


def test_a_random_fill_of_a_head_that_writes_nothing_is_nothing(profile: HeadProfile) -> None:
    silent = replace(profile, z_norm=np.zeros_like(profile.z_norm))
    np.testing.assert_array_equal(plan_heads(silent, {"L0H1": "random"}).fills[L0H1], np.zeros(8, np.float32))


def test_random_fills_of_one_seed_are_the_same(profile: HeadProfile) -> None:
    first, second = (plan_heads(profile, dict.fromkeys(HEADS, "random"), seed=7) for _ in range(2))
    assert first == second


def test_random_fills_of_two_seeds_differ_for_every_head(profile: HeadProfile) -> None:
    first, second = (plan_heads(profile, dict.fromkeys(HEADS, "random"), seed=seed).fills for seed in (0, 1))
    assert all(not np.allclose(first[head], second[head]) for head in first)


def test_random_fills_point_another_way_for_each_head(profile: HeadProfile) -> None:
    fills = plan_heads(profile, dict.fromkeys(HEADS, "random")).fills.values()
    directions = np.stack([fill / np.linalg.norm(fill) for fill in fills])
    assert np.abs(np.triu(directions @ directions.T, 1)).max() < 0.99


@given(others=st.sets(st.sampled_from(HEADS[1:])), fill=st.sampled_from(["zero", "mean", "random", "window:8"]))
def test_a_random_fill_does_not_depend_on_what_else_is_in_the_plan(others: Iterable[str], fill: str) -> None:
    profile = made_up_profile()
    alone = plan_heads(profile, {"L0H0": "random"}).fills[L0H0]
    plan = plan_heads(profile, [*((name, fill) for name in others), ("L0H0", "random")])
    np.testing.assert_array_equal(plan.fills[L0H0], alone)


def test_random_fills_leave_the_global_random_state_alone(profile: HeadProfile) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    plan_heads(profile, {"L0H0": "random"})
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_a_seed_that_cannot_be_used_is_refused(profile: HeadProfile) -> None:
    with pytest.raises(HeadspecError, match="seed"):
        plan_heads(profile, {"L0H0": "random"}, seed=-1)


def test_heads_that_are_not_removed_have_no_fill(mixed: HeadPlan) -> None:
    assert [str(head) for head in mixed.fills] == ["L0H1", "L0H3", "L1H2"]


def test_fills_are_float32(mixed: HeadPlan) -> None:
    assert {fill.dtype for fill in mixed.fills.values()} == {np.dtype(np.float32)}


def test_what_is_done_to_the_profile_later_does_not_change_the_plan() -> None:
    profile = made_up_profile()
    plan = plan_heads(profile, {"L0H0": "mean"})
    digest = plan.digest
    profile.mean_z[:] = 0
    assert plan.digest == digest


# The record itself.


def test_a_removed_head_without_a_fill_is_refused(profile: HeadProfile) -> None:
    about = plan_heads(profile, {}).about
    with pytest.raises(HeadspecError, match="no fill vector for removed heads L0H1: make the plan with plan_heads"):
        HeadPlan(about, {L0H1: Remove(Fill.MEAN)})


@pytest.mark.parametrize(
    "fill",
    [np.zeros(7), np.zeros((1, 8)), np.zeros(0), np.full(8, np.nan), np.array([np.inf] + [0.0] * 7)],
    ids=["short", "two axes", "empty", "nan", "infinity"],
)
def test_a_fill_of_the_wrong_shape_or_not_finite_is_refused(profile: HeadProfile, fill: np.ndarray) -> None:
    with pytest.raises(HeadspecError, match="the fill vector of L0H1 must be 8 finite numbers"):
        HeadPlan(plan_heads(profile, {}).about, {L0H1: Remove(Fill.MEAN)}, {L0H1: fill})


def test_fills_of_heads_that_are_not_removed_are_dropped(profile: HeadProfile) -> None:
    plan = HeadPlan(plan_heads(profile, {}).about, {L0H1: Window(8)}, {L0H1: np.zeros(8), L0H0: np.zeros(8)})
    assert dict(plan.fills) == {}


def test_treatments_and_fills_cannot_be_exchanged(mixed: HeadPlan) -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        mixed.treatments[L0H0] = KEEP  # type: ignore[index]
    with pytest.raises(TypeError, match="does not support item assignment"):
        mixed.fills[L0H0] = np.zeros(8)  # type: ignore[index]


def test_a_plan_does_not_follow_the_mapping_it_was_made_of(profile: HeadProfile) -> None:
    treatments: dict[HeadId, Any] = {L0H1: Window(8)}
    plan = HeadPlan(plan_heads(profile, {}).about, treatments)
    treatments[L0H0] = Window(3)
    assert list(plan.treatments) == [L0H1]


def test_plans_are_made_without_torch() -> None:
    script = """
import sys
import headspec.plan.make, headspec.plan.optimizers, headspec.plan.plan, headspec.plan.size
sys.exit("torch" in sys.modules or "transformers" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_record_is_imported_without_torch() -> None:
    script = "import sys, headspec.plan.plan; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
