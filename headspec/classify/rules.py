"""From a HeadProfile to a HeadMap: one role a head, with margin, window and reason.

The decision itself is `headspec.runtime.rules`, shared with live generation; this file feeds it the
profile and keeps the evidence.
"""

from dataclasses import replace

import numpy as np

from headspec.classify.evidence import WindowEvidence, judged_windows
from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict
from headspec.classify.naive import naive_verdicts
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
    check_rules(rules)
    decide = naive_verdicts if rules == "naive" else default_verdicts
    known = traits(profile, cut)
    verdicts = [
        replace(verdict, traits=known[verdict.head], evidence=(*_numbers(profile, verdict.head), *verdict.evidence))
        for verdict in decide(profile, cut)
    ]
    return HeadMap(profile.about, cut, rules, tuple(verdicts))


def check_rules(rules: str) -> None:
    """Refuse rules that do not exist."""
    if rules not in RULES:
        raise HeadspecError(f"rules {rules!r}: choose one of {', '.join(RULES)}.")


def default_verdicts(profile: HeadProfile, cut: Thresholds) -> list[HeadVerdict]:
    """Role, margin, window, reason and window evidence of every head, in the order of the grids."""
    spread, p95, repeats = profile["output_spread"], profile["output_spread_p95"], profile["repeat_deviation"]
    dead = np.stack(dead_margins(spread, p95, repeats, profile["induction_score"], cut))
    dead_margin = np.nan_to_num(dead, nan=-np.inf).min(0)
    induction = np.nan_to_num(profile["induction_score"], nan=0.0)
    judged = judged_windows(profile, cut.windows)
    # [window, condition, layer, head]: mass, share, no induction
    margins = np.array([window_margins(each.mass, each.share, induction, cut) for each in judged])
    return [
        _decide(profile, cut, head, float(dead_margin[cell]), margins[(..., *cell)] if judged else margins, judged)
        for head in profile.about.heads()
        for cell in [profile.about.cell(head)]
    ]


def _decide(
    profile: HeadProfile,
    cut: Thresholds,
    head: HeadId,
    dead: float,
    margins: np.ndarray,
    judged: list[WindowEvidence],
) -> HeadVerdict:
    """The verdict on one head from its margins: of being dead, and `[window, condition]` of fitting a window."""
    cell = profile.about.cell(head)
    if dead >= 0:
        spread, repeats = profile["output_spread"][cell], profile["repeat_deviation"][cell]
        reason = f"what it writes varies by {spread:.3f} of the residual on text and {repeats:.3f} on repeats"
        return HeadVerdict(head, HeadRole.DEAD, dead, status=HeadStatus.CANDIDATE, reason=reason)
    if not judged:
        return HeadVerdict(head, HeadRole.GATHERING, -dead, reason=_why_unjudged(profile, cut))
    fits = margins.min(axis=1)
    if fits.max() >= 0:
        needed = judged[int(np.argmax(fits >= 0))]
        return HeadVerdict(head, HeadRole.POSITIONAL, float(min(fits.max(), -dead)), window=needed.window,
                           reason=_held(needed, cell), evidence=_window_numbers(needed, cell))  # fmt: skip
    nearest = judged[int(margins[:, :2].min(axis=1).argmax())]
    reason, score = _held(nearest, cell), profile["induction_score"][cell]
    if score >= cut.protected_induction:
        reason = f"its induction score of {score:.2f} protects it; {reason}"
    return HeadVerdict(head, HeadRole.GATHERING, float(min(-dead, -fits.max())), reason=reason,
                       evidence=_window_numbers(nearest, cell))  # fmt: skip


def _held(each: WindowEvidence, cell: tuple[int, int]) -> str:
    return (
        f"the last {each.window} keys and the sinks hold {each.mass[cell]:.2f} of the attention, "
        f"{each.share[cell]:.2f} of what lies outside the sinks"
    )


def _window_numbers(each: WindowEvidence, cell: tuple[int, int]) -> tuple[tuple[str, float], ...]:
    mass, share = float(each.mass[cell]), float(each.share[cell])
    return ("judged_window", float(each.window)), ("windowed_mass", mass), ("windowed_share", share)


def _why_unjudged(profile: HeadProfile, cut: Thresholds) -> str:
    counted = profile.near_mass.shape[-1]
    if min(cut.windows) > counted:
        return f"no window could be judged: the probe counts offsets one by one up to {counted - 1} only"
    return "no window could be judged: the text is too short"


def _numbers(profile: HeadProfile, head: HeadId) -> list[tuple[str, float]]:
    return [(name, float(profile[name][profile.about.cell(head)])) for name in EVIDENCE]
