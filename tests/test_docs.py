"""The documentation says what the code does: generated pages, the demo model's table, names, rooms and links."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from headspec.classify.rules import classify_heads
from headspec.load.text import load_text
from headspec.probe.collect import probe_heads

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("writer", ["write_statistics_page", "write_cli_page"])
def test_a_generated_page_is_what_the_code_says(writer: str) -> None:
    path = ROOT / "tools" / f"{writer}.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run python tools/{writer}.py"


def test_the_demo_page_shows_the_roles_of_today(demo: Any) -> None:
    profile = probe_heads(demo, load_text(demo, "probe"), progress=False)
    head_map, naive = classify_heads(profile), classify_heads(profile, rules="naive")
    rows = re.findall(r"^\| (L\dH\d) \|(.*)\|$", (DOCS / "demo-model.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 32
    for head, rest in rows:
        role, window, _, textbook = [cell.strip() for cell in rest.split("|")][4:]
        assert (role, window) == (head_map[head].role, str(head_map[head].window or "")), head
        assert textbook == naive[head].role, head


def test_the_public_names_can_be_imported() -> None:
    import headspec

    assert all(getattr(headspec, name) is not None for name in headspec.__all__)
    assert "headspec" in sys.modules


def test_every_public_name_is_on_a_reference_page() -> None:
    import headspec
    import headspec.show

    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: headspec\.(\S+)$", text, re.M))
    wanted = {name for name in headspec.__all__ if name != "show"} | {f"show.{name}" for name in headspec.show.__all__}
    assert wanted <= shown, f"not on a page of docs/reference: {sorted(wanted - shown)}"


def test_the_index_of_the_reference_leads_to_every_page_of_it() -> None:
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (DOCS / "reference").glob("*.md")} - {"index.md"}
    assert pages == set(re.findall(r"\]\((\w+\.md)\)", index))


def test_the_architecture_page_lists_the_layers_that_import_linter_holds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [layers] = [each["layers"] for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    [shown] = re.findall(r"```text\n(cli\n.*?)```", ARCHITECTURE, re.S)
    assert shown.split("\n")[:-1] == [layer.replace("headspec.", "") for layer in layers]


def test_the_architecture_page_names_every_room() -> None:
    rooms = [path for path in (ROOT / "headspec").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    names = {path.name if path.suffix else f"{path.name}/" for path in rooms} - {"__init__.py", "__main__.py"}
    assert {name for name in names if f"`{name}`" not in ARCHITECTURE} == set()


def test_the_files_that_the_architecture_page_names_are_in_their_rooms() -> None:
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", ARCHITECTURE, re.M)
    assert len(rows) > 9
    for room, words in rows:
        for name in re.findall(r"`([\w*]+\.py)`", words):
            assert list((ROOT / "headspec" / room).rglob(name)), f"{room}/ has no {name}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_of_the_glossary_is_in_order() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    for section in re.split(r"^## .*$", text, flags=re.M)[1:]:
        words = [word.lower() for word in re.findall(r"^### (.*)$", section, re.M)]
        assert words == sorted(words)
