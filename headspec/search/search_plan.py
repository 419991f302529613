"""The best plan within a budget: cheap forecasts propose, joint measurement decides, fresh text certifies."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspec.classify.confirm import confirmed, does_induction
from headspec.classify.head_map import HEAD_MAP, HeadMap
from headspec.classify.rules import classify_heads
from headspec.errors import HeadspecError
from headspec.files import write_whole
from headspec.load.plain import as_plain
from headspec.load.text import as_windows, load_text
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Remove, Treatment, parse_treatment
from headspec.plan.workload import Workload, halves
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile
from headspec.search.budget import Budget
from headspec.search.certificate import certify
from headspec.search.choose import Search, check_evaluations
from headspec.search.evaluate import Evaluator, decode_time
from headspec.search.point import Point, pareto_front
from headspec.search.record import SearchRecord

TREATMENTS = ("mean", "window:3", "window:4", "window:8", "window:16", "window:32", "window:64")
PLAN, CERTIFICATE = "plan.json", "certificate.json"
"""What they are called in results folders."""
COMPRESS_SHARES = (0.5, 0.25, 0.125)
"""Of the full cache's mean bytes, what compressed heads may hold."""


def compress_treatments(workload: Workload, policy: str = "expected_attention") -> tuple[str, ...]:
    """Compression that holds a half, a quarter or an eighth of a workload's keys, half of them the latest ones.

    >>> compress_treatments(Workload(256, 255))
    ('compress:expected_attention:192:latest96', 'compress:expected_attention:96:latest48', \
'compress:expected_attention:48:latest24')
    """
    budgets = [round(share * workload.mean_keys) for share in COMPRESS_SHARES]
    latest = {budget: "" if policy == "streaming" else f":latest{budget // 2}" for budget in budgets}
    return tuple(f"compress:{policy}:{budget}{latest[budget]}" for budget in budgets if budget > 1)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The plan, what it was measured to cost, and what else was measured on the way."""

    plan: HeadPlan
    """With its certificate."""
    within_budget: bool
    """Whether the plan keeps the budget on the text it was chosen on; if not, it is the nearest found."""
    chosen: Point
    points: tuple[Point, ...]
    """Every plan that was measured, in order."""
    head_map: HeadMap
    """With removed heads confirmed and other candidates rejected, if limits of damage were kept; induction heads are
    protected if they were left alone."""
    rank_correlation: float
    """Spearman correlation of the gradient forecasts with the exact effects of the treated heads, each alone; NaN
    with fewer than three, or where heads are compressed."""

    @property
    def record(self) -> SearchRecord:
        """What was measured and chosen, to save and to draw."""
        return SearchRecord.of(self.points, self.chosen, self.certificate, self.within_budget)

    def save(self, folder: Path | str) -> list[Path]:
        """Write the plan, its certificate, the head map and the record of the search into a folder; this last."""
        folder = Path(folder)
        certificate = json.dumps({"within_budget": self.within_budget, **self.certificate}, indent=1) + "\n"
        plan = self.plan.save(folder / PLAN)
        certified = write_whole(folder / CERTIFICATE, lambda path: path.write_text(certificate, encoding="utf-8"))
        head_map = self.head_map.save(folder / HEAD_MAP)
        return [plan, plan.with_suffix(".safetensors"), certified, head_map, self.record.save(folder)]

    @property
    def front(self) -> list[Point]:
        """The measured plans that no other beats in size and KL."""
        return pareto_front(self.points)

    @property
    def certificate(self) -> dict[str, Any]:
        """Damage on text not used to choose, as plain numbers."""
        return dict(self.plan.certificate or {})


def search_plan(
    model: Any,
    budget: Budget,
    *,
    profile: HeadProfile | None = None,
    head_map: HeadMap | None = None,
    select: Any = None,
    certify_on: Any = None,
    treatments: Sequence[str | Treatment] = TREATMENTS,
    protect_induction: bool = True,
    n_repeats: int = 8,
    n_controls: int = 20,
    seeds: Sequence[int] = (0, 1, 2),
    max_evaluations: int = 80,
    workload: Workload | None = None,
    stage: Callable[[str], object] = lambda message: None,
) -> SearchResult:
    """Find the plan that saves most, or harms least, within a budget.

    1. Gradients forecast the damage of every treatment of every head, on text and on repeated tokens
       (`attribute_heads`), and order all moves by damage for what they save.
    2. Whole plans along that order are measured jointly; bisection finds how many moves the budget allows.
    3. The next moves are tried one by one together with the plan, and taken while the budget holds.
    4. The plan is measured on fresh text and fresh repeats, beside random plans of the same make: the certificate.

    Args:
        model: A PlainModel, or a TransformerBridge.
        budget: Limits of damage or size.
        profile: Gives fill vectors and induction scores; made from the packaged `probe` text by default.
        head_map: Made from the profile by default.
        select: Text or tokens to choose on; packaged `select` by default.
        certify_on: Other text, for the certificate; packaged `certify` by default.
        treatments: What may be done with a head.
        protect_induction: Leave induction heads alone altogether.
        n_repeats: Sequences of repeated random tokens.
        n_controls: Random plans to compare with.
        seeds: One draw of repeated tokens each, for the certificate.
        max_evaluations: Most plans that are measured to choose one, 2 or more.
        workload: Damage is that to the continuation of a prompt, and KV bytes are its mean; compression needs it. By
            default, if any treatment compresses, the first half of each window of `select` is the prompt.
        stage: Called with a line of text when a stage begins.

    Raises:
        HeadspecError: A budget that is none, or no head that may be treated.
    """
    plain = as_plain(model)
    check_evaluations(max_evaluations)
    if profile is None:
        stage("probing")
        profile = probe_heads(plain, load_text(plain, "probe"), engine="fast", query_statistics=True)
    profile.about.check_model(plain.name, plain.identity.n_layers, plain.identity.n_heads)
    head_map = head_map or classify_heads(profile)
    select = load_text(plain, "select") if select is None else select
    certify_on = load_text(plain, "certify") if certify_on is None else certify_on
    free = [verdict.head for verdict in head_map if not (protect_induction and does_induction(verdict, head_map))]
    if not free:
        raise HeadspecError("every head does induction, so none may be treated: try protect_induction=False.")
    allowed = [parse_treatment(what) for what in treatments]
    if workload is None and any(isinstance(what, Compress) for what in allowed):
        workload = halves(as_windows(select, plain).tokens.shape[1])
    evaluator = Evaluator(plain, select, n_repeats, 0, workload, decode_time(plain, workload))
    stage("forecasting the damage of every treatment")
    search = Search(evaluator, budget, profile, free, allowed)
    stage(f"measuring plans on {evaluator.texts[0].name}")
    chosen = search.run(max_evaluations)
    stage("certifying")
    certificate = certify(plain, chosen.plan, certify_on, profile, budget, n_repeats, n_controls, seeds, workload)
    kept = not budget.broken(chosen)
    harmless = kept and budget.limits_damage
    return SearchResult(
        plan=chosen.plan.certified(certificate), within_budget=kept, chosen=chosen, points=tuple(search.points),
        head_map=confirmed(
            head_map, chosen.plan.heads(Remove) if harmless else [],
            settles=harmless and any(isinstance(what, Remove) for what in allowed), protect_induction=protect_induction,
        ),
        rank_correlation=search.rank_correlation(chosen.plan),
    )  # fmt: skip
