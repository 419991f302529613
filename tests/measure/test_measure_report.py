"""A saved report is the report."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headspec.errors import HeadspecError, RecordError
from headspec.measure.estimate import Estimate
from headspec.measure.quality import QualityReport

ESTIMATES = (
    "loss_original", "loss", "loss_increase", "perplexity_original", "perplexity", "perplexity_increase", "kl",
    "top1_agreement", "repeats_loss_original", "repeats_loss_increase", "repeats_kl", "induction_accuracy_original",
    "induction_accuracy", "needle_accuracy_original", "needle_accuracy",
)  # fmt: skip


def made_up(**changes: Any) -> QualityReport:
    estimates = {name: Estimate(place + 0.1, place + 0.0, place + 1 / 3) for place, name in enumerate(ESTIMATES)}
    about = {"model": "demo", "text": "Größe.txt", "text_digest": "abc", "n_windows": 3, "window": 40, "seed": 7}
    return QualityReport(**{**about, **estimates, **changes})


@pytest.fixture
def damage(tmp_path: Path) -> Callable[..., Path]:
    """Saves a report with some of its values changed, or taken out where they are `...`."""

    def change(**changes: Any) -> Path:
        values = {**made_up().to_dict(), **changes}
        path = tmp_path / "damaged.json"
        path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))
        return path

    return change


# Rows.


def test_rows_are_the_measures_in_order_and_nothing_else() -> None:
    assert [name for name, _ in made_up().rows()] == [name.replace("_", " ") for name in ESTIMATES]


def test_rows_show_value_and_interval() -> None:
    assert dict(made_up().rows())["loss"] == "1.1 [1, 1.333]"


def test_rows_show_what_was_not_measured_as_not_applicable() -> None:
    rows = dict(made_up(repeats_kl=None, needle_accuracy=None).rows())
    assert [name for name, text in rows.items() if text == "n/a"] == ["repeats kl", "needle accuracy"]


@pytest.mark.parametrize(("model", "random"), [("random:demo", True), ("demo", False), ("my-random:demo", False)])
def test_random_weights_are_known_by_their_name(model: str, random: bool) -> None:
    assert made_up(model=model).random_weights == random


# Round trip.


def test_a_saved_report_is_the_report(tmp_path: Path) -> None:
    assert QualityReport.load(made_up().save(tmp_path / "report.json")) == made_up()


def test_what_was_not_measured_stays_so(tmp_path: Path) -> None:
    report = made_up(repeats_kl=None, needle_accuracy=None)
    assert QualityReport.load(report.save(tmp_path / "report.json")) == report


def test_limits_that_do_not_exist_stay_so(tmp_path: Path) -> None:
    report = made_up(loss=Estimate(3.5, math.nan, math.nan))
    found = QualityReport.load(report.save(tmp_path / "report.json"))
    assert found.loss.value == 3.5
    assert math.isnan(found.loss.low)
    assert math.isnan(found.loss.high)
    assert replace(found, loss=report.loss) == report


def test_limits_that_do_not_exist_are_null_in_the_file(tmp_path: Path) -> None:
    path = made_up(loss=Estimate(3.5, math.nan, math.nan)).save(tmp_path / "report.json")

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert values["loss"] == {"value": 3.5, "low": None, "high": None}


def test_an_infinite_perplexity_stays_so(tmp_path: Path) -> None:
    report = made_up(perplexity=Estimate(math.inf, math.inf, math.inf))
    assert QualityReport.load(report.save(tmp_path / "report.json")) == report


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    path = made_up().save(tmp_path / "report.json")
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == "headspec.QualityReport/1"


def test_saving_says_where(tmp_path: Path) -> None:
    assert made_up().save(str(tmp_path / "deep" / "report.json")) == tmp_path / "deep" / "report.json"


def test_saving_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadspecError, match="cannot write"):
        made_up().save(tmp_path / "file" / "report.json")


def test_reports_are_written_whole(tmp_path: Path) -> None:
    made_up().save(tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


# Damaged and foreign files.


def test_no_file_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nothing.json is no readable report \(FileNotFoundError"):
        QualityReport.load(tmp_path / "nothing.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"null", b"[]", b'"text"', b"3", b"{}"])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"report\.json is no"):
        QualityReport.load(path)


def test_a_report_cut_short_is_refused(tmp_path: Path) -> None:
    path = made_up().save(tmp_path / "report.json")
    path.write_text(path.read_text(encoding="utf-8")[:-10], encoding="utf-8")
    with pytest.raises(RecordError, match="is no readable report"):
        QualityReport.load(path)


@pytest.mark.parametrize("schema", [..., "headspec.QualityReport/2", "headspec.HeadPlan/1", None])
def test_another_record_is_refused(damage: Callable[..., Path], schema: Any) -> None:
    with pytest.raises(RecordError, match=r"is not a headspec\.QualityReport/1"):
        QualityReport.load(damage(schema=schema))


@pytest.mark.parametrize(
    "changes",
    [{"kl": ...}, {"model": ...}, {"needle_accuracy": ...}, {"more": 3}, {"kl": {"value": 1.0}}, {"kl": {"mean": 1.0}}],
    ids=str,
)
def test_missing_and_unknown_values_are_refused(damage: Callable[..., Path], changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="is no readable report"):
        QualityReport.load(damage(**changes))


def test_values_of_the_wrong_kind_are_refused_without_type_checks_too(damage: Callable[..., Path]) -> None:
    wrong = [{"loss": None}, {"kl": 0.5}, {"kl": {"value": "x", "low": 0.0, "high": 1.0}}, {"model": 3}]
    contents = [damage(**changes).read_text() for changes in wrong]
    script = f"""
from pathlib import Path
from headspec.errors import RecordError
from headspec.measure.quality import QualityReport
path = Path({str(damage())!r})
QualityReport.load(path)
for changes, content in zip({wrong!r}, {contents!r}):
    path.write_text(content)
    try:
        QualityReport.load(path)
        print(changes, "was read")
    except RecordError:
        pass
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout == ""
