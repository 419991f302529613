"""Pages of two sizes, and a real Chromium to open them in."""

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_records import write_results

from headspec.results import report

SIZES = {"48 heads": (6, 8), "1,024 heads": (32, 32)}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a size, made once, from a folder with records of every kind."""
    pages: dict[str, Path] = {}

    def page(size: str) -> Path:
        if size not in pages:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                pages[size] = report(write_results(tmp_path_factory.mktemp("results"), *SIZES[size]))
        return pages[size]

    return page


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; in the end it must have had no error and asked for nothing but files."""
    trouble: list[str] = []
    contexts = []

    def open_page(path: Path, address: str = "", script: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("console", lambda line: trouble.append(f"{line.type}: {line.text}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: trouble.append(request.url) if _is_foreign(request.url) else None)
        if script:
            page.add_init_script(script)
        page.goto(path.as_uri() + address)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def _is_foreign(address: str) -> bool:
    return re.match(r"(file|data|blob):", address) is None
