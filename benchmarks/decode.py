"""CPU time of one decoded token: transformers against pruned models, interleaved in one process, one thread.

    python benchmarks/decode.py [MODEL] [--batch 4] [--context 2000] [--tokens 24]

V is transformers with sdpa and its DynamicCache, V* the same with tuned malloc (after the others), S with a
StaticCache (the honest baseline), P0 headspec's runtime with every head kept, b to e as in pruned_models.py; + after
pack_weights().
The roofline is what reading the weights and the keys in the cache, or multiplying, would take at the memory bandwidth
and matrix rate measured in the same run.
Targets: batch 1 c ≥ 1.6 V and ≥ 1.2 S; batch 4 (160m) c ≥ 1.5 S; batch 16 (160m) c ≥ 2.1 S and d ≥ 2.8 S; P0 ≥ 1.0 S.
"""

import argparse
import copy
import statistics
from functools import partial
from typing import Any

import torch
from pruned_models import NAMES, cpu_seconds, load, pruned, use_tuned_malloc
from transformers import StaticCache

from headspec.measure.bound import decode_bound_ms, measure_rates


@torch.no_grad()
def main() -> None:
    """Measure all sides token by token in turns; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-160m")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=24, help="measured, for each side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = load(options.model)
    prompt = torch.randint(0, 50000, (1, options.context))
    caches = original_caches(source.huggingface, prompt, options.batch, options.tokens)
    sides: dict[str, tuple[Any, Any]] = {side: (source.huggingface, cache) for side, cache in caches.items()}
    for name in NAMES:
        model = pruned(source, name)
        sides[name] = model, pruned_cache(model, prompt, options.batch)
    if options.batch > 1:
        for name in ("P0", "c", "d"):
            model = copy.deepcopy(sides[name][0])
            model.pack_weights()
            sides[f"{name}+"] = model, pruned_cache(model, prompt, options.batch)
    first = {side: sides[side] for side in sides if side != "V*"}
    found = in_turns(first, options)
    use_tuned_malloc()
    found |= in_turns({"V*": sides["V*"]}, options)
    report(found, sides, options)


def original_caches(model: Any, prompt: torch.Tensor, batch: int, n_tokens: int) -> dict[str, Any]:
    """The prompt in caches of transformers, for every row of the batch."""
    found = {side: model(prompt, logits_to_keep=1).past_key_values for side in ("V", "V*")}
    room = prompt.shape[1] + n_tokens + 2
    static = StaticCache(config=model.config, max_cache_len=room)
    for number, layer in enumerate(found["V"].layers):
        keys, values = (part.expand(batch, -1, -1, -1) for part in (layer.keys, layer.values))
        static.update(keys, values, number)
    for cache in found.values():
        cache.batch_repeat_interleave(batch)
    return {**found, "S": static}


def pruned_cache(model: Any, prompt: torch.Tensor, batch: int) -> Any:
    """The prompt in the cache of a pruned model, for every row of the batch."""
    cache = model.make_cache(expected=model.config.max_position_embeddings)
    model(prompt, past_key_values=cache, logits_to_keep=1)
    cache.batch_repeat_interleave(batch)
    return cache


def in_turns(sides: dict[str, tuple[Any, Any]], options: Any) -> dict[str, list[tuple[float, float]]]:
    """CPU and wall seconds of each token; one token of every side after another."""
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(options.tokens + 2):
        position = options.context + number
        token = torch.randint(0, 50000, (options.batch, 1))
        for side, (model, cache) in sides.items():
            given = {"past_key_values": cache, "position_ids": torch.full_like(token, position)}
            found[side].append(cpu_seconds(partial(model, token, **given)))
    return {side: times[2:] for side, times in found.items()}  # the first two warm up


def kv_bytes(side: str, model: Any, cache: Any, n_tokens: int) -> float:
    """Bytes of keys and values that one token looks at."""
    if side in ("V", "V*", "S"):
        config = model.config
        batch = cache.layers[0].keys.shape[0]
        return 8.0 * batch * config.num_hidden_layers * config.hidden_size * n_tokens
    used = [min(store.buffer.shape[3], n_tokens) / store.buffer.shape[3] * store.nbytes for layer in cache.layers
            for store in layer.stores]  # fmt: skip
    return sum(used)


def report(found: dict[str, list[tuple[float, float]]], sides: dict[str, tuple[Any, Any]], options: Any) -> None:
    """A row a side: medians, how many times as fast as V, S and P0, KV bytes, share of the roofline."""
    rates = measure_rates()
    print(f"{options.model}, batch {options.batch}, context {options.context}, {options.tokens} tokens a side, medians")
    print(f"1 thread; reads {rates.read_bytes_s / 1e9:.1f} GB/s, multiplies {rates.flops_s / 1e9:.0f} GFLOP/s\n")
    cpu = {side: statistics.median(times[0] for times in found[side]) for side in sides}
    wall = {side: statistics.median(times[1] for times in found[side]) for side in sides}
    held = {side: kv_bytes(side, *sides[side], options.context) for side in sides}
    print(f"{'':4}{'CPU ms':>9}{'wall ms':>9}{'× V':>8}{'× S':>8}{'× P0':>8}{'KV':>7}{'of roofline':>13}")
    for side in ("V", "V*", "S", *(side for side in sides if side not in ("V", "V*", "S"))):
        ratios = "".join(f"{cpu[base] / cpu[side]:8.2f}" for base in ("V", "S", "P0"))
        share = decode_bound_ms(sides[side][0], options.batch, held[side], rates) / (1e3 * cpu[side])
        print(
            f"{side:4}{1e3 * cpu[side]:9.1f}{1e3 * wall[side]:9.1f}{ratios}{held[side] / held['V']:7.0%}{share:13.0%}"
        )


if __name__ == "__main__":
    main()
