"""The table of heads in a real Chromium: sorting, filtering, keys, saving.

The fixture `opened` also asserts of every page that it had no error and asked for nothing but files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report_reading import LARGE, SMALL, Opened, Written, both, column, first_column, header
from report_records import about_of, map_of, profile_of, sweep_of

# The table


@both
def test_every_column_sorts_both_ways(opened: Opened, written: Written, size: str) -> None:
    page = opened(written(size))
    keys = page.locator("#rows thead th").evaluate_all("cells => cells.map(cell => cell.dataset.key)")
    assert {"name", "role", "window", "margin", "traits", "plan", "kl mean", "output_spread"} <= set(keys)
    for key in keys if size == SMALL else ["output_spread"]:
        for _ in range(2):
            header(page, key).locator("button").click()
            way = header(page, key).get_attribute("aria-sort")
            assert page.locator("#rows th[aria-sort]").count() == 1
            texts = [text for text in column(page, key) if text != "–"]
            numbers = [_number(text) for text in texts]
            wanted = numbers if None not in numbers else None
            if wanted is not None:
                assert wanted == sorted(wanted, reverse=way == "descending"), key
        assert column(page, key).count("–") == 0 or column(page, key)[-1] == "–", key


def _number(text: str) -> float | None:
    """What a cell says, if it is a number; what is too small to tell is equal to another such."""
    try:
        return 0.0 if text.startswith("below") else float(text.replace(",", "").replace("−", "-").replace("∞", "inf"))
    except ValueError:
        return None


def test_heads_sort_by_layer_and_number_and_not_by_letters(opened: Opened, written: Written) -> None:
    page = opened(written(LARGE))
    assert first_column(page)[:12][-2:] == ["L0H10", "L0H11"]
    header(page, "name").locator("button").click()
    assert first_column(page)[0] == "L31H31"


def test_a_click_on_a_row_chooses_its_head(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    page.locator("#rows tbody tr").nth(9).locator("td").nth(3).click()
    page.wait_for_function("() => location.hash === '#L1H1'")
    assert page.locator("#panel h2 a").inner_text() == "L1H1"


def test_rows_have_one_tab_stop_and_arrow_keys(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), "#L0H0")
    assert page.locator('#rows tbody a[tabindex="0"]').count() == 1
    page.locator('#rows tbody a[tabindex="0"]').focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash === '#L0H2'")


def test_every_statistic_can_be_a_column(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    header(page, "output_spread").locator("button").click()
    before, order = page.locator("#rows thead th").count(), first_column(page)
    page.locator("#wide").check()
    assert page.locator("#rows thead th").count() > before
    assert header(page, "share_of_layer").count() == 1
    assert first_column(page) == order


# Filters


@both
def test_filters_by_role_words_and_number_work_together(opened: Opened, written: Written, size: str) -> None:
    n_layers, n_heads = {SMALL: (6, 8), LARGE: (32, 32)}[size]
    about = about_of(n_layers, n_heads)
    head_map, spread = map_of(about), profile_of(about)["output_spread"]
    page = opened(written(size))

    def left(keep: Callable[[Any], bool]) -> list[str]:
        return [str(verdict.head) for verdict in head_map if keep(verdict)]

    page.get_by_label("dead (", exact=False).uncheck()
    alive = left(lambda verdict: verdict.role != "dead")
    assert first_column(page) == alive
    page.locator("#filter [name=words]").fill("L3")
    assert first_column(page) == left(lambda verdict: verdict.role != "dead" and verdict.head.layer == 3)
    page.locator("#filter [name=words]").fill("window of 64 positional")
    window = left(lambda verdict: verdict.window == 64)
    assert first_column(page) == window
    page.locator("#filter [name=column]").select_option("output_spread")
    page.locator("#filter [name=least]").fill("0.3")
    above = [name for name in window if spread[about.cell(name)] >= 0.3]
    assert 0 < len(above) < len(window)
    assert first_column(page) == above
    assert page.locator("#count").inner_text() == f"{len(above):,} of {len(head_map):,} heads shown"
    assert page.locator("#grid .cell:not(.dim)").count() == len(above)
    page.get_by_role("button", name="Reset", exact=True).click()
    page.wait_for_function(f"() => document.querySelectorAll('#rows tbody tr').length === {len(head_map)}")
    assert page.locator("#grid .dim").count() == 0


def test_effects_can_be_filtered_and_a_limit_that_is_no_number_is_marked(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    page.locator("#filter [name=column]").select_option("kl mean")
    page.locator("#filter [name=most]").fill("0,001")
    costs = {row["heads"]: row["kl"] for row in sweep_of(about_of(6, 8)).rows if row["treatment"] == "mean"}
    assert first_column(page) == [head for head, kl in costs.items() if kl <= 0.001]
    page.locator("#filter [name=most]").fill("many")
    assert page.locator("#filter [name=most]").get_attribute("aria-invalid") == "true"
    assert len(first_column(page)) == 48


def test_what_is_shown_can_be_saved_as_csv(opened: Opened, written: Written, tmp_path: Path) -> None:
    import pandas

    page = opened(written(SMALL), accept_downloads=True)
    page.locator("#filter [name=words]").fill("L2")
    header(page, "output_spread").locator("button").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "heads.csv")
    frame = pandas.read_csv(tmp_path / "heads.csv")
    assert list(frame["name"]) == first_column(page)
    wanted = profile_of(about_of(6, 8))["output_spread"][2]
    np.testing.assert_allclose(frame["output_spread"], np.sort(wanted)[::-1], rtol=1e-3)
