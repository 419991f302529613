"""Run the notebooks (`notebooks/*.py`) and write the `.ipynb` beside each, with its outputs, as GitHub shows them.

    python tools/run_notebooks.py [NOTEBOOK.py ...]

Kept are text, tables and pictures. Of an interactive figure the picture stays and its script goes: GitHub runs no
scripts, and each carries megabytes. Standard error (progress bars, warnings of the machine at hand), run times and
random identifiers go too, so that a second run changes nothing but measured times.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
KEPT = ("image/png", "text/html", "text/markdown", "text/plain")
"""Forms of an output that stay, if they carry no script and are not too large."""
LARGEST = {"image/png": 400_000}
"""Characters of one form of an output; of all others `LARGEST_TEXT`."""
LARGEST_TEXT = 60_000
SAID_TWICE = 300
"""Beside a picture, a longer text is only the same in numbers."""


def run(source: Path) -> nbformat.NotebookNode:
    """Execute a notebook in an empty folder; an error in a cell is raised."""
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=600, coalesce_streams=True, resources={"metadata": {"path": folder}}
        )  # fmt: skip
        client.execute()
    return notebook


def as_shown_on_github(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without scripts, standard error, and what is different every time."""
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := worth_keeping(output))]
    return notebook


def worth_keeping(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """The output with those of its forms that stay; None if nothing does."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if "data" not in output:
        return output
    output.data = {kind: value for kind, value in output.data.items() if _stays(kind, value)}
    if "image/png" in output.data and len(output.data.get("text/plain", "")) > SAID_TWICE:
        del output.data["text/plain"]
    output.metadata = {}
    return output if output.data else None


def _stays(kind: str, value: object) -> bool:
    text = str(value)
    return kind in KEPT and len(text) <= LARGEST.get(kind, LARGEST_TEXT) and "<script" not in text.lower()


def main() -> None:
    """Run all notebooks, or those named on the command line."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of small models wait for each other
    for source in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.py")):
        started = time.monotonic()
        notebook = as_shown_on_github(run(source))
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        size = source.with_suffix(".ipynb").stat().st_size
        print(f"{source.with_suffix('.ipynb')}: {time.monotonic() - started:.0f} s, {size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
