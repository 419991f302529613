"""How a HeadMap and a HeadVerdict show themselves in a notebook: roles as coloured cells, one head with its reasons.

No torch, no script.
"""

import math

from headspec.classify.head_map import HeadMap, HeadVerdict, Trait
from headspec.heads import HeadRole
from headspec.probe.catalogue import STATISTICS
from headspec.record_html import (
    RANDOM_WEIGHTS,
    ROLE_COLORS,
    ROLE_INK,
    ROLE_MEANINGS,
    Cell,
    Row,
    card,
    digits,
    named,
    table,
)

TRAIT_MARKS = {Trait.PREVIOUS_TOKEN: "p", Trait.INDUCTION: "i", Trait.SINK_RESTING: "s", Trait.NEAR_CONSTANT: "c"}
"""Letters that fit into the cell of a head."""
ROLE_LETTERS = {HeadRole.POSITIONAL: "P", HeadRole.GATHERING: "G", HeadRole.DEAD: "D"}
MOST_CELLS, MOST_LAYERS = 200, 64
"""With more heads there is a row a layer and no cell a head; with more layers only the first."""
MARKS = "number: window in keys; p previous-token, i induction, s sink-resting, c near-constant"


def map_html(head_map: HeadMap) -> str:
    """Roles as a table, layer by head; counts layer by layer where heads are too many."""
    about, counts = head_map.about, head_map.counts()
    lines = [
        f"{about.model}: {len(head_map)} heads in {len(about.layers)} layers, by the {head_map.rules} rules, on "
        f"{about.n_windows} × {about.window} tokens of {about.text}",
        RANDOM_WEIGHTS if about.random_weights else "",
    ]
    roles = table("Roles", ["role", "heads", "what it does", "status"], [
        [Cell(str(role), background=ROLE_COLORS[role], ink=ROLE_INK[role], heading=True), str(counts[role]),
         Cell(ROLE_MEANINGS[role], left=True), Cell(_statuses(head_map, role), left=True)]
        for role in ROLE_COLORS
    ])  # fmt: skip
    body = _cells(head_map) if len(head_map) <= MOST_CELLS else _layers(head_map)
    further = ['head_map["L0H0"]', "headspec.show.roles(head_map)", "headspec.make_plan(head_map, profile)"]
    return card("HeadMap: what every head does", lines, [roles, body], further)


def verdict_html(verdict: HeadVerdict) -> str:
    """One head: role, reason and the numbers behind it."""
    window = f", a window of {verdict.window} keys" if verdict.window else ""
    margin = f"{digits(verdict.margin)} (distance of the deciding number from its cut-off, as a share of the cut-off)"
    lines = [
        f"{verdict.role}{window}{f' ({verdict.status})' if verdict.status else ''}: {verdict.reason}",
        "margin: nothing measured could change it" if math.isinf(verdict.margin) else f"margin: {margin}",
        f"traits: {', '.join(verdict.traits)}" if verdict.traits else "",
    ]
    rows: list[Row] = [
        [Cell(STATISTICS[name].label if name in STATISTICS else name.replace("_", " "), _meaning(name), heading=True),
         digits(value), Cell(STATISTICS[name].unit if name in STATISTICS else "", left=True)]
        for name, value in verdict.evidence
    ]  # fmt: skip
    return card(str(verdict.head), lines, [table("Evidence", ["number", "value", "unit"], rows)])


def _meaning(name: str) -> str:
    return f"{STATISTICS[name].meaning} {STATISTICS[name].caution}".strip() if name in STATISTICS else ""


def _statuses(head_map: HeadMap, role: HeadRole) -> str:
    found: dict[str, int] = {}
    for verdict in head_map:
        if verdict.role == role and verdict.status:
            found[str(verdict.status)] = found.get(str(verdict.status), 0) + 1
    return ", ".join(f"{count} {status}" for status, count in found.items())


def _cells(head_map: HeadMap) -> str:
    about = head_map.about
    letters = ", ".join(f"{letter} {role}" for role, letter in ROLE_LETTERS.items())
    rows: list[Row] = [
        [Cell(str(layer), heading=True), *(_cell(verdict) for verdict in head_map if verdict.head.layer == layer)]
        for layer in about.layers
    ]
    header: Row = [Cell("layer", "rows are layers, columns are heads"), *map(str, range(about.n_heads))]
    return table(f"Layer by head. {letters}; {MARKS}", header, rows)


def _cell(verdict: HeadVerdict) -> Cell:
    marks = "".join(TRAIT_MARKS.get(trait, "") for trait in verdict.traits)
    status = f" ({verdict.status})" if verdict.status else ""
    text = " ".join(part for part in (ROLE_LETTERS[verdict.role] + str(verdict.window or ""), marks) if part)
    return Cell(text, f"{verdict.head} {verdict.role}{status}: {verdict.reason}", ROLE_COLORS[verdict.role],
                ROLE_INK[verdict.role])  # fmt: skip


def _layers(head_map: HeadMap) -> str:
    layers = head_map.about.layers
    rows: list[Row] = []
    for layer in layers[:MOST_LAYERS]:
        counts = head_map.counts(layer)
        dead = [verdict.head for verdict in head_map if verdict.head.layer == layer and verdict.role == HeadRole.DEAD]
        rows.append([Cell(str(layer), heading=True), *(str(counts[role]) for role in ROLE_COLORS),
                     Cell(named(dead, 6), left=True)])  # fmt: skip
    more = f" (the first {MOST_LAYERS} of {len(layers)} layers)" if len(layers) > MOST_LAYERS else ""
    return table(f"Heads of each role, layer by layer{more}", ["layer", *map(str, ROLE_COLORS), "dead heads"], rows)
