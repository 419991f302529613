"""What a search has shown about heads, in the map: who is confirmed, rejected, protected, and who may die live."""

import pytest
from made_up import CUT, DEAD, MadeUp, profile_of

from headspec.classify.confirm import confirmed, does_induction
from headspec.classify.head_map import HeadMap, HeadStatus
from headspec.classify.live_facts import head_facts
from headspec.classify.rules import classify_heads
from headspec.heads import HeadId, HeadRole

FIRST, SECOND, ALIVE, INDUCTION, QUIET_INDUCTION = (HeadId(0, number) for number in range(5))


@pytest.fixture
def head_map() -> HeadMap:
    """Two candidates, a head that is alive, and two that do induction; the last writes as little as the dead."""
    does = {"induction_score": 0.5}
    heads = (MadeUp(numbers=DEAD), MadeUp(numbers=DEAD), MadeUp(), MadeUp(numbers=does), MadeUp(numbers=DEAD | does))
    return classify_heads(profile_of(*heads), CUT)


def statuses(head_map: HeadMap) -> list[HeadStatus | None]:
    return [verdict.status for verdict in head_map]


def test_before_a_search_the_dead_are_candidates(head_map: HeadMap) -> None:
    assert statuses(head_map) == [HeadStatus.CANDIDATE, HeadStatus.CANDIDATE, None, None, None]


def test_candidates_that_a_search_left_in_place_are_rejected(head_map: HeadMap) -> None:
    found = statuses(confirmed(head_map, [FIRST]))
    assert found == [HeadStatus.CONFIRMED, HeadStatus.REJECTED, None, HeadStatus.PROTECTED, HeadStatus.PROTECTED]


def test_a_search_that_removes_nothing_rejects_every_candidate(head_map: HeadMap) -> None:
    assert statuses(confirmed(head_map, []))[:3] == [HeadStatus.REJECTED, HeadStatus.REJECTED, None]


def test_a_search_that_settles_nothing_leaves_candidates(head_map: HeadMap) -> None:
    found = statuses(confirmed(head_map, [], settles=False))
    assert found == [HeadStatus.CANDIDATE, HeadStatus.CANDIDATE, None, HeadStatus.PROTECTED, HeadStatus.PROTECTED]


def test_induction_heads_are_protected_only_by_a_search_that_left_them_alone(head_map: HeadMap) -> None:
    assert statuses(confirmed(head_map, [], protect_induction=False))[3:] == [None, None]
    again = confirmed(confirmed(head_map, []), [], protect_induction=False)
    assert statuses(again)[3:] == [None, None]


def test_a_rejected_head_keeps_its_role_and_numbers(head_map: HeadMap) -> None:
    before, after = head_map[SECOND], confirmed(head_map, [FIRST])[SECOND]
    assert (after.role, after.margin, after.evidence) == (HeadRole.DEAD, before.margin, before.evidence)


def test_any_removed_head_is_confirmed_dead(head_map: HeadMap) -> None:
    found = confirmed(head_map, [ALIVE])[ALIVE]
    assert (found.role, found.status, found.window) == (HeadRole.DEAD, HeadStatus.CONFIRMED, None)


def test_a_later_search_may_remove_who_was_rejected(head_map: HeadMap) -> None:
    again = confirmed(confirmed(head_map, [FIRST]), [FIRST, SECOND])
    assert statuses(again)[:2] == [HeadStatus.CONFIRMED, HeadStatus.CONFIRMED]


def test_induction_is_told_by_the_cut_off(head_map: HeadMap) -> None:
    assert [does_induction(verdict, head_map) for verdict in head_map] == [False, False, False, True, True]


def test_rejection_survives_a_file(head_map: HeadMap, tmp_path: object) -> None:
    found = confirmed(head_map, [FIRST])
    assert list(HeadMap.load(found.save(tmp_path / "map.json"))) == list(found)  # type: ignore[operator]


def test_live_neither_induction_heads_nor_rejected_ones_may_die(head_map: HeadMap) -> None:
    assert head_facts(head_map)["protected"] == [[INDUCTION.head, QUIET_INDUCTION.head]]
    after = head_facts(confirmed(head_map, [FIRST]))["protected"]
    assert after == [[SECOND.head, INDUCTION.head, QUIET_INDUCTION.head]]


def test_live_facts_are_rounded_and_say_what_is_not_known() -> None:
    numbers = {"induction_score": 0.123456, "repeat_deviation": float("nan")}
    facts = head_facts(classify_heads(profile_of(MadeUp(), MadeUp(numbers=numbers)), CUT))
    assert facts["induction"] == [[0.0, 0.1235]]
    assert facts["repeat_deviation"] == [[0.75, None]]
