"""Who is compared: methods that hold as many bytes as they were given, and the way to divide them that harms least."""

from typing import Any

import pytest
from contender_makers import HEADS, ids, plan_of, profile, tiny
from tiny_models import tiny_neox

from headspec.errors import HeadspecError
from headspec.load.plain import PlainModel
from headspec.measure import contenders
from headspec.measure.contenders import fixed, least_harm, matched, mean_share, references, with_share
from headspec.measure.hypothetical import SHARES, WINDOWS, hypothetical_plan
from headspec.measure.systems.baseline import Baseline
from headspec.measure.systems.planned import planned
from headspec.measure.systems.registry import BASELINES
from headspec.measure.systems.snapkv import SNAPKV
from headspec.measure.systems.streaming_llm import STREAMING_LLM, STREAMING_LLM_DENSE
from headspec.measure.systems.system import Standing
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Keep, Remove, Window
from headspec.plan.workload import Workload

LONG = 2048
"""Context of the model that is only planned for."""
WORKLOADS = (Workload(256, 256), Workload(200, 0), Workload(100, 300), Workload(2000, 26))
CHOOSING = [baseline for baseline in BASELINES if not baseline.name.startswith("StreamingLLM")]
QUARTER = Workload(256, 256)
"""384.5 keys in the mean, of which a quarter are 96."""


def names_of(baseline: Baseline, share: float, workload: Workload) -> list[str]:
    """The treatment of each plan, which is that of every head."""
    plans = baseline.plans(profile(LONG), share, workload)
    assert all(len(plan) == 8 and len(set(plan.treatments.values())) == 1 for plan in plans)
    return [str(next(iter(plan.treatments.values()))) for plan in plans]


def plan_in(contender: Any, workload: Workload) -> HeadPlan:
    plan = contender.make(workload).plan
    assert plan is not None
    return plan


# Equal bytes.


def test_by_hand_streaming_llm_at_a_quarter() -> None:
    assert names_of(STREAMING_LLM, 0.25, QUARTER) == ["window:92"]
    assert names_of(STREAMING_LLM_DENSE, 0.25, QUARTER) == ["compress:streaming:96"]


def test_by_hand_snapkv_at_a_quarter_has_no_room_for_all_that_follows() -> None:
    assert names_of(SNAPKV, 0.25, QUARTER) == [f"compress:snapkv:96:latest{n}" for n in (24, 48, 72)]


def test_by_hand_snapkv_at_a_half_has() -> None:
    # 192 keys less the 128.5 that the new tokens add in the mean
    assert names_of(SNAPKV, 0.5, QUARTER)[0] == "compress:snapkv:64"


def test_by_hand_a_budget_that_the_prompt_cannot_fill_is_larger() -> None:
    # 90 % of 15.5 keys are 14: a budget of 15 holds 11, 12, 13, 14, and 15 six times
    assert names_of(STREAMING_LLM_DENSE, 0.9, Workload(10, 10)) == ["compress:streaming:15"]


def test_by_hand_few_keys_leave_less_to_the_sinks() -> None:
    assert names_of(STREAMING_LLM, 0.01, Workload(200)) == ["window:1+1"]


@pytest.mark.parametrize("share", [1.0, 0.8, 0.25])
@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_every_way_holds_the_share_within_a_key_of_each_head(
    baseline: Baseline, workload: Workload, share: float
) -> None:
    plans = baseline.plans(profile(LONG), share, workload)
    assert plans
    for plan in plans:
        held = mean_share(plan, workload) * workload.mean_keys
        assert held == pytest.approx(share * workload.mean_keys, abs=1), plan.treatments


@pytest.mark.parametrize("baseline", CHOOSING, ids=lambda baseline: baseline.name)
def test_a_share_that_leaves_nothing_to_choose_is_refused(baseline: Baseline) -> None:
    with pytest.raises(HeadspecError, match=r"at 1\.00% of the KV bytes: 1 key a head of 40 \+ 40 .* a larger share"):
        baseline.plans(profile(LONG), 0.01, Workload(40, 40))


def test_only_methods_that_look_at_queries_need_their_statistics() -> None:
    assert {baseline.name for baseline in BASELINES if baseline.needs_queries} == {
        "expected attention", "Ada-expected attention"}  # fmt: skip
    for baseline in BASELINES:
        if not baseline.needs_queries:
            assert baseline.plans(tiny(LONG), 0.25, QUARTER)


def test_random_keys_are_a_control_and_the_others_baselines() -> None:
    standings = {baseline.name: baseline.standing for baseline in BASELINES}
    assert standings.pop("random keys") is Standing.CONTROL
    assert set(standings.values()) == {Standing.BASELINE}


def test_no_two_methods_are_called_the_same() -> None:
    assert len({baseline.name for baseline in BASELINES}) == len(BASELINES)


# The way that harms least.

NOTHING, LITTLE, MUCH = ({}, {"L0H0": "window:20"}, dict.fromkeys(HEADS, "zero"))
SHORT = Workload(40, 40)


@pytest.mark.parametrize(("wishes", "best"), [((MUCH, NOTHING, LITTLE), 1), ((LITTLE, MUCH), 0), ((MUCH, LITTLE), 1)])
def test_the_plan_with_the_least_kl_is_taken(wishes: tuple[dict[str, str], ...], best: int) -> None:
    assert least_harm(tiny(), [plan_of(wish) for wish in wishes], SHORT, ids()) == best


def test_without_a_text_the_first_is_taken() -> None:
    assert least_harm(tiny(), [plan_of(MUCH), plan_of(NOTHING)], SHORT, None) == 0


def test_one_plan_alone_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "measure_continuation", None)
    assert least_harm(tiny(), [plan_of(MUCH)], SHORT, ids()) == 0


@pytest.mark.parametrize(("best", "latest"), [(1, 24), (2, 48), (3, 72)])
def test_the_way_stays_the_same_for_other_workloads(monkeypatch: pytest.MonkeyPatch, best: int, latest: int) -> None:
    monkeypatch.setattr(contenders, "least_harm", lambda *_: best)
    contender = matched(tiny(LONG), None, SNAPKV, 0.5, QUARTER, ids())  # growing, and three shares of the latest keys
    assert plan_in(contender, Workload(100, 300))["L0H0"] == Compress("snapkv", 126, round(126 * latest / 96))
    assert plan_in(contender, QUARTER)["L0H0"] == Compress("snapkv", 192, 2 * latest)


def test_a_way_that_a_workload_does_not_have_gives_way_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "least_harm", lambda *_: 0)
    contender = matched(tiny(LONG), None, SNAPKV, 0.5, QUARTER, ids())
    assert plan_in(contender, QUARTER)["L0H0"] == Compress("snapkv", 64)
    assert plan_in(contender, Workload(100, 300))["L0H0"] == Compress("snapkv", 126, 32)


def test_a_method_is_matched_to_the_workload_it_runs_on() -> None:
    contender = matched(tiny(LONG), None, STREAMING_LLM, 0.25, QUARTER, None, timed=False)
    assert plan_in(contender, QUARTER)["L1H3"] == Window(92)
    assert plan_in(contender, Workload(2000, 26))["L1H3"] == Window(499)  # 2013.5 keys
    assert (contender.name, contender.standing, contender.timed) == ("StreamingLLM 25 %", Standing.BASELINE, False)
    assert contender.identity == plan_in(contender, QUARTER).digest
    assert "window:92 on 256 + 256 tokens" in contender.label


def test_the_way_is_that_of_the_text() -> None:
    found = matched(tiny(), profile(), SNAPKV, 0.5, SHORT, ids())
    plans = SNAPKV.plans(profile(), 0.5, SHORT)
    assert plan_in(found, SHORT) == plans[least_harm(tiny(), plans, SHORT, ids())]


# Names.


@pytest.mark.parametrize(
    ("share", "name"), [(0.5, "A 50 %"), (0.12, "A 12 %"), (1.0, "A 100 %"), (0.251, "A 25.1 %"), (0.125, "A 12.5 %")]
)
def test_a_method_is_called_by_its_share(share: float, name: str) -> None:
    assert with_share("A", share) == name


def test_shares_of_two_exports_that_are_nearly_the_same_have_two_names() -> None:
    assert with_share("A", 0.249) != with_share("A", 0.251)


def test_the_references_are_v_s_and_p0() -> None:
    found = references(tiny())
    assert [contender.name for contender in found] == ["V", "S", "P0"]
    assert all(contender.timed and contender.standing is Standing.REFERENCE for contender in found)


def test_a_system_that_is_fixed_is_the_same_for_every_workload() -> None:
    system = planned(tiny(), plan_of(LITTLE), "mine", "a plan", Standing.CERTIFIED)
    contender = fixed(system, timed=False)
    assert contender.make(QUARTER) is contender.make(SHORT) is system
    assert (contender.name, contender.label, contender.standing) == ("mine", "a plan", Standing.CERTIFIED)
    assert contender.identity == plan_of(LITTLE).digest
    assert not contender.timed


# Plans that nobody has judged.


@pytest.mark.parametrize(
    ("name", "n_heads", "removed", "windowed"),
    [("b", 8, 1, 2), ("c", 8, 2, 4), ("d", 8, 2, 5), ("e", 8, 2, 4), ("b", 4, 0, 1), ("d", 4, 1, 2), ("d", 1, 0, 0)],
)
def test_every_layer_has_as_many_removed_and_windowed_heads_as_the_shares_say(
    name: str, n_heads: int, removed: int, windowed: int
) -> None:
    model = PlainModel(tiny_neox(n_heads=n_heads), "tiny")
    plan = hypothetical_plan(model, name)
    for layer in range(2):
        kinds = [type(plan[f"L{layer}H{head}"]) for head in range(n_heads)]
        counts = [kinds.count(kind) for kind in (Remove, Window, Keep)]
        assert counts == [removed, windowed, n_heads - removed - windowed]
        assert counts[2] >= 1


@pytest.mark.parametrize("name", SHARES)
def test_windows_are_those_of_the_plan_in_turn(name: str) -> None:
    plan = hypothetical_plan(PlainModel(tiny_neox(n_heads=16, d_model=64), "tiny"), name)
    windows = [what for what in plan.treatments.values() if isinstance(what, Window)]
    assert {what.window for what in windows} == set(WINDOWS[name])
    assert {what.sinks for what in windows} == {4}


def test_a_plan_is_the_same_again() -> None:
    assert hypothetical_plan(tiny(), "c") == hypothetical_plan(tiny(), "c")
