"""Which keys of a prompt the heads of a group keep, within their budget."""

from typing import NamedTuple

import torch
from torch import Tensor

from .configuration import HeadGroup
from .policies import POLICIES, SINKS, Prompt, QueryFacts

FLOOR = 0.2
"""Share of its even budget that each head keeps where a layer's heads share one (AdaKV, Feng et al. 2024)."""


class Choice(NamedTuple):
    """What one sequence keeps of its prompt."""

    kept: Tensor
    """`[head, key]`, True for keys that stay; without those of the ring."""
    ring: int
    """Later queries see so many of the latest keys beside those kept, their own included; 0: all that follow."""
    in_ring: int = 0
    """Of the prompt, so many last keys are in the ring, and none of these in `kept`."""


def budget_of(group: HeadGroup, n_keys: int) -> int:
    """Keys that each head of a group keeps of `n_keys`, on average where they share."""
    share = isinstance(group.budget, float)
    return max(1, min(round(group.budget * n_keys) if share else int(group.budget), n_keys))


def latest_of(group: HeadGroup) -> int:
    """Of a budget in keys, how many are always the latest ones; 0 where nothing is dropped after the prompt."""
    return max(1, int(group.budget) - SINKS) if group.policy == "streaming" else group.latest


def choose_keys(group: HeadGroup, prompt: Prompt, facts: QueryFacts | None, seed: int = 0) -> Choice:
    """The keys to keep of one sequence.

    Args:
        group: Says policy, budget and how it is shared.
        prompt: Keys, values and last queries of the group's heads.
        facts: Of the same heads, where the policy needs them.
        seed: Draws the choice of the policy `random`.
    """
    policy, n_keys = POLICIES[group.policy], prompt.keys.shape[1]
    budget = budget_of(group, n_keys)
    latest = latest_of(group)
    sinks = min(SINKS, int(group.budget) - latest) if latest else 0  # which go in front, however short the prompt
    in_ring = min(latest, max(n_keys - sinks, 0))
    protected = in_ring if latest else min(policy.protected(budget), n_keys)
    n_open = n_keys - protected
    n_kept = min(budget - protected, n_open)
    scores = policy.scores(prompt, facts, protected, seed)[:, :n_open]
    kept = torch.zeros(prompt.keys.shape[:2], dtype=torch.bool, device=prompt.keys.device)
    kept[:, :n_open] = best(scores, n_kept, group.shared)
    kept[:, n_open : n_keys - in_ring] = True
    return Choice(kept, int(group.budget) - n_kept if latest else 0, in_ring)


def best(scores: Tensor, number: int, shared: bool) -> Tensor:
    """True for the first `SINKS` keys and the best others of each head, `number` a head: `[head, key]`.

    With `shared` the heads have `number` a head together: each keeps its own best up to a floor, and the rest goes to
    the best of all heads.
    """
    n_heads, n_keys = scores.shape
    scores = scores.clone()
    scores[:, : min(SINKS, number)] = torch.inf
    if not shared:
        kept = torch.zeros_like(scores, dtype=torch.bool)
        return kept.scatter_(1, scores.topk(number, dim=1).indices, True)
    least = min(number, max(min(SINKS, number), int(FLOOR * number)))
    scores.scatter_(1, scores.topk(least, dim=1).indices, torch.inf)
    kept = torch.zeros(n_heads * n_keys, dtype=torch.bool, device=scores.device)
    kept[scores.flatten().topk(n_heads * number).indices] = True
    return kept.view(n_heads, n_keys)
