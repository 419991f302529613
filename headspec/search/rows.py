"""One row of a sweep: what a case is, and what it costs on every text."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from headspec.plan.size import plan_size
from headspec.search.cases import Case
from headspec.search.table import MEASURES

if TYPE_CHECKING:
    from headspec.measure.compare import Comparison

__all__ = ["MEASURES", "make_row"]  # what the columns mean stands where the table is


def make_row(case: Case, text: "Comparison", repeats: "Comparison | None") -> dict[str, Any]:
    """The row of a case from its measures, `[window]` each, on text and on repeated tokens."""
    size = plan_size(case.plan)
    increase = float((text.loss - text.loss_original).mean())
    n_windows = len(text.kl)
    heads = list(case.plan.treatments)
    return {
        "kind": case.kind,
        "case": case.label,
        "heads": " ".join(map(str, heads)),
        "n_heads": len(heads),
        "layer": case.first_layer if case.in_one_layer else None,
        "treatment": " ".join(sorted({str(what) for what in case.plan.treatments.values()})),
        "loss": float(text.loss.mean()),
        "loss_increase": increase,
        "perplexity_increase": math.expm1(increase) if increase < 700 else math.inf,
        "kl": float(text.kl.mean()),
        "kl_se": float(np.std(text.kl, ddof=1) / math.sqrt(n_windows)) if n_windows > 1 else None,
        "top1_agreement": float(text.top1_agreement.mean()),
        "repeats_loss_increase": None if repeats is None else float((repeats.loss - repeats.loss_original).mean()),
        "repeats_kl": None if repeats is None else float(repeats.kl.mean()),
        "induction_accuracy": None if repeats is None else float(repeats.accuracy.mean()),
        "kv_share": size.kv_share,
        "removed_share": size.removed_share,
        "key": case.key,
    }
