"""How much memory there is: what the machine has left, and what a container or job may use."""

from pathlib import Path

import psutil
import torch

GROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of this process's control group, versions 2 and 1: containers and cluster jobs have one."""


def available_bytes(device: str = "cpu") -> int:
    """Bytes that can still be used on `device`: free memory and swap, or free GPU memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    return min([free, *(limit for files in GROUP_FILES if (limit := _left_in_group(*files)) is not None)])


def _left_in_group(limit: str, used: str) -> int | None:
    """Bytes left in a control group; None without a limit."""
    try:
        return int(Path(limit).read_text()) - int(Path(used).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
