"""On which machine, and with which versions, something was measured."""

import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from headspec.probe.versions import versions


@dataclass(frozen=True)
class Machine:
    """What times and rates depend on besides the model: figures of two machines cannot be compared."""

    processor: str
    """Its name, as the system gives it."""
    cores: int
    """Logical cores that this process may use."""
    memory_bytes: int
    """Of the machine; a container may allow less."""
    device: str
    """`cpu`, `cuda: ` and the card's name, or `mps`."""
    threads: int
    """Threads that torch computes with on the CPU."""
    system: str
    python: str
    torch: str
    transformers: str
    headspec: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and tables."""
        return asdict(self)


def this_machine(device: str = "cpu") -> Machine:
    """The machine that this process runs on."""
    known = dict(versions())
    return Machine(
        processor=_processor(), cores=_cores(), memory_bytes=psutil.virtual_memory().total,
        device=_device(device), threads=torch.get_num_threads(), system=platform.platform(),
        python=known["python"], torch=torch.__version__, transformers=known["transformers"],
        headspec=known["headspec"],
    )  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1


def _device(device: str) -> str:
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else device


def _processor() -> str:
    """Linux and macOS keep the name where `platform` does not look."""
    try:
        if sys.platform == "linux":
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, StopIteration, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()
