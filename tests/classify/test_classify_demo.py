"""The packaged demo model, whose heads are known from ablations, gets the roles that these support."""

import pytest

from headspec.classify.head_map import HeadMap, Trait
from headspec.classify.rules import classify_heads
from headspec.heads import HeadRole
from headspec.probe.profile import HeadProfile

INDUCTION = ("L2H1", "L2H2", "L2H3", "L2H4", "L2H6", "L3H4", "L3H6")
DIFFUSE_BUT_ALIVE = ("L0H4", "L2H0")
PREVIOUS_TOKEN = ("L1H4", "L1H7")
SHORT_SIGHTED = ("L1H4", "L1H7", "L1H5", "L1H2")


@pytest.fixture(scope="module", params=["probe", "select"])
def head_map(request: pytest.FixtureRequest, demo_profiles: dict[str, HeadProfile]) -> HeadMap:
    return classify_heads(demo_profiles[request.param])


@pytest.mark.parametrize("head", [*INDUCTION, *DIFFUSE_BUT_ALIVE])
def test_a_head_that_needs_the_context_is_neither_dead_nor_positional(head_map: HeadMap, head: str) -> None:
    assert head_map[head].role == HeadRole.GATHERING


@pytest.mark.parametrize("head", SHORT_SIGHTED)
def test_a_head_that_looks_at_its_neighbours_is_positional_with_a_small_window(head_map: HeadMap, head: str) -> None:
    verdict = head_map[head]
    assert verdict.role == HeadRole.POSITIONAL
    assert verdict.window is not None
    assert verdict.window <= 4


@pytest.mark.parametrize(("trait", "heads"), [(Trait.PREVIOUS_TOKEN, PREVIOUS_TOKEN), (Trait.INDUCTION, INDUCTION)])
def test_trait_belongs_to_exactly(head_map: HeadMap, trait: Trait, heads: tuple[str, ...]) -> None:
    assert tuple(str(verdict.head) for verdict in head_map if trait in verdict.traits) == heads


def test_all_three_roles_occur(head_map: HeadMap) -> None:
    assert set(head_map.counts()) == set(HeadRole)


def test_roles_agree_between_two_texts(demo_profiles: dict[str, HeadProfile]) -> None:
    one, other = (classify_heads(profile) for profile in demo_profiles.values())
    assert one.agreement(other) >= 0.9


def test_the_naive_rules_take_a_head_that_averages_broadly_for_dead(demo_profiles: dict[str, HeadProfile]) -> None:
    for profile in demo_profiles.values():
        assert classify_heads(profile, rules="naive")["L2H0"].role == HeadRole.DEAD


def test_the_head_that_averages_broadly_wakes_on_repeats(demo_profile: HeadProfile) -> None:
    assert demo_profile["repeat_deviation"][2, 0] > 0.17


def test_a_reason_gives_the_number_that_protects_an_induction_head(head_map: HeadMap) -> None:
    for head in INDUCTION:
        verdict = head_map[head]
        score = dict(verdict.evidence)["induction_score"]
        assert "induction" in verdict.reason, head
        assert f"{score:.2f}" in verdict.reason, head
