"""The blocks of a page are run in order, in one folder and one namespace; those that say why are not."""

from pathlib import Path
from typing import Any

import pytest
from docs_runner import PAGE, parse, set_up, tear_down
from sybil import Document
from sybil.example import SybilFailure


def run(text: str) -> dict[str, Any]:
    """Follow a page as pytest does; its namespace."""
    document = Document(text, "page.md")
    for region in parse(document):
        document.add(region)
    set_up(document.namespace)
    for example in document.examples():
        example.evaluate()
    return document.namespace


def block(language: str, source: str, comment: str = "") -> str:
    """A fenced block, with a comment above it."""
    return (f"<!-- {comment} -->\n" if comment else "") + f"```{language}\n{source}\n```\n\n"


def test_blocks_share_names_and_files() -> None:
    page = block("python", "x = 1\nopen('made', 'w').write('here')") + block("sh", "cat made > copied")
    page += block("python", "x += len(open('copied').read())")
    assert run(page)["x"] == 5


def test_every_page_has_a_folder_of_its_own_which_goes() -> None:
    first, second = run(block("sh", "ls")), run(block("sh", "ls"))
    folders = [namespace[PAGE].path for namespace in (first, second)]
    assert folders[0] != folders[1]
    for namespace in (first, second):
        tear_down(namespace)
    assert not any(folder.exists() for folder in folders)


def test_the_working_directory_is_as_before() -> None:
    before = Path.cwd()
    with pytest.raises(ZeroDivisionError, match="division"):
        run(block("python", "1 / 0"))
    assert Path.cwd() == before


@pytest.mark.parametrize("language", ["python", "sh", "console"])
def test_a_block_that_says_why_is_not_run(language: str) -> None:
    source = {"python": "raise SystemExit", "sh": "python -c 'raise SystemExit(1)'"}.get(language, "$ cat nowhere")
    run(block(language, source, "not run: ten minutes"))


def test_a_block_that_is_not_run_is_checked() -> None:
    with pytest.raises(SybilFailure, match="No such option"):
        run(block("sh", "headspec analyze demo --nonsense 1", "not run: ten minutes"))
    with pytest.raises(SybilFailure, match="has no 'nonsense'"):
        run(block("python", "hs.nonsense()", "not run: ten minutes"))


def test_a_command_that_fails_fails() -> None:
    with pytest.raises(SybilFailure, match="exit code 1"):
        run(block("sh", "cat nowhere\nls"))


def test_nothing_is_installed() -> None:
    with pytest.raises(SybilFailure, match="say why it is not run"):
        run(block("sh", "python3 -m venv .venv"))
    with pytest.raises(SybilFailure, match="say why it is not run"):
        run(block("sh", "ls && .venv/bin/pip install -e ."))


def test_commands_are_offline_and_those_of_this_environment() -> None:
    asked = block("sh", "echo $HF_HUB_OFFLINE $OMP_NUM_THREADS\npython -c 'import headspec'\nheadspec --help > help")
    run(asked + block("text", "1 1", "prints") + block("python", "assert 'analyze' in open('help').read()"))


def test_output_that_differs_is_told() -> None:
    run(block("python", "print(1.25)") + block("text", "1.2…", "prints"))
    with pytest.raises(SybilFailure, match=r"but this was printed:\n\n1\.25"):
        run(block("python", "print(1.25)") + block("text", "1.3…", "prints"))


def test_a_saved_file_is_there_for_the_next_block() -> None:
    run(block("python", "print(2 + 2)", "file: sum.py") + block("sh", "python sum.py") + block("text", "4", "prints"))
    run(block("json", '{"every": 8}', "file: settings.json") + block("sh", "cat settings.json"))


def test_json_must_be_json() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        run(block("json", "{every: 8}"))


def test_text_is_only_for_reading() -> None:
    assert list(parse(Document(block("text", "anything (at all"), "page.md"))) == []


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(SybilFailure, match="'yaml': write python, sh"):
        run(block("yaml", "a: 1"))
