"""What a timeline of heads is drawn from: which head had which role and treatment, from where to where, and in words.

Values only: no figure is made here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from headspec.heads import HeadId, HeadRole
from headspec.plan.words import several_words
from headspec.record_html import RANDOM_WEIGHTS
from headspec.runtime.record import DEAD, Change, LiveRecord
from headspec.show.style import FAINT_INK, LINE_COLORS, MOST_ROW_NAMES, ROLE_ORDER

HELD_COLOR, FULL_COLOR = LINE_COLORS[0], FAINT_INK
X_TITLE = "tokens read"
HELD_NAME, FULL_NAME = "bytes held", "if every head kept every key"
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


class Segment(NamedTuple):
    """A stretch of the text over which nothing changed for a head."""

    row: int
    """Of the figure, counted from the top: layer by layer."""
    head: HeadId
    start: int
    """Columns read when it began."""
    end: int
    """Columns read when it ended; one more than `start` at least, so that it can be seen."""
    role: HeadRole
    window: int
    """Keys that a positional head needs; 0 otherwise."""
    treatment: str
    """In the words of a reader: `full`, `window:8`, `compress:snapkv:0.5`, `removed`."""
    before: HeadRole | None
    """Its role until then, if it has changed it (a flip); None otherwise."""


def segments(record: LiveRecord) -> list[Segment]:
    """Every stretch of every watched head, row by row."""
    by_head: dict[tuple[int, int], list[Change]] = {place: [] for place in record.heads()}
    for change in record.changes:
        by_head[change.layer, change.head].append(change)
    found = []
    for row, (place, changes) in enumerate(by_head.items()):
        ends = [*(change.at for change in changes[1:]), record.n_read]
        roles = [HeadRole(change.role) for change in changes]
        befores = [None, *(one if one != other else None for one, other in pairwise(roles))]
        found += [
            Segment(row, HeadId(*place), change.at, max(end, change.at + 1), role, change.window, _treatment(change),
                    before)
            for change, end, role, before in zip(changes, ends, roles, befores, strict=True)
        ]  # fmt: skip
    return found


def _treatment(change: Change) -> str:
    return {"keep": "full", DEAD: "removed"}.get(change.treatment, change.treatment)


def treated(stretch: Segment) -> str:
    """What the treatment of a stretch does to the head."""
    words = {"full": "every key is kept", "removed": "not computed any more; its mean takes the place of its output"}
    return words.get(stretch.treatment) or several_words(stretch.treatment).partition(": ")[2]


def roles_in(stretches: Sequence[Segment]) -> list[HeadRole]:
    """The roles that some head had at some time, in the order of legends."""
    return [role for role in ROLE_ORDER if any(stretch.role is role for stretch in stretches)]


def row_names(heads: Sequence[tuple[int, int]]) -> dict[float, str]:
    """What stands at which row: the names of the heads, or of the layers if heads are too many."""
    if len(heads) <= MOST_ROW_NAMES:
        return {float(row): str(HeadId(*head)) for row, head in enumerate(heads)}
    layers = [layer for layer, _ in heads]
    step = max(1, len(set(layers)) // 32)
    middles = {layer: layers.index(layer) + (layers.count(layer) - 1) / 2 for layer in sorted(set(layers))[::step]}
    return {middle: f"layer {layer}" for layer, middle in middles.items()}


def layer_edges(heads: Sequence[tuple[int, int]]) -> list[float]:
    """Between which rows a new layer begins."""
    return [row - 0.5 for row in range(1, len(heads)) if heads[row][0] != heads[row - 1][0]]


def unit_of(n_bytes: int) -> tuple[float, str]:
    """The unit in which a number of bytes is short to say, and how many bytes it has.

    >>> unit_of(2_500_000)
    (1000000.0, 'MB')
    """
    return next(((size, name) for size, name in UNITS if n_bytes >= size), UNITS[-1])


def bytes_words(n_bytes: int) -> str:
    """Bytes with three digits: `2.5 MB`."""
    size, name = unit_of(n_bytes)
    return f"{n_bytes / size:.3g} {name}"


def why_nothing(record: LiveRecord) -> str:
    """Why no head was classified; empty if one was."""
    if record.changes:
        return ""
    wanted = max(record.n_prompt, record.policy.get("first_query", 0) + record.policy.get("observed", 0))
    if record.n_read < wanted:
        return f"No head was classified: it takes {wanted} tokens, {record.n_read} were read."
    return "No head was watched: the checkpoint treats every head itself."


def title_lines(record: LiveRecord) -> list[str]:
    """The headline, what was read, what came of it, and warnings: a line each."""
    policy = record.policy
    rows = f" in each of {record.n_rows} rows" if record.n_rows > 1 else ""
    read = f"{record.n_read} tokens read{rows}, {record.n_prompt} of them the prompt"
    lines = [f"What every head of {record.model} was taken for while text was generated"]
    if why := why_nothing(record):
        lines += [read, why]
    else:
        heads, first = record.heads(), record.changes[0].at
        own = record.n_layers * record.n_heads - len(heads)
        late = f", first at {first} tokens" if first > record.n_prompt else ""
        gathering = f"gathering heads: {policy['policy']}" if policy.get("policy") else "gathering heads keep all keys"
        lines.append(f"{read}; {record.n_classifications} × classified{late}; {gathering}")
        hidden = f"; not shown: heads that the checkpoint treats itself ({own})" if own else ""
        changed = f"roles changed {len(record.flips())} ×" if record.flips() else "no role changed"
        lines.append(f"in the end the KV cache holds {record.kv_share:.0%} of the bytes of all keys; {changed}{hidden}")
    if policy.get("watch_only"):
        lines.append("WATCHED ONLY: heads were classified, none was treated")
    if record.model.startswith("random:"):
        lines.append(RANDOM_WEIGHTS)
    return lines


def x_range(record: LiveRecord) -> list[float]:
    """From a little before the prompt's end to where the last stretch ends."""
    last = float(max([record.n_read, *(change.at + 1 for change in record.changes), record.n_prompt + 1]))
    return [record.n_prompt - 0.015 * (last - record.n_prompt), last]
