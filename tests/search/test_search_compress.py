"""Searching with compressed caches: what is damaged is the continuation of a prompt, and bytes are its mean."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from sweep_makers import FAMILIES, ids, plain, profile_of

from headspec.errors import HeadspecError, ModelError, TextError
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows, load_text
from headspec.measure.bound import Rates
from headspec.measure.quality import measure_plan
from headspec.pipeline import PROFILE
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.treatments import Compress, parse_treatment
from headspec.plan.workload import Workload, halves
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile
from headspec.search import evaluate
from headspec.search.budget import Budget
from headspec.search.evaluate import Evaluator, decode_time
from headspec.search.record import SearchRecord
from headspec.search.search_plan import SearchResult, compress_treatments, search_plan


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates are not measured."""
    monkeypatch.setattr(evaluate, "measure_rates", lambda *_: Rates(1e10, 1e11))


# Which compressions are tried


def test_by_hand_a_half_a_quarter_and_an_eighth_of_the_mean_keys() -> None:
    assert compress_treatments(Workload(40, 40), "snapkv") == (  # 60.5 keys
        "compress:snapkv:30:latest15", "compress:snapkv:15:latest7", "compress:snapkv:8:latest4")  # fmt: skip


def test_budgets_of_one_key_are_left_out() -> None:
    assert compress_treatments(Workload(6), "random") == ("compress:random:3:latest1", "compress:random:2:latest1")


@pytest.mark.parametrize("policy", ["snapkv", "expected_attention", "streaming", "random"])
@pytest.mark.parametrize("workload", [Workload(256, 256), Workload(5, 9), Workload(2048)], ids=str)
def test_every_policy_can_be_tried(policy: str, workload: Workload) -> None:
    found = [parse_treatment(text) for text in compress_treatments(workload, policy)]
    assert found
    assert all(isinstance(what, Compress) and what.policy == policy and what.bounded for what in found)


# Tiny models

TEXT, OTHER = ids(3, 48), ids(2, 48, seed=1)
SNAPKV = ("mean", "window:3", "compress:snapkv:16:latest8", "compress:snapkv:8:latest4")
NEOX = [family for family in FAMILIES if family.startswith("neox")]
QUICK: dict[str, Any] = {
    "select": TEXT, "certify_on": OTHER, "n_repeats": 2, "n_controls": 1, "seeds": (0,), "max_evaluations": 15,
    "treatments": SNAPKV,
}  # fmt: skip


def find(budget: Budget, **options: Any) -> SearchResult:
    return search_plan(plain(), budget, profile=profile_of(plain()), **{**QUICK, **options})


def test_where_caches_are_compressed_the_first_half_of_each_window_is_the_prompt() -> None:
    found = find(Budget(max_kv_share=0.5))
    assert (found.certificate["n_tokens"], found.certificate["n_new"]) == (24, 24)
    assert found.chosen.workload == halves(48)
    assert found.chosen.kv_share == plan_size(found.plan, Workload(24, 24)).kv_share <= 0.5


def test_without_compression_bytes_are_those_of_the_whole_context() -> None:
    found = find(Budget(max_kv_share=0.5), treatments=("mean", "window:3"))
    assert (found.certificate["n_tokens"], found.certificate["n_new"]) == (128, 0)
    assert found.chosen.workload is None
    assert found.certificate["heads_compressed"] == 0


def test_another_workload_may_be_asked_for_also_without_compression() -> None:
    found = find(Budget(max_kv_share=0.5), treatments=("mean", "window:3"), workload=Workload(30, 10))
    assert (found.certificate["n_tokens"], found.certificate["n_new"]) == (30, 10)
    again = measure_plan(plain(), found.plan, TEXT, workload=Workload(30, 10), n_repeats=0, n_needles=0)
    assert again.kl.value == pytest.approx(found.chosen.kl.value, rel=1e-4)


def test_models_whose_heads_cannot_be_compressed_are_refused() -> None:
    model = plain("llama-grouped")
    with pytest.raises(ModelError, match=r"headspec compresses heads of GPT-NeoX models .* only, not of .*[Ll]lama"):
        search_plan(model, Budget(max_kv_share=0.5), profile=profile_of(model), **QUICK)


def test_a_workload_longer_than_the_windows_is_refused() -> None:
    with pytest.raises(TextError, match=r"a prompt of 40 and 40 new tokens: want .* the 48 of a window"):
        find(Budget(max_kv_share=0.5), workload=Workload(40, 40))


def test_expected_attention_wants_the_statistics_of_queries() -> None:
    with pytest.raises(HeadspecError, match="expected attention needs the statistics of queries"):
        find(Budget(max_kv_share=0.5), treatments=("compress:expected_attention:8",))


@pytest.mark.parametrize("family", NEOX)
def test_a_point_has_the_damage_that_measure_plan_finds(family: str) -> None:
    model, workload = plain(family), Workload(24, 24)
    plan = plan_heads(profile_of(model), {"L0H1": "compress:snapkv:8:latest4", "L1H0": "mean", "L1H2": "window:3"})
    found = Evaluator(model, TEXT, 2, seed=5, workload=workload).measure(plan)
    expected = measure_plan(model, plan, TEXT, workload=workload, n_repeats=2, n_needles=0, seed=5)
    for name in ("kl", "perplexity_increase", "repeats_kl", "induction_accuracy"):
        own, theirs = getattr(found, name), getattr(expected, name)
        assert [own.value, own.low, own.high] == pytest.approx([theirs.value, theirs.low, theirs.high], rel=1e-3)


# Time by the roofline


def decode_ms(wish: dict[str, str], workload: Workload | None = None) -> float:
    evaluator = Evaluator(plain(), TEXT, 0, 0, workload, decode_time(plain(), workload))
    plans = [plan_heads(profile_of(plain()), heads) for heads in ({}, wish)]
    full, treated = (evaluator.measure(plan).decode_ms for plan in plans)  # with the same rates
    assert full is not None
    assert treated is not None
    assert full > 0
    return treated / full


@pytest.mark.parametrize("workload", [None, Workload(24, 24)])
@pytest.mark.parametrize("what", ["mean", "window:3", "compress:snapkv:8:latest4"])
def test_treated_heads_leave_less_to_be_read(what: str, workload: Workload | None) -> None:
    shares = [decode_ms({f"L{layer}H{head}": what for layer in range(2) for head in range(n)}, workload)
              for n in (1, 3)]  # fmt: skip
    assert 0 < shares[1] < shares[0] < 1


def test_a_plan_that_treats_nothing_takes_as_long() -> None:
    assert decode_ms({}) == 1


def test_every_plan_that_a_search_measures_has_its_time() -> None:
    found = find(Budget(max_kv_share=0.5))
    times = [point.decode_ms for point in found.points]
    assert all(time is not None and time > 0 for time in times)
    smallest, largest = (pick(found.points, key=lambda point: (point.kv_share, -point.removed_share))
                         for pick in (min, max))  # fmt: skip
    assert smallest.decode_ms < largest.decode_ms  # type: ignore[operator]


# The demo model

DEMO = Workload(64, 64)
DEMO_QUICK: dict[str, Any] = {
    "n_repeats": 2, "n_controls": 1, "seeds": (0,), "max_evaluations": 12,
    "treatments": ("mean", "window:8", *compress_treatments(DEMO)[1:]),
}  # fmt: skip


@pytest.fixture(scope="module")
def demo_plain() -> PlainModel:
    return load_plain("demo", device="cpu")


@pytest.fixture(scope="module")
def texts(demo_plain: PlainModel) -> dict[str, TokenWindows]:
    return {name: load_text(demo_plain, name, n_tokens=384, window=128) for name in ("probe", "select", "certify")}


@pytest.fixture(scope="module")
def profile(demo_plain: PlainModel, texts: dict[str, TokenWindows]) -> HeadProfile:
    return probe_heads(demo_plain, texts["probe"], engine="fast", query_statistics=True, progress=False)


@pytest.fixture(scope="module")
def again(demo_plain: PlainModel, texts: dict[str, TokenWindows], profile: HeadProfile) -> Callable[[], SearchResult]:
    return lambda: search_plan(
        demo_plain, Budget(max_kv_share=0.3), profile=profile, select=texts["select"], certify_on=texts["certify"],
        **DEMO_QUICK,
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(again: Callable[[], SearchResult]) -> SearchResult:
    return again()


def test_the_plan_for_the_demo_model_compresses_heads_and_keeps_its_bytes(found: SearchResult) -> None:
    assert found.plan.heads(Compress)
    assert found.within_budget
    assert plan_size(found.plan, DEMO).kv_share <= 0.3


def test_the_certificate_counts_compressed_heads_and_new_tokens(found: SearchResult) -> None:
    certificate = found.certificate
    assert certificate["heads_compressed"] == len(found.plan.heads(Compress)) == found.chosen.to_dict()["compressed"]
    counted = (certificate[f"heads_{word}"] for word in ("removed", "windowed", "compressed"))
    assert sum(counted) == len(found.plan)
    assert (certificate["n_tokens"], certificate["n_new"]) == (64, 64)
    assert certificate["kv_share"] == plan_size(found.plan, DEMO).kv_share
    assert certificate["kv_bytes"] == plan_size(found.plan, DEMO).kv_bytes


def test_the_certificate_is_of_the_continuation(
    found: SearchResult, demo_plain: PlainModel, texts: dict[str, TokenWindows]
) -> None:
    fresh = measure_plan(demo_plain, found.plan, texts["certify"], workload=DEMO, n_repeats=2, seed=1000)
    assert found.certificate["quality"]["kl"]["value"] == pytest.approx(fresh.kl.value, rel=1e-4)
    earlier = Workload(32, 96)
    another = measure_plan(demo_plain, found.plan, texts["certify"], workload=earlier, n_repeats=0, n_needles=0)
    assert fresh.kl.value != pytest.approx(another.kl.value, rel=0.01)


def test_a_plan_that_compresses_travels_with_its_certificate(found: SearchResult, tmp_path: Path) -> None:
    loaded = HeadPlan.load(found.plan.save(tmp_path / "plan.json"))
    assert loaded == found.plan
    assert loaded.certificate == json.loads(json.dumps(found.certificate, allow_nan=False))


def test_forecasts_and_exact_effects_are_not_compared_where_heads_are_compressed(found: SearchResult) -> None:
    assert np.isnan(found.rank_correlation)


def test_a_search_with_compression_is_the_same_again(found: SearchResult, again: Callable[[], SearchResult]) -> None:
    repeated = again()
    assert repeated.plan == found.plan
    assert repeated.certificate == found.certificate


def test_the_command_searches_with_compression(run: Run, neox_folder: Path) -> None:
    model = load_plain(str(neox_folder), device="cpu")
    text = load_text(model, "probe", n_tokens=256)
    probe_heads(model, text, engine="fast", query_statistics=True, progress=False).save(Path(PROFILE))
    few = ("--tokens", "256", "--max-evaluations", "9", "--controls", "0", "--profile", ".")
    code, printed, said = run("search", neox_folder, "--compress", "expected_attention", "--max-kv-share", "40%", *few,
                              "--out", "o")  # fmt: skip
    assert code == 0, said
    plan = HeadPlan.load("o/plan.json")
    assert f"{len(plan.heads(Compress))} compressed; KV cache of 64 tokens and 64 more, in the mean: " in printed
    assert {what.policy for what in plan.treatments.values() if isinstance(what, Compress)} <= {"expected_attention"}
    assert plan.certificate is not None
    assert (plan.certificate["n_tokens"], plan.certificate["n_new"]) == (64, 64)
    assert any("compress:" in " ".join(point.counts) for point in SearchRecord.load("o").points)


def test_a_policy_that_does_not_exist_is_refused_before_anything_is_loaded(run: Run) -> None:
    code, _, said = run("search", "demo", "--compress", "magic", "--max-kv-share", "40%")
    assert code == 2
    assert "policy 'magic': choose one of snapkv, expected_attention, streaming, random" in said
    assert "loading" not in said
