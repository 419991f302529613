"""Single-head effects: `headspec.sweep` against one full hooked forward pass a head.

python benchmarks/sweep.py                       every head of random:pythia-160m, 4 × 512 tokens (an hour)
python benchmarks/sweep.py --heads-per-layer 2   a sample of the heads: the cost depends on the layer only
python benchmarks/sweep.py --tricks              what each trick of the fast engine gives, step by step

Both sides take the same cases and give KL and loss of each; they run in turns, layer by layer, in one process. CPU
time is what counts on a shared machine. Random weights: timing and exactness only.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headspec.heads import HeadId
from headspec.intervene.ablate import apply_plan
from headspec.load.model import load_model
from headspec.load.plain import as_plain
from headspec.load.text import random_tokens
from headspec.measure.compare import Comparison, compare_logits
from headspec.measure.readout import Readout
from headspec.measure.texts import ScoredText, scored_text
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.search import fast
from headspec.search.cases import Case
from headspec.search.layerwise import LayerWise

FILL = "zero"
SWEEP = "headspec.sweep, fast engine"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random:pythia-160m")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--heads-per-layer", type=int, help="all of them by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tricks", action="store_true", help="measure each trick on one head a layer instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bridge = load_model(options.model, device="cpu")
    known = as_plain(bridge).identity
    tokens = random_tokens(known.vocabulary, options.windows * options.window, options.window, seed=0)
    text = scored_text(bridge, tokens)
    print(f"{options.model}, {known.n_layers} × {known.n_heads} heads, {options.windows} × {options.window} tokens, "
          f"{options.threads} threads, fill {FILL}")  # fmt: skip
    with torch.no_grad():
        if options.tricks:
            tricks(bridge, text)
        else:
            whole(bridge, text, options.heads_per_layer or known.n_heads)


def whole(bridge: Any, text: ScoredText, heads_per_layer: int) -> None:
    """All sides, layer by layer in turns."""
    plain = as_plain(bridge)
    n_layers, n_heads = plain.identity.n_layers, plain.identity.n_heads
    cases = [[case_of(bridge, HeadId(layer, head)) for head in range(heads_per_layer)] for layer in range(n_layers)]
    warm_up = case_of(bridge, HeadId(0, n_heads - 1))
    engine = fast.measure_fast(plain, [warm_up, *(case for some in cases for case in some)], [text])
    reference, original = timed(lambda: [bridge(window)[:, :-1] for window in text.tokens.split(1)])
    _, set_up = timed(lambda: next(engine))
    whole_text = len(text.tokens)
    ways: dict[str, Callable[[Case], float]] = {
        "hooked forward, all windows as one batch": lambda case: kl(bridge, case.plan, text, reference, whole_text),
        "hooked forward, window by window": lambda case: kl(bridge, case.plan, text, reference, 1),
        SWEEP: lambda case: float(next(engine)[1][0].kl.mean()),
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    worst = 0.0
    for some in cases:
        found = {}
        for name, way in ways.items():
            found[name], seconds = timed(lambda way=way, some=some: np.array([way(case) for case in some]))
            spent[name].append(seconds)
        worst = max(worst, *(float(np.abs(each - found[SWEEP]).max()) for each in found.values()))
        print(f"layer {some[0].first_layer}: CPU s", *(f"{each[-1][0]:.1f}" for each in spent.values()), flush=True)
    print(f"set-up of the sweep {set_up[0]:.1f} CPU s, of the others {original[0]:.1f}")
    everything = n_layers * n_heads
    totals = {}
    for name, parts in spent.items():
        cpu, wall = (sum(part[index] for part in parts) / (n_layers * heads_per_layer) for index in (0, 1))
        totals[name] = cpu * everything + (set_up if name == SWEEP else original)[0]
        print(f"{name:42} a head {cpu:6.2f} CPU s, {wall:6.2f} s; all {everything} heads {totals[name]:7.0f} CPU s")
    for name, total in totals.items():
        if name != SWEEP:
            print(f"{total / totals[SWEEP]:.2f}× the sweep's CPU time: {name}")
    print(f"largest difference of a KL {worst:.1e} nats a token")


def tricks(bridge: Any, text: ScoredText) -> None:
    """One head a layer, with one trick more from line to line: means over the layers."""
    plain = as_plain(bridge)
    layers = LayerWise(plain)
    reference = [plain(window)[:, :-1] for window in text.tokens.split(1)]
    residual, given = layers.enter(text.tokens)
    readout = Readout(layers.unembedding, text, layers.on(0, residual, given))
    steps: dict[str, list[float]] = {}
    stream = fast.Stream(layers, text)
    for layer in range(plain.identity.n_layers):
        stream.z(), stream.after
        case = case_of(bridge, HeadId(layer, 3))
        ways = {
            "hooked forward of the bridge, KL over the vocabulary": partial(kl, bridge, case.plan, text, reference),
            "+ without a bridge (SDPA)": partial(kl, plain, case.plan, text, reference),
            "+ read-out in one pass": partial(read_out, readout, layers, case, 0, residual, given),
            "+ start at the treated layer": partial(read_out, readout, layers, case, layer, stream.residual, given),
            "+ reuse the treated layer": partial(stream.measure_together, [case]),
            "+ two heads as one batch": partial(stream.measure_together, [case, case]),
        }
        for name, way in ways.items():
            cpu = timed(way)[1][0]
            steps.setdefault(name, []).append(cpu / 2 if "two heads" in name else cpu)
        if layer + 1 < plain.identity.n_layers:
            stream.advance()
    means = {name: float(np.mean(spent)) for name, spent in steps.items()}
    first = before = next(iter(means.values()))
    for name, mean in means.items():
        print(f"{name:53} {mean:6.2f} CPU s a head, {before / mean:5.2f}× the line before, {first / mean:5.2f}× in all")
        before = mean


def read_out(
    readout: Readout, layers: LayerWise, case: Case, layer: int, residual: Tensor, given: dict[str, Any]
) -> Comparison:
    return readout.compare(layers.on_with(case.plan, layer, residual, given), slice(None))


def case_of(model: Any, head: HeadId) -> Case:
    return Case("single", str(head), plan_heads(model, {head: FILL}))


def kl(model: Any, plan: HeadPlan, text: ScoredText, reference: list[Tensor], at_once: int = 1) -> float:
    """KL of a plan, by whole forward passes over some windows at once."""
    parts = []
    with apply_plan(model, plan):
        for start in range(0, len(text.tokens), at_once):
            windows = text.tokens[start : start + at_once]
            logits = model(windows)[:, :-1]
            for row, window in enumerate(windows):
                found = compare_logits(reference[start + row], logits[row : row + 1], window[None, 1:])
                parts.append(found.kl)
    return float(np.concatenate(parts).mean())


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """The result, and CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, (time.process_time() - cpu, time.perf_counter() - wall)


if __name__ == "__main__":
    main()
