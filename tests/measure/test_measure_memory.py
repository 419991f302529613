"""Bytes claimed are bytes held: of weights, and at the peak of work in a process of its own."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import memory_jobs
import pytest
import torch
from torch import nn

from headspec.errors import HeadspecError
from headspec.load.plain import PlainModel
from headspec.measure import memory
from headspec.measure.memory import decode_bytes, fits, peak_memory, weight_bytes
from headspec.measure.systems.unpruned import unpruned
from headspec.plan.make import plan_heads

MB = memory_jobs.MB
CLOSE = 0.02


# Weights.


def test_a_linear_layer_has_its_weights_and_biases() -> None:
    assert weight_bytes(nn.Linear(3, 2)) == (3 * 2 + 2) * 4


def test_half_precision_takes_half() -> None:
    assert weight_bytes(nn.Linear(3, 2).to(torch.bfloat16)) == (3 * 2 + 2) * 2


def test_buffers_count() -> None:
    module = nn.Linear(3, 2)
    module.register_buffer("table", torch.zeros(10, dtype=torch.float64))
    assert weight_bytes(module) == (3 * 2 + 2) * 4 + 10 * 8


def test_what_two_modules_share_counts_once() -> None:
    shared = nn.Linear(3, 2)
    assert weight_bytes(nn.Sequential(shared, shared)) == (3 * 2 + 2) * 4


def test_two_parameters_in_the_same_memory_count_once() -> None:
    first, second = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    second.weight = nn.Parameter(first.weight.data)
    assert weight_bytes(nn.Sequential(first, second)) == 3 * 2 * 4


def test_a_view_counts_as_all_that_it_keeps_alive() -> None:
    module = nn.Linear(3, 2, bias=False)
    module.weight = nn.Parameter(torch.zeros(50, 3)[:2])
    assert weight_bytes(module) == 50 * 3 * 4


def test_what_holds_no_data_counts_with_its_size() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    assert weight_bytes(module) == 2 * (3 * 2 + 2) * 4


def test_a_real_model_has_as_many_bytes_as_its_parameters_and_buffers(plain_demo: PlainModel) -> None:
    model = plain_demo.huggingface
    assert weight_bytes(model) == sum(part.nbytes for part in (*model.parameters(), *model.buffers()))


def test_packed_weights_count_as_before(tiny_plain: PlainModel) -> None:
    model: Any = unpruned(tiny_plain).open().model
    before = weight_bytes(model)
    model.pack_weights()
    assert weight_bytes(model) == before


# What will be needed.


def test_what_decoding_needs_worked_by_hand(tiny_plain: PlainModel) -> None:
    plan = plan_heads(tiny_plain, {"L0H0": "zero", "L1H2": "window:6+2"})
    caches = (6 * 100 + 8) * 2 * 8 * 4
    one_layer = 4 * 100 * 2 * 8 * 4
    logits = 2 * 16 * 50000 * 4
    found = decode_bytes(plan, d_mlp=128, vocabulary=50000, batch=16, n_tokens=100)
    assert found == (16 + 1) * caches + 16 * one_layer + logits


def test_a_long_prompt_needs_more_than_the_logits_of_one_row(tiny_plain: PlainModel) -> None:
    plan = plan_heads(tiny_plain, {})
    kv = (8 + 4) * 128 * 2 * 8 * 4
    prompt = 128 * (2 * 128 + 8 * 32) * 4
    assert decode_bytes(plan, d_mlp=128, vocabulary=272, batch=1, n_tokens=128) == kv + prompt


def test_half_precision_needs_half(tiny_plain: PlainModel) -> None:
    plan = plan_heads(tiny_plain, {"L0H0": "zero"})
    needed = [decode_bytes(plan, 128, 272, 4, 100, bytes_per_number=width) for width in (2, 4)]
    assert 2 * needed[0] == needed[1]


@pytest.mark.parametrize(("wanted", "answer"), [(999, True), (1000, True), (1001, False)])
def test_what_is_free_fits_with_some_room(monkeypatch: pytest.MonkeyPatch, wanted: int, answer: bool) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: {"cuda:1": 1200}[device])
    assert fits(wanted, "cuda:1") is answer


# The peak, in a process of its own.

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak cannot be reset")


@linux
def test_the_peak_is_what_the_work_takes() -> None:
    assert peak_memory(memory_jobs.takes, 100) == pytest.approx(100 * MB, rel=CLOSE)


@linux
def test_what_loading_took_does_not_count() -> None:
    assert peak_memory(memory_jobs.loads_then_takes, 100, 60) == pytest.approx(60 * MB, rel=CLOSE)


@linux
def test_work_that_takes_nothing_has_hardly_a_peak() -> None:
    assert 0 <= peak_memory(memory_jobs.takes_nothing) < MB


def text_of(job: Callable[..., Any]) -> str:
    with pytest.raises(HeadspecError, match="failed in its own process") as caught:
        peak_memory(job)
    return str(caught.value)


def test_a_job_that_cannot_load_is_an_error_with_its_text() -> None:
    assert text_of(memory_jobs.fails_to_load) == (
        "fails_to_load failed in its own process: ValueError: no such model as this"
    )


def test_work_that_fails_is_an_error_with_its_text() -> None:
    assert text_of(memory_jobs.fails_at_work) == (
        "fails_at_work failed in its own process: ZeroDivisionError: nothing can be divided by it"
    )


def test_the_process_has_as_many_threads_as_this_one() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert text_of(memory_jobs.tells_threads).endswith("ValueError: 3 threads")
    finally:
        torch.set_num_threads(before)


def test_the_process_is_another() -> None:
    assert not text_of(memory_jobs.tells_its_process).endswith(f"process {os.getpid()}")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_process_that_was_killed_is_told_of_with_the_likely_reason() -> None:
    said = r"is_killed was killed in its own process \(SIGKILL\)\. Memory has probably run out: take a smaller batch"
    with pytest.raises(HeadspecError, match=said):
        peak_memory(memory_jobs.is_killed)


def test_a_process_that_ends_without_a_word_is_told_of() -> None:
    said = r"ends ended in its own process with exit code 3 and no answer\. .* `if __name__ == '__main__':`"
    with pytest.raises(HeadspecError, match=said):
        peak_memory(memory_jobs.ends)


def test_a_job_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(HeadspecError, match=r"cannot be sent to another process .* a function that can be imported"):
        peak_memory(lambda: memory_jobs.takes_nothing())


def test_arguments_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(HeadspecError, match="and arguments that can be pickled"):
        peak_memory(memory_jobs.takes, lambda: 1)


def test_no_process_is_left_when_we_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(connection: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("multiprocessing.connection.Connection.recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        peak_memory(memory_jobs.lingers)
    monkeypatch.undo()
    assert multiprocessing.active_children() == []
