"""Which keys of a prompt a compressed head should keep: each policy gives every key a score.

A policy is one class here. It says how many of the last queries it wants to see (`observed`), how many of the last
keys stay in any case (`protected`), and scores the others; `selection.py` keeps the best.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class QueryFacts(NamedTuple):
    """What is known of the queries of some heads from a probe, and of what they write."""

    query_mean: Tensor
    """`[head, d_head]`, of the queries before rotation."""
    query_covariance: Tensor
    """`[head, d_head, d_head]`, of the same."""
    output_gram: Tensor
    """W_O W_Oᵀ of each head, `[head, d_head, d_head]`: √(v G vᵀ) = ‖v W_O‖."""


class Prompt(NamedTuple):
    """The keys to choose from, of one sequence without padding; rotated already."""

    keys: Tensor
    """`[head, key, d_head]`."""
    values: Tensor
    """`[head, key, d_head]`."""
    queries: Tensor
    """The last ones, `[head, query, d_head]`."""
    now: tuple[Tensor, Tensor]
    """Cosine and sine at the last position, `[rotary dims]` each."""
    frequencies: Tensor
    """Radians a position, `[rotary dims / 2]`."""


class SnapKV:
    """SnapKV (Li et al. 2024): the keys to which the last queries of the prompt attend.

    Votes are the attention of the last 32 queries (the observation window), averaged over those that see a key and
    smoothed over 5 neighbours. It knows what the end of the prompt asks for, and nothing of what comes later.
    """

    observed = 32
    kernel = 5

    def protected(self, budget: int) -> int:
        """The observation window stays; with small budgets half of them is left for the votes."""
        return min(self.observed, budget // 2)

    def scores(self, prompt: Prompt, facts: QueryFacts | None, protected: int, seed: int) -> Tensor:
        """`[head, key]`; those of the protected keys are not used."""
        queries, n_keys = prompt.queries[:, -self.observed :].float(), prompt.keys.shape[1]
        scores = queries @ prompt.keys.float().transpose(1, 2) * queries.shape[-1] ** -0.5
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device)
        hidden = hidden.triu(n_keys - scores.shape[1] + 1)
        attention = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        votes = attention.sum(1) / (~hidden).sum(0)
        open_votes = votes[:, : n_keys - protected]
        if open_votes.shape[1]:
            open_votes = F.avg_pool1d(open_votes, self.kernel, stride=1, padding=self.kernel // 2)
        return torch.cat((open_votes, votes[:, n_keys - protected :]), dim=1)


class ExpectedAttention:
    """Expected attention (after Devoto et al. 2025, kvpress): the keys to which queries to come will attend.

    kvpress estimates μ and Σ from the hidden states of the prompt itself; here they come from a probe of other text,
    once for all prompts. Queries are taken as Gaussian, N(μ, Σ) before rotation; the rotation is averaged over the next
    512 positions, R̄. A key's expected weight is exp(μ'ᵀk/√d + kᵀΣ'k/(2d)) with μ' = R̄μ and Σ' = R̄ΣR̄ᵀ, and counts as
    much as ‖v W_O‖. Dimensions that are not rotated (Pythia rotates a quarter) stay as they are.
    """

    observed = 0
    horizon = 512

    def protected(self, budget: int) -> int:
        """Nothing but the sinks: the average rotation knows what is near."""
        return 0

    def scores(self, prompt: Prompt, facts: QueryFacts | None, protected: int, seed: int) -> Tensor:
        """`[head, key]`."""
        assert facts is not None
        keys, values, d_head = prompt.keys.float(), prompt.values.float(), prompt.keys.shape[-1]
        turn = mean_rotation(prompt, self.horizon, d_head)
        mean = facts.query_mean.float() @ turn.T
        covariance = turn @ facts.query_covariance.float() @ turn.T
        expected = (keys @ mean[:, :, None])[..., 0] * d_head**-0.5
        expected = expected + ((keys @ covariance) * keys).sum(-1) / (2 * d_head)
        return expected.softmax(-1) * ((values @ facts.output_gram.float()) * values).sum(-1).clamp(min=0).sqrt()


class Streaming:
    """StreamingLLM's choice after a full prefill (Xiao et al. 2023): the sinks and the latest keys."""

    observed = 0

    def protected(self, budget: int) -> int:
        """All but the sinks."""
        return max(budget - SINKS, 0)

    def scores(self, prompt: Prompt, facts: QueryFacts | None, protected: int, seed: int) -> Tensor:
        """The later, the higher."""
        n_heads, n_keys, _ = prompt.keys.shape
        return torch.arange(n_keys, device=prompt.keys.device).expand(n_heads, -1).float()


class RandomChoice:
    """Sinks, the latest keys, and others at random: the control every policy should beat."""

    observed = 0

    def protected(self, budget: int) -> int:
        """As SnapKV, so that only the choice differs."""
        return SnapKV().protected(budget)

    def scores(self, prompt: Prompt, facts: QueryFacts | None, protected: int, seed: int) -> Tensor:
        """Drawn, counted from the last key back, so that padding in front changes nothing."""
        n_heads, n_keys, _ = prompt.keys.shape
        drawn = torch.rand(n_keys, n_heads, generator=torch.Generator().manual_seed(seed))
        return drawn.flip(0).T.to(prompt.keys.device)


Policy = SnapKV | ExpectedAttention | Streaming | RandomChoice
POLICIES: dict[str, Policy] = {
    "snapkv": SnapKV(),
    "expected_attention": ExpectedAttention(),
    "streaming": Streaming(),
    "random": RandomChoice(),
}
SINKS = 4
"""First keys that every policy keeps, budget allowing (Xiao et al. 2023)."""


def mean_rotation(prompt: Prompt, horizon: int, d_head: int) -> Tensor:
    """The rotation of queries, averaged over the next positions: `[d_head, d_head]`."""
    ahead = torch.arange(1, horizon + 1, device=prompt.frequencies.device)[:, None] * prompt.frequencies.float()
    cos, sin = ahead.cos().mean(0), ahead.sin().mean(0)
    half = len(cos)
    cos_now, sin_now = (part.float()[:half] for part in prompt.now)
    cos, sin = torch.diag(cos_now * cos - sin_now * sin), torch.diag(sin_now * cos + cos_now * sin)
    turn = torch.eye(d_head, device=cos.device)
    turn[:half, :half], turn[half : 2 * half, half : 2 * half] = cos, cos
    turn[:half, half : 2 * half], turn[half : 2 * half, :half] = -sin, sin
    return turn
