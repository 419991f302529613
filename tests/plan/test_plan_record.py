"""The HeadPlan as a record: how it is saved, and what it refuses to load."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_makers import made_up_profile
from safetensors.numpy import load_file, save_file

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Fill, Remove
from headspec.probe.profile import HeadProfile

Edit = Callable[[dict[str, Any]], object]
NAMES = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
TEXTS = ["keep", "zero", "mean", "random", "window:8", "window:3+0", "compress:snapkv:0.25", "compress:snapkv:7"]


@pytest.fixture
def saved(mixed: HeadPlan, tmp_path: Path) -> Path:
    return mixed.certified({"loss": 0.25, "heads": {"L0H1": [1, 2.5]}, "budget": None}).save(tmp_path / "plan.json")


def edited(path: Path, edit: Edit) -> Path:
    """Rewrite the JSON of a saved plan."""
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def with_vectors(path: Path, edit: Edit) -> Path:
    """Rewrite the fill vectors of a saved plan, and their digest."""
    beside = path.with_suffix(".safetensors")
    vectors = load_file(beside)
    edit(vectors)
    save_file(vectors, beside)
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    return edited(path, lambda values: values.update(fills=digest))


# As it was.


def test_a_saved_plan_loads_as_it_was(mixed: HeadPlan, saved: Path) -> None:
    loaded = HeadPlan.load(saved)
    assert loaded == mixed
    assert loaded.about == mixed.about
    assert loaded.digest == mixed.digest
    assert loaded.fills.keys() == mixed.fills.keys()
    for head, fill in mixed.fills.items():
        np.testing.assert_array_equal(loaded.fills[head], fill, err_msg=str(head))


def test_a_saved_certificate_loads_as_it_was(saved: Path) -> None:
    assert HeadPlan.load(saved).certificate == {"loss": 0.25, "heads": {"L0H1": [1, 2.5]}, "budget": None}


def test_a_plan_that_was_edited_by_hand_has_lost_its_certificate(saved: Path) -> None:
    text = saved.read_text(encoding="utf-8")
    head, what = next(iter(json.loads(text)["treatments"].items()))
    saved.write_text(text.replace(f'"{head}": "{what}"', f'"{head}": "keep"'), encoding="utf-8")
    assert HeadPlan.load(saved).certificate is None


def test_a_plan_without_a_certificate_has_none_after_loading(mixed: HeadPlan, tmp_path: Path) -> None:
    assert HeadPlan.load(mixed.save(tmp_path / "plan.json")).certificate is None


def test_a_plan_that_keeps_all_heads_loads_as_it_was(profile: HeadProfile, tmp_path: Path) -> None:
    plan = plan_heads(profile, {})
    assert HeadPlan.load(plan.save(tmp_path / "plan.json")) == plan


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(treatments=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS)), seed=st.integers(0, 9))
def test_every_plan_loads_as_it_was(tmp_path: Path, treatments: dict[str, str], seed: int) -> None:
    plan = plan_heads(made_up_profile(), treatments, seed=seed)
    loaded = HeadPlan.load(plan.save(tmp_path / "plan.json"))
    assert (loaded, loaded.about, loaded.digest) == (plan, plan.about, plan.digest)


def test_a_loaded_plan_saves_to_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = HeadPlan.load(saved).save(tmp_path / "again.json")
    assert again.read_bytes() == saved.read_bytes()
    assert again.with_suffix(".safetensors").read_bytes() == saved.with_suffix(".safetensors").read_bytes()


def test_a_plan_can_be_saved_and_loaded_by_a_text_path(mixed: HeadPlan, tmp_path: Path) -> None:
    path = mixed.save(f"{tmp_path}/plan.json")
    assert path == tmp_path / "plan.json"
    assert HeadPlan.load(str(path)) == mixed


def test_saving_makes_the_folder_and_replaces_the_old_plan(mixed: HeadPlan, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "plan.json"
    mixed.only(["L0H3"]).save(path)
    mixed.save(path)
    assert HeadPlan.load(path) == mixed
    assert sorted(each.name for each in path.parent.iterdir()) == ["plan.json", "plan.safetensors"]


def test_a_name_with_dots_keeps_them(mixed: HeadPlan, tmp_path: Path) -> None:
    mixed.save(tmp_path / "pythia-70m.v1.json")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pythia-70m.v1.json", "pythia-70m.v1.safetensors"]
    assert HeadPlan.load(tmp_path / "pythia-70m.v1.json") == mixed


def test_a_model_whose_name_is_not_ascii_is_written_readably(mixed: HeadPlan, tmp_path: Path) -> None:
    path = mixed.renamed("modèle/頭").save(tmp_path / "plan.json")
    assert "modèle/頭" in path.read_text(encoding="utf-8")
    assert HeadPlan.load(path).about.model == "modèle/頭"


def test_the_file_reads_like_the_plan_was_written(saved: Path) -> None:
    values = json.loads(saved.read_text(encoding="utf-8"))
    assert values["schema"] == "headspec.HeadPlan/1"
    assert values["treatments"] == {
        "L0H1": "zero", "L0H3": "mean", "L1H0": "window:8+0", "L1H2": "random", "L1H3": "compress:snapkv:0.5"
    }  # fmt: skip


def test_the_file_is_json_as_the_standard_has_it(saved: Path) -> None:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(saved.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1), np.zeros(2)],
                         ids=["nan", "infinity", "float32", "array"])  # fmt: skip
def test_a_certificate_that_json_cannot_hold_is_refused_by_name(mixed: HeadPlan, tmp_path: Path, value: Any) -> None:
    with pytest.raises(HeadspecError, match="certificate"):
        mixed.certified({"loss": value}).save(tmp_path / "plan.json")


def test_a_plan_that_cannot_be_written_leaves_the_old_one(mixed: HeadPlan, saved: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=r"JSON|certificate"):
        mixed.only(["L0H3"]).certified({"loss": object()}).save(saved)
    assert HeadPlan.load(saved) == mixed


@pytest.mark.parametrize("name", ["plan", "plan.safetensors", "plan.txt"])
def test_another_suffix_is_refused(mixed: HeadPlan, tmp_path: Path, name: str) -> None:
    with pytest.raises(HeadspecError, match=r"a plan is saved as NAME\.json"):
        mixed.save(tmp_path / name)
    with pytest.raises(HeadspecError, match=r"a plan is saved as NAME\.json"):
        HeadPlan.load(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# By hand.


def test_a_plan_may_be_edited_by_hand(saved: Path) -> None:
    edited(saved, lambda values: values["treatments"].update({"L0H0": "window:3", "L1H2": "keep"}))
    loaded = HeadPlan.load(saved)
    assert {name: str(loaded[name]) for name in ("L0H0", "L0H3", "L1H2")} == {
        "L0H0": "window:3", "L0H3": "mean", "L1H2": "keep"
    }  # fmt: skip


def test_a_head_edited_to_be_filled_with_zeros_is_not_filled_with_its_mean(saved: Path) -> None:
    edited(saved, lambda values: values["treatments"].update(L0H3="zero"))
    try:
        loaded = HeadPlan.load(saved)
    except RecordError:
        return
    assert loaded["L0H3"] == Remove(Fill.ZERO)
    assert not loaded.fills[HeadId(0, 3)].any()


def test_a_head_edited_to_be_removed_needs_a_fill_vector(saved: Path) -> None:
    edited(saved, lambda values: values["treatments"].update(L0H0="mean"))
    with pytest.raises(RecordError, match=r"plan\.json: no fill vector for removed heads L0H0"):
        HeadPlan.load(saved)


def test_a_head_that_stands_in_the_file_twice_is_refused(saved: Path) -> None:
    saved.write_text(saved.read_text(encoding="utf-8").replace('"L0H3": "mean"', '"L0H3": "mean", "L0H3": "window:8"'))
    with pytest.raises(RecordError, match=r"plan\.json: L0H3 stands there twice"):
        HeadPlan.load(saved)


def test_a_head_that_stands_in_the_file_in_two_spellings_is_refused(saved: Path) -> None:
    edited(saved, lambda values: values["treatments"].update({"0.3": "window:8"}))
    with pytest.raises(RecordError, match="L0H3"):
        HeadPlan.load(saved)


def test_a_setting_that_stands_in_the_file_twice_is_refused(saved: Path) -> None:
    saved.write_text(saved.read_text(encoding="utf-8").replace('"n_heads": 4', '"n_heads": 4, "n_heads": 5'))
    with pytest.raises(RecordError, match="n_heads stands there twice"):
        HeadPlan.load(saved)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("window:0", "window 0: want a number of keys"),
        ("window:65", "L1H0: window:65 is beyond the model's context of 64 keys"),
        ("compress:h2o:0.5", "policy 'h2o': choose one of"),
        ("average", "'average' is no treatment"),
    ],
)
def test_an_impossible_treatment_in_a_file_is_refused_with_the_reason(saved: Path, text: str, reason: str) -> None:
    edited(saved, lambda values: values["treatments"].update(L1H0=text))
    with pytest.raises(RecordError, match=rf"plan\.json: {reason}"):
        HeadPlan.load(saved)


@pytest.mark.parametrize("what", [None, 8, ["mean"]])
def test_a_treatment_in_a_file_that_is_no_text_is_refused(saved: Path, what: Any) -> None:
    edited(saved, lambda values: values["treatments"].update(L1H0=what))
    with pytest.raises(RecordError, match=r"plan\.json"):
        HeadPlan.load(saved)


@pytest.mark.parametrize(("head", "reason"), [("L9H3", "unknown heads L9H3"), ("third", "'third' is not a head")])
def test_an_impossible_head_in_a_file_is_refused(saved: Path, head: str, reason: str) -> None:
    edited(saved, lambda values: values["treatments"].update({head: "window:8"}))
    with pytest.raises(RecordError, match=rf"plan\.json: {reason}"):
        HeadPlan.load(saved)


# Damaged and foreign files.


def test_a_missing_plan_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no plan at .*absent\.json: `headspec search MODEL` writes one"):
        HeadPlan.load(tmp_path / "absent.json")


def test_a_plan_whose_vectors_are_missing_is_refused_naming_their_file(saved: Path) -> None:
    saved.with_suffix(".safetensors").unlink()
    with pytest.raises(RecordError, match=r"plan\.safetensors"):
        HeadPlan.load(saved)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(RecordError, match=r"plan\.json is damaged"):
        HeadPlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"3", b'"plan"', b"{}"])
def test_what_is_no_plan_is_refused(saved: Path, content: bytes) -> None:
    saved.write_bytes(content)
    with pytest.raises(RecordError, match=r"plan\.json"):
        HeadPlan.load(saved)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_plan_that_was_cut_off_is_refused(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(RecordError, match=r"plan\.json is damaged"):
        HeadPlan.load(saved)


@pytest.mark.parametrize("schema", ["headspec.HeadPlan/9", "headspec.HeadMap/1"])
def test_a_record_of_another_kind_or_version_is_refused_by_its_name(saved: Path, schema: str) -> None:
    edited(saved, lambda values: values.update(schema=schema))
    with pytest.raises(RecordError, match=rf"plan\.json: not a headspec\.HeadPlan/1 but {schema}"):
        HeadPlan.load(saved)


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values.pop("about"),
        lambda values: values.pop("fills"),
        lambda values: values.pop("certificate"),
        lambda values: values.update(treatments=None),
        lambda values: values.update(treatments=["L0H1", "zero"]),
        lambda values: values.update(about=None),
        lambda values: values["about"].pop("d_head"),
        lambda values: values["about"].update(colour="red"),
        lambda values: values["about"].update(n_layers="2"),
        lambda values: values["about"].update(context=None),
    ],
    ids=[
        "no about", "no fills", "no certificate", "no treatments", "a list of treatments", "about nothing", "no d_head",
        "unknown setting", "n_layers in words", "no context",
    ],
)  # fmt: skip
def test_a_record_with_damaged_entries_is_refused(saved: Path, edit: Edit) -> None:
    with pytest.raises(RecordError, match=r"plan\.json is damaged"):
        HeadPlan.load(edited(saved, edit))


def test_a_record_of_a_smaller_model_is_refused(saved: Path) -> None:
    with pytest.raises(RecordError, match=r"plan\.json: unknown heads L0H3, L1H3: made-up has layers 0–1, heads 0–2"):
        HeadPlan.load(edited(saved, lambda values: values["about"].update(n_heads=3)))


def test_vectors_of_another_plan_beside_it_are_refused(saved: Path, mixed: HeadPlan, tmp_path: Path) -> None:
    other = plan_heads(made_up_profile(1), mixed.treatments, seed=3).save(tmp_path / "other.json")
    other.with_suffix(".safetensors").replace(saved.with_suffix(".safetensors"))
    with pytest.raises(RecordError, match=r"plan\.json: plan\.safetensors beside it belongs to another plan"):
        HeadPlan.load(saved)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""],
                         ids=["cut off", "longer", "empty"])  # fmt: skip
def test_damaged_vectors_are_refused(saved: Path, damage: Callable[[bytes], bytes]) -> None:
    beside = saved.with_suffix(".safetensors")
    beside.write_bytes(damage(beside.read_bytes()))
    with pytest.raises(RecordError, match=r"plan\.safetensors beside it belongs to another plan"):
        HeadPlan.load(saved)


def test_vectors_that_are_no_safetensors_are_refused(saved: Path) -> None:
    saved.with_suffix(".safetensors").write_bytes(b"no vectors")
    edited(saved, lambda values: values.update(fills=hashlib.sha256(b"no vectors").hexdigest()))
    with pytest.raises(RecordError, match=r"plan\.json is damaged \(SafetensorError"):
        HeadPlan.load(saved)


@pytest.mark.parametrize("bad", [np.full(8, np.nan, "f4"), np.full(8, np.inf, "f4"), np.zeros(7, "f4")],
                         ids=["nan", "infinity", "short"])  # fmt: skip
def test_a_file_with_an_impossible_fill_is_refused(saved: Path, bad: np.ndarray) -> None:
    with_vectors(saved, lambda vectors: vectors.update(L0H3=bad))
    with pytest.raises(RecordError, match=r"plan\.json: the fill vector of L0H3 must be 8 finite numbers"):
        HeadPlan.load(saved)


def test_a_file_that_lacks_a_fill_is_refused(saved: Path) -> None:
    with_vectors(saved, lambda vectors: vectors.pop("L0H3"))
    with pytest.raises(RecordError, match=r"plan\.json: no fill vector for removed heads L0H3"):
        HeadPlan.load(saved)


def test_a_plan_moved_without_its_vectors_is_refused(saved: Path, tmp_path: Path) -> None:
    moved = saved.replace(tmp_path / "moved.json")
    with pytest.raises(RecordError, match=r"moved\.safetensors"):
        HeadPlan.load(moved)


def test_a_plan_moved_with_its_vectors_loads(saved: Path, mixed: HeadPlan, tmp_path: Path) -> None:
    moved = saved.replace(tmp_path / "moved.json")
    saved.with_suffix(".safetensors").replace(moved.with_suffix(".safetensors"))
    assert HeadPlan.load(moved) == mixed


# For another model.


@pytest.mark.parametrize(
    "change",
    [{"name": "another"}, {"n_layers": 3}, {"n_heads": 8}, {"d_head": 16}],
    ids=["name", "layers", "heads", "size of heads"],
)
def test_a_plan_for_another_model_is_refused_naming_both(mixed: HeadPlan, change: dict[str, Any]) -> None:
    from headspec.load.identity import Identity

    same = Identity(
        name="made-up", n_layers=2, n_heads=4, d_head=8, d_model=32, context=64, dtype="float32", device="cpu",
        d_vocab=272, vocabulary=range(272), bos=None,
    )  # fmt: skip
    mixed.about.check_model(same)
    found = replace(same, **change)
    both = (
        rf"this plan was made for made-up \(2 × 4 heads of 8\), not for {found.name} "
        rf"\({found.n_layers} × {found.n_heads} of {found.d_head}\)"
    )
    with pytest.raises(RecordError, match=both):
        mixed.about.check_model(found)


def test_a_plan_is_loaded_without_torch(saved: Path) -> None:
    script = f"""
import sys
from headspec.plan.plan import HeadPlan
len(HeadPlan.load({str(saved)!r}))
sys.exit("torch" in sys.modules or "transformers" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
