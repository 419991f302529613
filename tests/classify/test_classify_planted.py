"""Heads whose function is known, because it was written into their weights, get the role they deserve."""

import numpy as np
import pytest
from planted import CONTEXT, D_HEAD, HEADS, VOCABULARY, planted_model, planted_text

from headspec.classify.evidence import judged_windows
from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict, Trait
from headspec.classify.rules import classify_heads
from headspec.heads import HeadRole
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="module")
def verdicts(planted_profile: HeadProfile) -> dict[str, HeadVerdict]:
    return dict(zip(HEADS, classify_heads(planted_profile), strict=True))


def column(name: str) -> tuple[int, int]:
    return 0, HEADS.index(name)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("previous-token", HeadRole.POSITIONAL),
        ("constant", HeadRole.DEAD),
        ("silent", HeadRole.DEAD),
        ("uniform", HeadRole.GATHERING),
        ("sink", HeadRole.GATHERING),
        ("content", HeadRole.GATHERING),
    ],
)
def test_role(verdicts: dict[str, HeadVerdict], name: str, role: HeadRole) -> None:
    assert verdicts[name].role == role


def test_the_previous_token_head_needs_a_window_of_a_few_keys(verdicts: dict[str, HeadVerdict]) -> None:
    window = verdicts["previous-token"].window
    assert window is not None
    assert window <= 4


@pytest.mark.parametrize(
    ("trait", "names"),
    [
        (Trait.PREVIOUS_TOKEN, {"previous-token"}),
        (Trait.FIXED_OFFSET, {"previous-token"}),
        (Trait.INDUCTION, set()),
        (Trait.SINK_RESTING, {"constant", "sink"}),
        (Trait.NEAR_CONSTANT, {"constant"}),
    ],
)
def test_trait_belongs_to_exactly(verdicts: dict[str, HeadVerdict], trait: Trait, names: set[str]) -> None:
    assert {name for name, verdict in verdicts.items() if trait in verdict.traits} == names


def test_dead_heads_are_candidates_and_the_others_have_no_status(verdicts: dict[str, HeadVerdict]) -> None:
    dead = {name for name, verdict in verdicts.items() if verdict.status is HeadStatus.CANDIDATE}
    assert dead == {"constant", "silent"}


def test_other_weights_of_the_same_plan_get_the_same_roles(planted_profile: HeadProfile) -> None:
    other = probe_heads(planted_model(seed=1), planted_text(seed=1), progress=False)
    assert classify_heads(other).agreement(classify_heads(planted_profile)) == 1


def test_the_previous_token_head_scores_1(planted_profile: HeadProfile) -> None:
    assert planted_profile["previous_token_score"][column("previous-token")] > 0.99
    assert planted_profile.top_offset[column("previous-token")] == 1


def test_the_uniform_head_has_the_entropy_of_uniform_attention(planted_profile: HeadProfile) -> None:
    cell, queries = column("uniform"), np.arange(16, CONTEXT)
    assert planted_profile["attention_entropy"][cell] == pytest.approx(np.log(queries + 1).mean(), abs=1e-5)
    assert planted_profile["normalized_entropy"][cell] == pytest.approx(1, abs=1e-5)
    assert planted_profile["uniform_score"][cell] == pytest.approx(0, abs=1e-5)
    assert planted_profile["max_attention"][cell] == pytest.approx((1 / (queries + 1)).mean(), abs=1e-6)
    assert planted_profile["sink_attention_ratio"][cell] == pytest.approx((4 / (queries + 1)).mean(), abs=1e-6)


def test_a_window_holds_of_uniform_attention_its_share_of_the_keys(planted_profile: HeadProfile) -> None:
    judged = np.arange(128, CONTEXT)
    for each in judged_windows(planted_profile, (3, 16, 64)):
        held = ((each.window + 4) / (judged + 1)).mean()
        assert each.mass[column("uniform")] == pytest.approx(held, abs=1e-5)


def test_the_constant_head_writes_its_value_bias_times_w_o() -> None:
    model = planted_model()
    profile = probe_heads(model, planted_text(), progress=False)
    head = HEADS.index("constant")
    bias = model.blocks[0].attn.b_V.detach().reshape(len(HEADS), D_HEAD)[head]
    np.testing.assert_allclose(profile.mean_z[0, head], bias.numpy(), atol=1e-5)
    norm = float((bias @ model.blocks[0].attn.W_O[head].detach()).norm())
    assert norm > 1
    assert profile["output_norm"][0, head] == pytest.approx(norm, rel=1e-5)


def test_a_constant_output_has_no_spread(planted_profile: HeadProfile) -> None:
    for name in ("output_spread", "repeat_deviation"):
        assert planted_profile[name][column("constant")] < 1e-5, name


def test_a_large_constant_output_has_no_spread_in_any_window() -> None:
    profile = probe_heads(planted_model(constant=1000.0), planted_text(), progress=False)
    assert profile["relative_output_norm"][column("constant")] > 100
    assert profile["output_spread"][column("constant")] < 0.01
    assert profile["output_spread_p95"][column("constant")] < 0.01


def test_the_silent_head_writes_nothing(planted_profile: HeadProfile) -> None:
    for name in ("output_norm", "relative_output_norm", "output_spread", "share_of_layer"):
        assert planted_profile[name][column("silent")] == 0, name


def test_the_sink_head_attends_to_the_sink_and_reads_from_the_others(planted_profile: HeadProfile) -> None:
    cell = column("sink")
    assert planted_profile["first_token_attention_ratio"][cell] > 0.9
    assert planted_profile["value_weighted_sink_share"][cell] < 0.2
    assert planted_profile["output_spread"][cell] > 0.2


def test_near_uniform_attention_is_not_taken_for_death_but_by_the_naive_rules(planted_profile: HeadProfile) -> None:
    naive = classify_heads(planted_profile, rules="naive")
    assert naive[f"L0H{HEADS.index('uniform')}"].role == HeadRole.DEAD


def test_the_naive_rules_miss_the_constant_head(planted_profile: HeadProfile) -> None:
    naive = classify_heads(planted_profile, rules="naive")
    assert naive[f"L0H{HEADS.index('constant')}"].role != HeadRole.DEAD


def test_without_repeats_nothing_is_dead() -> None:
    head_map = classify_heads(probe_heads(planted_model(), planted_text(), n_repeats=0, progress=False))
    assert head_map.heads(HeadRole.DEAD) == []


def test_verdicts_survive_saving(planted_profile: HeadProfile, tmp_path_factory: pytest.TempPathFactory) -> None:
    head_map = classify_heads(planted_profile)
    assert HeadMap.load(head_map.save(tmp_path_factory.mktemp("maps") / "map.json")) == head_map


def test_the_text_has_a_sink_token_in_front_and_nowhere_else() -> None:
    text = planted_text()
    assert (text[:, 0] == 0).all()
    assert text[:, 1:].min() > 0
    assert text.max() < VOCABULARY
