"""The notebooks as they are committed: paired, whole, small, and to be read on GitHub."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat import NotebookNode
from notebook_runs import NOTEBOOKS

NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("*.py"))]
MOST_BYTES = 1_000_000
OF_THE_MACHINE = re.compile(r"(?<![\w.~/-])/(?:tmp|home|root|Users|work|var)/\w|\b0x[0-9a-f]{8,}")
"""Folders and addresses that are others on every machine."""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def committed(name: str) -> NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(notebook: NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_there_are_six_numbered_in_order_each_with_its_pair() -> None:
    assert [name[:2] for name in NAMES] == ["1_", "2_", "3_", "4_", "5_", "6_"]
    assert [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))] == NAMES


def test_the_pair_has_the_same_cells(name: str, committed: NotebookNode) -> None:
    source = jupytext.read(NOTEBOOKS / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in source.cells] == [
        (cell.cell_type, cell.source) for cell in committed.cells
    ]


def test_every_cell_was_run_once_from_top_to_bottom(committed: NotebookNode) -> None:
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_output_is_an_error(committed: NotebookNode) -> None:
    assert not [output for cell in code_cells(committed) for output in cell.outputs if output.output_type == "error"]


def test_it_is_small_enough_for_a_repository(name: str) -> None:
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size <= MOST_BYTES


def test_every_figure_has_a_picture_that_github_shows(committed: NotebookNode) -> None:
    drawing = [cell for cell in code_cells(committed) if re.search(r"hs\.show\.\w+\(|plt\.show\(", cell.source)]
    bare = [
        cell.source for cell in drawing if not any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    assert drawing
    assert not bare


def test_outputs_hold_no_script_and_nothing_of_the_machine_that_ran_it(committed: NotebookNode) -> None:
    for cell in code_cells(committed):
        for output in cell.outputs:
            texts = [
                output.get("text", ""),
                *(text for kind, text in output.get("data", {}).items() if "png" not in kind),
            ]
            assert not [text for text in texts if "<script" in text.lower() or OF_THE_MACHINE.search(text)], cell.source


def test_it_leads_to_the_next_one(name: str, committed: NotebookNode) -> None:
    links = re.findall(r"\]\((\d_\w+)\.ipynb\)", words(committed))
    later = NAMES[NAMES.index(name) + 1 :]
    assert links[-1:] == later[:1]


def test_the_pages_it_names_exist(committed: NotebookNode) -> None:
    named = re.findall(r"`(docs/[\w./-]+\.md)`", words(committed))
    assert not [page for page in named if not (Path(__file__).parent.parent / page).is_file()]
