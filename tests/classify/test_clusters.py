"""Clusters of heads: planted groups are found, honestly described, compared with the roles, and kept as a record."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from made_up import CUT, DEAD, MadeUp, profile_of

from headspec.classify.clustering import cluster_heads
from headspec.classify.clusters import LABELS, HeadClusters
from headspec.classify.head_map import HeadMap, Trait
from headspec.classify.rules import classify_heads
from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile

INDUCTION = {"normalized_entropy": 0.5, "induction_score": 0.6}
BROAD = {"normalized_entropy": 0.9, "induction_score": 0.01}
SHARP = {"normalized_entropy": 0.1, "induction_score": 0.01}
GROUPS = {"induction": (0, 3, 6, 9, 12, 13), "broad": (1, 4, 7, 10, 14), "sharp": (2, 5, 8, 11)}
"""Heads of each planted group, of falling size and dealt out in turn."""


def near(numbers: dict[str, float], head: int) -> dict[str, float]:
    """The same numbers, a little different for every head."""
    shift = np.random.default_rng(head).normal(1, 0.02, len(numbers))
    return {name: float(number * s) for (name, number), s in zip(numbers.items(), shift, strict=True)}


def planted() -> HeadProfile:
    of_head = {head: name for name, heads in GROUPS.items() for head in heads}
    numbers = {"induction": INDUCTION, "broad": BROAD, "sharp": SHARP}
    return profile_of(*(MadeUp(numbers=near(numbers[of_head[head]], head)) for head in range(15)))


def with_roles() -> tuple[HeadProfile, HeadMap]:
    """Four positional, four gathering and four dead heads, which differ in their statistics as well."""
    heads = [
        MadeUp(near={1: 1.0}, numbers=near({"normalized_entropy": 0.1}, 0)),
        MadeUp(numbers=near({"normalized_entropy": 0.7}, 1)),
        MadeUp(numbers={**DEAD, **near({"normalized_entropy": 0.7}, 2)}),
    ] * 4
    profile = profile_of(*heads)
    return profile, classify_heads(profile, CUT)


def noise(n_heads: int = 100) -> HeadProfile:
    """Heads whose statistics are independent of each other: there is nothing to find."""
    names = ("normalized_entropy", "sink_attention_ratio", "induction_score", "output_spread", "repeat_deviation")
    drawn = np.random.default_rng(0).normal(0.5, 0.1, (n_heads, len(names)))
    return profile_of(*(MadeUp(numbers=dict(zip(names, each, strict=True)), sink=each[1]) for each in drawn))


def changed(profile: HeadProfile, **grids: Any) -> HeadProfile:
    return replace(profile, grids={**profile.grids, **grids})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return cluster_heads(*with_roles()).save(tmp_path / "clusters.json")


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_planted_groups_are_found_exactly_the_largest_first() -> None:
    found = cluster_heads(planted())
    assert [tuple(head.head for head in found.heads(cluster)) for cluster in range(3)] == list(GROUPS.values())
    assert found.sizes == (6, 5, 4)


def test_of_equally_large_clusters_the_one_with_the_earliest_head_comes_first() -> None:
    found = cluster_heads(with_roles()[0])
    assert found.sizes == (4, 4, 4)
    assert found.assignment[:3] == (0, 1, 2)


def test_a_head_is_found_by_its_name() -> None:
    found = cluster_heads(planted())
    assert (found["L0H0"], found["L0H1"], found["L0H2"]) == (0, 1, 2)


def test_the_number_of_clusters_is_where_the_silhouette_is_largest(demo_profile: HeadProfile) -> None:
    found = cluster_heads(demo_profile, most_clusters=5)
    assert [number for number, _ in found.silhouettes] == [2, 3, 4, 5]
    assert found.silhouette == max(value for _, value in found.silhouettes)


def test_a_number_of_clusters_can_be_asked_for() -> None:
    found = cluster_heads(planted(), n_clusters=9)
    assert len(found.centres) == len(set(found.assignment)) == 9
    assert found.sentence.startswith("9 clusters")
    assert "asked for" in found.sentence


def test_no_more_clusters_are_tried_than_there_are_different_heads() -> None:
    alike = profile_of(*[MadeUp(numbers=INDUCTION), MadeUp(numbers=BROAD), MadeUp(numbers=SHARP)] * 4)
    assert [number for number, _ in cluster_heads(alike).silhouettes] == [2, 3]


def test_silhouettes_are_those_of_scikit_learn_on_standardised_statistics() -> None:
    from sklearn.metrics import silhouette_score

    profile = planted()
    columns = np.stack([profile[name].ravel() for name in ("normalized_entropy", "induction_score")], axis=1)
    standard = (columns - columns.mean(0)) / columns.std(0)
    found = cluster_heads(profile)
    assert found.silhouette == pytest.approx(silhouette_score(standard, found.assignment), abs=1e-5)


def test_the_centre_is_the_mean_in_standard_deviations() -> None:
    profile = planted()
    found = cluster_heads(profile)
    entropy = profile["normalized_entropy"].ravel()
    expected = (entropy[list(GROUPS["sharp"])].mean() - entropy.mean()) / entropy.std()
    assert found.centres[2][found.statistics.index("normalized_entropy")] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_demo_model_s_clusters_do_not_depend_on_the_seed(demo_profile: HeadProfile, seed: int) -> None:
    assert cluster_heads(demo_profile, seed=seed).assignment == cluster_heads(demo_profile).assignment


def test_the_same_seed_gives_the_same_record(demo_profile: HeadProfile) -> None:
    assert cluster_heads(demo_profile, seed=3) == cluster_heads(demo_profile, seed=3)


def test_the_demo_model_s_induction_heads_are_one_cluster(demo_profile: HeadProfile) -> None:
    head_map = classify_heads(demo_profile)
    induction = [verdict.head for verdict in head_map if Trait.INDUCTION in verdict.traits]
    found = cluster_heads(demo_profile, head_map)
    assert found.heads(found[induction[0]]) == induction


def test_statistics_that_were_not_measured_are_left_out_and_named() -> None:
    gone = {name: np.full((1, 15), np.nan) for name in ("induction_score", "repeat_deviation", "previous_token_score")}
    found = cluster_heads(changed(planted(), **gone))
    assert found.statistics == ("normalized_entropy",)
    assert ("induction_score", "not measured") in found.left_out
    assert ("repeat_deviation", "not measured") in found.left_out


def test_statistics_that_are_the_same_for_all_heads_are_left_out_and_named() -> None:
    found = cluster_heads(planted())
    assert found.statistics == ("normalized_entropy", "induction_score")
    assert set(found.statistics) | {name for name, _ in found.left_out} == set(LABELS)
    assert {why for _, why in found.left_out} == {"constant"}


def test_float_noise_is_not_scaled_up_to_a_statistic() -> None:
    noisy = np.linspace(0.5, 0.5 + 1e-7, 15)[None]
    assert "sink_attention_ratio" not in cluster_heads(changed(planted(), sink_attention_ratio=noisy)).statistics


def test_what_says_the_same_in_another_dress_is_not_a_second_witness() -> None:
    twice = changed(planted(), uniform_score=noise(15)["normalized_entropy"], max_attention=noise(15)["output_spread"])
    assert cluster_heads(twice) == cluster_heads(planted())


def test_sizes_are_compared_by_their_ratio() -> None:
    profile = noise()
    ten_times = changed(profile, output_spread=10 * profile["output_spread"])
    assert cluster_heads(ten_times).assignment == cluster_heads(profile).assignment


def test_outputs_that_are_all_next_to_nothing_do_not_differ() -> None:
    tiny = np.geomspace(1e-9, 1e-4, 15)[None]
    assert ("output_spread", "constant") in cluster_heads(changed(planted(), output_spread=tiny)).left_out


def test_attention_at_near_offsets_tells_heads_apart() -> None:
    profile = planted()
    mass = np.zeros_like(profile.offset_mass)
    mass[0, ::2, 1] = mass[0, 1::2, 5] = 1
    found = cluster_heads(replace(profile, offset_mass=mass), n_clusters=2)
    assert found.assignment == tuple(head % 2 for head in range(15))
    assert "attention on the own token" not in found.statistics
    assert "high attention one token back" in found.descriptions[0]


def test_agreement_is_one_where_the_clusters_are_the_roles() -> None:
    found = cluster_heads(*with_roles())
    assert found.adjusted_rand == 1
    assert found.contingency == ((4, 0, 0), (0, 4, 0), (0, 0, 4))


def test_agreement_is_that_of_scikit_learn(demo_profile: HeadProfile) -> None:
    from sklearn.metrics import adjusted_rand_score

    head_map = classify_heads(demo_profile)
    found = cluster_heads(demo_profile, head_map)
    assert found.adjusted_rand == adjusted_rand_score([str(each.role) for each in head_map], found.assignment)


def test_the_table_counts_every_head_of_every_role(demo_profile: HeadProfile) -> None:
    head_map = classify_heads(demo_profile)
    found = cluster_heads(demo_profile, head_map)
    assert found.contingency is not None
    table = np.array(found.contingency)
    assert table.sum(1).tolist() == [head_map.counts()[role] for role in HeadRole]
    assert tuple(table.sum(0)) == found.sizes


def test_clusters_do_not_depend_on_the_roles() -> None:
    profile, head_map = with_roles()
    alone = cluster_heads(profile)
    assert replace(cluster_heads(profile, head_map), adjusted_rand=None, contingency=None) == alone
    assert "rules" not in alone.sentence


def test_descriptions_name_what_was_planted() -> None:
    first, second, third = cluster_heads(planted()).descriptions
    assert first == "high induction score"
    assert second.startswith("high normalised entropy")
    assert third.startswith("low normalised entropy")


def test_clear_groups_are_called_strong_with_their_silhouette() -> None:
    found = cluster_heads(*with_roles())
    assert found.silhouette > 0.9
    assert "best of 2–" in found.sentence
    assert "strong structure; agreement with the rules: adjusted Rand 1.00" in found.sentence


def test_clusters_of_noise_are_called_no_substantial_structure() -> None:
    found = cluster_heads(noise())
    assert found.silhouette < 0.25
    assert found.sentence.endswith("no substantial structure")


def test_random_weights_are_good_for_timing_and_tests_only() -> None:
    profile = planted()
    found = cluster_heads(replace(profile, about=replace(profile.about, model="random:pythia-70m")))
    assert found.sentence.endswith("random weights: these numbers are good for timing and tests only")


def test_a_single_statistic_is_drawn_along_one_axis() -> None:
    found = cluster_heads(changed(planted(), induction_score=np.zeros((1, 15))))
    assert found.explained == pytest.approx((1, 0))
    assert {y for _, y in found.coordinates} == {0}


def test_too_few_heads_are_refused() -> None:
    few = profile_of(*(MadeUp(numbers={"normalized_entropy": share}) for share in (0.1, 0.5, 0.9)))
    with pytest.raises(HeadspecError, match=r"3 heads of made-up are too few to cluster: probe 4 or more"):
        cluster_heads(few)


@pytest.mark.parametrize("number", [-1, 0, 1, 15])
def test_an_impossible_number_of_clusters_is_refused(number: int) -> None:
    with pytest.raises(HeadspecError, match=f"n_clusters={number}: made-up has 15 heads.*give 2 to 14"):
        cluster_heads(planted(), n_clusters=number)


def test_fewer_than_two_clusters_at_most_are_refused() -> None:
    with pytest.raises(HeadspecError, match=r"most_clusters=1: .*give 2 to 14"):
        cluster_heads(planted(), most_clusters=1)


def test_heads_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(HeadspecError, match=r"all heads of made-up have the same statistics.*Probe another"):
        cluster_heads(profile_of(*[MadeUp()] * 8))


def test_the_map_of_another_model_is_refused() -> None:
    profile, head_map = with_roles()
    other = replace(head_map, about=replace(head_map.about, model="pythia-70m"))
    with pytest.raises(RecordError, match=r"made for pythia-70m .*not for made-up"):
        cluster_heads(profile, other)


def test_the_map_of_other_layers_is_refused() -> None:
    profile, head_map = with_roles()
    about = replace(head_map.about, layers=(1,))
    verdicts = tuple(replace(each, head=replace(each.head, layer=1)) for each in head_map)
    with pytest.raises(HeadspecError, match=r"head map has layers \(1,\), the profile \(0,\)"):
        cluster_heads(profile, replace(head_map, about=about, verdicts=verdicts))


@pytest.mark.parametrize("compared", [True, False])
def test_saved_clusters_load_as_they_were(demo_profile: HeadProfile, compared: bool, tmp_path: Path) -> None:
    found = cluster_heads(demo_profile, classify_heads(demo_profile) if compared else None)
    assert HeadClusters.load(str(found.save(tmp_path / "clusters.json"))) == found


def test_the_saved_file_is_json_as_the_standard_has_it_and_tells_readers(saved: Path) -> None:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads(saved.read_text(encoding="utf-8"), parse_constant=refuse)
    assert values["schema"] == "headspec.HeadClusters/1"
    assert values["sentence"].startswith("3 clusters")
    assert values["assignment"]["L0H1"] == 1


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no clusters at .*absent\.json"):
        HeadClusters.load(tmp_path / "absent.json")


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(saved: Path, kept: float) -> None:
    text = saved.read_text(encoding="utf-8")
    saved.write_text(text[: int(kept * len(text))], encoding="utf-8")
    with pytest.raises(RecordError, match=r"clusters\.json is damaged"):
        HeadClusters.load(saved)


@pytest.mark.parametrize("content", [b"\x00\xff\xfe", b"[]", b"3", b"null"], ids=repr)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clusters.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"clusters\.json is damaged"):
        HeadClusters.load(tmp_path / "clusters.json")


@pytest.mark.parametrize("schema", ["headspec.HeadClusters/9", "headspec.HeadMap/1"])
def test_a_record_of_another_kind_or_version_is_refused_by_its_name(saved: Path, schema: str) -> None:
    edited(saved, lambda values: values.update(schema=schema))
    with pytest.raises(RecordError, match=f"not a headspec.HeadClusters/1 but {schema}"):
        HeadClusters.load(saved)


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values.pop("about"),
        lambda values: values["assignment"].pop("L0H3"),
        lambda values: values["assignment"].update(L0H3=7),
        lambda values: values["coordinates"].pop(),
        lambda values: values["centres"].pop(),
        lambda values: values["centres"][0].pop(),
        lambda values: values["centres"][0].__setitem__(0, "far"),
        lambda values: values["centres"][0].__setitem__(0, None),
        lambda values: values.update(statistics=["colour"] * 2),
        lambda values: values.update(silhouettes=[]),
        lambda values: values["contingency"].pop(),
        lambda values: values.pop("seed"),
    ],
    ids=["no about", "no head", "no such cluster", "no point", "no centre", "ragged", "no number", "no value",
         "unknown statistic", "no silhouettes", "no role", "no seed"],
)  # fmt: skip
def test_a_record_with_damaged_entries_is_refused(saved: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(RecordError, match=r"clusters\.json"):
        HeadClusters.load(edited(saved, edit))


def test_records_are_read_without_torch_and_without_scikit_learn() -> None:
    code = "import sys, headspec.classify.clusters; sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clustering_needs_no_torch(planted_file: Path) -> None:
    code = (
        "import sys; from headspec.probe.profile import HeadProfile; "
        "from headspec.classify.clustering import cluster_heads; "
        f"cluster_heads(HeadProfile.load({str(planted_file)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def planted_file(tmp_path: Path) -> Path:
    return planted().save(tmp_path / "profile.safetensors")
