"""The small HTML of records: real tables, escaped, no script, colours that can be told apart and read."""

import math
import re

import pytest

from headspec.heads import HeadRole
from headspec.record_html import ROLE_COLORS, ROLE_INK, ROLE_MEANINGS, Cell, card, digits, escape, named, table

NASTY = "</script><b onclick='x'>\"&\n"


def brightness(color: str) -> float:
    """Relative luminance by WCAG."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("role", list(HeadRole))
def test_letters_on_the_colour_of_a_role_can_be_read(role: HeadRole) -> None:
    dark, bright = sorted((brightness(ROLE_COLORS[role]), brightness(ROLE_INK[role])))
    assert (bright + 0.05) / (dark + 0.05) >= 4.5
    assert ROLE_MEANINGS[role]


def test_by_hand_a_table_has_a_caption_and_headings_of_columns_and_rows() -> None:
    body = table("numbers", ["head", Cell("value", "in nats")], [[Cell("L0H1", heading=True), "0.5"]])
    assert re.sub(' style="[^"]*"', "", body) == (
        '<table><caption>numbers</caption><thead><tr><th scope="col">head</th>'
        '<th scope="col" title="in nats">value</th></tr></thead>'
        '<tbody><tr><th scope="row">L0H1</th><td>0.5</td></tr></tbody></table>'
    )


def test_nothing_from_a_record_is_a_tag() -> None:
    cells = [Cell(NASTY, NASTY, "#FFFFFF", "#222222", heading=True), NASTY]
    body = card(NASTY, [NASTY], [table(NASTY, [NASTY, Cell(NASTY, NASTY)], [cells])], [NASTY])
    assert not re.search("<(script|/script|b)|onclick='", body)
    assert body.count(escape(NASTY)) == 10


def test_the_page_s_colours_are_kept_so_that_dark_ground_stays_dark() -> None:
    body = card("a", ["b"], [table("c", ["d"], [["e"]])], ["f"])
    assert not re.search("(background|[^-]color):#", body)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0.0, "0"),
        (-0.01234, "-0.0123"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_three_digits(value: float | None, words: str) -> None:
    assert digits(value) == words


def test_many_names_are_counted() -> None:
    assert named(["a", "b"]) == "a b"
    assert named(list("abcdefghij")) == "a b c d e f g h and 2 more"
