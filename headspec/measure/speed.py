"""How fast systems read a prompt (TTFT) and write token after token (TPOT), in turns so that a busy machine hits all.

Times only; what they are worth beside the machine's limits: `bound.py`. One system alone can be timed as well, but
ratios between separate runs also hold what changed on the machine in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headspec.errors import HeadspecError
from headspec.measure.systems.system import Running
from headspec.measure.timing import Lap, lap

Laps = dict[str, list[Lap]]
"""Of every system one lap a round; number i of all systems is from the same round."""


def time_prefill(
    running: Mapping[str, Running], tokens: Int[Tensor, "batch token"], rounds: int, warmup: int = 1
) -> Laps:
    """TTFT: from the prompt's ids to the logits of its last token, the cache's making included.

    Args:
        running: The systems, by name.
        tokens: The same prompts for all.
        rounds: Times that each reads them.
        warmup: Rounds before, which do not count.
    """
    batch, n_tokens = tokens.shape

    def read(system: Running) -> Tensor:
        system.start(n_tokens, n_tokens, batch)
        return system.read(tokens)

    found: Laps = {name: [] for name in running}
    for number in range(-warmup, rounds):
        for name in _order(running, number):
            time = lap(partial(read, running[name]), device_of(running[name]))
            running[name].forget()  # two caches at once would not always fit, nor would that be what happens in use
            if number >= 0:
                found[name].append(time)
    return found


def time_decode(
    running: Mapping[str, Running],
    prompt: Int[Tensor, "row token"],
    batch: int,
    n_tokens: int,
    warmup: int = 2,
    seed: int = 0,
) -> Laps:
    """TPOT: one token for the whole batch, again and again, after a prompt.

    Leaves the caches as they are after the last token, so that `kv_bytes` can be read; `forget` drops them.

    Args:
        running: The systems, by name.
        prompt: Of every row, or one that all rows begin with: that is quicker to read, and takes as long to continue.
        batch: Rows.
        n_tokens: Laps of every system.
        warmup: Tokens before, which do not count: the first lays out weights and buffers.
        seed: Draws the tokens that are fed. Which ones they are does not matter to speed, nor to quality here.
    """
    rows, n_prompt = prompt.shape
    if rows not in (1, batch):
        raise HeadspecError(f"a prompt of {rows} rows for a batch of {batch}: give one row, or {batch}.")
    for system in running.values():
        system.start(n_prompt, n_prompt + warmup + n_tokens, rows)
        system.read(prompt)
        if rows < batch:
            system.repeat(batch)
    found: Laps = {name: [] for name in running}
    tokens = list(_random_tokens(running, batch, warmup + n_tokens, seed))
    for number, token in enumerate(tokens, -warmup):
        for name in _order(running, number):
            time = lap(partial(running[name].read, token), device_of(running[name]))
            if number >= 0:
                found[name].append(time)
    return found


@dataclass(frozen=True)
class Times:
    """Many laps in four numbers."""

    wall_ms: float
    """Median by the clock."""
    wall_p95_ms: float
    """95th percentile: with fewer than 20 laps hardly more than the slowest."""
    cpu_ms: float
    """Median over all threads together."""
    cpu_p95_ms: float
    n_laps: int

    def to_dict(self) -> dict[str, float | int]:
        """Plain values for JSON."""
        return asdict(self)


def summary(laps: Sequence[Lap]) -> Times:
    """Medians and 95th percentiles."""
    if not laps:
        raise HeadspecError("no laps to sum up: time one round or more.")
    wall, cpu = (np.array([getattr(one, name) for one in laps]) for name in ("wall_ms", "cpu_ms"))
    (wall_ms, wall_p95_ms), (cpu_ms, cpu_p95_ms) = (np.percentile(times, (50, 95)).tolist() for times in (wall, cpu))
    return Times(wall_ms, wall_p95_ms, cpu_ms, cpu_p95_ms, len(laps))


def throughput(laps: Sequence[Lap], batch: int) -> float:
    """Tokens a second while a batch is decoded: its rows over the median time per token, by the clock."""
    return batch / (summary(laps).wall_ms / 1e3)


def device_of(system: Running) -> str:
    """Where a system computes; on the CPU where `model` only says what is computed."""
    device = str(next(system.model.parameters()).device)
    return "cpu" if device == "meta" else device


def _order(running: Mapping[str, Running], number: int) -> list[str]:
    """The systems, beginning with another one in every round, so that each takes every place equally often."""
    names = list(running)
    first = number % len(names) if names else 0
    return names[first:] + names[:first]


def _random_tokens(running: Mapping[str, Running], batch: int, n_tokens: int, seed: int) -> Iterator[Tensor]:
    """One token a row for every step, of those that all systems know."""
    vocabulary = min((system.model.config.vocab_size for system in running.values()), default=1)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(n_tokens):
        yield torch.randint(0, vocabulary, (batch, 1), generator=draw)


def random_prompt(running: Mapping[str, Running], n_tokens: int, seed: int) -> torch.Tensor:
    """A prompt of one row: which tokens it holds does not matter to speed."""
    vocabulary = min(each.model.config.vocab_size for each in running.values())
    return torch.randint(0, vocabulary, (1, n_tokens), generator=torch.Generator().manual_seed(seed))
