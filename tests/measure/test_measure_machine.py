"""What a machine is said to be."""

import json
import os
import platform
import subprocess
from types import SimpleNamespace

import psutil
import pytest
import torch
import transformers

from headspec.measure import machine
from headspec.measure.machine import this_machine


def test_versions_are_those_that_run() -> None:
    found = this_machine()
    versions = (platform.python_version(), torch.__version__, transformers.__version__)
    assert (found.python, found.torch, found.transformers) == versions


def test_threads_are_torch_s() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert this_machine().threads == 3
    finally:
        torch.set_num_threads(before)


def test_memory_is_that_of_the_machine() -> None:
    assert this_machine().memory_bytes == psutil.virtual_memory().total


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system binds no process to cores")
def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 2, 5})
    assert this_machine().cores == 3


def test_it_has_a_name() -> None:
    assert this_machine().processor


def test_linux_keeps_the_name_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "processor\t: 0\nmodel name\t: Abacus 9 @ 3: fast\nprocessor\t: 1\nmodel name\t: another\n"
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "Path", lambda name: SimpleNamespace(read_text=lambda encoding: lines))
    assert this_machine().processor == "Abacus 9 @ 3: fast"


def test_macos_tells_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    answer = SimpleNamespace(stdout="Apple M9\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda command, **options: answer)
    assert this_machine().processor == "Apple M9"


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_where_it_cannot_be_found_python_s_name_serves(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise subprocess.SubprocessError

    monkeypatch.setattr(machine.sys, "platform", system)
    monkeypatch.setattr(machine, "Path", lambda name: SimpleNamespace(read_text=lambda encoding: "no such line"))
    monkeypatch.setattr(machine.subprocess, "run", fails)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "abacus64")
    assert this_machine().processor == "abacus64"


def test_a_gpu_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card of {device}")
    assert this_machine("cuda:1").device == "cuda: Card of cuda:1"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_are_called_by_their_kind(device: str) -> None:
    assert this_machine(device).device == device


def test_it_can_be_written_as_json() -> None:
    found = this_machine()
    assert json.loads(json.dumps(found.to_dict())) == vars(found)
