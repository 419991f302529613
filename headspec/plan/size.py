"""What a plan saves, by closed formula: keys and values in the cache, weights, and work.

For models whose heads each have keys and values of their own (GPT-NeoX); with grouped queries a KV head can only
shrink when all query heads that share it do.
"""

from dataclasses import dataclass

import numpy as np

from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Remove, Treatment, Window
from headspec.plan.workload import Workload


@dataclass(frozen=True)
class PlanSize:
    """Sizes of a model under a plan, for one sequence."""

    n_tokens: int
    """Tokens of the prompt."""
    n_new: int
    """Tokens that follow it. Bytes are the mean while they are written; with 0, those at the end of the prompt."""
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


def plan_size(plan: HeadPlan, workload: Workload | int | None = None, bytes_per_number: int = 4) -> PlanSize:
    """Sizes under a plan, for one sequence of a workload (or so many tokens): the model's whole context by default."""
    about = plan.about
    if not isinstance(workload, Workload):
        workload = Workload(about.context if workload is None else workload)
    per_key = 2 * about.d_head * bytes_per_number
    keys = sum(mean_keys_held(plan[head], workload) for head in about.heads)
    per_head = 4 * about.d_head * about.d_model + 3 * about.d_head
    return PlanSize(
        n_tokens=workload.n_prompt,
        n_new=workload.n_new,
        kv_bytes=round(keys * per_key),
        full_kv_bytes=round(len(about.heads) * workload.mean_keys * per_key),
        removed_weights=len(plan.heads(Remove)) * per_head,
        attention_weights=len(about.heads) * per_head,
    )


def keys_held(treatment: Treatment, n_tokens: int, n_new: int = 0) -> int:
    """Keys that a head under this treatment holds after a prompt of `n_tokens` and `n_new` more."""
    if isinstance(treatment, Remove):
        return 0
    if isinstance(treatment, Window):
        return min(n_tokens + n_new, treatment.window + treatment.sinks)
    if isinstance(treatment, Compress):
        budget = treatment.budget
        share = isinstance(budget, float)
        kept = min(n_tokens, max(1, round(budget * n_tokens)) if share else int(budget))
        return kept + (min(n_new, int(budget) - kept) if treatment.bounded else n_new)
    return n_tokens + n_new


def mean_keys_held(treatment: Treatment, workload: Workload) -> float:
    """The mean of `keys_held` while the new tokens are written; where there are none, the keys after the prompt."""
    if not workload.n_new:
        return float(keys_held(treatment, workload.n_prompt))
    numbers = range(1, workload.n_new + 1)
    return float(np.mean([keys_held(treatment, workload.n_prompt, number) for number in numbers]))


def kv_bytes_held(plan: HeadPlan, n_tokens: int, n_new: int = 0, bytes_per_number: int = 4) -> int:
    """KV bytes of one sequence after a prompt of `n_tokens` and `n_new` more."""
    keys = sum(keys_held(plan[head], n_tokens, n_new) for head in plan.about.heads)
    return keys * 2 * plan.about.d_head * bytes_per_number
