"""What a chosen plan costs on text that was not used to choose it, beside random plans of the same make."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headspec.load.plain import PlainModel
from headspec.measure.quality import measure_plan
from headspec.measure.texts import FRESH
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.treatments import Compress, Remove, Window
from headspec.plan.workload import Workload
from headspec.probe.profile import HeadProfile
from headspec.search.budget import Budget
from headspec.search.cases import matched_random
from headspec.search.evaluate import Evaluator


def certify(
    model: PlainModel,
    plan: HeadPlan,
    tokens: Any,
    profile: HeadProfile,
    budget: Budget,
    n_repeats: int,
    n_controls: int,
    seeds: Sequence[int],
    workload: Workload | None,
) -> dict[str, Any]:
    """Plain numbers for `HeadPlan.certificate`.

    `quality` is a whole QualityReport; `seeds` repeats the measurement with other repeated tokens; `random_plans` are
    plans with the same treatments in the same layers on random heads: a choice of heads that is not better than those
    is worth nothing. `broken` names the limits of the budget that do not hold here.
    """
    quality = measure_plan(model, plan, tokens, workload=workload, n_repeats=n_repeats, seed=FRESH + seeds[0])
    evaluators = [Evaluator(model, tokens, n_repeats, FRESH + seed, workload) for seed in seeds]
    points = [evaluator.measure(plan) for evaluator in evaluators]
    size = plan_size(plan, workload)
    return {
        "budget": budget.to_dict(),
        "broken": sorted({word for point in points for word in budget.broken(point)}),
        "heads_removed": len(plan.heads(Remove)),
        "heads_windowed": len(plan.heads(Window)),
        "heads_compressed": len(plan.heads(Compress)),
        "kv_share": size.kv_share,
        "kv_bytes": size.kv_bytes,
        "full_kv_bytes": size.full_kv_bytes,
        "n_tokens": size.n_tokens,
        "n_new": size.n_new,
        "removed_share": size.removed_share,
        "quality": quality.to_dict(),
        "seeds": [{"seed": FRESH + seed, **point.to_dict()} for seed, point in zip(seeds, points, strict=True)],
        "random_plans": _random_plans(evaluators[0], plan, profile, n_controls, points[0].kl.value),
    }


def _random_plans(
    evaluator: Evaluator, plan: HeadPlan, profile: HeadProfile, n_controls: int, own: float
) -> dict[str, Any]:
    points = [evaluator.measure(matched_random(plan, profile, FRESH + number)) for number in range(n_controls)]
    kl = [point.kl.value for point in points]
    return {
        "n": n_controls,
        "kl": kl,
        "perplexity_increase": [point.perplexity_increase.value for point in points],
        "kl_median": float(np.median(kl)) if kl else None,
        "share_worse": float(np.mean([value > own for value in kl])) if kl else None,
    }
