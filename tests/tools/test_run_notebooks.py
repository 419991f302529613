"""tools/run_notebooks.py: what of an output is kept, and that a second run writes the same file."""

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

TOOL = Path(__file__).parents[2] / "tools" / "run_notebooks.py"
SCRIPT = "<div></div><SCRIPT>draw()</SCRIPT>"
NOTEBOOK = """# %% [markdown]
# # A notebook

# %%
import sys
from pathlib import Path

print(list(Path().iterdir()))
print("a warning", file=sys.stderr)

# %%
class Figure:
    def _repr_mimebundle_(self, **_):
        return {"text/html": "<script>draw()</script>", "image/png": "aGFscA==", "text/plain": "a figure"}


Figure()
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("run_notebooks", TOOL)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def shown(**data: str) -> NotebookNode:
    return new_output("display_data", {kind.replace("_", "/"): value for kind, value in data.items()})


def kinds(tool: ModuleType, output: NotebookNode) -> list[str]:
    kept = tool.worth_keeping(output)
    return [] if kept is None else sorted(kept.data)


def test_of_an_interactive_figure_the_picture_and_the_line_of_text_stay(tool: ModuleType) -> None:
    figure = shown(text_html=SCRIPT, image_png="aGFscA==", text_plain="a figure")
    figure.data["application/vnd.plotly.v1+json"] = {"data": []}
    assert kinds(tool, figure) == ["image/png", "text/plain"]


def test_a_table_stays_beside_its_text(tool: ModuleType) -> None:
    assert kinds(tool, shown(text_html="<table></table>", text_plain="0 1")) == ["text/html", "text/plain"]


def test_a_long_text_beside_a_picture_goes(tool: ModuleType) -> None:
    assert kinds(tool, shown(image_png="aGFscA==", text_plain="0, " * 200)) == ["image/png"]


def test_a_form_that_is_too_large_goes_alone(tool: ModuleType) -> None:
    large = "x" * (tool.LARGEST_TEXT + 1)
    assert kinds(tool, shown(text_html=large, text_plain="short")) == ["text/plain"]
    assert kinds(tool, shown(image_png="x" * 300_000)) == ["image/png"]
    assert kinds(tool, shown(image_png="x" * 500_000, text_plain="a figure")) == ["text/plain"]


def test_an_output_of_which_nothing_stays_goes_whole(tool: ModuleType) -> None:
    assert tool.worth_keeping(shown(text_html=SCRIPT)) is None


def test_standard_error_goes_and_standard_output_stays(tool: ModuleType) -> None:
    assert tool.worth_keeping(new_output("stream", name="stderr", text="a warning")) is None
    assert tool.worth_keeping(new_output("stream", name="stdout", text="a result")).text == "a result"


def test_an_error_is_kept_so_that_it_is_seen(tool: ModuleType) -> None:
    error = new_output("error", ename="ValueError", evalue="wrong", traceback=[])
    assert tool.worth_keeping(error) == error


def test_identifiers_and_run_times_are_the_same_every_time(tool: ModuleType) -> None:
    one, other = (new_notebook(cells=[new_code_cell("1", metadata={"execution": {"at": at}})]) for at in "ab")
    assert one.cells[0].id != other.cells[0].id
    assert tool.as_shown_on_github(one) == tool.as_shown_on_github(other)


def test_a_notebook_is_run_in_an_empty_folder_and_comes_out_the_same_twice(tool: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "notebook.py"
    source.write_text(NOTEBOOK)
    first, second = (nbformat.writes(tool.as_shown_on_github(tool.run(source))) for _ in range(2))
    assert first == second
    _, printing, drawing = nbformat.reads(first, as_version=4).cells
    assert [output.text for output in printing.outputs] == ["[]\n"]
    assert drawing.outputs[0].data == {"image/png": "aGFscA==", "text/plain": "a figure"}
