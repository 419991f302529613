"""Making plans: from a head map, or by hand."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict
from headspec.errors import HeadspecError
from headspec.heads import HeadId, HeadRole
from headspec.load.identity import identify
from headspec.plan.about import PlanAbout
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import KEEP, SINKS, Compress, Fill, Remove, Treatment, Window, parse_treatment
from headspec.probe.about import ProbeAbout
from headspec.probe.profile import HeadProfile

SIZES = ("n_layers", "n_heads", "d_head", "d_model", "context")
Pairs = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


def plan_heads(source: Any, treatments: Pairs, profile: HeadProfile | None = None, seed: int = 0) -> HeadPlan:
    """A plan by hand: `plan_heads(profile, {"L3H7": "mean", "L1H4": "window:8"})`.

    Args:
        source: The model the plan is for: loaded, or its HeadProfile or HeadMap.
        treatments: A treatment (or its short text) for each treated head, as a mapping or as pairs.
        profile: Gives the fill vectors of `mean` and `random`; `source` itself, if that is a profile.
        seed: Draws the vectors of `random`; each head has its own, whatever else is in the plan.

    Raises:
        HeadspecError: An unknown or repeated head, an unknown treatment, or a fill that needs a profile.
    """
    if seed < 0:
        raise HeadspecError(f"seed {seed}: want 0 or more.")
    profile = source if isinstance(source, HeadProfile) else profile
    about = about_of(source, profile, seed)
    chosen: dict[HeadId, Treatment] = {}
    for name, what in treatments.items() if isinstance(treatments, Mapping) else treatments:
        head = HeadId.parse(name)
        if head in chosen:
            raise HeadspecError(f"{head} is in the plan twice, as {chosen[head]} and as {what}: choose one.")
        chosen[head] = parse_treatment(what)
    about.check_heads(chosen)
    removed = {head: Fill(what.fill) for head, what in chosen.items() if isinstance(what, Remove)}
    fills = {head: fill_vector(head, fill, about, profile) for head, fill in removed.items()}
    queries = {head: query_facts(head, profile) for head, what in chosen.items() if isinstance(what, Compress)
               and what.needs_queries}  # fmt: skip
    return HeadPlan(about, chosen, fills, queries=queries)


def make_plan(
    head_map: HeadMap,
    profile: HeadProfile | None = None,
    *,
    fill: Fill | str = Fill.MEAN,
    candidates: bool = False,
    positional: bool = True,
    sinks: int = SINKS,
    seed: int = 0,
) -> HeadPlan:
    """The plan that a head map suggests: dead heads are removed, positional ones get the window they need.

    Args:
        head_map: From `classify_heads`, or with confirmed heads from `search_plan`.
        profile: The profile it was made from; needed for the fills `mean` and `random`.
        fill: What stands in for dead heads.
        candidates: Also remove dead heads that no ablation has confirmed. They are kept otherwise: statistics
            alone have been wrong about heads that only work together, or only on repeated text.
        positional: Whether positional heads get their window.
        sinks: Sink keys that every window keeps.
        seed: Draws the vectors of the fill `random`.
    """

    def treat(verdict: HeadVerdict) -> Treatment:
        if verdict.role is HeadRole.DEAD and (candidates or verdict.status is HeadStatus.CONFIRMED):
            return Remove(Fill(fill))
        if verdict.role is HeadRole.POSITIONAL and positional and verdict.window is not None:
            return Window(verdict.window, sinks)
        return KEEP

    Remove(fill)  # a fill that does not exist is refused also where no head is dead
    return plan_heads(head_map, {verdict.head: treat(verdict) for verdict in head_map}, profile, seed)


def about_of(source: Any, profile: HeadProfile | None = None, seed: int = 0) -> PlanAbout:
    """Which model a plan is for, from a HeadMap, HeadProfile or loaded model, and where its fills come from."""
    known = source.about if isinstance(source, HeadProfile | HeadMap) else identify(source)
    sizes: dict[str, Any] = {
        name: getattr(known, name) for name in ("n_layers", "n_heads", "d_head", "d_model", "context")
    }
    name = known.model if isinstance(known, ProbeAbout) else known.name
    if profile is None:
        return PlanAbout(name, **sizes, seed=seed)
    profile.about.check_model(name, known.n_layers, known.n_heads)
    origin: dict[str, Any] = {
        "profile": profile.digest,
        "text": profile.about.text,
        "text_digest": profile.about.text_digest,
    }
    return PlanAbout(name, **sizes, **origin, seed=seed)


def query_facts(head: HeadId, profile: HeadProfile | None) -> np.ndarray:
    """Mean and covariance of a head's queries: `[1 + d_head, d_head]`."""
    if profile is None or profile.query_mean is None or profile.query_covariance is None:
        raise HeadspecError(
            f"{head}: expected attention needs the statistics of queries: give profile=probe_heads(…, "
            "query_statistics=True)."
        )
    cell = profile.about.cell(head)
    return np.concatenate([profile.query_mean[cell][None], profile.query_covariance[cell]])


def fill_vector(head: HeadId, fill: Fill, about: PlanAbout, profile: HeadProfile | None) -> np.ndarray:
    """What takes the place of a removed head's z: `[d_head]`."""
    if fill is Fill.ZERO:
        return np.zeros(about.d_head, np.float32)
    if profile is None:
        raise HeadspecError(
            f"{head}={fill}: this fill comes from a HeadProfile: give profile= (from probe_heads), or use zero."
        )
    cell = profile.about.cell(head)
    if fill is Fill.MEAN:
        return profile.mean_z[cell]
    drawn = np.random.default_rng((about.seed, head.layer, head.head)).standard_normal(about.d_head)
    return (drawn / np.linalg.norm(drawn) * profile.z_norm[cell]).astype(np.float32)
