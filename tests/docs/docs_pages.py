"""The pages of the documentation, and the blocks of code in them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sybil import Document, Region
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
LANGUAGES = ("python", "sh", "console", "text", "json")
"""Python and commands are run, or at least checked; `text` may be compared with what was printed; JSON is parsed."""
COMMENT = re.compile(r"<!--(.*?)-->", re.S)
DIRECTIVE = re.compile(
    r"<!-- (?:not run: (?P<reason>\S[^\n]{4,}?)|file: (?P<file>[\w.]+)|(?P<prints>prints)) -->\n\s*\Z"
)
PLACEHOLDER = re.compile(r"\b(?:RUNTIME|TODO|TBD|XXX|HOWTOS?|FIXME)\b")
"""What stands where something has still to be written."""
LEXER = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)$\n", re.M))


class WrongPageError(AssertionError):
    """A page says what is not so: a command that does not exist, output that was not printed."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    source: str
    first_line: int
    """Lines of the page before the first line of the source."""
    reason: str | None = None
    """Why it is only checked and not run, from the comment `<!-- not run: … -->` above it."""
    file: str | None = None
    """The name under which it is saved for the blocks that follow, from the comment `<!-- file: … -->` above it."""
    prints: bool = False
    """Whether it is what the block before has printed, from the comment `<!-- prints -->` above it."""


def pages() -> list[Path]:
    """Every page whose commands a reader may type."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def regions(document: Document) -> Iterator[tuple[Region, Block]]:
    """The fenced blocks of a page, with what the comment above each asks for."""
    for region in LEXER(document):
        asked = DIRECTIVE.search(document.text, 0, region.start)
        said = asked.groupdict() if asked else {}
        yield (
            region,
            Block(
                language=region.lexemes["language"].strip(),
                source=str(region.lexemes["source"]),
                first_line=document.text.count("\n", 0, region.start) + 1,
                reason=said.get("reason"),
                file=said.get("file"),
                prints=bool(said.get("prints")),
            ),
        )


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [block for _, block in regions(Document(page.read_text(encoding="utf-8"), str(page)))]


def prose(page: Path) -> str:
    """The page without its blocks."""
    text = page.read_text(encoding="utf-8")
    for region, _ in reversed(list(regions(Document(text, str(page))))):
        text = text[: region.start] + text[region.end :]
    return text


def told() -> list[Path]:
    """Everything with prose for a reader: the pages at the front, the documentation, the notebooks."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def placeholders(page: Path) -> list[str]:
    """Words in the prose of a page or notebook that wait to be replaced."""
    if page.suffix != ".ipynb":
        return PLACEHOLDER.findall(prose(page))
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return PLACEHOLDER.findall("\n".join("".join(each["source"]) for each in cells if each["cell_type"] == "markdown"))
