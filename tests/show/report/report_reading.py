"""What tests read off a page in the browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Opened = Callable[..., Any]
Written = Callable[[str], Path]
SMALL, LARGE = "48 heads", "1,024 heads"
both = pytest.mark.parametrize("size", [SMALL, LARGE])


def cell(page: Any, name: str) -> Any:
    return page.locator(f'#grid [aria-label^="{name},"]')


def first_column(page: Any) -> list[str]:
    return list(page.locator("#rows tbody th").all_inner_texts())


def column(page: Any, key: str) -> list[str]:
    """The texts of a column, from the top."""
    script = """key => { const row = document.querySelector('#rows thead tr');
        const at = [...row.cells].findIndex(cell => cell.dataset.key === key);
        return [...document.querySelectorAll('#rows tbody tr')].map(row => row.cells[at].textContent); }"""
    return list(page.evaluate(script, key))


def header(page: Any, key: str) -> Any:
    return page.locator(f'#rows th[data-key="{key}"]')


def see_all(page: Any) -> None:
    """Scroll to every figure and wait until it is drawn."""
    for figure in page.locator("figure[data-number]").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")
