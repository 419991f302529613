"""The record of a live generation: what it answers, by hand; that it is saved whole; what it refuses to load."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_makers import N_PROMPT, QUICK, live
from runtime_makers import in_chunks, random_ids

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.record import Change, Held, LiveLog, LiveRecord

CHANGES = (
    Change(40, 0, 0, "positional", 8, "window:8"), Change(40, 0, 1, "gathering", 0, "keep"),
    Change(40, 1, 3, "dead", 0, "mean"), Change(48, 0, 1, "positional", 4, "window:8"),
    Change(56, 0, 0, "positional", 16, "window:8"), Change(64, 0, 1, "dead", 0, "mean"),
    Change(72, 0, 0, "gathering", 0, "window:8"),
)  # fmt: skip
RECORD = LiveRecord(
    model="tiny", n_layers=2, n_heads=4, n_rows=2, n_prompt=40, n_read=80, policy={"every": 4}, n_classifications=11,
    changes=CHANGES, held=(Held(40, 500, 1000), Held(80, 500, 2000)),
)  # fmt: skip


# By hand.


def test_heads_are_those_that_were_watched() -> None:
    assert RECORD.heads() == [(0, 0), (0, 1), (1, 3)]


@pytest.mark.parametrize(
    ("column", "changes"),
    [(39, []), (40, [0, 1, 2]), (47, [0, 1, 2]), (48, [0, 3, 2]), (63, [4, 3, 2]), (64, [4, 5, 2]), (999, [6, 5, 2])],
)
def test_at_a_column_the_latest_change_of_each_head_holds(column: int, changes: list[int]) -> None:
    assert list(RECORD.at(column).values()) == [CHANGES[number] for number in changes]


def test_flips_are_changes_of_role_after_the_first_classification() -> None:
    assert RECORD.flips() == [CHANGES[number] for number in (3, 5, 6)]


def test_roles_are_counted_in_the_end() -> None:
    assert RECORD.counts() == {"gathering": 1, "dead": 2}


def test_heads_not_computed_are_counted_token_by_token() -> None:
    assert RECORD.skipped == (80 - 40) + (80 - 64)


def test_bytes_are_a_share_of_those_of_all_keys() -> None:
    assert RECORD.kv_share == 0.25


def test_of_nothing_nothing_is_a_share() -> None:
    assert replace(RECORD, held=(Held(0, 0, 0),)).kv_share == 0


# The log.


def test_the_log_keeps_what_has_changed_and_nothing_else() -> None:
    log = LiveLog("tiny", 2, 4, {})
    for change in (CHANGES[0], CHANGES[1], CHANGES[0]._replace(at=44), CHANGES[1]._replace(at=44, role="dead"),
                   CHANGES[0]._replace(at=48), CHANGES[1]._replace(at=48)):  # fmt: skip
        log.note(change)
    again = CHANGES[1]._replace(at=44, role="dead")
    assert log.changes == [CHANGES[0], CHANGES[1], again, CHANGES[1]._replace(at=48)]


def test_the_log_adds_now_unless_it_is_there() -> None:
    log = LiveLog("tiny", 2, 4, {})
    log.held.append(Held(40, 500, 1000))
    assert log.record(Held(40, 500, 1000)).held == (Held(40, 500, 1000),)
    assert log.record(Held(44, 400, 1100)).held == (Held(40, 500, 1000), Held(44, 400, 1100))
    assert log.held == [Held(40, 500, 1000)]


def test_a_log_that_forgets_is_as_new() -> None:
    log = LiveLog("tiny", 2, 4, {})
    log.note(CHANGES[0])
    log.forget()
    log.note(CHANGES[0])
    assert log.changes == [CHANGES[0]]


# Files.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return RECORD.save(tmp_path / "live.json")


def test_a_saved_record_loads_as_it_was(saved: Path) -> None:
    assert LiveRecord.load(saved) == RECORD
    assert LiveRecord.load(str(saved)) == RECORD


def test_a_record_of_a_generation_loads_as_it_was(tmp_path: Path) -> None:
    model = live()
    cache = model.make_cache(AdaptivePolicy(**QUICK, policy="snapkv"))
    in_chunks(model, random_ids(2, 50), [N_PROMPT, *[1] * 10], cache=cache)
    record = cache.record()
    assert LiveRecord.load(record.save(tmp_path / "live.json")) == record
    assert AdaptivePolicy(**record.policy) == cache.policy


def test_nothing_else_is_left_beside_a_saved_record(saved: Path) -> None:
    RECORD.save(saved)
    assert list(saved.parent.iterdir()) == [saved]


def test_a_record_that_cannot_be_written_leaves_the_old_one(saved: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        replace(RECORD, policy={"every": object()}).save(saved)
    assert LiveRecord.load(saved) == RECORD


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"live\.json"):
        LiveRecord.load(tmp_path / "live.json")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"live\.json is not a headspec\.LiveRecord/1 or is damaged"):
        LiveRecord.load(saved)


@pytest.mark.parametrize("content", [b"[]", b"null", b"7", b'"text"', b"\xff\xfe\x00", b"{}", b'{"schema": 5}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "live.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a headspec\.LiveRecord/1 or is damaged"):
        LiveRecord.load(tmp_path / "live.json")


def to(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(values: Any) -> None:
        for step in path[:-1]:
            values = values[step]
        values[path[-1]] = value

    return edit


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values.pop(name)


@pytest.mark.parametrize(
    "edit",
    [
        to("schema", value="headspec.LiveRecord/2"), to("schema", value="headspec.HeadMap/1"), without("schema"),
        without("model"), without("n_read"), without("policy"), without("changes"), without("held"),
        to("surprise", value=1), to("changes", value=None), to("changes", value=7), to("changes", value=["text"]),
        to("changes", 0, value=[40, 0, 0, "gathering", 0]), to("changes", 0, value={"at": 1}),
        to("changes", 0, 0, value="40"), to("changes", 0, 3, value=None), to("changes", 0, 4, value=1.5),
        to("held", 0, value=[1, 2]), to("held", 0, 1, value="many"), to("held", value=[[1, 2, None]]),
        to("n_layers", value="2"), to("n_rows", value=None), to("n_read", value=1.5), to("model", value=3),
        to("policy", value=[]), to("held", value=[]),
    ],
)  # fmt: skip
def test_a_record_with_damaged_entries_is_refused(saved: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(saved.read_text())
    edit(values)
    saved.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"is not a headspec\.LiveRecord/1 or is damaged"):
        LiveRecord.load(saved)
