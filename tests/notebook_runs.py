"""Runs notebooks as a reader does: in a folder of their own, somewhere outside the repository."""

from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def read_notebook(name: str) -> NotebookNode:
    """The cells of `notebooks/NAME.py`, not run."""
    return jupytext.read(NOTEBOOKS / f"{name}.py")


def quickly(name: str, less: dict[str, str]) -> NotebookNode:
    """The cells of a notebook with less to compute, for tests of the way through: each published text has a stand-in.

    `tools/run_notebooks.py` runs them as they are published.
    """
    notebook = read_notebook(name)
    for published, stand_in in less.items():
        cells = [cell for cell in notebook.cells if published in cell.source]
        assert cells, f"{name} does not say {published!r} any more"
        for cell in cells:
            cell.source = cell.source.replace(published, stand_in)
    return notebook


def run_notebook(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Execute it from top to bottom; an error in a cell is raised."""
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()


def shown(notebook: NotebookNode) -> str:
    """Everything that was printed or shown as text, warnings apart."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = [output.text for output in outputs if output.get("name") == "stdout"]
    tables = [output.data.get("text/html", output.data.get("text/plain", "")) for output in outputs if "data" in output]
    return "\n".join([*printed, *tables])
