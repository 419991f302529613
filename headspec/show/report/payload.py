"""Everything a page shows, as plain values: one JSON text, and one for every figure, which is read when it is drawn."""

import json
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headspec.classify.head_map import HeadMap, HeadStatus
from headspec.heads import HeadRole
from headspec.measure.estimate import Estimate
from headspec.plan.treatments import Compress, Remove, Window
from headspec.record_html import RANDOM_WEIGHTS, ROLE_MEANINGS
from headspec.show.budget_words import budget_words
from headspec.show.hover import number_words
from headspec.show.report.frame import taken_apart
from headspec.show.report.heads import effects, head_rows, offsets, planned, statistics
from headspec.show.report.parts import ReportParts
from headspec.show.report.patterns import patterns
from headspec.show.report.sections import SECTIONS, Section
from headspec.show.report.words import STATUSES, TRAITS
from headspec.show.style import CONFIG, ROLE_COLORS, ROLE_INK, TRAIT_MARKS

Found = TypeVar("Found")
MOST_WHY = 300
"""Characters of an error in a note."""


@dataclass
class Payload:
    """What goes into the page."""

    values: dict[str, Any] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    """In the order of their numbers."""
    notes: list[str] = field(default_factory=list)
    """What is not on the page, and why."""

    def attempt(self, what: str, make: Callable[[], Found]) -> Found | None:
        """What `make` returns; a note and nothing where records that could be read cannot be shown."""
        try:
            return make()
        except Exception as error:  # whatever is wrong with one record, the rest of the page is worth having
            why = textwrap.shorten(f"{type(error).__name__}: {error}", MOST_WHY, placeholder=" …")
            note = f"{what} was left out: it cannot be shown ({why})."
            self.notes += [] if note in self.notes else [note]
            return None


def make_payload(parts: ReportParts) -> Payload:
    """The values of a page."""
    payload, head_map = Payload(notes=list(parts.notes)), parts.head_map
    files = parts.files
    payload.values = {
        "model": str(head_map.about.model),
        "random": RANDOM_WEIGHTS if parts.random_weights else "",
        "facts": _facts(head_map),
        "roles": _roles(head_map),
        "traits": [[TRAIT_MARKS.get(trait, ""), str(trait), words] for trait, words in TRAITS.items()],
        "statuses": {str(status): words for status, words in STATUSES.items()},
        "heads": head_rows(head_map),
        "statistics": payload.attempt(_file(files, "profile"), lambda: statistics(parts.profile)) or [],
        "offsets": payload.attempt(_file(files, "profile"), lambda: offsets(parts.profile)),
        "patterns": payload.attempt(_file(files, "sample"), lambda: patterns(parts.sample, head_map)),
        "effects": payload.attempt(_file(files, "sweep"), lambda: effects(parts.sweep, head_map)),
        "plan": payload.attempt(_file(files, "plan"), lambda: planned(parts.plan, head_map)),
        "findings": payload.attempt("the summary", lambda: _findings(parts)) or [],
        "sections": [_section(payload, section, parts) for section in SECTIONS],
        "files": sorted(files.values()),
        "versions": [f"{name} {version}" for name, version in head_map.about.versions],
        "config": CONFIG,
    }
    payload.values["notes"] = payload.notes
    return payload


def as_json(values: Any) -> str:
    r"""JSON that no browser takes for anything else: plain ASCII, and no `<` that could end a script.

    >>> as_json("</script>")
    '"\\u003c/script>"'
    """
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _facts(head_map: HeadMap) -> list[list[str]]:
    about = head_map.about
    every = len(about.layers) == about.n_layers
    layers = f"{about.n_layers} layers" if every else f"{len(about.layers)} of {about.n_layers} layers"
    return [
        ["Heads", f"{len(head_map):,}: {layers} of {about.n_heads}"],
        ["Text", str(about.text)],
        ["Read", f"{about.n_windows} × {about.window} tokens"],
        ["Rules", str(head_map.rules)],
    ]


def _roles(head_map: HeadMap) -> list[dict[str, Any]]:
    counts = head_map.counts()
    return [
        {"name": str(role), "color": color, "ink": ROLE_INK[role], "count": counts[role],
         "split": _split(head_map, role), "meaning": f"{ROLE_MEANINGS[role]}."}
        for role, color in ROLE_COLORS.items()
    ]  # fmt: skip


def _split(head_map: HeadMap, role: HeadRole) -> str:
    """How many dead heads are confirmed, rejected and still candidates; for other roles nothing is to be confirmed."""
    if role is not HeadRole.DEAD:
        return ""
    found = Counter(verdict.status for verdict in head_map if verdict.role is role)
    return ", ".join(f"{found[status]} {status}" for status in HeadStatus if found[status])


def _findings(parts: ReportParts) -> list[dict[str, str]]:
    """The main results in a sentence each, with the section that has more."""
    found = []
    if parts.specialisation is not None:
        found.append({"text": parts.specialisation.sentence, "section": "specialisation"})
    if parts.plan is not None:
        found.append({"text": _plan_sentence(parts), "section": "plans"})
    return found


def _plan_sentence(parts: ReportParts) -> str:
    plan = parts.plan
    assert plan is not None
    kinds = {Remove: "removed", Window: "windowed", Compress: "compressed"}
    counts = [f"{len(heads)} {word}" for kind, word in kinds.items() if (heads := plan.heads(kind))]
    words = f"The plan: {', '.join(counts) or 'no head is treated'}"
    certificate = plan.certificate
    if not certificate:
        return f"{words}. Nobody has measured what it costs."
    quality = certificate["quality"]
    kl, increase = (Estimate.number(quality[name]["value"]) for name in ("kl", "perplexity_increase"))
    random = f" {RANDOM_WEIGHTS}." if parts.random_weights else ""
    return (f"{words}; {float(certificate['kv_share']):.0%} of the KV cache left, KL {number_words(kl)} nats a token, "
            f"perplexity {increase:+.1%}, on fresh text.{_budget(parts)}{random}")  # fmt: skip


def _budget(parts: ReportParts) -> str:
    """Which budget the plan was made for, and whether it keeps it."""
    assert parts.plan is not None
    words = budget_words(parts.plan.certificate or {}, parts.search is None or parts.search.within_budget)
    return f" {words}." if words else ""


def _section(payload: Payload, section: Section, parts: ReportParts) -> dict[str, Any]:
    """Words, figures and tables of a section; without its records the command that makes them."""
    said = {name: getattr(section, name) for name in ("name", "title", "short", "shows", "misleads", "quality")}
    known: dict[str, Any] = {
        **said,
        "command": section.command_for(parts),
        "there": False,
        "figures": [],
        "blocks": [],
        "verdict": "",
    }
    if not section.is_there(parts):
        return known
    what = f"{_file(parts.files, section.needs[0])}, in {section.title!r},"
    drawn = payload.attempt(what, lambda: {name: taken_apart(figure) for name, figure in section.draw(parts).items()})
    blocks = payload.attempt(what, lambda: section.blocks(parts))
    for name, figure in (drawn or {}).items():
        known["figures"].append({"number": len(payload.figures), "name": name, "title": figure["title"],
                                 "height": figure["height"]})  # fmt: skip
        payload.figures.append(figure)
    verdict = payload.attempt(what, lambda: section.verdict(parts)) or ""
    return known | {"there": bool(drawn or blocks), "blocks": blocks or [], "verdict": verdict}


def _file(files: Any, name: str) -> str:
    return str(files.get(name, name))
