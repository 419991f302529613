"""Bytes really held: by a model's weights, and at the peak of some work, measured in a process of its own."""

import gc
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from headspec.errors import HeadspecError
from headspec.load.memory import available_bytes
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.probe.memory import give_back_free_memory

Work = Callable[[], object]
HEADROOM = 1.2
"""Bytes that should be free for every byte of an estimate: real peaks have been up to 1.16 times `decode_bytes`."""
PATIENCE_S = 10
"""How long a process that has answered may take to end."""


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers. What several modules share counts once, a view as all that it keeps alive.

    Tensors that hold no data (the meta device) count with their size: those of packed weights, whose data torch keeps
    elsewhere and does not tell about.
    """
    found = {}
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_meta:
            found["meta", id(tensor)] = tensor.numel() * tensor.element_size()
        else:
            storage = tensor.untyped_storage()
            found[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def decode_bytes(
    plan: HeadPlan, d_mlp: int, vocabulary: int, batch: int, n_tokens: int, bytes_per_number: int = 4
) -> int:
    """About what reading a prompt of `n_tokens` once, and decoding it in `batch` rows, needs beside the weights.

    The cache under the plan; that of the prompt's one row, from which the others are copied; the full cache of one
    layer (as a DynamicCache grows, and before a head is compressed); and the activations of the prompt or the logits
    of the batch. Under the empty plan it serves V and S too. An estimate to skip what cannot fit, not a measurement
    (that is `peak_memory`): allocators leave gaps, for which `fits` keeps room.

    Args:
        plan: What is done with the heads.
        d_mlp: Width of the MLP's hidden layer.
        vocabulary: Rows of the unembedding.
        batch: Rows.
        n_tokens: Tokens in the cache.
        bytes_per_number: 4 for float32.
    """
    size = plan_size(plan, n_tokens, bytes_per_number)
    copied = size.full_kv_bytes // plan.about.n_layers
    prompt = n_tokens * (2 * d_mlp + 8 * plan.about.d_model) * bytes_per_number
    rows = batch + (batch > 1)
    return rows * size.kv_bytes + batch * copied + max(prompt, 2 * batch * vocabulary * bytes_per_number)


def fits(wanted_bytes: int, device: str = "cpu") -> bool:
    """Whether an estimate fits into what is free on a device, with some room."""
    return HEADROOM * wanted_bytes <= available_bytes(device)


def peak_memory(job: Callable[..., Work], *args: Any, device: str = "cpu") -> int:
    """Peak bytes of some work above what was there before it, in a fresh process.

    Reads the resident memory of the process on Linux (its peak is reset before the work), the memory of torch's
    allocator on CUDA, and what Metal's driver holds after the work on MPS (it gives nothing back meanwhile). On other
    systems the peak cannot be reset: work that needs less than loading did is counted as less than it needs, down to 0.
    On a CPU the first run of anything also brings code and buffers into memory: let `job` run it once on something
    small.

    Args:
        job: A function that can be imported. Called with `args` in the new process it loads what it needs and returns
            the work to measure.
        *args: Can be pickled.
        device: Whose memory is measured.

    Raises:
        HeadspecError: The job failed, or was killed (as when memory runs out).
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_in_child, args=(theirs, device, torch.get_num_threads(), job, *args), daemon=False
    )
    try:
        process.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise HeadspecError(f"{job} cannot be sent to another process ({error}): want a function that can be imported, "
                            "and arguments that can be pickled.") from error  # fmt: skip
    finally:
        theirs.close()
    try:
        answer = mine.recv()
        process.join(PATIENCE_S)
    except EOFError:
        process.join()
        raise HeadspecError(_death(job, process.exitcode)) from None
    finally:
        process.kill()  # it has ended, unless we were interrupted
        process.join()
        mine.close()
    if isinstance(answer, str):
        raise HeadspecError(f"{_name(job)} failed in its own process: {answer}")
    return answer


def _name(job: Any) -> str:
    return getattr(job, "__name__", str(job))


def _death(job: Any, code: int | None) -> str:
    """Why a process ended without an answer."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        likely = " Memory has probably run out: take a smaller batch or context." if name == "SIGKILL" else ""
        return f"{_name(job)} was killed in its own process ({name}).{likely}"
    return (
        f"{_name(job)} ended in its own process with exit code {code} and no answer. A script that measures memory "
        "must do so under `if __name__ == '__main__':`."
    )


def _in_child(answer: Connection, device: str, threads: int, job: Callable[..., Work], *args: Any) -> None:
    """Load, measure, and send back the bytes, or what went wrong."""
    try:
        torch.set_num_threads(threads)
        answer.send(peak_of(job(*args), device))
    except BaseException as error:
        with suppress(OSError):
            answer.send(f"{type(error).__name__}: {error}")


def peak_of(work: Work, device: str) -> int:
    """Peak bytes while `work` runs in this process, above those before; meant for a fresh one, see `peak_memory`."""
    gc.collect()
    give_back_free_memory()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.startswith("mps"):
        torch.mps.empty_cache()
        before = torch.mps.driver_allocated_memory()
        work()
        return max(torch.mps.driver_allocated_memory() - before, 0)
    _reset_peak()
    before = psutil.Process().memory_info().rss
    work()
    return max(_peak_resident() - before, 0)


def _reset_peak() -> None:
    """Let Linux count the peak anew; elsewhere it cannot be."""
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _peak_resident() -> int:
    """The most bytes that this process has had in memory."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    if os.name == "nt":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
