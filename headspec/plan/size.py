"""What a plan saves, by closed formula: keys and values in the cache, weights, and work.

For models whose heads each have keys and values of their own (GPT-NeoX); with grouped queries a KV head can only
shrink when all query heads that share it do.
"""

from dataclasses import dataclass

from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Remove, Treatment, Window


@dataclass(frozen=True)
class PlanSize:
    """Sizes of a model under a plan, at one length of context and one sequence."""

    n_tokens: int
    """Tokens in the cache."""
    kv_bytes: int
    full_kv_bytes: int
    removed_weights: int
    """Numbers in the query, key, value and output projections of removed heads, biases included."""
    attention_weights: int
    """The same of all heads."""

    @property
    def kv_share(self) -> float:
        """KV bytes left, as a share of the original's, in [0, 1]."""
        return self.kv_bytes / self.full_kv_bytes

    @property
    def removed_share(self) -> float:
        """Share of the attention weights that is cut out, in [0, 1]."""
        return self.removed_weights / self.attention_weights


def plan_size(plan: HeadPlan, n_tokens: int | None = None, bytes_per_number: int = 4) -> PlanSize:
    """Sizes under a plan with `n_tokens` (the model's context by default) in the cache of one sequence."""
    about = plan.about
    n_tokens = about.context if n_tokens is None else n_tokens
    per_key = 2 * about.d_head * bytes_per_number
    keys = sum(keys_held(plan[head], n_tokens) for head in about.heads)
    per_head = 4 * about.d_head * about.d_model + 3 * about.d_head
    return PlanSize(
        n_tokens=n_tokens,
        kv_bytes=keys * per_key,
        full_kv_bytes=len(about.heads) * n_tokens * per_key,
        removed_weights=len(plan.heads(Remove)) * per_head,
        attention_weights=len(about.heads) * per_head,
    )


def keys_held(treatment: Treatment, n_tokens: int) -> int:
    """Keys that a head under this treatment keeps of `n_tokens`."""
    if isinstance(treatment, Remove):
        return 0
    if isinstance(treatment, Window):
        return min(n_tokens, treatment.window + treatment.sinks)
    if isinstance(treatment, Compress):
        budget = treatment.budget
        return min(n_tokens, round(budget * n_tokens) if isinstance(budget, float) else budget)
    return n_tokens
