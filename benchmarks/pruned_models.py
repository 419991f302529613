"""What decode.py, prefill.py and generate_memory.py have in common: plans over a Pythia's shape, with random weights.

The plans b to e are those of `headspec.measure.hypothetical`; P0 is headspec's runtime with every head kept.
"""

from typing import Any

from headspec.measure.hypothetical import SHARES, hypothetical_plan

NAMES = ("P0", *SHARES)


def pruned(model: Any, name: str) -> Any:
    """The pruned model, which shares uncut weights with the original."""
    from headspec import plan_heads
    from headspec.export.surgery import pruned_model

    plan = plan_heads(model, {}) if name == "P0" else hypothetical_plan(model, name)
    return pruned_model(model.huggingface, plan)


def load(name: str) -> Any:
    """A model on the CPU, in float32, with Hugging Face's sdpa attention."""
    from headspec import load_plain

    return load_plain(name, device="cpu")


def cpu_seconds(work: Any) -> tuple[float, float]:
    """CPU and wall seconds of one run."""
    import time

    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def use_tuned_malloc() -> None:
    """From now on glibc keeps freed memory instead of giving it back and faulting it in anew for every token."""
    import ctypes

    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 2**30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
