"""What the layers are told of a step: which columns are real, and where the sinks are."""

import torch
from runtime_makers import a_step

REAL = torch.tensor([[0, 0, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]).bool()


def test_without_padding_the_sinks_are_the_first_columns() -> None:
    assert a_step(0, 6).sink_columns(3).tolist() == [[0, 1, 2]]


def test_sinks_that_are_still_to_come_lie_beyond_the_last_column() -> None:
    assert a_step(0, 2).sink_columns(4).tolist() == [[0, 1, 2, 2]]
    assert a_step(2, 4, REAL).sink_columns(2).tolist() == [[2, 4], [0, 1], [5, 6]]


def test_sinks_are_counted_in_real_tokens() -> None:
    assert a_step(0, 6, REAL).sink_columns(2).tolist() == [[2, 4], [0, 1], [5, 6]]


def test_only_the_first_real_tokens_are_sinks() -> None:
    columns = torch.arange(6)
    expected = [[0, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert a_step(0, 6, REAL).is_sink(columns, 2).int().tolist() == expected


def test_without_sinks_nothing_is_a_sink() -> None:
    assert not a_step(0, 6, REAL).is_sink(torch.arange(6), 0).any()


def test_columns_outside_the_text_are_not_real() -> None:
    assert a_step(2, 4).is_real(torch.tensor([-1, 0, 5, 6])).tolist() == [[False, True, True, False]]
    expected = [[False, False, True, False], [False, True, True, False], [False, False, True, False]]
    assert a_step(2, 4, REAL).is_real(torch.tensor([-1, 0, 5, 6])).tolist() == expected


def test_sinks_are_open_until_every_row_has_them() -> None:
    assert [a_step(n, 1).sinks_open(2) for n in range(4)] == [True, True, False, False]
    assert a_step(5, 1, REAL).sinks_open(1)
    assert not a_step(5, 1, REAL[:2]).sinks_open(2)
    assert not a_step(0, 6).sinks_open(0)


def test_what_layers_share_is_made_once() -> None:
    step, made = a_step(0, 1), []
    for _ in range(3):
        step.once(("name",), lambda: made.append(1))
    step.once(("other",), lambda: made.append(2))
    assert made == [1, 2]
