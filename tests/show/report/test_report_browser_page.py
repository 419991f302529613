"""The page as a whole in a real Chromium: its sections and figures, themes, narrow screens, axe, partial results.

The fixture `opened` also asserts of every page that it had no error and asked for nothing but files.
"""

from pathlib import Path
from typing import Any

import pytest
from report_reading import SMALL, Opened, Written, both, cell, see_all
from report_records import about_of, map_of, write_results

from headspec.pipeline import HEAD_MAP
from headspec.results import report
from headspec.show.report.sections import SECTIONS

# Opening


@both
def test_the_page_holds_all_heads_and_stays_small(opened: Opened, written: Written, size: str) -> None:
    page, number = opened(written(size)), int(size.split()[0].replace(",", ""))
    assert page.locator("#grid [role=gridcell]").count() == number
    assert page.locator("#rows tbody tr").count() == number
    assert page.locator("#count").inner_text() == f"{number:,} of {number:,} heads shown"
    assert written(size).stat().st_size < 10e6


@both
def test_every_section_is_there_and_draws_its_figures(opened: Opened, written: Written, size: str) -> None:
    page = opened(written(size))
    see_all(page)
    assert page.locator("#sections > .section").count() == len(SECTIONS)
    assert page.locator("#sections > .absent").count() == 0
    assert page.locator(".js-plotly-plot").count() == page.locator("figure[data-number]").count() >= 9
    assert page.locator("#notes").is_hidden()


def test_figures_wait_until_one_comes_near(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    assert page.locator("#live .js-plotly-plot").count() == 0
    page.locator("#live").scroll_into_view_if_needed()
    page.locator("#live .js-plotly-plot").wait_for()


# Figures


def test_the_menus_of_figures_are_the_pages_own(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    section = page.locator("#evolution")
    section.scroll_into_view_if_needed()
    section.locator(".js-plotly-plot").wait_for()
    values = "document.querySelector('#evolution .plot').data[1].y[0]"
    before = page.evaluate(values)
    section.locator("select").select_option(label="output norm")
    assert section.locator(".headline").inner_text() == "Output norm as the context grows"
    assert page.evaluate(values) != before
    assert page.locator(".updatemenu-container").count() == 0


def test_no_figure_offers_to_send_itself_away(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    see_all(page)
    assert page.locator(".modebar").count() > 0
    assert page.locator('[data-title*="loud"], [data-title*="hart Studio"], .plotlyjsicon').count() == 0


# Themes and screens


def _becomes(page: Any, theme: str) -> None:
    """Wait until the page has a dark or a light ground."""
    page.wait_for_function(
        """theme => { const parts = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
            return theme === "dark" ? Math.max(...parts) < 40 : Math.min(...parts) > 220; }""", arg=theme, timeout=5000,
    )  # fmt: skip


def test_dark_and_light_follow_the_system_until_the_button_is_used(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), color_scheme="dark")
    _becomes(page, "dark")
    page.emulate_media(color_scheme="light")
    _becomes(page, "light")
    page.get_by_role("button", name="Switch to dark colours").click()
    _becomes(page, "dark")
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    _becomes(page, "dark")
    page.get_by_role("button", name="Switch to light colours").click()
    _becomes(page, "light")


def test_figures_change_with_the_theme(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    page.locator("#plans").scroll_into_view_if_needed()
    page.locator("#plans .js-plotly-plot").wait_for()
    ink = "document.querySelector('#plans .plot').layout.font.color"
    assert page.evaluate(ink) == "#222222"
    page.locator("#theme").click()
    assert page.evaluate(ink) == "#e9e8e4"


def test_a_browser_that_forbids_storage_shows_the_page(opened: Opened, written: Written) -> None:
    forbid = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden') } })"
    page = opened(written(SMALL), script=forbid)
    page.locator("#theme").click()
    _becomes(page, "dark")


@both
def test_on_a_narrow_screen_nothing_hangs_over(opened: Opened, written: Written, size: str) -> None:
    page = opened(written(size), viewport={"width": 400, "height": 800})
    see_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    cell(page, "L1H1").click()
    page.wait_for_function("() => document.getElementById('panel').getBoundingClientRect().top < 400")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Opened, written: Written, colours: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = opened(written(SMALL), "#L0H5", color_scheme=colours)
    see_all(page)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    page.locator("#filter [name=words]").fill("L2")
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []


# Partial results


def test_with_a_head_map_alone_sections_say_which_command_makes_them(opened: Opened, tmp_path: Path) -> None:
    map_of(about_of(6, 8)).save(tmp_path / HEAD_MAP)
    page = opened(report(tmp_path), "#L1H2")
    assert page.locator("#panel h2 a").inner_text() == "L1H2"
    assert page.locator("#panel canvas, #panel svg").count() == 0
    missing = page.locator("#sections .missing").all_inner_texts()
    assert len(missing) == len(SECTIONS)
    assert "headspec sweep made-up --profile DIR/analysis --out DIR/sweep makes it" in " ".join(missing)


def test_what_was_left_out_stands_on_the_page(opened: Opened, tmp_path: Path) -> None:
    folder = write_results(tmp_path / "results", 1, 8)
    (folder / "sweep" / "rows.jsonl").write_text("</script>\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"sweep/sweep.json was left out"):
        page = opened(report(folder))
    assert "sweep/sweep.json was left out" in page.locator("#notes").inner_text()
    assert "headspec sweep" in page.locator("#sweep .missing").inner_text()


def test_random_weights_are_announced_at_the_top_and_where_quality_is_shown(opened: Opened, tmp_path: Path) -> None:
    page = opened(report(write_results(tmp_path / "results", 2, 8, "random:pythia-14m")), "#L0H0")
    banner = "RANDOM WEIGHTS: timing and tests only"
    assert page.locator("#random").inner_text() == banner
    for place in ("#panel", "#sweep", "#plans", "#benchmark"):
        assert page.locator(f"{place} .random").inner_text() == banner, place
