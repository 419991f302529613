"""The documentation says what the code does: generated pages, the demo model's table, the README's Python."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from headspec.classify.rules import classify_heads
from headspec.load.text import load_text
from headspec.probe.collect import probe_heads

ROOT = Path(__file__).parent.parent


def test_the_statistics_page_is_what_the_code_says() -> None:
    path = ROOT / "tools" / "write_statistics_page.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page()


def test_the_demo_page_shows_the_roles_of_today(demo: Any) -> None:
    profile = probe_heads(demo, load_text(demo, "probe"), progress=False)
    head_map, naive = classify_heads(profile), classify_heads(profile, rules="naive")
    rows = re.findall(r"^\| (L\dH\d) \|(.*)\|$", (ROOT / "docs" / "demo-model.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 32
    for head, rest in rows:
        role, window, _, textbook = [cell.strip() for cell in rest.split("|")][4:]
        assert (role, window) == (head_map[head].role, str(head_map[head].window or "")), head
        assert textbook == naive[head].role, head


def test_the_python_of_the_readme_runs(demo: Any, monkeypatch: Any) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["head_map"]["L2H3"].role == "gathering"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_public_names_can_be_imported() -> None:
    import headspec

    assert all(getattr(headspec, name) is not None for name in headspec.__all__)
    assert "headspec" in sys.modules
