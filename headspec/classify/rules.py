"""From a HeadProfile to a HeadMap: one role a head, with margin, window and reason.

The decision itself is `headspec.runtime.rules`, shared with live generation; this file feeds it the
profile and keeps the evidence.
"""

from typing import Any

import numpy as np

from headspec.classify.evidence import WindowEvidence, judged_windows
from headspec.classify.head_map import DeadStatus, HeadMap, HeadVerdict
from headspec.classify.naive import naive_roles
from headspec.classify.thresholds import Thresholds
from headspec.classify.traits import traits
from headspec.errors import HeadspecError
from headspec.heads import HeadId, HeadRole
from headspec.probe.profile import HeadProfile
from headspec.runtime.rules import dead_margins, window_margins

EVIDENCE = (
    "output_spread", "output_spread_p95", "repeat_deviation", "induction_score", "previous_token_score",
    "sink_attention_ratio", "relative_output_norm", "normalized_entropy", "max_attention",
)  # fmt: skip
RULES = ("default", "naive")


def classify_heads(profile: HeadProfile, thresholds: Thresholds | None = None, rules: str = "default") -> HeadMap:
    """Give every head of a profile one role.

    In this order: a head whose output hardly varies, on text and on repeats, and that does no induction is *dead*
    (a candidate until it is confirmed by ablation); a head whose attention fits into a window plus the sinks is
    *positional*, with the smallest window that passes; every other head is *gathering*.

    Args:
        profile: From `probe_heads`. Without repeated sequences (`n_repeats=0`) no head is called dead.
        thresholds: The cut-offs; all have defaults, fitted on small models that are not Pythia.
        rules: `naive` applies the textbook definitions instead (low entropy at a fixed offset is positional,
            near-uniform is dead). They mislead; they are there so that their cost can be measured.
    """
    cut = thresholds or Thresholds()
    if rules not in RULES:
        raise HeadspecError(f"rules {rules!r}: choose one of {', '.join(RULES)}.")
    decide = naive_roles if rules == "naive" else default_roles
    all_traits = traits(profile, cut)
    verdicts = []
    for head, decision in zip(profile.about.heads(), decide(profile, cut), strict=True):
        numbers = tuple((name, float(profile[name][profile.about.cell(head)])) for name in EVIDENCE)
        evidence = (*numbers, *decision.pop("evidence", ()))
        verdicts.append(HeadVerdict(head=head, traits=all_traits[head], evidence=evidence, **decision))
    return HeadMap(profile.about, cut, rules, tuple(verdicts))


def default_roles(profile: HeadProfile, cut: Thresholds) -> list[dict[str, Any]]:
    """Role, margin, window, status, reason and window evidence of every head, in grid order."""
    spread, p95, repeats = profile["output_spread"], profile["output_spread_p95"], profile["repeat_deviation"]
    dead = np.stack(dead_margins(spread, p95, repeats, profile["induction_score"], cut))
    dead_margin = np.nan_to_num(dead, nan=-np.inf).min(0)
    judged = judged_windows(profile, cut.windows)
    induction = np.nan_to_num(profile["induction_score"], nan=0.0)
    fits = [np.stack(window_margins(each.mass, each.share, induction, cut)).min(0) for each in judged]
    return [
        _decide(profile, head, float(dead_margin[cell]), [float(fit[cell]) for fit in fits], judged)
        for head in profile.about.heads()
        for cell in [profile.about.cell(head)]
    ]


def _decide(
    profile: HeadProfile, head: HeadId, dead: float, fits: list[float], judged: list[WindowEvidence]
) -> dict[str, Any]:
    """The decision about one head, from its margins: of being dead, and of each window."""
    cell = profile.about.cell(head)
    passing = next((index for index, fit in enumerate(fits) if fit >= 0), None)
    best = max(range(len(fits)), key=fits.__getitem__, default=None) if passing is None else passing
    evidence: tuple[tuple[str, float], ...] = ()
    where = "no window could be judged: the text is too short"
    if best is not None:
        each = judged[best]
        evidence = (("windowed", float(each.window)), ("windowed_mass", float(each.mass[cell])),
                    ("windowed_share", float(each.share[cell])))  # fmt: skip
        where = (
            f"the last {each.window} keys and the sinks hold {each.mass[cell]:.2f} of the attention, "
            f"{each.share[cell]:.2f} of what lies outside the sinks"
        )
    if dead >= 0:
        spread, repeats = profile["output_spread"][cell], profile["repeat_deviation"][cell]
        reason = f"what it writes varies by {spread:.3f} of the residual on text and {repeats:.3f} on repeats"
        return {"role": HeadRole.DEAD, "margin": dead, "status": DeadStatus.CANDIDATE, "reason": reason,
                "evidence": evidence}  # fmt: skip
    if passing is not None:
        margin = min(max(fits), -dead)
        return {"role": HeadRole.POSITIONAL, "margin": margin, "window": judged[passing].window, "reason": where,
                "evidence": evidence}  # fmt: skip
    margin = min(-dead, -max(fits, default=-np.inf))
    return {"role": HeadRole.GATHERING, "margin": margin, "reason": where, "evidence": evidence}
