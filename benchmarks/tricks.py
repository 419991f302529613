"""What each of the runtime's tricks is worth: CPU time with all of them against all but one, in turns, one thread.

    python benchmarks/tricks.py [MODEL] [--plan c] [--context 2000] [--rounds 8]

Decoding at batch 1, 4 and 16, and reading a prompt at batch 1. `packed` is pack_weights(), which is not a switch.
"""

import argparse
import copy
import statistics
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from pruned_models import cpu_seconds, load, pruned


@torch.no_grad()
def main() -> None:
    """Measure every work with every set of tricks; print ratios to all tricks on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-160m")
    parser.add_argument("--plan", default="c")
    parser.add_argument("--context", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = pruned(load(options.model), options.plan)
    variants = {"all": model, **{f"no {name}": without(model, name) for name in names(model)}, "packed": packed(model)}
    prompt = torch.randint(0, 50000, (1, options.context))
    works = {"prompt": {name: partial(read, variant, prompt) for name, variant in variants.items()}}
    for batch in (1, 4, 16):
        works[f"batch {batch}"] = {name: decoding(variant, prompt, batch) for name, variant in variants.items()}
    print(f"{options.model}, plan {options.plan}, context {options.context}, {options.rounds} rounds, 1 thread")
    print("CPU ms with all tricks, then how many times as long without one\n")
    print(f"{'':12}" + "".join(f"{work:>12}" for work in works))
    table = {work: medians(variants, options.rounds) for work, variants in works.items()}
    for name in variants:
        cells = (
            1e3 * table[work]["all"] if name == "all" else table[work][name] / table[work]["all"] for work in works
        )
        print(f"{name:12}" + "".join(f"{cell:12.1f}" if name == "all" else f"{cell:12.2f}" for cell in cells))


def names(model: Any) -> list[str]:
    """The switches."""
    return [field.name for field in fields(model.tricks)]


def without(model: Any, name: str) -> Any:
    """A copy with one trick off."""
    other = copy.deepcopy(model)
    setattr(other.tricks, name, False)
    return other


def packed(model: Any) -> Any:
    """A copy with packed weights."""
    other = copy.deepcopy(model)
    other.pack_weights()
    return other


def read(model: Any, prompt: torch.Tensor) -> Any:
    """The prompt into a cache of its length, as `generate` does."""
    return model(prompt, past_key_values=model.make_cache(expected=prompt.shape[1]), logits_to_keep=1)


def decoding(model: Any, prompt: torch.Tensor, batch: int) -> Any:
    """Reading one more token after the prompt, in every row of a batch."""
    cache = model.make_cache(expected=model.config.max_position_embeddings)
    model(prompt, past_key_values=cache, logits_to_keep=1)
    cache.batch_repeat_interleave(batch)
    return partial(model, prompt[:, :1].repeat(batch, 1), past_key_values=cache)


def medians(variants: dict[str, Any], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each variant, in turns; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, work in variants.items():
            found[name].append(cpu_seconds(work)[0])
    return {name: statistics.median(times[1:]) for name, times in found.items()}


if __name__ == "__main__":
    main()
