"""The table of a sweep and the file its rows are kept in: whole rows only, and nothing that is not a number."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep_makers import HEADS, cases_of, ids, new_plain, plain

from headspec.errors import HeadspecError, RecordError
from headspec.rowlog import LOG, RowLog, read_rows
from headspec.search.sweep import sweep
from headspec.search.table import SWEEP, TABLE, SweepTable

MODEL = {"model": "made-up", "n_layers": 2}
ROW = {"case": "a", "loss": 1.25, "kl_se": None, "n_heads": 1, "key": "a"}


def log_of(folder: Path, *rows: dict[str, Any]) -> RowLog:
    log = RowLog(folder, MODEL, SWEEP)
    for row in rows:
        log.append(row)
    return log


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with three rows."""
    log_of(tmp_path, *({**ROW, "case": name, "key": name} for name in "abc"))
    return tmp_path


# Rows.


def test_a_row_is_one_line_of_json(tmp_path: Path) -> None:
    log_of(tmp_path, ROW)
    assert (tmp_path / LOG).read_text() == json.dumps(ROW) + "\n"


texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(texts, values, max_size=4), max_size=5))
def test_any_rows_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{**row, "key": str(number)} for number, row in enumerate(rows)]
    log_of(folder, *rows)
    assert read_rows(folder, SWEEP) == rows
    assert RowLog(folder, MODEL, SWEEP).finished == {row["key"]: row for row in rows}
    assert SweepTable.load(folder) == SweepTable(MODEL, tuple(rows))


def test_a_row_is_on_the_disk_when_it_has_been_added(tmp_path: Path) -> None:
    log = log_of(tmp_path, ROW)
    assert SweepTable.load(tmp_path).rows == (ROW,)
    log.append({**ROW, "key": "b"})
    assert len(SweepTable.load(tmp_path)) == 2


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, np.float64("nan"), np.float64("inf")])
def test_what_is_not_finite_is_kept_as_nothing(tmp_path: Path, value: float) -> None:
    log = log_of(tmp_path, {**ROW, "loss": value})
    assert log.finished["a"]["loss"] is None
    assert read_rows(tmp_path, SWEEP)[0]["loss"] is None
    assert '"loss": null' in (tmp_path / LOG).read_text()


def test_what_is_not_finite_is_an_empty_cell_of_the_csv(tmp_path: Path) -> None:
    log_of(tmp_path, {**ROW, "loss": math.inf}, {**ROW, "loss": math.nan, "key": "b"})
    lines = SweepTable.load(tmp_path).save_csv(tmp_path / TABLE).read_text().splitlines()
    assert lines == ["case,loss,kl_se,n_heads", "a,,,1", "a,,,1"]


def huge() -> Any:
    """A model whose logits are so large that a treated head costs thousands of nats."""
    model = new_plain()
    model.huggingface.lm_head.weight.data *= 1e5
    return model


def test_a_perplexity_beyond_all_numbers_is_an_empty_cell_of_the_csv(tmp_path: Path) -> None:
    model = huge()
    sweep(model, cases_of(model, [{"L0H1": "zero"}]), ids(2, 20), out=tmp_path, n_repeats=0, progress=False)
    [row] = read_rows(tmp_path, SWEEP)
    assert row["loss_increase"] > 710
    assert row["perplexity_increase"] is None
    assert np.isnan(pandas.read_csv(tmp_path / TABLE)["perplexity_increase"]).all()


def test_a_table_with_what_is_not_finite_is_the_same_when_read_back(tmp_path: Path) -> None:
    model = huge()
    cases = cases_of(model, [{"L0H1": "zero"}])
    first, again = (sweep(model, cases, ids(2, 20), out=tmp_path, n_repeats=0, progress=False) for _ in range(2))
    assert again.rows == first.rows


# Unfinished and damaged files.


def test_the_rows_of_an_unfinished_folder_can_be_read(three: Path) -> None:
    table = SweepTable.load(three)
    assert [row["case"] for row in table.rows] == ["a", "b", "c"]
    assert table.settings == MODEL


@pytest.mark.parametrize("torn", [b"{", b'{"case": "d", "lo', b'{"case": "d", "key": "d"}', b"\0\0\0\0", b"\xff\xfe"])
def test_a_last_line_that_was_being_written_does_not_count(three: Path, torn: bytes) -> None:
    whole = (three / LOG).read_bytes()
    (three / LOG).write_bytes(whole + torn)
    assert len(SweepTable.load(three)) == 3
    assert (three / LOG).read_bytes() == whole + torn, "reading changes nothing"
    log = RowLog(three, MODEL, SWEEP)
    log.append({**ROW, "key": "d"})
    assert (three / LOG).read_bytes() == whole + json.dumps({**ROW, "key": "d"}).encode() + b"\n"


@pytest.mark.parametrize("n_bytes", range(0, 200, 7))
def test_wherever_the_file_ends_whole_rows_are_kept(three: Path, n_bytes: int) -> None:
    whole = (three / LOG).read_bytes()
    (three / LOG).write_bytes(whole[:n_bytes])
    log = RowLog(three, MODEL, SWEEP)
    assert list(log.finished) == list("abc")[: whole[:n_bytes].count(b"\n")]
    assert whole.startswith((three / LOG).read_bytes())


@pytest.mark.parametrize("line", ["", "{", '{"case": "b", "loss": 1.', "\0\0\0", "not json"])
def test_a_damaged_line_among_others_is_an_error_that_names_the_file(three: Path, line: str) -> None:
    lines = (three / LOG).read_text().splitlines()
    (three / LOG).write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    for read in (SweepTable.load, lambda folder: RowLog(folder, MODEL, SWEEP)):
        with pytest.raises(RecordError, match=r"rows\.jsonl is damaged .*: delete the folder, or choose another"):
            read(three)


@pytest.mark.parametrize("line", ["5", "null", '"b"', "[1, 2]", "{}", '{"case": "b"}', '{"key": [1]}'])
def test_a_line_that_is_json_but_no_row_is_an_error_that_names_the_file(three: Path, line: str) -> None:
    lines = (three / LOG).read_text().splitlines()
    (three / LOG).write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    for read in (SweepTable.load, lambda folder: RowLog(folder, MODEL, SWEEP)):
        with pytest.raises(RecordError, match=r"rows\.jsonl is damaged"):
            read(three)


@pytest.mark.parametrize("text", ["", "{", "5", "null", '"x"', '{"schema": ', "\0"])
def test_damaged_settings_are_an_error_that_names_the_file(three: Path, text: str) -> None:
    (three / SWEEP.settings).write_text(text)
    for read in (SweepTable.load, lambda folder: RowLog(folder, MODEL, SWEEP)):
        with pytest.raises(RecordError, match=r"sweep\.json is damaged .*choose another folder"):
            read(three)


@pytest.mark.parametrize("text", ["[]", "[1, 2]"])
def test_settings_that_are_a_list_are_an_error_that_names_the_file(three: Path, text: str) -> None:
    (three / SWEEP.settings).write_text(text)
    with pytest.raises(RecordError, match=r"sweep\.json is"):
        SweepTable.load(three)


@pytest.mark.parametrize(
    ("values", "named"),
    [({"schema": "headspec.SweepTable/2"}, "headspec.SweepTable/2"), ({}, "something else"), ({"a": 1}, "something")],
)
def test_settings_of_another_schema_are_refused_by_name(three: Path, values: dict[str, Any], named: str) -> None:
    (three / SWEEP.settings).write_text(json.dumps(values))
    for read in (SweepTable.load, lambda folder: RowLog(folder, MODEL, SWEEP)):
        with pytest.raises(RecordError, match=rf"sweep\.json is not a headspec\.SweepTable/1 but {named}"):
            read(three)


def test_a_folder_without_a_sweep_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RecordError, match=r"no sweep in .*: `headspec sweep MODEL --out .*` makes one"):
            SweepTable.load(folder)


def test_rows_without_settings_beside_them_are_refused_and_left_alone(three: Path) -> None:
    (three / SWEEP.settings).unlink()
    before = (three / LOG).read_bytes()
    with pytest.raises(RecordError, match=r"rows\.jsonl has no sweep\.json beside it: choose another folder"):
        RowLog(three, MODEL, SWEEP)
    assert (three / LOG).read_bytes() == before
    assert not (three / SWEEP.settings).exists()


def test_other_settings_are_refused_naming_both_values_and_the_folder_is_left_alone(three: Path) -> None:
    before = {path.name: path.read_bytes() for path in three.iterdir()}
    with pytest.raises(RecordError, match=r"n_layers 2 there, 3 now\): choose another folder"):
        RowLog(three, {**MODEL, "n_layers": 3}, SWEEP)
    with pytest.raises(RecordError, match="seed None there, 7 now"):
        RowLog(three, {**MODEL, "seed": 7}, SWEEP)
    with pytest.raises(RecordError, match="model 'made-up' there, None now"):
        RowLog(three, {"n_layers": 2}, SWEEP)
    assert {path.name: path.read_bytes() for path in three.iterdir()} == before


# The CSV.


def test_the_csv_has_a_line_a_row_and_no_keys(tmp_path: Path) -> None:
    case = cases_of(plain(), [{"L0H1": "zero"}, {"L1H1": "window:3", "L0H0": "mean"}])
    table = sweep(plain(), case, ids(2, 20), out=tmp_path, progress=False)
    frame = pandas.read_csv(tmp_path / TABLE)
    assert list(frame.columns) == [name for name in table.rows[0] if name != "key"]
    assert list(frame["heads"]) == ["L0H1", "L0H0 L1H1"]
    np.testing.assert_allclose(frame["kl"], [row["kl"] for row in table.rows], rtol=1e-6)


def test_labels_with_commas_quotes_and_line_breaks_survive_the_csv(tmp_path: Path) -> None:
    label = 'by "spread", 4 heads\nand – more'
    path = SweepTable(MODEL, ({**ROW, "case": label},)).save_csv(tmp_path / TABLE)
    assert pandas.read_csv(path)["case"].tolist() == [label]


def test_a_csv_that_cannot_be_written_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SweepTable(MODEL, (ROW,))
    before = table.save_csv(tmp_path / TABLE).read_bytes()

    def break_off(frame: Any, path: Path, **options: Any) -> None:
        path.write_text("case,lo")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pandas.DataFrame, "to_csv", break_off)
    with pytest.raises(HeadspecError, match=r"cannot write .*sweep\.csv: No space left"):
        table.save_csv(tmp_path / TABLE)
    assert (tmp_path / TABLE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [TABLE]


def test_the_frame_has_a_row_a_case() -> None:
    cases = cases_of(plain(), [{head: "zero"} for head in HEADS[:3]])
    table = sweep(plain(), cases, ids(1, 20), n_repeats=0, progress=False)
    frame = table.to_frame()
    assert (len(frame), len(table)) == (3, 3)
    assert "key" not in frame
    assert frame["heads"].tolist() == HEADS[:3]
