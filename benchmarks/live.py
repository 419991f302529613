"""What watching costs, and what live treatment brings: P0 against the same model with an AdaptivePolicy, interleaved.

    python benchmarks/live.py [MODEL] [--batch 1] [--context 1500] [--tokens 256] [--rounds 3]

Every side reads a prompt and decodes, in one process, one thread, in turns. P0 is headspec's runtime with every head
kept; `watch` the same while every head is looked at and classified, and nothing is treated; `watch+dead` also looks at
what heads write, as with a head map. `live c` treats heads as the hypothetical plan c does, at the end of the prompt,
as a policy was told; its model has all heads. `c` is that plan, exported.
TTFT is the prompt with the decision, TPOT the mean of 64 tokens, which hold four looks and a classification; `all` is
TTFT and all tokens.
Targets (160m, batch 1 and 16): watching costs ≤ 5 % of TPOT and ≤ 10 % of TTFT; `live c` is faster than P0 from end to
end at batch 4 and more.
"""

import argparse
import statistics
from functools import partial
from typing import Any

import torch
from pruned_models import cpu_seconds, load, pruned, use_tuned_malloc

from headspec.measure.hypothetical import hypothetical_plan
from headspec.measure.systems.live import ToldPolicy
from headspec.runtime.adaptive import AdaptivePolicy

BLOCK = 64
"""Tokens between two classifications."""


@torch.no_grad()
def main() -> None:
    """Measure all sides round by round; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-160m")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
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
    generations(sides, prompt, 4)
    found = [generations(sides, prompt, options.tokens) for _ in range(options.rounds)]
    report(found, options)


def generations(sides: dict[str, tuple[Any, Any]], prompt: torch.Tensor, n_new: int) -> dict[str, list[float]]:
    """CPU seconds of the prompt and of every token after it, of all sides in turns. All read the same tokens."""
    (batch, n_prompt), found = prompt.shape, {side: [] for side in sides}
    caches = {
        side: model.make_cache(policy, expected=n_prompt + n_new, prompt=n_prompt)
        for side, (model, policy) in sides.items()
    }
    for piece in (prompt, *torch.randint(0, 50000, (n_new, batch, 1))):
        for side, (model, _) in sides.items():
            work = partial(model, piece, past_key_values=caches[side], logits_to_keep=1)
            found[side].append(cpu_seconds(work)[0])
    return found


def report(found: list[dict[str, list[float]]], options: Any) -> None:
    """A row a side: CPU time, and as a share of P0's; medians over rounds, and over pieces of BLOCK tokens."""
    print(
        f"{options.model}, batch {options.batch}, {options.context} + {options.tokens} tokens, {options.rounds} rounds "
        "in turns, 1 thread, CPU time\n"
    )
    print(f"{'':12}{'TTFT ms':>10}{'TPOT ms':>10}{'all s':>8}{'TTFT':>9}{'TPOT':>9}{'all':>9}   of P0")
    firsts, tokens = ({side: measure(found, side) for side in found[0]} for measure in (first_ms, token_ms))
    for side in found[0]:
        first, token = statistics.median(firsts[side]), statistics.median(tokens[side])
        shares = ratio(firsts[side], firsts["P0"]), ratio(tokens[side], tokens["P0"])
        base = statistics.median(firsts["P0"]) + options.tokens * statistics.median(tokens["P0"])
        whole = (
            shares[0] * statistics.median(firsts["P0"]) + options.tokens * shares[1] * statistics.median(tokens["P0"])
        ) / base
        print(
            f"{side:12}{first:10.1f}{token:10.1f}{(first + options.tokens * token) / 1e3:8.2f}"
            f"{shares[0]:9.3f}{shares[1]:9.3f}{whole:9.3f}"
        )


def first_ms(found: list[dict[str, list[float]]], side: str) -> list[float]:
    """Of every round."""
    return [1e3 * each[side][0] for each in found]


def token_ms(found: list[dict[str, list[float]]], side: str) -> list[float]:
    """Mean of every BLOCK tokens: each holds as many looks and classifications."""
    return [
        1e3 * statistics.mean(each[side][start : start + BLOCK])
        for each in found
        for start in range(1, len(each[side]) - BLOCK + 1, BLOCK)
    ]


def ratio(times: list[float], base: list[float]) -> float:
    """Median of how they compare where they were measured in turns."""
    return statistics.median(mine / theirs for mine, theirs in zip(times, base, strict=True))


if __name__ == "__main__":
    main()
