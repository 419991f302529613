"""CPU time of reading a prompt: transformers against pruned models, interleaved in one process, one thread.

    python benchmarks/prefill.py [MODEL] [--batch 1] [--context 2048] [--rounds 9]

Only the logits of the last token are wanted. V is transformers with sdpa and its DynamicCache, P0 headspec's runtime
with every head kept, b to e as in pruned_models.py, all with the last-layer shortcut; −L is without it, +T with the
table of the first layer (tabulate_first_layer). P0−L, P0+T and c−L, c+T tell what these, which have nothing to do with
pruning, bring.
Targets: P0 ≥ 0.97 V; 70m c ≥ 1.55 V, c+T ≥ 1.8 V.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pruned_models import NAMES, cpu_seconds, load, pruned

from headspec.measure.bound import measure_rates


@torch.no_grad()
def main() -> None:
    """Measure all sides in turns; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-70m")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = load(options.model)
    prompt = torch.randint(0, 50000, (options.batch, options.context))
    sides: dict[str, Callable[[], Any]] = {"V": partial(source.huggingface, prompt, logits_to_keep=1)}
    for name in NAMES:
        model = pruned(source, name)
        sides[name] = partial(read, model, prompt)
        if name in ("P0", "c"):
            whole = copy.deepcopy(model)
            whole.tricks.last_tokens = False
            sides[f"{name}−L"] = partial(read, whole, prompt)
            tabled = copy.deepcopy(model)
            tabled.tabulate_first_layer()
            sides[f"{name}+T"] = partial(read, tabled, prompt)
    for work in sides.values():
        work()
    found = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, work in sides.items():
            found[side].append(cpu_seconds(work))
    report(found, options)


def read(model: Any, prompt: torch.Tensor) -> Any:
    """The prompt into a cache of its length, as `generate` does."""
    return model(prompt, past_key_values=model.make_cache(expected=prompt.shape[1]), logits_to_keep=1)


def report(found: dict[str, list[tuple[float, float]]], options: Any) -> None:
    """A row a side: medians, and how many times as fast as V and P0."""
    print(f"{options.model}, batch {options.batch}, {options.context} tokens, {options.rounds} rounds, medians")
    print(f"1 thread; multiplies {measure_rates().flops_s / 1e9:.0f} GFLOP/s\n")
    cpu = {side: statistics.median(times[0] for times in runs) for side, runs in found.items()}
    print(f"{'':6}{'CPU ms':>9}{'wall ms':>9}{'× V':>8}{'× P0':>8}")
    for side, runs in found.items():
        wall = statistics.median(times[1] for times in runs)
        print(f"{side:6}{1e3 * cpu[side]:9.0f}{1e3 * wall:9.0f}{cpu['V'] / cpu[side]:8.2f}{cpu['P0'] / cpu[side]:8.2f}")


if __name__ == "__main__":
    main()
