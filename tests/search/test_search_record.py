"""The SearchRecord: the numbers of every measured plan, in a file that comes back equal or is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headspec.errors import RecordError
from headspec.measure.estimate import Estimate
from headspec.plan.workload import Workload
from headspec.search.record import SEARCH, PlanPoint, SearchRecord

KNOWN = Estimate(0.5, 0.25, 0.75)


def point(**other: Any) -> PlanPoint:
    values: dict[str, Any] = {
        "counts": {"keep": 3, "window:8": 1}, "kv_share": 0.75, "removed_share": 0.0, "kl": KNOWN,
        "perplexity_increase": KNOWN, "repeats_kl": None, "induction_accuracy": KNOWN, "induction_kept": None,
        "decode_ms": 1.5, "on_front": True,
    }  # fmt: skip
    return PlanPoint(**values | other)


def record(**other: Any) -> SearchRecord:
    values: dict[str, Any] = {
        "model": "demo", "workload": None, "within_budget": True, "points": (point(), point(kv_share=0.5)),
        "chosen_index": 1, "certificate": {"random_plans": {"kl": [0.5]}},
    }  # fmt: skip
    return SearchRecord(**values | other)


@pytest.mark.parametrize("workload", [None, Workload(8, 4)])
def test_a_record_is_saved_and_loaded_equal(workload: Workload | None, tmp_path: Path) -> None:
    saved = record(workload=workload)
    assert saved.save(tmp_path) == tmp_path / SEARCH
    assert SearchRecord.load(tmp_path) == saved


def test_a_measure_that_is_no_number_survives_the_file(tmp_path: Path) -> None:
    record(points=(point(kl=Estimate(math.inf, math.nan, math.inf)),), chosen_index=0).save(tmp_path)
    found = SearchRecord.load(tmp_path).chosen.kl
    assert found.value == math.inf
    assert math.isnan(found.low)


def test_the_chosen_plan_is_the_one_of_its_number() -> None:
    assert record().chosen.kv_share == 0.5


def test_a_chosen_plan_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecordError, match="number 2 of 2"):
        record(chosen_index=2)


def test_random_weights_are_known_by_the_name() -> None:
    assert [replace(record(), model=name).random_weights for name in ("demo", "random:pythia-14m")] == [False, True]


def test_it_shows_itself_in_one_line() -> None:
    assert repr(record()) == "SearchRecord(demo: 2 plans measured, KL 0.5 [0.25, 0.75] for the chosen one)"


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no search in .*headspec search MODEL"):
        SearchRecord.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "headspec.SearchRecord/1"}', "{"])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / SEARCH).write_text(text)
    with pytest.raises(RecordError, match=r"search\.json is damaged"):
        SearchRecord.load(tmp_path)


def test_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = record().save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": "headspec.SearchRecord/2"}))
    with pytest.raises(RecordError, match=r"is not a headspec.SearchRecord/1"):
        SearchRecord.load(tmp_path)
