"""Tables of a report that are no figures: a benchmark's, which comes as Markdown, and whether heads specialise.

Blocks of plain text: `{kind: heading | text | list | table, …}`.
"""

import html
import math
import re
from typing import Any

from headspec.classify.specialisation import HeadDiversity, Specialisation
from headspec.measure.report import BenchmarkReport
from headspec.show.benchmark_table import markdown
from headspec.show.hover import number_words

Block = dict[str, Any]
DIVERSITY = {
    "offset_information": ("what a head's name tells about where it looks, bits",
                           "0 if all heads look at the same distances; compare with untrained weights, not with 0"),
    "entropy_deviation": ("spread of the normalised entropy over heads", "between 0 and 0.5"),
    "strongest_previous_token": ("strongest previous-token score", "of any head, between 0 and 1"),
    "strongest_induction": ("strongest induction score", "of any head, between 0 and 1"),
}  # fmt: skip
"""Label and reading of each number."""
SOURCES = {"text": "this text", "shuffled": "its tokens shuffled", "untrained": "untrained weights"}


def benchmark_blocks(report: BenchmarkReport) -> list[Block]:
    """The table of a benchmark as `markdown` writes it, without its first heading."""
    chunks = [chunk.strip() for chunk in markdown(report).split("\n\n")]
    return [_block(chunk) for chunk in chunks if chunk and not chunk.startswith("# ")]


def _block(chunk: str) -> Block:
    lines = chunk.splitlines()
    if chunk.startswith("## "):
        return {"kind": "heading", "text": plain(chunk.removeprefix("## "))}
    if chunk.startswith("|"):
        head, _, *rows = [_cells(line) for line in lines]
        return {"kind": "table", "head": [plain(cell) for cell in head],
                "rows": [[plain(cell) for cell in row] for row in rows],
                "strong": [row[0].startswith("**") for row in rows]}  # fmt: skip
    if all(line.startswith("- ") for line in lines):
        return {"kind": "list", "items": [plain(line.removeprefix("- ")) for line in lines]}
    return {"kind": "text", "text": plain(chunk), "strong": chunk.startswith("**")}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def plain(text: str) -> str:
    r"""The text that Markdown would show.

    >>> plain(r"**a\|b** &lt;i&gt;")
    'a|b <i>'
    """
    without_marks = re.sub(r"(?<!\\)(\*\*|`)", "", text)
    return html.unescape(re.sub(r"\\([|`*\\_])", r"\1", without_marks))


def specialisation_blocks(found: Specialisation) -> list[Block]:
    """The verdict and the numbers it rests on."""
    known = {label: part for name, label in SOURCES.items() if (part := getattr(found, name)) is not None}
    rows = [[label, *(_number(part, name) for part in known.values()), reading]
            for name, (label, reading) in DIVERSITY.items()]  # fmt: skip
    table = {"kind": "table", "head": ["", *known, "how to read it"], "rows": rows, "strong": [False] * len(rows)}
    return [{"kind": "text", "text": found.sentence, "strong": True}, table]


def _number(part: HeadDiversity, name: str) -> str:
    value = getattr(part, name)
    return "not measured" if math.isnan(value) else number_words(value)
