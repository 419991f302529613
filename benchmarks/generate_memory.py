"""Peak memory of `generate` above the loaded model, each side in a fresh process (Linux).

    python benchmarks/generate_memory.py [MODEL] [--batch 4] [--prompt 1900] [--new 20] [--rounds 3]

V is transformers with sdpa and its DynamicCache, S with a StaticCache, P0 headspec's runtime with every head kept, c
as in pruned_models.py. Target for 160m: c needs at most 55 % of V's; aim 40 %.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from pruned_models import load, pruned

SIDES = ("V", "S", "P0", "c")


def main() -> None:
    """Measure the sides in turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-160m")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=1900)
    parser.add_argument("--new", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options)))
        return
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
    print(f"{options.model}, batch {options.batch}, {options.prompt} + {options.new} tokens, {options.rounds} rounds, "
          "1 thread\n")  # fmt: skip
    for side, peaks in found.items():
        share = statistics.median(peaks) / statistics.median(found["V"])
        print(f"{side:4}{statistics.median(peaks):9.3f} GB above the model{share:8.0%} of V")


def measure(options: argparse.Namespace) -> float:
    """Peak resident memory of one `generate`, in GB above the loaded model."""
    torch.set_num_threads(1)
    source = load(options.model)
    model = source.huggingface if options.side in ("V", "S") else pruned(source, options.side)
    del source
    prompt = torch.randint(0, 50000, (options.batch, options.prompt))
    settings = {"max_new_tokens": options.new, "min_new_tokens": options.new, "do_sample": False, "pad_token_id": 0}
    if options.side == "S":
        settings |= {"cache_implementation": "static", "disable_compile": True}
    model.generate(prompt[:, :16], attention_mask=torch.ones_like(prompt[:, :16]), **settings)  # lazy imports, layouts
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e9 - before


if __name__ == "__main__":
    main()
