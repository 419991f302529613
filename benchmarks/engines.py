"""CPU time of one decoded token on other engines, pruned and not, interleaved in one process.

    python benchmarks/engines.py [MODEL] [--batch 1 4] [--context 2000] [--tokens 24] [--plan c] [--threads 1]

V, S and P0 as in decode.py. `compiled`: decoding through torch.compile. `OpenVINO`: headspec's graph, keys and values
in buffers of the runner; `stateful`: in states of the graph, which OpenVINO fuses with its attention. Every engine's
logits are compared first. Needs the extra `peers`.
Targets: OpenVINO at batch 4, c ≥ 1.7 P0; batch 1, c compiled ≥ 1.15 c.
"""

import argparse
import sys
from collections.abc import Iterator

import torch
from pruned_models import load

from headspec.load.plain import PlainModel
from headspec.measure.check import TOLERANCE, logits_difference
from headspec.measure.hypothetical import hypothetical_plan
from headspec.measure.speed import summary, time_decode
from headspec.measure.systems.compiled import compiled, compiled_static
from headspec.measure.systems.ctranslate2 import on_ctranslate2
from headspec.measure.systems.openvino import on_openvino
from headspec.measure.systems.planned import planned
from headspec.measure.systems.reduced import with_weights
from headspec.measure.systems.static_cache import static_cache
from headspec.measure.systems.system import Standing, System
from headspec.measure.systems.transformers_default import transformers_default
from headspec.measure.systems.unpruned import unpruned


def main() -> None:
    """Check all sides, measure them token by token in turns; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-160m")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--context", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=24, help="measured, for each side")
    parser.add_argument("--plan", default="c")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", action="store_true", help="integer weights, too")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = load(options.model)
    systems = {system.name: system for system in sides(source, options)}
    differences = {name: logits_difference(source, each) for name, each in systems.items() if each.engine}
    for name, difference in differences.items():
        if systems[name].exact and not difference <= TOLERANCE:
            raise SystemExit(f"{name} computes something else: logits differ by {difference}")
    for batch in options.batch:
        measure(systems, differences, batch, options)


def measure(systems: dict[str, System], differences: dict[str, float], batch: int, options: argparse.Namespace) -> None:
    """A row a side: medians, how many times as fast as V, S, P0 and the whole model on the same engine, KV bytes."""
    running = {name: each.open() for name, each in systems.items()}
    print(f"measuring batch {batch}", file=sys.stderr)
    laps = time_decode(running, torch.randint(0, 50000, (1, options.context)), batch, options.tokens)
    times = {name: summary(found) for name, found in laps.items()}
    print(f"{options.model}, batch {batch}, context {options.context}, {options.tokens} tokens, medians, "
          f"{options.threads} thread(s)\n")  # fmt: skip
    heads = ("CPU ms", 8), ("wall ms", 9), ("× V", 7), ("× S", 7), ("× P0", 7), ("× whole", 9), ("KV MB", 8), ("Δ", 10)
    print(" " * 26 + "".join(f"{word:>{width}}" for word, width in heads))
    for name, each in systems.items():
        cpu = times[name].cpu_ms
        ratios = "".join(f"{times[base].cpu_ms / cpu:7.2f}" for base in ("V", "S", "P0"))
        whole = f"{times[each.unpruned].cpu_ms / cpu:9.2f}" if each.unpruned in times else " " * 9
        delta = f"{differences[name]:10.1e}" if name in differences else ""
        held = f"{running[name].kv_bytes / 1e6:8.0f}"
        print(f"{name:26}{cpu:8.1f}{times[name].wall_ms:9.1f}{ratios}{whole}{held}{delta}", flush=True)
        running[name].forget()
    print()


def sides(source: PlainModel, options: argparse.Namespace) -> Iterator[System]:
    """What is compared."""
    plan = hypothetical_plan(source, options.plan)
    own = (unpruned(source), planned(source, plan, options.plan, f"plan {options.plan}", Standing.HYPOTHETICAL))
    yield from (transformers_default(source), static_cache(source), *own, on_ctranslate2(source))
    if not options.no_compile:
        yield from (compiled_static(source), *map(compiled, own))
    for each in own:
        yield from (on_openvino(each), on_openvino(each, stateful=True))
        if options.int8:
            yield from (with_weights(each, "int8"), on_openvino(each, "int8"), with_weights(each, "bfloat16"))


if __name__ == "__main__":
    main()
