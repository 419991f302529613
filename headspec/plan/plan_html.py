"""How a HeadPlan shows itself in a notebook: what is done to which heads, what that saves, what it was seen to cost.

No torch, no script.
"""

from collections.abc import Mapping
from typing import Any

from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.words import treatment_words
from headspec.record_html import RANDOM_WEIGHTS, Cell, Row, card, digits, named, table

MEASURES = {
    "kl": ("KL from the original", "nats a token"),
    "perplexity_increase": ("perplexity increase", "relative: 0.02 is 2 % more"),
    "repeats_kl": ("KL on repeated random tokens", "nats a token"),
    "induction_accuracy": ("induction accuracy", "share of repeated tokens foreseen"),
}
"""Of a certificate: name and unit."""


def plan_html(plan: HeadPlan) -> str:
    """A row a treatment; sizes; the certificate in short."""
    about, size = plan.about, plan_size(plan)
    lines = [
        f"{about.model}: {len(plan)} of {about.n_layers * about.n_heads} heads are treated; {size.kv_share:.1%} of the "
        f"KV bytes are left at the model's context of {about.context} tokens, {size.removed_share:.1%} of the "
        "attention weights are cut out",
        RANDOM_WEIGHTS if about.model.startswith("random:") else "",
        "" if plan.certificate else "No certificate: nobody has measured what it costs.",
    ]
    tables = [table("Treatments", ["treatment", "heads", "what it does", "which"], [
        [Cell(text, heading=True), str(count), Cell(treatment_words(text), left=True),
         Cell(_which(plan, text), left=True)]
        for text, count in sorted(plan.counts().items(), key=lambda item: (item[0] == "keep", -item[1], item[0]))
    ])]  # fmt: skip
    further = ["plan.save('plan.json')", "headspec.measure_plan(model, plan, text)"]
    further += ["with headspec.apply_plan(model, plan): …", "headspec.export_model(model, plan, 'folder')"]
    return card("HeadPlan: what shall happen to each head", lines, [*tables, *_certificate(plan)], further)


def _which(plan: HeadPlan, text: str) -> str:
    return named([head for head, what in plan.treatments.items() if str(what) == text])


def _certificate(plan: HeadPlan) -> list[str]:
    """What the plan was measured to cost on text that did not choose it; nothing where that cannot be read."""
    quality = (plan.certificate or {}).get("quality")
    if not isinstance(quality, Mapping):
        return []
    rows: list[Row] = [
        [Cell(words, heading=True), *_numbers(quality[name]), Cell(unit, left=True)]
        for name, (words, unit) in MEASURES.items() if isinstance(quality.get(name), Mapping)
    ]  # fmt: skip
    broken = (plan.certificate or {}).get("broken") or []
    held = f"; breaks the budget's {', '.join(map(str, broken))}" if broken else ""
    text = (
        f"{quality.get('n_windows', '?')} × {quality.get('window', '?')} tokens of {quality.get('text', 'fresh text')}"
    )
    caption = f"Certificate: measured on {text}{held}"
    return [table(caption, ["measure", "value", "95 % interval", "unit"], rows)] if rows else []


def _numbers(found: Mapping[str, Any]) -> list[str]:
    value, low, high = (_number(found.get(name)) for name in ("value", "low", "high"))
    return [digits(value), "–" if low is None or high is None else f"{digits(low)} to {digits(high)}"]


def _number(value: Any) -> float | None:
    """A value of a saved Estimate: JSON has no NaN (null) and no infinity (a word)."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
