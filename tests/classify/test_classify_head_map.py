"""The HeadMap as a record: what it answers, how it is saved, and what it refuses to load."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from made_up import CUT, DEAD, MadeUp, profile_of

from headspec.classify.head_map import HeadMap, Trait
from headspec.classify.rules import classify_heads
from headspec.classify.thresholds import Thresholds
from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId, HeadRole
from headspec.probe.profile import HeadProfile

NEAR = MadeUp(near={1: 1.0}, numbers={"previous_token_score": 1.0})
NOT_MEASURED = dict.fromkeys(("repeat_deviation", "previous_token_score", "induction_score"), np.nan)


@pytest.fixture
def head_map() -> HeadMap:
    return classify_heads(profile_of(NEAR, MadeUp(), MadeUp(numbers=DEAD)), CUT)


@pytest.fixture
def saved(head_map: HeadMap, tmp_path: Path) -> Path:
    return head_map.save(tmp_path / "map.json")


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_saved_map_loads_as_it_was(head_map: HeadMap, saved: Path) -> None:
    assert HeadMap.load(saved) == head_map
    assert HeadMap.load(str(saved)) == head_map


def test_a_saved_map_of_real_heads_loads_as_it_was(demo_profile: HeadProfile, tmp_path: Path) -> None:
    found = classify_heads(demo_profile, Thresholds(windowed_mass=0.7), rules="naive")
    assert HeadMap.load(found.save(tmp_path / "map.json")) == found


def test_a_map_without_repeats_is_json_as_the_standard_has_it(tmp_path: Path) -> None:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    path = classify_heads(profile_of(MadeUp(numbers=NOT_MEASURED), n_repeats=0)).save(tmp_path / "map.json")
    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_map_without_repeats_loads_with_its_roles_and_gaps(tmp_path: Path) -> None:
    found = classify_heads(profile_of(NEAR, MadeUp(numbers=NOT_MEASURED), n_repeats=0))
    loaded = HeadMap.load(found.save(tmp_path / "map.json"))
    assert loaded.agreement(found) == 1
    assert np.isnan(dict(loaded["L0H1"].evidence).get("repeat_deviation", np.nan))


def test_a_head_is_found_by_its_name(head_map: HeadMap) -> None:
    assert head_map["L0H2"].role == head_map[HeadId(0, 2)].role == HeadRole.DEAD
    assert head_map["0.0"].traits == (Trait.PREVIOUS_TOKEN,)


@pytest.mark.parametrize(("head", "message"), [("L0H3", "unknown head L0H3"), ("L1H0", "layer 1 was not probed")])
def test_a_head_that_is_not_there_is_refused(head_map: HeadMap, head: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        head_map[head]


def test_what_is_no_head_at_all_is_refused(head_map: HeadMap) -> None:
    with pytest.raises(HeadspecError, match="is not a head"):
        head_map["third"]


def test_a_map_of_some_layers_finds_its_heads(demo_profile: HeadProfile) -> None:
    about = replace(demo_profile.about, layers=(1, 3))
    grids = {name: grid[[1, 3]] for name, grid in demo_profile.grids.items()}
    whole = classify_heads(demo_profile)
    some = HeadMap(about, whole.thresholds, "default", tuple(each for each in whole if each.head.layer in (1, 3)))
    assert len(some) == grids["max_attention"].size
    assert all(some[each.head] == each for each in some)


def test_heads_of_a_role_are_listed(head_map: HeadMap) -> None:
    assert head_map.heads("positional") == head_map.heads(HeadRole.POSITIONAL) == [HeadId(0, 0)]


def test_counts_add_up_to_the_heads(demo_profile: HeadProfile) -> None:
    found = classify_heads(demo_profile)
    assert found.counts().total() == len(found) == 32
    assert sum((found.counts(layer) for layer in range(4)), start=found.counts(99)) == found.counts()


def test_a_map_agrees_with_itself(head_map: HeadMap) -> None:
    assert head_map.agreement(head_map) == 1


def test_agreement_is_the_share_of_equal_roles(head_map: HeadMap) -> None:
    other = classify_heads(profile_of(NEAR, MadeUp(numbers=DEAD), MadeUp()), CUT)
    assert head_map.agreement(other) == pytest.approx(1 / 3)


def test_maps_of_two_models_are_not_compared(head_map: HeadMap) -> None:
    other = replace(head_map, about=replace(head_map.about, model="pythia-70m"))
    with pytest.raises(RecordError, match=r"made for made-up .*not for pythia-70m"):
        head_map.agreement(other)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no head map at .*absent\.json"):
        HeadMap.load(tmp_path / "absent.json")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        HeadMap.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(saved: Path, kept: float) -> None:
    text = saved.read_text(encoding="utf-8")
    saved.write_text(text[: int(kept * len(text)) if kept < 1 else int(kept)], encoding="utf-8")
    with pytest.raises(RecordError, match=r"map\.json is damaged"):
        HeadMap.load(saved)


@pytest.mark.parametrize("content", [b"\x00\xff\xfe", b"[]", b"3", b"null"], ids=repr)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "map.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"map\.json"):
        HeadMap.load(tmp_path / "map.json")


@pytest.mark.parametrize("schema", ["headspec.HeadMap/9", "headspec.HeadProfile/1"])
def test_a_record_of_another_kind_or_version_is_refused_by_its_name(saved: Path, schema: str) -> None:
    edited(saved, lambda values: values.update(schema=schema))
    with pytest.raises(RecordError, match=f"not a headspec.HeadMap/1 but {schema}"):
        HeadMap.load(saved)


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values.pop("about"),
        lambda values: values["about"].pop("layers"),
        lambda values: values["heads"][0].update(role="lazy"),
        lambda values: values["heads"][0].update(head="third"),
        lambda values: values["heads"][0].pop("margin"),
        lambda values: values["heads"][0].update(traits=["lazy"]),
        lambda values: values.update(heads=None),
    ],
    ids=["no about", "no layers", "unknown role", "no head", "no margin", "unknown trait", "no heads"],
)
def test_a_record_with_damaged_entries_is_refused(saved: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(RecordError, match=r"map\.json is damaged"):
        HeadMap.load(edited(saved, edit))


def test_a_record_with_unknown_thresholds_is_refused_as_a_record(saved: Path) -> None:
    edited(saved, lambda values: values["thresholds"].update(colour=0.5))
    with pytest.raises(RecordError, match="colour"):
        HeadMap.load(saved)


def test_a_record_that_lacks_a_head_is_refused(saved: Path) -> None:
    edited(saved, lambda values: values["heads"].pop(1))
    with pytest.raises(RecordError):
        HeadMap.load(saved)


def test_a_record_whose_heads_are_out_of_order_does_not_mix_them_up(head_map: HeadMap, saved: Path) -> None:
    edited(saved, lambda values: values["heads"].reverse())
    try:
        loaded = HeadMap.load(saved)
    except RecordError:
        return
    assert all(loaded[each.head] == each for each in head_map)
