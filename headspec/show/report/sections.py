"""The sections of a report below the heads: what each shows, how it misleads, and which command makes it."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from headspec.show.report.parts import ReportParts
from headspec.show.report.tables import Block, benchmark_blocks, specialisation_blocks

Record = TypeVar("Record")
Figures: TypeAlias = Mapping[str, Any]
"""Plotly figures, by what they are called within a section."""


@dataclass(frozen=True)
class Section:
    """A section, whether its records are there or not."""

    name: str
    """Its address on the page."""
    title: str
    short: str
    """The same for a list of links."""
    needs: tuple[str, ...]
    """Fields of ReportParts."""
    shows: str
    misleads: str
    command: str
    """What makes it, with `{model}`; DIR is the results folder."""
    draw: Callable[[ReportParts], Figures] = lambda parts: {}
    blocks: Callable[[ReportParts], list[Block]] = lambda parts: []
    verdict: Callable[[ReportParts], str] = lambda parts: ""
    """What to know before one looks: whether a budget is kept, how much was measured."""
    quality: bool = False
    """Whether it judges a model, which random weights cannot be."""

    def is_there(self, parts: ReportParts) -> bool:
        """Whether the records it needs were found."""
        return all(getattr(parts, name) is not None for name in self.needs)

    def command_for(self, parts: ReportParts) -> str:
        """The command that would make it."""
        model = parts.head_map.about.model
        prompt = "'Once upon a time'"
        return self.command.format(model=shlex.quote(" ".join(model.split())), prompt=prompt)


def _offsets(parts: ReportParts) -> Figures:
    from headspec.show.reach import offsets

    return {"": offsets(given(parts.profile), None, parts.head_map)}


def _evolution(parts: ReportParts) -> Figures:
    from headspec.show.groups import by_position

    return {"": by_position(given(parts.profile), parts.head_map)}


def _clusters(parts: ReportParts) -> Figures:
    from headspec.show.groups import clusters

    return {"": clusters(given(parts.clusters), parts.head_map)}


def _sweep(parts: ReportParts) -> Figures:
    from headspec.show.sweep_page import sweep

    return {"": sweep(given(parts.sweep), head_map=parts.head_map)}


def _pareto(parts: ReportParts) -> Figures:
    from headspec.show.tradeoff import pareto

    return {"": pareto(given(parts.search))}


def _budget(parts: ReportParts) -> str:
    from headspec.show.budget_words import budget_words

    record = given(parts.search)
    return budget_words(record.certificate, record.within_budget)


def _measured(parts: ReportParts) -> str:
    """How much of a sweep is there: an unfinished one looks like a small one."""
    rows = given(parts.sweep).rows
    single = {str(row.get("heads")) for row in rows if row.get("kind") == "single"}
    alone = f"; {len(single)} of {len(parts.head_map)} heads treated alone" if single else ""
    return f"{len(rows):,} cases measured{alone}"


def _benchmark(parts: ReportParts) -> Figures:
    from headspec.show.benchmark_folder import benchmark_figures

    return {Path(name).stem: figure for name, figure in benchmark_figures(given(parts.benchmark)).items()}


def _timeline(parts: ReportParts) -> Figures:
    from headspec.show.live_timeline import timeline

    return {"": timeline(given(parts.live))}


def given(record: Record | None) -> Record:
    """A record of which it is known that it is there."""
    assert record is not None
    return record


SECTIONS = (
    Section(
        "offsets", "Where every head looks", "Distances", ("profile",),
        "A row a head, a column a distance to the token it looks at: bright columns at a few distances are positional "
        "heads, rows that are bright far back rest on the first tokens or read the whole text.",
        "Few queries can look far back, so even a head that looks everywhere alike grows darker to the right.",
        "headspec analyze {model} --out DIR/analysis", _offsets,
    ),
    Section(
        "evolution", "How heads change as the context grows", "Context", ("profile",),
        "Median and middle half of the heads of each role, by the position of the token that looks.",
        "At one position texts differ as much as heads do, and a median hides heads that do something else.",
        "headspec analyze {model} --out DIR/analysis", _evolution,
    ),
    Section(
        "clusters", "Heads that resemble each other", "Clusters", ("clusters",),
        "Heads grouped by their numbers alone, without any cut-off: a second opinion on the roles.",
        "Two dimensions out of many: heads that lie together here may differ in the others. The number of clusters "
        "says little where the silhouette is low.",
        "headspec analyze {model} --out DIR/analysis", _clusters,
    ),
    Section(
        "specialisation", "Do the heads specialise at all?", "Specialisation", ("specialisation",),
        "The same numbers on the text, on its tokens in random order, and with untrained weights.",
        "What stays on shuffled tokens is habit of position, not reading.",
        "headspec analyze {model} --out DIR/analysis",
        blocks=lambda parts: specialisation_blocks(given(parts.specialisation)),
    ),
    Section(
        "sweep", "What treating heads costs", "Sweep", ("sweep",),
        "Each head is treated alone, and the damage is measured exactly: on text, and on repeated random tokens, which "
        "only induction heads can foresee.",
        "Damage of single heads does not add up: others take over what one did, until they are gone too.",
        "headspec sweep {model} --profile DIR/analysis --out DIR/sweep", _sweep,
        verdict=_measured, quality=True,
    ),
    Section(
        "plans", "What plans save and cost", "Plans", ("search",),
        "Every plan that the search measured: how much of the KV cache is left, and how far the model has moved. The "
        "best lie on the front; the chosen one was measured again on text that was not used to choose it.",
        "A choice of heads is worth something only if it does better than random heads of the same layers.",
        "headspec search {model} --profile DIR/analysis --out DIR/search", _pareto,
        verdict=_budget, quality=True,
    ),
    Section(
        "benchmark", "Benchmark", "Benchmark", ("benchmark",),
        "The model and its pruned versions beside published methods: quality at equal bytes, speed, and how near to "
        "the limit of this machine.",
        "Times hold for this machine. Perplexity alone hides lost retrieval: look at induction and needles too.",
        "headspec bench {model} DIR/pruned --out DIR/benchmark", _benchmark,
        lambda parts: benchmark_blocks(given(parts.benchmark)), quality=True,
    ),
    Section(
        "live", "Live: heads while text is written", "Live", ("live",),
        "What each head was taken for, and what was done with it, token by token; below, what the KV cache held.",
        "One prompt: another text gives another picture.",
        "headspec generate {model} --prompt {prompt} --live --head-map DIR/analysis --out DIR/live", _timeline,
    ),
)  # fmt: skip
