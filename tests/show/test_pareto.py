"""The figure of what plans save and cost: every plan is in it, the chosen one is starred, random weights say so."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headspec.heads import HeadId
from headspec.measure.estimate import Estimate
from headspec.plan.about import PlanAbout
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import parse_treatment
from headspec.search.point import Point, pareto_front
from headspec.search.record import SearchRecord
from headspec.show.page import save_page
from headspec.show.tradeoff import LEAST_KL, pareto, pareto_png, pareto_static


def point(kl: float, model: str = "demo", **treatments: str) -> Point:
    """A plan for 2 layers of 2 heads with 100 keys of context, and the KL it is said to have."""
    plan = HeadPlan(
        PlanAbout(model, n_layers=2, n_heads=2, d_head=4, d_model=8, context=100),
        {HeadId.parse(head): parse_treatment(what) for head, what in treatments.items()},
        {HeadId.parse(head): np.zeros(4, np.float32) for head, what in treatments.items() if what == "zero"},
    )
    return Point(plan, Estimate(kl, kl / 2, kl * 2), Estimate(kl, kl, kl), None, None, None)


def certificate(**quality: Any) -> dict[str, Any]:
    known = {"n_windows": 2, "window": 256, "kl": {"value": 0.025}, "perplexity_increase": {"value": 0.0213}}
    return {
        "heads_removed": 1,
        "heads_windowed": 2,
        "random_plans": {"kl": [0.5, 0.7]},
        "quality": known | quality,
    }


NOTHING, SMALL, LARGE, BEATEN = (
    point(0.0),
    point(0.01, L0H0="window:6"),
    point(0.3, L0H0="zero", L0H1="zero"),
    point(0.02, L0H0="window:46"),
)
POINTS = [NOTHING, SMALL, LARGE, BEATEN]
RECORD = SearchRecord.of(POINTS, SMALL, certificate())


def xy(trace: Any) -> set[tuple[float, float]]:
    return {(round(x, 4), round(y, 6)) for x, y in zip(trace.x, trace.y, strict=True)}


def test_by_hand_the_front_leaves_out_what_another_beats() -> None:
    assert pareto_front(POINTS) == [LARGE, SMALL, NOTHING]


def test_by_hand_weights_keep_a_plan_on_the_front_where_they_count() -> None:
    removed, windowed = point(0.2, L0H0="zero"), point(0.1, L0H0="window:1+0", L0H1="window:46", L1H0="window:46")
    assert windowed.kv_share < removed.kv_share
    assert pareto_front([removed, windowed]) == [windowed, removed]
    assert pareto_front([removed, windowed], count_weights=False) == [windowed]


def test_plans_that_are_equal_in_everything_stay_both() -> None:
    twin = point(0.01, L1H1="window:6")
    assert pareto_front([SMALL, twin]) == [SMALL, twin]


def test_the_front_does_not_depend_on_the_order_of_the_points() -> None:
    assert pareto_front(POINTS[::-1]) == pareto_front(POINTS)


def test_every_plan_is_drawn_once_on_the_front_or_beside_it() -> None:
    figure = pareto(RECORD)
    rest, front = figure.data[:2]
    assert xy(rest) == {(0.875, 0.02)}
    assert xy(front) == {(1.0, LEAST_KL), (0.775, 0.01), (0.5, 0.3)}


def test_the_chosen_plan_is_a_star() -> None:
    chosen = next(trace for trace in pareto(RECORD).data if trace.name == "chosen")
    assert chosen.marker.symbol == "star"
    assert xy(chosen) == {(0.775, 0.01)}


def test_the_chosen_plan_is_also_drawn_with_its_kl_on_fresh_text() -> None:
    fresh = pareto(RECORD).data[4]
    assert fresh.name == "chosen, on fresh text"
    assert xy(fresh) == {(0.775, 0.025)}


def test_the_title_says_which_marks_are_of_which_text() -> None:
    assert "diamond and crosses: fresh text" in pareto(RECORD).layout.title.text.replace("<br>", " ")


BUDGET = {"budget": {"max_kl": 0.02, "max_kv_share": None, "min_induction_kept": 0.9}}
BROKEN = {"broken": ["KL up to 0.05 > 0.02"]}


@pytest.mark.parametrize(
    ("more", "within", "says"),
    [
        (BUDGET, True, "Budget: KL up to 0.02 nats a token, induction kept 90 % or more; kept"),
        (BUDGET, False, "OVER BUDGET (KL up to 0.02 nats a token, induction kept 90 % or more): no plan within it"),
        (BUDGET | BROKEN, True, "more): on fresh text it breaks: KL up to 0.05 > 0.02"),
    ],
)
def test_the_title_says_whether_the_budget_is_kept(more: dict[str, Any], within: bool, says: str) -> None:
    record = SearchRecord.of(POINTS, SMALL, certificate() | more, within)
    title = pareto(record).layout.title.text.replace("&gt;", ">").replace("<br>", " ")
    assert says in title
    assert says in pareto_static(record).get_suptitle()


def test_random_plans_stand_at_the_size_of_the_chosen_one() -> None:
    random = pareto(RECORD).data[3]
    assert xy(random) == {(0.775, 0.5), (0.775, 0.7)}


def test_a_search_without_random_plans_is_drawn() -> None:
    figure = pareto(SearchRecord.of(POINTS, SMALL, certificate() | {"random_plans": {"kl": []}}))
    assert list(figure.data[3].x) == []


def test_a_point_says_what_its_plan_does() -> None:
    words = pareto(RECORD).data[2].text[0]
    assert "3 keep, 1 window:6" in words
    assert "KV bytes left 77.5%" in words
    assert "KL 0.01 [0.005, 0.02]" in words
    assert "nats a token" in words
    assert "induction accuracy n/a" in words


def test_the_title_has_the_numbers_of_the_fresh_text() -> None:
    title = pareto(RECORD).layout.title.text
    assert "What plans for demo save and cost" in title
    assert "1 heads removed, 2 windowed" in title
    assert "2 × 256 tokens" in title
    assert "KL 0.025, perplexity +2.13%" in title


@pytest.mark.parametrize(("model", "says"), [("demo", False), ("random:pythia-14m", True)])
def test_random_weights_are_in_the_title(model: str, says: bool) -> None:
    it = point(0.1, model)
    assert ("RANDOM WEIGHTS" in str(pareto(SearchRecord.of([it], it, certificate())).layout.title.text)) is says


@pytest.mark.parametrize("value", ["inf", None])
def test_a_measure_that_is_no_number_is_drawn(value: Any) -> None:  # as `Estimate.to_dict` writes infinity and NaN
    figure = pareto(SearchRecord.of(POINTS, SMALL, certificate(perplexity_increase={"value": value})))
    assert "What plans for demo" in str(figure.layout.title.text)


def test_the_png_is_written(tmp_path: Path) -> None:
    path = pareto_png(RECORD, tmp_path / "pareto.png")
    assert path == tmp_path / "pareto.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [each.name for each in tmp_path.iterdir()] == ["pareto.png"]


def test_the_png_of_one_plan_that_does_nothing_is_written(tmp_path: Path) -> None:
    quiet = certificate() | {"random_plans": {"kl": []}}
    assert pareto_png(SearchRecord.of([NOTHING], NOTHING, quiet), tmp_path / "pareto.png").is_file()


def test_the_page_is_whole_without_a_network(tmp_path: Path) -> None:
    path = tmp_path / "pareto.html"
    save_page(pareto(RECORD), path)
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert "Pareto front" in page
