"""What the probe costs: memory and CPU time against a plain forward pass with `output_attentions`.

    python benchmarks/probe.py [MODEL] [--tokens 2048] [--rounds 3]

Each measurement runs in a fresh process, the two sides take turns, medians are compared. Memory is what the
process needs above the loaded model (Linux). Targets for 2,048 tokens of random:pythia-410m:

- hooks engine: at most 0.7 GB, and at most 1.1 × the CPU time of Hugging Face's eager attention with
  `output_attentions=True`, which yields patterns and no statistics;
- fast engine: at most 0.4 GB, and at most 1.6 × the CPU time of Hugging Face's sdpa, which yields neither.
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
    "hooks": "probe_heads, text only",
    "fast": 'probe_heads(engine="fast"), text only',
    "hooks+repeats": "probe_heads, with repeats",
    "fast+repeats": 'probe_heads(engine="fast"), with repeats',
}


def main() -> None:
    """Measure every side in turns and print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-410m")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="measure only these")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.model, options.tokens)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides}
    for number in range(options.rounds):
        for side in options.sides:
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

    from headspec import load_model, load_plain, load_text, probe_heads
    from headspec.probe.memory import give_back_free_memory

    engine, _, repeats = side.partition("+")
    model: Any = (load_model if engine == "hooks" else load_plain)(name, device="cpu")
    tokens = load_text(model, n_tokens=n_tokens).tokens
    gc.collect()
    give_back_free_memory()
    before = reset_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    if engine in ("hooks", "fast"):
        probe_heads(model, tokens, engine=engine, n_repeats=2 if repeats else 0, progress=False)
    else:
        model.huggingface.set_attn_implementation(engine)
        with torch.no_grad():
            for window in tokens:  # like the probe: one window at a time, no logits but the last
                model.huggingface(window[None], output_attentions=engine == "eager", logits_to_keep=1, use_cache=False)
    return {
        "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "peak_gb": peak_gb() - before,
    }  # fmt: skip


def reset_peak() -> float:
    """Start a new high-water mark of resident memory; returns where it starts, in GB."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def peak_gb() -> float:
    """The high-water mark of resident memory since `reset_peak`, in GB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e9


def report(found: dict[str, list[dict[str, float]]], model: str, tokens: int) -> None:
    """Print medians over the rounds, and the ratios to the two baselines."""
    median = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in found.items()
    }
    rounds = len(next(iter(found.values())))
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    print(f"{model}, {tokens} tokens, {rounds} rounds, {threads} threads, {platform.machine()}, medians\n")
    baselines = [side for side in ("eager", "sdpa") if side in found]
    columns = "".join(f"{f'CPU / {side}':>13}" for side in baselines)
    print(f"{'':44}{'peak above model':>18}{'CPU':>9}{'wall':>9}{columns}")
    for side, row in median.items():
        ratios = "".join(f"{row['cpu_s'] / median[base]['cpu_s']:12.2f}×" for base in baselines)
        print(f"{SIDES[side]:44}{row['peak_gb']:15.2f} GB{row['cpu_s']:8.1f}s{row['wall_s']:8.1f}s{ratios}")


if __name__ == "__main__":
    main()
