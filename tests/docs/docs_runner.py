"""Runs the documentation: every block of a page in order, in one folder and one namespace of its own.

Blocks are checked first (docs_commands.py, docs_python.py). Then `python` is executed, and `sh` is run by bash in the
page's folder, offline. Comments above a block say otherwise: `<!-- not run: why -->`; `<!-- file: NAME -->`, and it is
saved for the blocks that follow; `<!-- prints -->`, and it is what the block before has printed, `…` for anything.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs_commands import check_shell, installs, typed
from docs_pages import Block, WrongPageError, regions
from docs_python import check_python
from sybil import Document, Example, Region

PAGE = "__page__"
"""Under this name the namespace of a page holds its PageRun."""
MOST_SECONDS = 240


@dataclass
class PageRun:
    """Where the blocks of one page run, and what the last of them has printed."""

    folder: tempfile.TemporaryDirectory[str]
    printed: str = ""

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder.name)


def set_up(namespace: dict[str, Any]) -> None:
    """An empty folder for a page."""
    namespace[PAGE] = PageRun(tempfile.TemporaryDirectory(prefix="headspec-docs-"))


def tear_down(namespace: dict[str, Any]) -> None:
    """Forget the page with its models and files."""
    namespace.pop(PAGE).folder.cleanup()
    namespace.clear()


def parse(document: Document) -> Iterator[Region]:
    """A test for every block but text that is only for reading."""
    for region, block in regions(document):
        if block.language != "text" or block.prints:
            yield Region(region.start, region.end, block, evaluate)


def evaluate(example: Example) -> str | None:
    """Check a block, and run it if the page does not say why not. What is wrong, in words, if anything is."""
    page: PageRun = example.namespace[PAGE]
    try:
        if example.parsed.language not in FOLLOWED:
            raise WrongPageError(f"{example.parsed.language!r}: write {', '.join(FOLLOWED)}.")
        FOLLOWED[example.parsed.language](example.parsed, page, example)
    except WrongPageError as error:
        return str(error)
    return None


def follow_python(block: Block, page: PageRun, example: Example) -> None:
    """Check, then execute or save."""
    check_python(block.source)
    if block.file is not None:
        (page.path / block.file).write_text(block.source, encoding="utf-8")
    elif block.reason is None:
        page.printed = run_python(block, example.path, example.namespace, page.path)


def follow_shell(block: Block, page: PageRun, example: Example) -> None:
    """Check, then run."""
    script = typed(block.source) if block.language == "console" else block.source
    check_shell(script, page.path)
    if block.reason is None:
        if installs(script):
            raise WrongPageError("this would install things: say why it is not run, in a comment above it.")
        page.printed = run_shell(script, page.path)


def follow_text(block: Block, page: PageRun, example: Example) -> None:
    """Compare with what was printed."""
    if not matches(block.source, page.printed):
        raise WrongPageError(f"the page shows\n\n{block.source}\nbut this was printed:\n\n{page.printed}")


def follow_json(block: Block, page: PageRun, example: Example) -> None:
    """It can be read; it may be saved."""
    json.loads(block.source)
    if block.file is not None:
        (page.path / block.file).write_text(block.source, encoding="utf-8")


FOLLOWED = {
    "python": follow_python, "sh": follow_shell, "console": follow_shell, "text": follow_text, "json": follow_json,
}  # fmt: skip
"""What becomes of a block; of `text` only where it is said to be printed."""


def run_python(block: Block, path: str, namespace: dict[str, Any], folder: Path) -> str:
    """Execute a block; what it prints. Lines are counted as in the page."""
    code = compile("\n" * block.first_line + block.source, path, "exec")
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_shell(script: str, folder: Path) -> str:
    """Let bash run a block, with the programs of this environment; what it prints."""
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=MOST_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise WrongPageError(f"exit code {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def matches(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed: spaces at line ends do not count, `…` stands for anything."""
    words = ["\n".join(line.rstrip() for line in text.strip("\n").splitlines()) for text in (shown, printed)]
    pattern = ".*?".join(re.escape(part) for part in words[0].split("…"))
    return re.fullmatch(pattern, words[1], re.S) is not None
