"""How a head is written and read."""

import pytest

from headspec.errors import HeadspecError
from headspec.heads import HeadId, HeadRole


def test_a_head_is_written_with_its_layer_first() -> None:
    assert str(HeadId(3, 7)) == "L3H7"


@pytest.mark.parametrize("name", ["L3H7", "l3h7", "3.7", " L3H7\n", HeadId(3, 7)])
def test_a_head_is_read_from_each_of_its_spellings(name: str | HeadId) -> None:
    assert HeadId.parse(name) == HeadId(layer=3, head=7)


def test_layers_and_heads_of_two_digits_are_read_whole() -> None:
    assert HeadId.parse("L31H12") == HeadId(layer=31, head=12)


@pytest.mark.parametrize("head", [HeadId(0, 0), HeadId(12, 345)])
def test_what_was_written_reads_back(head: HeadId) -> None:
    assert HeadId.parse(str(head)) == head


@pytest.mark.parametrize("name", ["", "L3", "H7", "37", "H7L3", "L-1H0", "3,7", "L3H7x", "L3 H7", "L3.5H7"])
def test_what_is_no_head_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(HeadspecError, match=r"is not a head: write it like L3H7 \(layer 3, head 7"):
        HeadId.parse(name)


def test_heads_sort_by_layer_and_then_by_head() -> None:
    heads = [HeadId(10, 0), HeadId(2, 11), HeadId(2, 9)]
    assert sorted(heads) == [HeadId(2, 9), HeadId(2, 11), HeadId(10, 0)]


def test_equal_heads_are_one_key_of_a_dictionary() -> None:
    assert {HeadId(1, 2): "a"}[HeadId.parse("L1H2")] == "a"


def test_there_are_three_roles_and_each_is_its_own_name_in_records() -> None:
    assert [str(role) for role in HeadRole] == ["positional", "gathering", "dead"]
