"""What watching costs, and what live treatment brings: P0 against the same model with an AdaptivePolicy, interleaved.

    python benchmarks/live.py [MODEL] [--batch 1] [--context 1500] [--tokens 256] [--rounds 5]

Every side reads a prompt and decodes, in one process, one thread, in turns. P0 is headspec's runtime with every head
kept; `watch` the same while every head is looked at and classified, and nothing is treated; `watch+dead` also looks at
what heads write, as with a head map. `live c` treats heads as the hypothetical plan c does, at the end of the prompt,
as a policy was told; its model has all heads. `c` is that plan, exported.
TTFT is the prompt with the decision, TPOT the mean of the tokens after it, looks among them.
Targets (160m, batch 1 and 16): watching costs ≤ 5 % of TPOT and ≤ 10 % of TTFT; `live c` is faster than P0 from end to
end at batch 4 and more.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from pruned_models import load, pruned, use_tuned_malloc

from headspec.measure.hypothetical import hypothetical_plan
from headspec.measure.systems.live import ToldPolicy
from headspec.runtime.adaptive import AdaptivePolicy


@torch.no_grad()
def main() -> None:
    """Measure all sides round by round; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-160m")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_tuned_malloc()
    source = load(options.model)
    whole, knowing, exported = (pruned(source, name) for name in ("P0", "P0", "c"))
    n_layers, n_heads = whole.config.num_hidden_layers, whole.config.num_attention_heads
    unknown = [[0.0] * n_heads for _ in range(n_layers)]
    knowing.config.head_facts = {
        "induction": unknown, "repeat_deviation": unknown, "protected": [[] for _ in range(n_layers)],
    }  # fmt: skip
    told = ToldPolicy(plan=hypothetical_plan(source, "c"))
    watching = AdaptivePolicy(watch_only=True)
    sides = {
        "P0": (whole, None), "watch": (whole, watching), "watch+dead": (knowing, watching), "live c": (knowing, told),
        "c": (exported, None),
    }  # fmt: skip
    prompt = torch.randint(0, 50000, (options.batch, options.context))
    for model, policy in sides.values():
        generation(model, policy, prompt, 20)
    found: dict[str, list[list[float]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, (model, policy) in sides.items():
            found[side].append(generation(model, policy, prompt, options.tokens))
    report(found, options)


def generation(model: Any, policy: Any, prompt: torch.Tensor, n_new: int) -> list[float]:
    """CPU seconds of the prompt and of every token after it; the tokens do not depend on the model."""
    batch, n_prompt = prompt.shape
    cache = model.make_cache(policy, expected=n_prompt + n_new, prompt=n_prompt)
    tokens = torch.randint(0, 50000, (n_new, batch, 1), generator=torch.Generator().manual_seed(0))
    seconds = []
    for piece in (prompt, *tokens):
        start = time.process_time()
        model(piece, past_key_values=cache, logits_to_keep=1)
        seconds.append(time.process_time() - start)
    return seconds


def report(found: dict[str, list[list[float]]], options: Any) -> None:
    """A row a side: CPU time, and as a share of P0's."""
    print(
        f"{options.model}, batch {options.batch}, {options.context} + {options.tokens} tokens, {options.rounds} rounds "
        "in turns, 1 thread, CPU time\n"
    )
    measures = {
        "TTFT": {side: [1e3 * each[0] for each in rounds] for side, rounds in found.items()},
        "TPOT": {side: [1e3 * statistics.mean(each[1:]) for each in rounds] for side, rounds in found.items()},
        "all": {side: [1e3 * sum(each) for each in rounds] for side, rounds in found.items()},
    }
    print(f"{'':12}{'TTFT ms':>10}{'TPOT ms':>10}{'all ms':>10}{'TTFT':>9}{'TPOT':>9}{'all':>9}   of P0")
    for side in found:
        values = "".join(f"{statistics.median(times[side]):10.1f}" for times in measures.values())
        shares = "".join(f"{ratio(times[side], times['P0']):9.3f}" for times in measures.values())
        print(f"{side:12}{values}{shares}")


def ratio(times: list[float], base: list[float]) -> float:
    """Median over rounds of how they compare within a round."""
    return statistics.median(mine / theirs for mine, theirs in zip(times, base, strict=True))


if __name__ == "__main__":
    main()
