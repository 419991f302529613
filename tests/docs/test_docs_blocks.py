"""No block of code in the documentation escapes: each is run, or checked with the reason why it is not run."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from docs_commands import check_headspec, commands, typed
from docs_pages import COMMENT, LANGUAGES, ROOT, Block, WrongPageError, blocks, pages, placeholders, prose, told
from docs_runner import parse
from sybil import Document

EACH_PAGE = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
INLINE = re.compile(r"`(headspec [^`…]*)`")
KNOWN_COMMENT = re.compile(r" (?:not run: .{5,}|file: [\w.]+|prints) ")


@EACH_PAGE
def test_every_fence_is_a_block_of_a_known_language(page: Path) -> None:
    found = blocks(page)
    fences = re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.M)
    assert len(fences) == 2 * len(found)
    assert {block.language for block in found} <= set(LANGUAGES)


@EACH_PAGE
def test_every_block_but_text_is_a_test(page: Path) -> None:
    document = Document(page.read_text(encoding="utf-8"), str(page))
    tested = [region.parsed for region in parse(document)]
    assert [block for block in blocks(page) if block.language != "text"] == [
        block for block in tested if block.language != "text"
    ]


@EACH_PAGE
def test_every_comment_is_a_directive_right_above_a_block_that_it_fits(page: Path) -> None:
    comments = COMMENT.findall(page.read_text(encoding="utf-8"))
    assert [comment for comment in comments if not KNOWN_COMMENT.fullmatch(comment)] == []
    found = [block for block in blocks(page) if block.reason or block.file or block.prints]
    assert len(comments) == len(found)
    for block in found:
        fitting = ("text",) if block.prints else ("python", "json") if block.file else ("python", "sh", "console")
        assert block.language in fitting, block


@EACH_PAGE
def test_output_follows_a_block_that_is_run(page: Path) -> None:
    found = blocks(page)
    for before, block in pairwise(found):
        if block.prints:
            assert before.language in ("python", "sh", "console")
            assert before.reason is None
            assert before.file is None


@EACH_PAGE
def test_a_saved_file_is_used_by_a_command_that_is_run(page: Path) -> None:
    found = blocks(page)
    for place, block in enumerate(found):
        if block.file is not None:
            assert any(block.file in word for words in run_after(found[place:]) for word in words), block.file


def run_after(found: list[Block]) -> list[list[str]]:
    """The commands of the blocks that are run."""
    shell = [block for block in found if block.language in ("sh", "console") and block.reason is None]
    return [
        words
        for block in shell
        for words in commands(typed(block.source) if block.language == "console" else block.source)
    ]


@EACH_PAGE
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    for inline in INLINE.findall(prose(page)):
        [words] = commands(inline)
        if words[1] not in ("COMMAND", "--help"):
            try:
                check_headspec(words[1:])
            except WrongPageError as error:
                if "Missing" not in str(error):  # `headspec bench --quick` may leave out what is plain
                    raise


@pytest.mark.parametrize("page", told(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_prose_holds_a_word_that_waits_to_be_replaced(page: Path) -> None:
    assert placeholders(page) == []


def test_most_blocks_are_run() -> None:
    found = [block for page in pages() for block in blocks(page) if block.language in ("python", "sh", "console")]
    assert sum(block.reason is None for block in found) > len(found) / 2
