"""The head map and the chosen head in a real Chromium: pointing, keys, links, the pattern.

The fixture `opened` also asserts of every page that it had no error and asked for nothing but files.
"""

import numpy as np
import pytest
from report_reading import LARGE, SMALL, Opened, Written, both, cell
from report_records import NASTY, about_of, map_of, profile_of, sample_of, sweep_of

# Choosing a head


@both
def test_pointing_at_a_head_tells_its_role_and_why(opened: Opened, written: Written, size: str) -> None:
    page = opened(written(size))
    cell(page, "L3H3").hover()
    words = page.locator("#tip").inner_text()
    assert "L3H3" in words
    assert "a made-up reason with <b>0.6</b> & more" in words
    assert "margin:" in words
    assert "output spread" in words
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


@both
def test_a_click_shows_the_head_with_all_that_is_known(opened: Opened, written: Written, size: str) -> None:
    page = opened(written(size))
    cell(page, "L0H5").click()
    page.wait_for_function("() => location.hash === '#L0H5'")
    panel = page.locator("#panel")
    assert "L0H5 dead, confirmed" in " ".join(panel.locator("h2").inner_text().split())
    assert panel.locator("svg.chart").count() == panel.locator("canvas.pattern").count() == 1
    assert panel.locator(".statistics details").count() == 15
    assert "In the plan: mean" in panel.locator(".planned").inner_text()
    assert [row.split("\t")[0] for row in panel.locator(".effects tbody tr").all_inner_texts()] == ["mean", "window:8"]
    assert page.title().startswith("L0H5 · dead, confirmed")
    assert page.locator("#said").inner_text() == "L0H5: dead, confirmed"
    assert cell(page, "L0H5").get_attribute("aria-selected") == "true"
    assert page.locator('#grid [aria-selected="true"]').count() == 1
    assert page.locator("#rows tr[aria-current=true] th").inner_text() == "L0H5"


def test_a_number_comes_with_unit_meaning_caution_and_rank(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), "#L0H0")
    values = profile_of(about_of(6, 8))["attention_entropy"].ravel()
    rank = int(1 + (values > values[0]).sum())
    entry = page.locator(".statistics details").first
    assert f"{values[0]:.3g} nats" in " ".join(entry.inner_text().split())
    entry.locator("summary").click()
    words = entry.inner_text()
    assert f"{rank}" in words
    assert "largest of 48. Shannon entropy of the attention of a query, averaged." in words
    assert "Caution: Grows with the context" in words


def test_the_effect_of_a_head_is_that_of_its_row(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), "#L2H3")
    row = next(row for row in sweep_of(about_of(6, 8)).rows if row["case"] == "L2H3=mean")
    [kl, *_] = page.locator(".effects tbody tr").first.locator("td").all_inner_texts()
    assert float(kl.split(" ± ")[0]) == pytest.approx(row["kl"], rel=6e-3)
    assert float(kl.split(" ± ")[1]) == pytest.approx(row["kl_se"], rel=6e-2)


@both
def test_arrow_keys_move_and_enter_chooses(opened: Opened, written: Written, size: str) -> None:
    page = opened(written(size), "#L0H0")
    assert page.locator('#grid [tabindex="0"]').count() == 1
    cell(page, "L0H0").focus()

    def at() -> str:
        return str(page.evaluate("document.activeElement.getAttribute('aria-label').split(',')[0]"))

    def order(layer: int) -> list[str]:
        return [name.split(",")[0] for name in page.locator("#grid .row:not(.numbers)").nth(layer).locator(
            "[role=gridcell]").evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")]  # fmt: skip

    first, second = order(0), order(1)
    page.keyboard.press("Home")
    for key, wanted in (("ArrowRight", first[1]), ("ArrowDown", second[1]), ("ArrowLeft", second[0]),
                        ("End", second[-1]), ("ArrowRight", second[-1]), ("ArrowUp", first[-1]),
                        ("ArrowUp", first[-1])):  # fmt: skip
        page.keyboard.press(key)
        assert at() == wanted, key
    assert first[-1] in page.locator("#tip").inner_text()
    assert page.evaluate("location.hash") == "#L0H0"
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => location.hash === '#{first[-1]}'")
    assert page.locator('#grid [tabindex="0"]').count() == 1
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    page.wait_for_function(f"() => location.hash === '#{first[-2]}'")


def test_by_tab_alone_one_reaches_the_map_and_leaves_it(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('role') || document.activeElement.tagName"))
    assert reached[0] == "A"  # the link that skips to the map
    assert reached.count("gridcell") == 1
    assert "application" in reached  # the pattern


# Links


def test_a_link_opens_its_head(opened: Opened, written: Written) -> None:
    page = opened(written(LARGE), "#L31H30")
    assert page.locator("#panel h2 a").inner_text() == "L31H30"
    assert page.title().startswith("L31H30")


def test_back_and_forward_walk_through_the_heads(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    title, start = page.title(), page.locator("#panel h2 a").inner_text()
    for name in ("L1H1", "L2H2"):
        cell(page, name).click()
        page.wait_for_function(f"() => document.title.startsWith('{name}')")
    page.go_back()
    page.wait_for_function("() => document.title.startsWith('L1H1')")
    assert page.locator("#panel h2 a").inner_text() == "L1H1"
    page.go_back()
    page.wait_for_function(f"() => document.title === {title!r}")
    assert page.locator("#panel h2 a").inner_text() == start
    page.go_forward()
    page.wait_for_function("() => document.title.startsWith('L1H1')")


def test_a_link_to_a_head_that_is_not_there_is_said(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), "#L99H0")
    assert page.locator("#said").inner_text() == "There is no head L99H0 on this page."


# The map


def test_the_order_of_the_map_is_by_role_or_by_number(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))

    def row() -> list[str]:
        cells = page.locator("#grid .row:not(.numbers)").first.locator("[role=gridcell]")
        return list(cells.evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label').split(', ')[1])"))

    assert row() == ["positional"] * 3 + ["gathering"] * 4 + ["dead"]
    page.get_by_text("by number", exact=True).click()
    kinds = [str(verdict.role) for verdict in map_of(about_of(6, 8)) if verdict.head.layer == 0]
    assert row() == kinds


def test_roles_can_be_read_without_colour(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    read = "cell => [cell.getAttribute('aria-label').split(', ')[1], cell.querySelector('span').textContent]"
    marks = page.locator("#grid [role=gridcell]").evaluate_all(f"cells => cells.map({read})")
    assert {role: {mark.isdigit() or mark for _, mark in group} for role, group in _grouped(marks).items()} == {
        "positional": {True}, "gathering": {""}, "dead": {"×"}}  # fmt: skip


def _grouped(pairs: list[list[str]]) -> dict[str, list[list[str]]]:
    return {role: [pair for pair in pairs if pair[0] == role] for role in {role for role, _ in pairs}}


def test_the_map_can_show_a_number_and_says_what_it_means(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL))
    page.locator("#colour").select_option("output_spread")
    assert "what mean ablation destroys" in page.locator("#key").inner_text()
    values = profile_of(about_of(6, 8))["output_spread"]
    brightest = np.unravel_index(values.argmax(), values.shape)
    colour = cell(page, f"L{brightest[0]}H{brightest[1]}").evaluate("cell => cell.style.background")
    assert colour == "rgb(253, 231, 37)"


# The pattern


def test_the_pattern_tells_every_pair_as_it_was_measured(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), "#L2H3")
    canvas = page.locator("canvas.pattern")
    canvas.scroll_into_view_if_needed()
    box, weight = canvas.bounding_box(), sample_of(about_of(6, 8)).head("L2H3")
    query, key = 40, 16
    page.mouse.move(box["x"] + (key + 0.5) * box["width"] / 48, box["y"] + (query + 0.5) * box["height"] / 48)
    words = page.locator(".readout").inner_text()
    assert "“ word40” (token 40) gives" in words
    assert "“ word16” (token 16, 24 back)" in words
    assert float(words.split("gives ")[1].split(" %")[0]) / 100 == pytest.approx(float(weight[query, key]), abs=0.006)


def test_the_pattern_can_be_read_by_keyboard_and_in_words(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), "#L2H2")
    page.locator("canvas.pattern").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert "(token 46) gives" in page.locator(".readout").inner_text()
    assert "(token 1, 45 back)" in page.locator(".readout").inner_text()
    page.get_by_text("The strongest pairs in words").click()
    pairs = page.locator(".pairs li").all_inner_texts()
    assert len(pairs) == 6
    assert all("looks 1 back at" in pair for pair in pairs)


def test_tokens_that_look_like_html_stay_text(opened: Opened, written: Written) -> None:
    page = opened(written(SMALL), "#L0H1")
    strip = page.locator(".strip").inner_text()
    assert "</script><b>bold</b>&amp;↵\"'�<img src=x onerror=alert(1)> the" in strip
    assert page.locator("img, #panel b b").count() == 0
    assert NASTY[0] in page.locator(".strip span").first.inner_text()
    assert "a made-up reason with <b>0.1</b> & more" in page.locator(".reason").inner_text().lower()
