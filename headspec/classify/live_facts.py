"""What live generation has to know of a head map: scores that a prompt cannot show, and which heads must not go."""

import math
from typing import Any

from headspec.classify.confirm import does_induction
from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict


def head_facts(head_map: HeadMap) -> dict[str, Any]:
    """The configuration's `head_facts`, a list a layer under each name.

    Protected are induction heads, and candidates that a search has refused to remove.
    """
    layers = [
        head_map.verdicts[row : row + head_map.about.n_heads] for row in range(0, len(head_map), head_map.about.n_heads)
    ]

    def numbers(name: str) -> list[list[float | None]]:
        found = [[dict(verdict.evidence).get(name, math.nan) for verdict in layer] for layer in layers]
        return [[round(value, 4) if math.isfinite(value) else None for value in layer] for layer in found]

    def is_protected(verdict: HeadVerdict) -> bool:
        return does_induction(verdict, head_map) or verdict.status in (HeadStatus.PROTECTED, HeadStatus.REJECTED)

    return {
        "induction": numbers("induction_score"), "repeat_deviation": numbers("repeat_deviation"),
        "protected": [[verdict.head.head for verdict in layer if is_protected(verdict)] for layer in layers],
    }  # fmt: skip
