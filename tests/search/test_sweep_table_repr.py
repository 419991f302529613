"""How a sweep shows itself: one line of text; in a notebook its most and least harmful cases."""

import re
from typing import Any

from headspec.search.table import MEASURES, SweepTable


def table(kl: list[float | None], **settings: Any) -> SweepTable:
    rows = [{"kind": "single" if place else "curve", "case": f"case {place}", "key": str(place), "kl": value,
             "perplexity_increase": value, "repeats_kl": None, "induction_accuracy": None, "kv_share": 0.5}
            for place, value in enumerate(kl)]  # fmt: skip
    return SweepTable({"model": "made-up"} | settings, tuple(rows))


def named(body: str) -> list[list[str]]:
    """Cases of each of the tables, in order."""
    return [re.findall(r'scope="row"[^>]*>(.*?)</th>', part) for part in body.split("</table>")[:-1]]


def test_text_is_one_line() -> None:
    assert repr(table([0.1, 0.2, 0.3])) == "SweepTable(made-up: 3 cases: 1 curve, 2 single)"
    assert repr(table([])) == "SweepTable(made-up: 0 cases: none)"


def test_the_most_and_the_least_harmful_cases_are_shown_once() -> None:
    assert named(table([0.3, 0.1, 0.2])._repr_html_()) == [["case 0", "case 2", "case 1"]]
    many = named(table([number / 100 for number in range(20)])._repr_html_())
    assert many == [[f"case {place}" for place in (19, 18, 17, 16, 15)], [f"case {place}" for place in (4, 3, 2, 1, 0)]]
    assert list(map(len, named(table([number / 100 for number in range(7)])._repr_html_()))) == [5, 2]


def test_columns_tell_their_meaning_and_what_is_missing_is_a_dash() -> None:
    body = table([0.1])._repr_html_()
    assert f'title="{MEASURES["kl"]}"' in body
    assert body.count(">–</td>") == 2


def test_an_empty_or_partial_table_is_shown() -> None:
    assert "0 cases (none yet)" in table([])._repr_html_()
    assert "case 0" not in table([None])._repr_html_()
    assert "RANDOM WEIGHTS" in table([], model="random:pythia-14m")._repr_html_()


def test_tags_are_text() -> None:
    assert "<b>" not in table([0.1], model="<b>")._repr_html_()
