"""What is only checked in the documentation is really checked: wrong commands and wrong Python are found."""

import inspect
import json
from pathlib import Path

import pytest
from docs_commands import check_shell, commands, typed
from docs_pages import WrongPageError, blocks, placeholders
from docs_python import FORWARDS, check_python, takes_any_name
from docs_runner import matches

import headspec as hs


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("headspec analyze demo --nonsense 3", "No such option"),
        ("headspec analyse demo", "No such command"),
        ("headspec export demo --plan plan.json", "Missing option"),
        ("headspec export demo --plan p --out o --to onnx", "Invalid value"),
        ("headspec analyze", "Missing argument"),
        ("headspec analyze demo --tokens many", "Invalid value"),
        ("cd results && headspec nonsense", "No such command"),
        ("OMP_NUM_THREADS=1 headspec nonsense", "No such command"),
        (".venv/bin/headspec nonsense", "No such command"),
        ("headspec analyze \\\n  demo --nonsense", "No such option"),
        ("python benchmarks/nonsense.py", "no such file"),
        ("python benchmarks/decode.py --nonsense 3", "no option --nonsense"),
        ("python -m nonsense_module", "no such module"),
        ("python -c 'import headspec as hs\nhs.nonsense()'", "has no 'nonsense'"),
        ("pip install 'headspec[nonsense]'", "no extra nonsense"),
        ("pip install -c nonsense.txt -e .", "no such constraints file"),
        ("bash nonsense.sh", "no such file"),
        ("mkdocs gh-deploy", "only `build --strict`"),
        ("curl https://example.org", "'curl' is not a program"),
        ("headspec analyze 'demo", "not finished"),
    ],
)
def test_a_wrong_command_is_found(block: str, words: str) -> None:
    with pytest.raises(WrongPageError, match=words):
        check_shell(block)


@pytest.mark.parametrize(
    "block",
    [
        "headspec analyze demo --threshold dead_spread=0.05 --no-pages  # with a comment",
        "headspec bench --help",
        "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev]'",
        "python benchmarks/decode.py random:pythia-70m --batch 1 > decode.txt",
        "# only a comment\n\nheadspec models | cat",
        "python -m pytest tests/export",
    ],
)
def test_a_right_command_passes(block: str) -> None:
    check_shell(block)


def test_a_script_that_a_page_has_saved_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print()", encoding="utf-8")
    check_shell("python mine.py", tmp_path)
    with pytest.raises(WrongPageError, match="no such file"):
        check_shell("python mine.py")


def test_commands_are_cut_where_the_shell_cuts_them() -> None:
    block = "a 'b c' && d;  e | f > out.txt  # g\nh \\\n  i\n"
    assert list(commands(block)) == [["a", "b c"], ["d"], ["e"], ["f"], ["h", "i"]]


def test_of_a_console_only_what_is_typed_counts() -> None:
    assert typed("$ headspec models\na table\n$ ls\n") == "headspec models\nls"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("print(", "was never closed"),
        ("import headspec as hs\nhs.nonsense", "has no 'nonsense'"),
        ("hs.show.nonsense(1)", "hs.show has no 'nonsense'"),
        ("hs.HeadMap.nonsense('x')", "hs.HeadMap has no 'nonsense'"),
        ("hs.load_model('demo', nonsense=1)", "unexpected keyword argument 'nonsense'"),
        ("hs.load_model('demo', 'cpu')", "too many positional"),
        ("hs.run_chain('demo', nonsense=1)", "unexpected keyword argument 'nonsense'"),
        (
            "hs.sweep(model, cases, text, ray_address='auto', workers=16)",
            "no argument ray_address, workers",
        ),
        ("hs.sweep(model, cases, text, texts=[])", "no argument texts"),
        ("hs.analyze('demo', nonsense=4)", "no argument nonsense"),
        ("from headspec.load.model import nonsense", "has no 'nonsense'"),
        ("import nonsense_module", "No module named"),
    ],
)
def test_wrong_python_is_found(source: str, words: str) -> None:
    with pytest.raises(WrongPageError, match=words):
        check_python(source)


def test_right_python_passes() -> None:
    check_python(
        "import headspec as hs\nfrom headspec.plan.size import plan_size\n"
        "model = hs.load_plain('demo', device='cpu')\nhs.show.roles(*[model])\nmodel.anything.at.all()\n"
        "hs.sweep(model, cases, text, engine='ray', address='auto', n_workers=16)\nhs.analyze('demo', every=4)"
    )


def test_it_is_known_where_each_public_function_passes_its_options_on() -> None:
    public = [getattr(hs, name) for name in hs.__all__] + [getattr(hs.show, name) for name in hs.show.__all__]
    passing = [each for each in public if inspect.isfunction(each) and takes_any_name(each)]
    assert {f"{each.__module__}.{each.__qualname__}" for each in passing} == set(FORWARDS)


def test_a_word_that_waits_to_be_replaced_is_found_in_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It takes RUNTIME, in the runtime.\n\n```python\nXXX = 1\n```\n\nTODO: more\n", encoding="utf-8")
    assert placeholders(page) == ["RUNTIME", "TODO"]


def test_a_word_that_waits_to_be_replaced_is_found_in_a_notebook(tmp_path: Path) -> None:
    notebook = tmp_path / "page.ipynb"
    cells = [{"cell_type": "markdown", "source": ["It is\n", "TBD."]}, {"cell_type": "code", "source": ["XXX = 1"]}]
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert placeholders(notebook) == ["TBD"]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\nb\n", "a  \nb", True),
        ("loss 3.2…, KL …\n", "loss 3.29, KL 0.1\n", True),
        ("a\n…\nz", "a\nb\nz", True),
        ("a", "a\nb", False),
        ("loss 3.2", "loss 3.3", False),
        ("(a.c)", "(abc)", False),
    ],
)
def test_output_is_compared_word_for_word_but_for_ellipses(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed) is same


def test_a_comment_right_above_a_block_says_why_it_is_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: ten minutes -->\n```sh\na\n```\n\ntext\n\n```sh\nb\n```\n<!-- not run: far away -->\n\ntext\n\n"
        "```sh\nc\n```\n- item\n\n  <!-- file: x.py -->\n  ```python\n  d\n  ```\n",
        encoding="utf-8",
    )
    found = blocks(page)
    assert [block.reason for block in found] == ["ten minutes", None, None, None]
    assert [block.file for block in found] == [None, None, None, "x.py"]
    assert [block.source for block in found] == ["a\n", "b\n", "c\n", "d\n"]
