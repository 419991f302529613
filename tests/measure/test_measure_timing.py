"""Laps, ratios and warnings, worked by hand; no test here waits for a clock."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headspec.errors import HeadspecError
from headspec.measure import timing
from headspec.measure.timing import Lap, lap, noise, ratio, spread, synchronize


def clocks(monkeypatch: pytest.MonkeyPatch, wall: list[float], cpu: list[float]) -> None:
    """Clocks that show these seconds, one after the other."""
    walls, cpus = iter(wall), iter(cpu)
    monkeypatch.setattr(
        timing, "time", SimpleNamespace(perf_counter=lambda: next(walls), process_time=lambda: next(cpus))
    )


def laps(wall: list[float], cpu: list[float] | None = None) -> list[Lap]:
    return [Lap(*pair) for pair in zip(wall, wall if cpu is None else cpu, strict=True)]


# One lap.


def test_a_lap_is_the_difference_of_the_clocks_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks(monkeypatch, [10.0, 10.5], [3.0, 3.25])
    assert lap(lambda: None) == Lap(wall_ms=500.0, cpu_ms=250.0)


def test_work_is_done_once() -> None:
    done: list[int] = []
    lap(lambda: done.append(1))
    assert done == [1]


def test_an_error_of_the_work_comes_through() -> None:
    def fails() -> None:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ZeroDivisionError, match="by nothing"):
        lap(fails)


def test_the_cpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise AssertionError("waited for a GPU")

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    monkeypatch.setattr(torch.mps, "synchronize", fails)
    synchronize("cpu")


@pytest.mark.parametrize(("device", "kind"), [("cuda:1", "cuda"), ("mps", "mps"), ("mps:0", "mps")])
def test_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch, device: str, kind: str) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda *arguments: waited.append(kind))
    synchronize(device)
    assert waited == [kind]


def test_on_mps_a_lap_waits_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: events.append("wait"))
    lap(lambda: events.append("work"), "mps")
    assert events == ["wait", "work", "wait"]


def test_on_cuda_the_gpu_s_own_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self, stream: str) -> None:
            events.append(f"mark on {stream}")

        def elapsed_time(self, end: "Event") -> float:
            assert end is not self
            return 7.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    clocks(monkeypatch, [0.0, 9.0], [0.0, 0.002])
    assert lap(lambda: events.append("work"), "cuda:1") == Lap(wall_ms=7.5, cpu_ms=2.0)
    assert events == ["wait", "mark on cuda:1", "work", "mark on cuda:1", "wait"]


# Ratios.


def test_a_ratio_is_that_of_the_medians() -> None:
    assert ratio([2.0, 100.0, 4.0], [1.0, 2.0, 50.0]).value == 4 / 2


def test_half_the_time_is_twice_as_fast() -> None:
    assert ratio([10.0] * 5, [5.0] * 5).value == 2


def test_a_slow_round_that_hits_both_leaves_no_doubt() -> None:
    base = np.random.default_rng(0).uniform(1, 9, 20)
    found = ratio(list(3 * base), list(base))
    assert (found.low, found.high) == (pytest.approx(3), pytest.approx(3))


def test_slow_rounds_that_hit_only_one_widen_the_interval() -> None:
    draw = np.random.default_rng(0)
    found = ratio(list(draw.uniform(1, 9, 20)), list(draw.uniform(1, 9, 20)))
    assert found.low < 0.8 * found.value
    assert found.high > 1.2 * found.value


def test_one_round_gives_a_ratio_and_no_interval() -> None:
    found = ratio([6.0], [2.0])
    assert found.value == 3
    assert np.isnan([found.low, found.high]).all()


def test_the_seed_draws_the_rounds() -> None:
    draw = np.random.default_rng(0)
    times = list(draw.uniform(1, 9, 8)), list(draw.uniform(1, 9, 8))
    assert ratio(*times, seed=1) == ratio(*times, seed=1)
    assert ratio(*times, seed=1) != ratio(*times, seed=2)


@pytest.mark.parametrize("times", [([1.0, 2.0], [1.0]), ([], [])])
def test_rounds_must_have_a_time_of_each(times: tuple[list[float], list[float]]) -> None:
    with pytest.raises(HeadspecError, match="want one of each in every round"):
        ratio(*times)


@pytest.mark.parametrize("times", [([0.0, 1.0], [1.0, 1.0]), ([1.0, 1.0], [1.0, 0.0])])
def test_a_time_of_zero_is_refused(times: tuple[list[float], list[float]]) -> None:
    with pytest.raises(HeadspecError, match="a time of zero: the work is too short for this clock"):
        ratio(*times)


# Noise.


def test_the_spread_is_the_middle_half_over_the_median() -> None:
    assert spread(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx((4 - 2) / 3)


def test_a_quiet_machine_is_not_spoken_of() -> None:
    assert noise(laps([10.0, 10.2, 9.9, 10.1, 10.0])) is None


def test_a_slow_lap_or_two_raise_no_alarm() -> None:
    assert noise(laps([10.0, 10.1, 90.0, 10.0, 9.9, 10.0, 10.1, 10.0, 70.0])) is None


def test_times_that_vary_are_told_of_with_the_number() -> None:
    told = noise(laps([8.0, 9.0, 10.0, 11.0, 12.0]))
    assert told == "wall times vary by 20% (interquartile range over median of 5)"


def test_a_process_that_waits_is_told_of_with_the_number() -> None:
    told = noise(laps([20.0] * 6, [10.0] * 6))
    assert told == "wall time is 2.0 times CPU time: the process waits, as when others use the cores"


def test_both_signs_are_told_of_together() -> None:
    told = noise(laps([8.0, 9.0, 10.0, 11.0, 12.0], [4.0, 4.5, 5.0, 5.5, 6.0]))
    assert told is not None
    assert "vary by 20%" in told
    assert "2.0 times CPU time" in told


def test_threads_that_compute_together_are_no_noise() -> None:
    assert noise(laps([10.0] * 6, [19.0] * 6)) is None


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_waiting_for_a_gpu_is_no_noise(device: str) -> None:
    assert noise(laps([20.0] * 6, [1.0] * 6), device) is None


@pytest.mark.parametrize("number", [0, 1, 3])
def test_too_few_laps_cannot_tell(number: int) -> None:
    told = noise(laps([10.0] * number))
    assert told == f"only {number} measurements: how much they vary cannot be told; take 4 or more."
