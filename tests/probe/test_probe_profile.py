"""The HeadProfile as a record: what it answers, how it is saved, and what it refuses to load."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accounts import Accounts, random_ids
from comparing import flat
from safetensors import safe_open
from safetensors.numpy import save_file
from transformer_lens.model_bridge import TransformerBridge

from headspec.errors import RecordError
from headspec.heads import HeadId
from headspec.probe.catalogue import BY_WINDOW, GRIDS, STATISTICS
from headspec.probe.collect import probe_heads
from headspec.probe.profile import SCHEMA, HeadProfile

Edit = Callable[[dict[str, np.ndarray], dict[str, str]], object]


@pytest.fixture
def saved(tiny_profile: HeadProfile, tmp_path: Path) -> Path:
    return tiny_profile.save(tmp_path / "profile.safetensors")


def edited(path: Path, edit: Edit) -> Path:
    """Rewrite a saved profile with other arrays or another header."""
    with safe_open(path, framework="numpy") as file:
        header = dict(file.metadata())
        arrays = {name: file.get_tensor(name) for name in list(file.keys())}
    edit(arrays, header)
    save_file(arrays, path, metadata=header)
    return path


def test_a_saved_profile_loads_as_it_was(tiny_profile: HeadProfile, saved: Path) -> None:
    loaded = HeadProfile.load(saved)
    assert loaded.about == tiny_profile.about
    assert loaded.schema == SCHEMA
    before, after = flat(tiny_profile), flat(loaded)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
        assert after[name].dtype == array.dtype


def test_scores_that_were_not_measured_are_nan_after_loading(tiny: TransformerBridge, tmp_path: Path) -> None:
    profile = probe_heads(tiny, random_ids(1, 40), n_repeats=0, progress=False)
    loaded = HeadProfile.load(str(profile.save(str(tmp_path / "p.safetensors"))))
    assert np.isnan(loaded["repeat_deviation"]).all()


def test_saving_makes_the_folder_and_replaces_the_old_file(tiny_profile: HeadProfile, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "profile.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    assert tiny_profile.save(path) == path
    assert HeadProfile.load(path).about == tiny_profile.about
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no profile at .*absent\.safetensors"):
        HeadProfile.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 200, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept if kept >= 1 or kept == 0 else kept * len(data))])
    with pytest.raises(RecordError, match=r"profile\.safetensors is damaged"):
        HeadProfile.load(saved)


def test_a_file_of_weights_is_refused(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(RecordError, match=r"not a headspec\.HeadProfile/2 but something else"):
        HeadProfile.load(tmp_path / "model.safetensors")


def test_a_record_of_another_version_is_refused_by_its_name(saved: Path) -> None:
    edited(saved, lambda arrays, header: header.update(schema="headspec.HeadProfile/9"))
    with pytest.raises(RecordError, match=r"not a headspec\.HeadProfile/2 but headspec\.HeadProfile/9"):
        HeadProfile.load(saved)


@pytest.mark.parametrize("name", ["grids.output_spread", "by_window.output_norm", "near_mass", "position_edges"])
def test_a_record_that_lacks_an_array_is_refused_by_its_name(saved: Path, name: str) -> None:
    edited(saved, lambda arrays, header: arrays.pop(name))
    with pytest.raises(RecordError, match=name):
        HeadProfile.load(saved)


def test_a_record_with_an_unknown_array_is_refused_by_its_name(saved: Path) -> None:
    edited(saved, lambda arrays, header: arrays.update(surprise=np.zeros(1)))
    with pytest.raises(RecordError, match="surprise"):
        HeadProfile.load(saved)


@pytest.mark.parametrize("about", [None, "{", "{}", json.dumps({"model": "demo", "colour": "red"})])
def test_a_record_whose_header_is_damaged_is_refused(saved: Path, about: str | None) -> None:
    edited(saved, lambda arrays, header: header.pop("about") if about is None else header.update(about=about))
    with pytest.raises(RecordError, match=r"profile\.safetensors"):
        HeadProfile.load(saved)


def test_a_grid_of_the_wrong_shape_is_refused(tiny_profile: HeadProfile) -> None:
    grids = {**tiny_profile.grids, "max_attention": np.zeros((1, 4), dtype=np.float32)}
    with pytest.raises(RecordError, match=r"no grid max_attention of shape \(2, 4\)"):
        replace(tiny_profile, grids=grids)


def test_a_missing_grid_is_refused(tiny_profile: HeadProfile) -> None:
    grids = {name: grid for name, grid in tiny_profile.grids.items() if name != "output_norm"}
    with pytest.raises(RecordError, match="no grid output_norm"):
        replace(tiny_profile, grids=grids)


def test_a_statistic_is_a_grid_of_layers_and_heads(tiny_profile: HeadProfile) -> None:
    assert tiny_profile["attention_entropy"].shape == (2, 4)


def test_an_unknown_statistic_is_refused_with_the_known_ones(tiny_profile: HeadProfile) -> None:
    with pytest.raises(RecordError, match="no statistic 'entropy': choose one of attention_entropy"):
        tiny_profile["entropy"]


@pytest.mark.parametrize("name", ["L1H2", "1.2", HeadId(1, 2)])
def test_a_head_answers_with_all_its_numbers(tiny_profile: HeadProfile, name: str | HeadId) -> None:
    assert tiny_profile.head(name) == {name: float(tiny_profile[name][1, 2]) for name in GRIDS}


@pytest.mark.parametrize("head", ["L0H4", "L2H0"])
def test_a_head_that_was_not_probed_is_refused(tiny_profile: HeadProfile, head: str) -> None:
    with pytest.raises(RecordError, match=r"head|layer"):
        tiny_profile.head(head)


def test_the_frame_has_a_row_for_each_head_and_a_column_for_each_statistic(tiny_profile: HeadProfile) -> None:
    frame = tiny_profile.to_frame()
    assert list(frame["head"]) == [str(head) for head in tiny_profile.about.heads()]
    assert {*GRIDS, "layer", "top_offset", "top_offset_share"} <= set(frame.columns)
    row = frame.set_index("head").loc["L1H3"]
    assert row["layer"] == 1
    assert row["max_attention"] == tiny_profile["max_attention"][1, 3]


def test_the_frame_of_some_layers_calls_them_by_their_number(tiny: TransformerBridge) -> None:
    frame = probe_heads(tiny, random_ids(1, 40), layers=[1], progress=False).to_frame()
    assert list(frame["head"]) == ["L1H0", "L1H1", "L1H2", "L1H3"]


def test_the_top_offset_is_where_the_largest_attention_falls_most_often(tiny_profile: HeadProfile) -> None:
    for index in np.ndindex(2, 4):
        shares = tiny_profile.max_attention_position[index]
        place = list(tiny_profile.offset_edges).index(tiny_profile.top_offset[index])
        assert shares[place] == shares.max() == tiny_profile.top_offset_share[index]


@pytest.mark.parametrize(("place", "offset"), [(0, 0), (63, 63), (64, 64), (65, 128), (66, 256)])
def test_the_top_offset_of_a_wide_bin_is_its_lower_edge(
    all_accounts: dict[str, dict[str, Accounts]], place: int, offset: int
) -> None:
    profile = all_accounts["demo"]["hooks"].profile
    shares = np.zeros_like(profile.max_attention_position)
    shares[..., place] = 1
    assert (replace(profile, max_attention_position=shares).top_offset == offset).all()


def test_every_number_lies_in_the_range_that_the_catalogue_gives(accounts: Accounts) -> None:
    for name, grid in accounts.profile.grids.items():
        high = STATISTICS[name].high
        assert (grid >= -1e-6).all(), name
        assert high is None or (grid <= high + 1e-6).all(), name


def test_distributions_add_up_to_1(accounts: Accounts) -> None:
    profile = accounts.profile
    for array in (profile.offset_mass, profile.max_attention_position, profile.max_attention_histogram):
        np.testing.assert_allclose(array.sum(-1), 1, atol=1e-5)


def test_positions_average_to_the_grid(accounts: Accounts) -> None:
    profile = accounts.profile
    weights = profile.queries_per_position * (profile.position_edges >= profile.about.first_query)
    for name, values in profile.by_position.items():
        average = np.tensordot(weights / weights.sum(), values, axes=1)
        np.testing.assert_allclose(average, profile[name], atol=1e-5, err_msg=name)


def test_windows_average_to_the_grid(accounts: Accounts) -> None:
    for name in BY_WINDOW:
        values = accounts.profile.by_window[name]
        average = np.sqrt((values**2).mean(0)) if name == "output_spread" else values.mean(0)
        np.testing.assert_allclose(average, accounts.profile[name], atol=1e-5, err_msg=name)


def test_every_statistic_is_explained() -> None:
    for name, statistic in STATISTICS.items():
        assert statistic.label, name
        assert statistic.unit, name
        assert statistic.meaning.endswith("."), name
        assert statistic.caution.endswith("."), name


def test_records_load_and_are_classified_without_torch(saved: Path) -> None:
    script = f"""
import sys
from headspec.classify.rules import classify_heads
from headspec.probe.profile import HeadProfile
classify_heads(HeadProfile.load({str(saved)!r}))
sys.exit("torch" in sys.modules or "transformers" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
