"""A benchmark as Markdown, for papers and issues: quality, every cell of speed, weights, headline and notes."""

import html
import math
import re
from collections.abc import Callable, Iterator, Sequence

from headspec.measure.report import BenchmarkReport
from headspec.show.benchmark_headline import NO_BASELINE, headlines
from headspec.show.benchmark_panels import TIMES
from headspec.show.benchmark_rows import CERTIFIED, CHECK, HYPOTHETICAL, QUALITY, SIZE, TIMED, Entrant, Numbers, Place
from headspec.show.benchmark_words import (
    MISSING,
    byte_words,
    digits,
    machine_words,
    percent,
    rate_words,
    warning,
    with_interval,
)

Column = tuple[str, Callable[[str], str]]
"""What stands above, and what stands there for a system of some name."""
SPREAD = 1.5
"""A 95th percentile this many times the median makes a note."""
WAITING = 1.25
"""So does wall time this many times the CPU time, where one thread computes."""
PART_NAMES = {"prefill": "Reading a prompt", "decode": "Decoding"}


def markdown(report: BenchmarkReport) -> str:
    """The whole table, as text; parts without rows are left out."""
    numbers = Numbers(report)
    parts = [*_head(numbers), *_checks(numbers), *_quality(numbers), *_speed(numbers), *_sizes(numbers),
             *_headline(numbers), *_notes(numbers)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _head(numbers: Numbers) -> Iterator[str]:
    settings = numbers.report.settings
    yield f"# Benchmark of {_safe(str(settings['model']))}"
    yield from (f"**{line}**" for line in warning(numbers))
    about = [
        f"- model: {_safe(str(settings['model']))}, {settings.get('n_layers', '?')} layers of "
        f"{settings.get('n_heads', '?')} heads, {settings.get('dtype', '?')}",
        f"- machine: {_safe(machine_words(numbers))}",
        f"- seed: {settings.get('seed', '?')}",
    ]
    if rates := rate_words(numbers):
        about.append(f"- roofline: {rates}")
    if settings.get("text") and not numbers.report.random_weights:
        workload = settings.get("workload") or {}
        about.append(f"- text of quality: {_safe(str(settings['text']))}, continued from {workload.get('n_prompt')} "
                     f"by {workload.get('n_new')} tokens")  # fmt: skip
    yield "\n".join(about)


def _checks(numbers: Numbers) -> Iterator[str]:
    """Whether other engines compute what they should."""
    columns: list[Column] = [
        ("largest difference of a logit", lambda name: digits(numbers.value(CHECK, name, "logits_difference")))
    ]
    table = _table(numbers.measured(CHECK, "logits_difference"), columns)
    if table:
        words = "Rounded weights (int8, bf16) are meant to differ; an engine in float32 that does is not timed."
        yield f"## Logits, beside those of torch in float32\n\n{words}\n\n{table}"


def _quality(numbers: Numbers) -> Iterator[str]:
    if numbers.report.random_weights:
        yield "## Quality\n\nThe weights are random, so there is no quality to lose: only times mean something."
        return

    def cell(measure: str, write: Callable[..., str]) -> Callable[[str], str]:
        return lambda name: write(numbers.at(QUALITY, name, measure))

    def shares(measure: str) -> Callable[[str], str]:
        return lambda name: percent(numbers.value(QUALITY, name, measure))

    columns: list[Column] = [
        ("KV share", shares("kv_share")),
        ("perplexity [95 %]", cell("perplexity", with_interval)),
        ("KL, nats/token [95 %]", cell("kl", with_interval)),
        ("top-1", shares("top1_agreement")),
        ("induction", shares("induction_accuracy")),
        ("needles", shares("needle_accuracy")),
    ]
    table = _table([entrant for entrant in numbers.entrants if _judged(numbers, entrant)], columns)
    if table:
        yield f"## Quality\n\n{table}"


def _judged(numbers: Numbers, entrant: Entrant) -> bool:
    return any(numbers.at(QUALITY, entrant.name, measure) for measure in ("kl", "perplexity", "kv_share"))


def _speed(numbers: Numbers) -> Iterator[str]:
    for part in TIMED:
        measure = TIMES[part][0]
        for place in numbers.places(part, f"{measure}_ms"):
            table = _table(numbers.measured(place, f"{measure}_ms"), _speed_columns(numbers, place, measure))
            yield f"## {PART_NAMES[part]}: {place.words}\n\n{table}"


def _speed_columns(numbers: Numbers, place: Place, measure: str) -> list[Column]:
    def value(name: str, what: str) -> float | None:
        return numbers.value(place, name, what)

    def ratio(base: str) -> Column:
        return f"× {base} [95 %]", lambda name: with_interval(numbers.at(place, name, "speedup", base))

    return [
        (f"{measure.upper()} median / p95, ms",
         lambda name: f"{digits(value(name, f'{measure}_ms'))} / {digits(value(name, f'{measure}_p95_ms'))}"),
        ("CPU, ms", lambda name: digits(value(name, f"{measure}_cpu_ms"))),
        ("tokens/s", lambda name: digits(value(name, "throughput"))),
        *(ratio(base) for base in ("V", "S", "P0")),
        ("× the whole model there [95 %]", lambda name: with_interval(numbers.at(place, name, "engine_speedup"))),
        ("by pruning, at most × P0", lambda name: digits(value(name, "pruning_bound"))),
        ("KV bytes", lambda name: byte_words(value(name, "kv_bytes"))),
        ("of roofline", lambda name: percent(value(name, "roofline_share"))),
    ]  # fmt: skip


def _sizes(numbers: Numbers) -> Iterator[str]:
    columns: list[Column] = [("weights", lambda name: byte_words(numbers.value(SIZE, name, "weight_bytes")))]
    table = _table(numbers.measured(SIZE, "weight_bytes"), columns)
    if table:
        yield f"## Weights\n\n{table}"
    for place in numbers.places("memory", "peak_bytes"):
        peak: Column = ("peak above the model",
                        lambda name, place=place: byte_words(numbers.value(place, name, "peak_bytes")))  # type: ignore[misc]  # fmt: skip
        yield f"## Memory\n\n{_table(numbers.measured(place, 'peak_bytes'), [peak])}"


def _headline(numbers: Numbers) -> Iterator[str]:
    bold = f"**{NO_BASELINE}**"
    found = [f"- {_named(entrant)}. {_safe(words).replace(NO_BASELINE, bold)}" for entrant, words in headlines(numbers)]
    yield "## Headline\n\n" + ("\n".join(found) or "No certified system took part: nothing is claimed.")


def _notes(numbers: Numbers) -> Iterator[str]:
    notes = [f"- {line}" for line in (*_skipped(numbers), *_noise(numbers), *_meanings(numbers))]
    if notes:
        yield "## Notes\n\n" + "\n".join(notes)


def _skipped(numbers: Numbers) -> Iterator[str]:
    """Cells that were left out, and values that are none, such as an infinite perplexity."""
    for row in numbers.report.rows:
        if row["measure"] == "skipped":
            place = Place(row["part"], row["batch"], row["context"])
            where = ", ".join(part for part in (place.part, place.words, row["system"]) if part)
            yield f"skipped: {_safe(where)}: {_safe(row['note'] or 'no reason is known')}"
        elif row["value"] is None or not math.isfinite(row["value"]):
            where = Place(row["part"], row["batch"], row["context"]).words if row["part"] in TIMED else row["part"]
            yield f"no number: {row['measure']} of {_safe(row['system'] or 'this machine')} ({where})"
        elif row["note"]:
            yield f"{_safe(row['system'] or row['part'])}, {row['measure']}: {_safe(row['note'])}"


def _noise(numbers: Numbers) -> Iterator[str]:
    """Cells whose times were scattered, or longer than the work took."""
    one_thread = numbers.machine("threads") == "1" and numbers.machine("device") == "cpu"
    for part in TIMED:
        measure = TIMES[part][0]
        for place in numbers.places(part, f"{measure}_ms"):
            wide = _above(numbers, place, f"{measure}_p95_ms", f"{measure}_ms", SPREAD)
            if wide:
                yield f"noisy: {part}, {place.words}: the 95th percentile is above {SPREAD} times the median for {wide}"
            waited = _above(numbers, place, f"{measure}_ms", f"{measure}_cpu_ms", WAITING) if one_thread else ""
            if waited:
                yield (f"busy machine: {part}, {place.words}: above {WAITING} times the CPU time for {waited}; "
                       "what was waited for is in the speed-ups, not in the CPU times")  # fmt: skip


def _above(numbers: Numbers, place: Place, measure: str, other: str, times: float) -> str:
    """The systems of which one measure is so many times another, or more."""
    found = []
    for entrant in numbers.measured(place, measure):
        value, least = (numbers.value(place, entrant.name, name) for name in (measure, other))
        if value is not None and least is not None and value > times * least:
            found.append(_safe(entrant.name))
    return ", ".join(found)


def _meanings(numbers: Numbers) -> Iterator[str]:
    if any(entrant.standing == CERTIFIED for entrant in numbers.entrants):
        yield "bold: certified, its cost in quality was measured; KLs differ where their intervals are apart"
    if any(entrant.standing == HYPOTHETICAL for entrant in numbers.entrants):
        yield "hypothetical: nobody has judged which heads could be treated so; its speed says nothing about its worth"
    for entrant in numbers.entrants:
        yield f"{_safe(entrant.name)} ({entrant.standing or 'of no standing'}): {_safe(entrant.label) or MISSING}"


def _table(entrants: Sequence[Entrant], columns: Sequence[Column]) -> str:
    """A table of systems, without the columns that are empty; nothing without systems."""
    cells = {header: [write(entrant.name) for entrant in entrants] for header, write in columns}
    filled = {header: texts for header, texts in cells.items() if any(text != MISSING for text in texts)}
    if not entrants or not filled:
        return ""
    lines = [["system", *filled], ["---", *("---:" for _ in filled)]]
    lines += [[_named(entrant), *(texts[row] for texts in filled.values())] for row, entrant in enumerate(entrants)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named(entrant: Entrant) -> str:
    return f"**{_safe(entrant.shown)}**" if entrant.standing == CERTIFIED else _safe(entrant.shown)


def _safe(text: str) -> str:
    """A record's text for Markdown: nothing in it is a tag, a column or a mark.

    >>> _safe("a|b <i>*c*")
    'a\\\\|b &lt;i&gt;\\\\*c\\\\*'
    """
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([|`*\\]|(?<!\w)_|_(?!\w))", r"\\\1", line)
