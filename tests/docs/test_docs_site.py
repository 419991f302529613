"""The site builds without a warning, and its pages work without a network: nothing is fetched, the search finds."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
"""What a browser fetches by itself when it opens a page; a link to click on (`a`) is not among it."""
OPENED = ("index.html", "tutorial.html", "reference/probe.html", "how-to/budget.html", "concepts/pruning.html")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the command that the documentation names."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Loads(HTMLParser):
    """Collects what a page makes the browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("prev", "next", "canonical", "edit"):
            return
        if address := given.get(LOADS.get(tag, "")):
            self.found.append(address)
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style") or "")


def test_every_page_of_the_navigation_is_there(site: Path) -> None:
    sources = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert [path for path in sources if not (site / path).is_file()] == []
    assert all((site / f"{name}.html").is_file() for name in ("contributing", "changelog", "demo-model-card"))


def test_every_notebook_is_a_page_with_its_pictures(site: Path) -> None:
    notebooks = list((ROOT / "notebooks").glob("*.ipynb"))
    assert len(notebooks) > 1
    for notebook in notebooks:
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        pictures = re.findall(rf'src="({notebook.stem}_\d+\.png)"', page)
        assert len(pictures) == notebook.read_text(encoding="utf-8").count('"image/png":')
        assert all((site / "notebooks" / picture).stat().st_size for picture in pictures)


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found
        assert [address for address in loads.found if re.match(r"(\w+:)?//", address)] == [], page.name


def test_no_style_fetches_anything_from_elsewhere(site: Path) -> None:
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        addresses = re.findall(r"url\(\s*[\"']?([^)\"']+)", text) + re.findall(r"@import\s*[\"']([^\"']+)", text)
        assert [address for address in addresses if re.match(r"(https?:)?//", address)] == [], style.name


def test_nothing_waits_for_a_script_that_the_theme_would_fetch(site: Path) -> None:
    """The theme loads mermaid from a network where a page has such a diagram, and nothing else."""
    assert [page.name for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text(encoding="utf-8")] == []


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A page of the browser, with everything it asks for and everything that goes wrong."""
    opened = browser.new_page()
    opened.asked, opened.wrong = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("console", lambda message: message.type == "error" and opened.wrong.append(message.text))
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    yield opened
    opened.close()


@pytest.mark.parametrize("page", OPENED)
def test_a_page_opened_from_disk_asks_for_nothing_else(page: str, site: Path, tab: Any) -> None:
    tab.goto((site / page).as_uri())
    tab.wait_for_load_state("networkidle")
    assert tab.asked
    assert [address for address in tab.asked if not address.startswith(("file:///", "data:", "blob:"))] == []
    assert tab.wrong == []


def test_the_search_finds_from_disk(site: Path, tab: Any) -> None:
    tab.goto((site / "index.html").as_uri())
    tab.locator(".md-search__input").focus()
    tab.keyboard.type("roofline")
    tab.locator(".md-search-result__item").first.wait_for()
    found = " ".join(tab.locator(".md-search-result__item").all_inner_texts())
    assert "What pruning heads can buy" in found
    assert tab.wrong == []


def test_light_and_dark_follow_the_system_and_can_be_switched(site: Path, tab: Any) -> None:
    tab.emulate_media(color_scheme="dark")
    tab.goto((site / "index.html").as_uri())
    assert tab.locator("body").get_attribute("data-md-color-scheme") == "slate"
    tab.locator("label[for=__palette_0]").click()
    assert tab.locator("body").get_attribute("data-md-color-scheme") == "default"
