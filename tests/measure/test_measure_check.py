"""Systems on other engines are timed only if they compute what they should."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contender_makers import ids, plan_of, tiny
from torch import Tensor

from headspec.measure import benchmark
from headspec.measure.benchmark import Grid, run_benchmark
from headspec.measure.bound import Rates
from headspec.measure.check import TOLERANCE, forced, greedy, logits_difference
from headspec.measure.contenders import Contender, fixed
from headspec.measure.report import BenchmarkReport
from headspec.measure.systems.planned import PlannedReading, planned
from headspec.measure.systems.system import Standing, System
from headspec.measure.systems.transformers_default import transformers_default
from headspec.measure.systems.unpruned import unpruned
from headspec.plan.workload import Workload
from headspec.rowlog import LOG

WINDOWS = {"L0H0": "mean", "L0H2": "window:5+2", "L1H3": "window:3"}
GRID = Grid(batches=(1,), memory_batch=0, contexts=(20,), prompts=(20,), n_new=4, openings=1, rounds=1,
            workload=Workload(20, 20), n_repeats=0, n_needles=0)  # fmt: skip


class Changed(PlannedReading):
    """Gives other logits than it found."""

    def __init__(self, model: Any, change: Callable[[Tensor], Tensor]):
        super().__init__(model)
        self.change = change

    def read(self, tokens: Tensor, n_last: int = 1) -> Tensor:
        return self.change(super().read(tokens, n_last))


def changed(change: Callable[[Tensor], Tensor], name: str = "wrong", **more: Any) -> System:
    """P0 on another engine, which makes something of its logits."""
    own = unpruned(tiny())
    return replace(own, name=name, open=lambda: Changed(own.open().model, change), **({"engine": "abacus"} | more))


def without_a_head() -> System:
    """It says that it keeps every head, and does not."""
    other = planned(tiny(), plan_of({"L1H2": "zero"}), "", "", Standing.PEER)
    return replace(unpruned(tiny()), name="wrong", open=other.open, engine="abacus")


# The difference.


@pytest.mark.parametrize("make", [unpruned, transformers_default])
def test_the_original_differs_from_itself_by_rounding_only(make: Callable[..., System]) -> None:
    assert logits_difference(tiny(), make(tiny())) < 1e-4


def test_a_plan_is_compared_with_headspec_s_runtime_of_the_same_plan() -> None:
    assert logits_difference(tiny(), planned(tiny(), plan_of(WINDOWS), "", "", Standing.PEER)) < 1e-4


@pytest.mark.parametrize("amount", [0.25, -0.5])
def test_by_hand_a_logit_that_is_off_is_the_difference(amount: float) -> None:
    off = torch.zeros(tiny().huggingface.config.vocab_size)
    off[7] = amount
    assert logits_difference(tiny(), changed(lambda logits: logits + off)) == pytest.approx(abs(amount), abs=1e-4)


def test_a_head_too_few_is_far_beyond_the_tolerance() -> None:
    assert logits_difference(tiny(), without_a_head()) > 100 * TOLERANCE


def test_what_goes_wrong_after_the_prompt_only_is_seen() -> None:
    def late(logits: Tensor) -> Tensor:
        steps.append(1)
        return logits + (len(steps) == 5)

    steps: list[int] = []
    assert logits_difference(tiny(), changed(late)) == pytest.approx(1, abs=1e-4)


def test_the_same_seed_is_the_same_difference() -> None:
    first, again, other = (logits_difference(tiny(), without_a_head(), seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("rows", [1, 2])
def test_logits_that_are_no_numbers_are_not_equal(rows: int) -> None:
    def lost(logits: Tensor) -> Tensor:
        return torch.cat((torch.full_like(logits[:rows], torch.nan), logits[rows:]))

    found = logits_difference(tiny(), changed(lost))
    assert not found <= TOLERANCE


def test_a_short_context_is_enough() -> None:
    assert logits_difference(tiny(20), unpruned(tiny(20))) < 1e-4


# What is written.


def test_greedy_text_is_that_of_transformers() -> None:
    prompt, model = ids(2, 12), tiny().huggingface
    tokens, logits = greedy(unpruned(tiny()).open(), prompt, 6)
    written = model.generate(prompt, do_sample=False, max_new_tokens=6, min_new_tokens=6, pad_token_id=0)
    assert tokens.tolist() == written[:, 12:].tolist()
    with torch.no_grad():
        expected = model(written).logits[:, 11:-1]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_forced_logits_are_those_of_one_pass() -> None:
    prompt, tokens = ids(2, 12), ids(2, 5, seed=3)
    found = forced(unpruned(tiny()).open(), prompt, tokens)
    with torch.no_grad():
        expected = tiny()(torch.cat((prompt, tokens), dim=1))[:, 11:-1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_afterwards_the_cache_is_gone() -> None:
    running = unpruned(tiny()).open()
    greedy(running, ids(1, 8), 3)
    assert running.kv_bytes == 0
    forced(running, ids(1, 8), ids(1, 3))
    assert running.kv_bytes == 0


# In a benchmark.


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rates are not measured."""
    monkeypatch.setattr(benchmark, "measure_rates", lambda *_: Rates(1e10, 1e11))


def run(out: Path, *systems: System, lines: list[str] | None = None, **more: Any) -> BenchmarkReport:
    contenders: list[Contender] = [fixed(system) for system in systems]
    stage = [].append if lines is None else lines.append
    return run_benchmark(tiny(), contenders, GRID, None, out, stage=stage, **more)


def timed(report: BenchmarkReport) -> set[str]:
    return {row["system"] for row in report.rows if row["part"] in ("prefill", "decode", "size") and row["system"]}


def wrong() -> System:
    return changed(lambda logits: logits + 0.5)


def test_a_wrong_system_is_not_timed_and_a_row_says_why(tmp_path: Path) -> None:
    lines: list[str] = []
    report = run(tmp_path, unpruned(tiny()), wrong(), lines=lines)
    assert timed(report) == {"P0"}
    assert report.value("wrong", "logits_difference") == pytest.approx(0.5, abs=1e-4)
    [row] = [row for row in report.rows if row["measure"] == "skipped"]
    assert (row["part"], row["value"]) == ("check", None)
    assert row["note"].startswith("wrong computes something else: its logits differ by 0.")
    assert row["note"].endswith("more than 0.001")
    assert f"NOT TIMED: {row['note']}" in lines


def test_it_stays_out_when_the_run_is_resumed(tmp_path: Path) -> None:
    systems = unpruned(tiny()), wrong()
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(tiny(), list(map(fixed, systems)), GRID, None, tmp_path, stage=stopping_at("decode"))
    assert timed(BenchmarkReport.load(tmp_path)) == {"P0"}
    lines: list[str] = []
    report = run(tmp_path, *systems, resume=True, lines=lines)
    assert not [line for line in lines if line.startswith("check")]
    assert timed(report) == {"P0"}
    assert len([row for row in report.rows if row["measure"] == "skipped"]) == 1
    assert "decode" in {row["part"] for row in report.rows}


def stopping_at(part: str) -> Callable[[str], object]:
    def stage(message: str) -> None:
        if message.startswith(part):
            raise KeyboardInterrupt

    return stage


def test_a_wrong_system_alone_is_a_report_and_no_error(tmp_path: Path) -> None:
    report = run(tmp_path, wrong())
    assert timed(report) == set()
    assert [row["system"] for row in report.rows if row["measure"] == "logits_difference"] == ["wrong"]


def test_a_system_without_numbers_is_not_timed(tmp_path: Path) -> None:
    report = run(tmp_path, unpruned(tiny()), changed(lambda logits: logits * torch.nan))
    assert timed(report) == {"P0"}


def test_an_equal_system_is_timed(tmp_path: Path) -> None:
    report = run(tmp_path, unpruned(tiny()), changed(lambda logits: logits, "right"))
    assert timed(report) == {"P0", "right"}
    found = report.value("right", "logits_difference")
    assert found is not None
    assert found < 1e-4


def test_a_rounded_system_is_timed_however_far_it_is(tmp_path: Path) -> None:
    report = run(tmp_path, unpruned(tiny()), changed(lambda logits: logits + 0.5, "rounded", exact=False))
    assert timed(report) == {"P0", "rounded"}
    assert report.value("rounded", "logits_difference") == pytest.approx(0.5, abs=1e-4)
    assert [row for row in report.rows if row["measure"] == "skipped"] == []


def test_a_system_of_no_engine_is_not_checked(tmp_path: Path) -> None:
    report = run(tmp_path, unpruned(tiny()))
    assert "check" not in {row["part"] for row in report.rows}
    assert "check" not in (tmp_path / LOG).read_text()


def test_a_check_is_one_row_that_names_what_it_is_against(tmp_path: Path) -> None:
    report = run(tmp_path, changed(lambda logits: logits, "right"))
    [row] = [row for row in report.rows if row["part"] == "check"]
    assert (row["system"], row["measure"], row["against"]) == ("right", "logits_difference", "float32 on torch")
    keys = [json.loads(line)["key"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert "check right" in keys
