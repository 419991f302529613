"""Run the notebooks (`notebooks/*.py`) and write the `.ipynb` beside each, with its outputs.

    python tools/run_notebooks.py

Outputs above 200 kB (the interactive views carry their script) are left out: GitHub shows no scripts. So is what goes
to standard error: warnings of the machine at hand.
"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
LARGEST_OUTPUT = 200_000


def run(source: Path) -> nbformat.NotebookNode:
    """Execute one notebook in its own folder; an error in a cell is raised."""
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(source.parent)}}).execute()
    return notebook


def without_large_outputs(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what is too large to keep, and the run times, which change every time."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _worth_keeping(output)]
    return notebook


def _worth_keeping(output: nbformat.NotebookNode) -> bool:
    return len(str(output)) <= LARGEST_OUTPUT and output.get("name") != "stderr"


def main() -> None:
    """Run all notebooks, or those named on the command line."""
    for source in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.py")):
        nbformat.write(without_large_outputs(run(source)), source.with_suffix(".ipynb"))
        print(source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
