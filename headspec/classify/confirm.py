"""What a search has shown about heads, written into the head map."""

from collections.abc import Iterable
from dataclasses import replace

from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict
from headspec.heads import HeadId, HeadRole


def does_induction(verdict: HeadVerdict, head_map: HeadMap) -> bool:
    """Whether a head's induction score reaches the cut-off from which it is protected."""
    score = dict(verdict.evidence).get("induction_score", float("nan"))
    return score >= head_map.thresholds.protected_induction


def confirmed(
    head_map: HeadMap, removed: Iterable[HeadId], *, settles: bool = True, protect_induction: bool = True
) -> HeadMap:
    """The same map after a search.

    Args:
        head_map: As the search was given it.
        removed: Heads whose removal kept limits of damage: dead and confirmed.
        settles: Whether the search could have confirmed any, so that other candidates are rejected; if it limited no
            damage, found no plan within its budget or was not allowed to remove heads, they stay candidates.
        protect_induction: Whether it left induction heads alone: those are protected.
    """
    gone = set(removed)

    def settle(verdict: HeadVerdict) -> HeadVerdict:
        if verdict.head in gone:
            reason = f"removing it together with {len(gone) - 1} others kept the budget of a search; {verdict.reason}"
            return replace(verdict, role=HeadRole.DEAD, status=HeadStatus.CONFIRMED, window=None, reason=reason)
        if protect_induction and does_induction(verdict, head_map):
            return replace(verdict, status=HeadStatus.PROTECTED)
        if verdict.status is HeadStatus.PROTECTED:
            return replace(verdict, status=None)
        if settles and verdict.status is HeadStatus.CANDIDATE:
            return replace(verdict, status=HeadStatus.REJECTED)
        return verdict

    return replace(head_map, verdicts=tuple(settle(verdict) for verdict in head_map))
