"""Files of rows whatever the rows mean: two kinds side by side, rows within rows, no torch."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from headspec.errors import RecordError
from headspec.rowlog import LOG, LogKind, RowLog, plain, read_rows, read_settings

CAKES = LogKind("tests.Cakes/1", "cakes.json", "bake")
PIES = LogKind("tests.Pies/1", "pies.json", "fry")
SETTINGS = {"oven": "hot", "sizes": (1, 2)}


def test_a_folder_is_of_the_kind_that_made_it(tmp_path: Path) -> None:
    RowLog(tmp_path, SETTINGS, CAKES).append({"key": "a"})
    with pytest.raises(RecordError, match=r"rows\.jsonl has no pies\.json beside it: choose another folder"):
        RowLog(tmp_path, SETTINGS, PIES)
    with pytest.raises(RecordError, match=r"no fry in .*: `headspec fry MODEL --out .*` makes one"):
        read_settings(tmp_path, PIES)


def test_settings_of_another_kind_under_the_same_name_are_refused(tmp_path: Path) -> None:
    RowLog(tmp_path, SETTINGS, CAKES)
    (tmp_path / CAKES.settings).rename(tmp_path / PIES.settings)
    with pytest.raises(RecordError, match=r"is not a tests\.Pies/1 but tests\.Cakes/1"):
        RowLog(tmp_path, SETTINGS, PIES)


def test_settings_come_back_as_json_has_them(tmp_path: Path) -> None:
    RowLog(tmp_path, SETTINGS, CAKES)
    assert read_settings(tmp_path, CAKES) == {"oven": "hot", "sizes": [1, 2]}


def test_a_tuple_and_the_list_that_it_was_saved_as_are_the_same_setting(tmp_path: Path) -> None:
    RowLog(tmp_path, SETTINGS, CAKES)
    RowLog(tmp_path, {"oven": "hot", "sizes": [1, 2]}, CAKES)


def test_other_settings_are_named_with_the_word_of_the_kind(tmp_path: Path) -> None:
    RowLog(tmp_path, SETTINGS, CAKES)
    with pytest.raises(RecordError, match=r"holds a bake of another configuration .*oven 'hot' there, 'cold' now"):
        RowLog(tmp_path, SETTINGS | {"oven": "cold"}, CAKES)


def test_rows_within_a_row_come_back(tmp_path: Path) -> None:
    row = {"key": "a", "rows": [{"value": 1.5, "note": "–"}, {"value": None}]}
    log = RowLog(tmp_path, SETTINGS, CAKES)
    log.append(row)
    assert read_rows(tmp_path, CAKES) == [row]
    assert log.finished == {"a": row}


def test_what_is_not_finite_deep_in_a_row_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    log = RowLog(tmp_path, SETTINGS, CAKES)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"key": "a", "rows": [{"value": math.nan}]})
    assert log.finished == {}
    assert not (tmp_path / LOG).exists()


def test_of_two_rows_with_one_key_the_later_is_the_finished_one(tmp_path: Path) -> None:
    log = RowLog(tmp_path, SETTINGS, CAKES)
    for value in (1, 2):
        log.append({"key": "a", "value": value})
    assert RowLog(tmp_path, SETTINGS, CAKES).finished["a"]["value"] == 2
    assert len(read_rows(tmp_path, CAKES)) == 2


def test_a_folder_without_rows_has_none(tmp_path: Path) -> None:
    RowLog(tmp_path, SETTINGS, CAKES)
    assert read_rows(tmp_path, CAKES) == []


@pytest.mark.parametrize(
    ("value", "kept"), [(1.5, 1.5), (math.nan, None), (-math.inf, None), (3, 3), ("nan", "nan"), (None, None)]
)
def test_only_what_json_cannot_hold_becomes_nothing(value: object, kept: object) -> None:
    assert plain(value) == kept


def test_rows_are_lines_that_any_program_can_read(tmp_path: Path) -> None:
    RowLog(tmp_path, SETTINGS, CAKES).append({"key": "a", "note": "two\nlines"})
    [line] = (tmp_path / LOG).read_text().splitlines()
    assert json.loads(line) == {"key": "a", "note": "two\nlines"}


def test_torch_is_not_imported() -> None:
    code = "import sys, headspec.rowlog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
