"""What decode.py, prefill.py and generate_memory.py compare: plans over a Pythia's shape, with random weights.

Plan b removes 10 % of the heads of each layer and gives 30 % a window, c 25 % and 50 %, d 20 % and 70 %; windows are
of 3, 4, 8 or 16 keys and 4 sinks. Plan e is c with windows of 32 or 64. P0 is headspec's runtime with every head kept.
"""

import random
from typing import Any

import torch

SHARES = {"P0": (0.0, 0.0), "b": (0.1, 0.3), "c": (0.25, 0.5), "d": (0.2, 0.7), "e": (0.25, 0.5)}
"""Share of removed and of windowed heads."""


def plan_of(model: Any, name: str) -> Any:
    """One of the plans, drawn alike for every layer and run."""
    from headspec import plan_heads
    from headspec.load.identity import identify

    known, draw = identify(model), random.Random(0)
    removed, windowed = (round(share * known.n_heads) for share in SHARES[name])
    windowed = min(windowed, known.n_heads - removed - 1)  # where rounding leaves none, one head keeps every key
    sizes = (32, 64) if name == "e" else (3, 4, 8, 16)
    treatments = {}
    for layer in range(known.n_layers):
        heads = draw.sample(range(known.n_heads), known.n_heads)
        for place, head in enumerate(heads[: removed + windowed]):
            what = "zero" if place < removed else f"window:{sizes[place % len(sizes)]}"
            treatments[f"L{layer}H{head}"] = what
    return plan_heads(model, treatments)


def pruned(model: Any, name: str) -> Any:
    """The pruned model, which shares uncut weights with the original."""
    from headspec.export.surgery import pruned_model

    return pruned_model(model.huggingface, plan_of(model, name))


def load(name: str) -> Any:
    """A model on the CPU, in float32, with Hugging Face's sdpa attention."""
    from headspec import load_plain

    return load_plain(name, device="cpu")


def bandwidth() -> float:
    """Bytes a second that one thread reads from memory (the best of a few passes over 256 MB)."""
    numbers = torch.ones(64 * 2**20)
    return numbers.numel() * 4 / best_cpu_seconds(numbers.sum)


def gemm_rate() -> float:
    """Floating-point operations a second of a large matrix product in float32."""
    square = torch.randn(1024, 1024)
    return 2 * 1024**3 / best_cpu_seconds(lambda: square @ square)


def best_cpu_seconds(work: Any, rounds: int = 9) -> float:
    """CPU time of the quickest of several runs."""
    return min(cpu_seconds(work)[0] for _ in range(rounds))


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
