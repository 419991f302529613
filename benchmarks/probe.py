"""What the probe costs: memory and CPU time against a plain forward pass with `output_attentions`.

    python benchmarks/probe.py [MODEL] [--tokens 2048] [--rounds 3]

Each measurement runs in a fresh process, the two sides take turns, medians are compared. Memory is what the
process needs above the loaded model (Linux). Targets: at most 0.7 GB, and at most 1.1 × the CPU time of
Hugging Face's eager attention with `output_attentions=True`, which yields patterns and no statistics.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIDES = {
    "eager": "Hugging Face eager, output_attentions",
    "sdpa": "Hugging Face sdpa, no patterns",
    "probe": "headspec probe_heads, text only",
    "probe+repeats": "headspec probe_heads, with repeats",
}


def main() -> None:
    """Measure every side in turns and print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-410m")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.model, options.tokens)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(options.rounds):
        for side in SIDES:
            found[side].append(in_fresh_process(side, options.model, options.tokens))
            print(f"round {number + 1}, {side}: {found[side][-1]}", file=sys.stderr)
    report(found, options.model, options.tokens)


def in_fresh_process(side: str, model: str, tokens: int) -> dict[str, float]:
    """One measurement, not disturbed by what ran before."""
    command = [sys.executable, __file__, model, "--tokens", str(tokens), "--side", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(side: str, name: str, n_tokens: int) -> dict[str, float]:
    """Load, then run once: peak memory above the loaded model in GB, CPU and wall seconds."""
    import torch

    from headspec import load_model, probe_heads
    from headspec.load.text import load_text
    from headspec.probe.memory import give_back_free_memory

    model: Any = load_model(name, device="cpu")
    tokens = load_text(model, n_tokens=n_tokens).tokens
    if side in ("eager", "sdpa"):
        model = plain_model(model.original_model.config)
        model.set_attn_implementation(side)
    gc.collect()
    give_back_free_memory()
    before = reset_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    if side == "probe":
        probe_heads(model, tokens, n_repeats=0, progress=False)
    elif side == "probe+repeats":
        probe_heads(model, tokens, progress=False)
    else:
        with torch.no_grad():
            for window in tokens:  # like the probe: one window at a time, only the last logits
                model(window[None], output_attentions=side == "eager", logits_to_keep=1)
    return {
        "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "peak_gb": peak_gb() - before,
    }  # fmt: skip


def plain_model(config: Any) -> Any:
    """A fresh Hugging Face model of the same configuration: a bridge changes the one it was made from."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config).eval()


def reset_peak() -> float:
    """Start a new high-water mark of resident memory; returns where it starts, in GB."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def peak_gb() -> float:
    """The high-water mark of resident memory since `reset_peak`, in GB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e9


def report(found: dict[str, list[dict[str, float]]], model: str, tokens: int) -> None:
    """Print medians over the rounds, and the ratio to eager."""
    median = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in found.items()
    }
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    print(f"{model}, {tokens} tokens, {len(found['eager'])} rounds, {threads} threads, {platform.machine()}, medians\n")
    print(f"{'':42}{'peak above model':>18}{'CPU':>9}{'wall':>9}{'CPU / eager':>13}")
    for side, label in SIDES.items():
        row = median[side]
        ratio = row["cpu_s"] / median["eager"]["cpu_s"]
        print(f"{label:42}{row['peak_gb']:15.2f} GB{row['cpu_s']:8.1f}s{row['wall_s']:8.1f}s{ratio:12.2f}×")


if __name__ == "__main__":
    main()
