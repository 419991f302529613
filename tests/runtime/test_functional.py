"""A pure step reads what the model with its cache reads, if its caller puts the new keys and values in their places."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from compression_reference import compressed
from hypothesis import given, settings
from hypothesis import strategies as st
from live_makers import live
from runtime_makers import KINDS, chunkings, in_chunks, left_padded, naive, plan_of, pruned, random_ids, same, wishes
from torch import Tensor

from headspec.export.program import step_program
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.functional import GraphStep, Past, PastStore, PureStep, layout_of
from headspec.runtime.tricks import Tricks

pytestmark = pytest.mark.usefixtures("unchecked")

EXACT = 1e-5
TOKENS = random_ids(2, 70)
CHUNKINGS = ([70], [1] * 70, [30, 1, 1, 38], [1, 2, 3, 64])


class Caller:
    """Whoever calls a step: has the buffers, and puts what is new into them column by column."""

    def __init__(
        self, run: Callable[..., Any], layout: list[list[Past]], slots: int, starts: Sequence[int], d_head: int = 8,
        ring: int = 0, filled_with: float = 0.0,
    ):  # fmt: skip
        self.run, self.n_past, self.starts = run, 0, torch.tensor(starts)
        self.groups = [group for layer in layout for group in layer]
        self.buffers = [
            torch.full(
                (2, len(starts), group.n_heads, group.slots + ring if group.windows else slots, d_head), filled_with
            )
            for group in self.groups
        ]

    @torch.no_grad()
    def read(self, tokens: Tensor, apart: bool = False) -> Tensor:
        """Logits of the last of some tokens, `[batch, vocabulary]`."""
        columns = torch.arange(self.n_past, self.n_past + tokens.shape[1]).expand(len(tokens), -1)
        past = [part for buffer in self.buffers for part in buffer] if apart else self.buffers
        logits, *new = self.run(tokens, columns, torch.tensor(self.n_past), self.starts, *past)
        for group, buffer, kv in zip(self.groups, self.buffers, new, strict=True):
            keep(buffer, kv, group, self.n_past, self.starts.tolist())
        self.n_past += tokens.shape[1]
        return logits[:, -1]

    def read_all(self, tokens: Tensor, chunks: list[int], apart: bool = False) -> Tensor:
        """Logits of the last token of every chunk, `[batch, chunk, vocabulary]`."""
        return torch.stack([self.read(part, apart) for part in tokens.split(chunks, dim=1)], dim=1)


def keep(buffer: Tensor, kv: Tensor, group: Past, n_past: int, starts: list[int]) -> None:
    """Column by column, as `Past` says."""
    n_ring = buffer.shape[3] - group.sinks
    for number in range(kv.shape[3]):
        column = n_past + number
        buffer[:, :, :, group.sinks + column % n_ring if group.windows else column] = kv[:, :, :, number]
        for row, start in enumerate(starts):
            if 0 <= column - start < group.sinks:
                buffer[:, row, :, column - start] = kv[:, row, :, number]


def caller(
    model: Any, together: bool = False, slots: int = 70, starts: Sequence[int] = (0, 0), **options: Any
) -> Caller:
    layout = layout_of(model.config, together)
    return Caller(PureStep(model, layout), layout, slots, starts, **options)


def ends(logits: Tensor, chunks: list[int]) -> Tensor:
    """Of the logits of all tokens, those after each chunk."""
    return logits[:, torch.tensor(chunks).cumsum(0) - 1]


# Layouts, by hand.


def test_a_layout_has_the_groups_of_every_layer() -> None:
    assert layout_of(pruned().config) == [
        [Past(1), Past(1, (3,), 2), Past(1, (8,), 4)],
        [Past(1, (1,), 0), Past(2, (5, 5), 8), Past(1, (40,), 1)],
        [],
        [Past(4)],
    ]


def test_neighbouring_windows_with_equal_sinks_are_taken_together() -> None:
    wish = {"L0H0": "window:3+2", "L0H2": "window:8+2", "L0H3": "window:8+2", "L1H0": "zero"}
    assert layout_of(pruned(plan_of(wish)).config, together=True)[:2] == [[Past(1), Past(3, (3, 8, 8), 2)], [Past(3)]]


def test_windows_with_other_sinks_stay_apart() -> None:
    wish = {"L0H0": "window:3+2", "L0H1": "window:5+1", "L0H2": "window:8+2", "L0H3": "window:8+2"}
    layout = layout_of(pruned(plan_of(wish)).config, together=True)
    assert layout[0] == [Past(1, (3,), 2), Past(1, (5,), 1), Past(2, (8, 8), 2)]


def test_slots_are_sinks_and_the_widest_window() -> None:
    assert Past(3, (3, 8, 5), 2).slots == 10
    assert Past(3).slots == 0


def test_heads_that_choose_their_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layer 0 has heads whose keys are compressed \(snapkv\), which no graph"):
        layout_of(compressed("compress:snapkv:0.5").config)


# Attention of a group, by hand: queries of zeros see the mean of the values.


def attended(layout: Past, past: list[float], new: list[float], n_past: int, start: int = 0, last: bool = False) -> Any:
    """What each query sees where values are these numbers."""
    store = PastStore(layout, torch.tensor(past, dtype=torch.float32).expand(2, 1, 1, -1)[..., None], last)
    rotation = (torch.ones(1, len(new), 2), torch.zeros(1, len(new), 2))
    tokens = torch.zeros(1, len(new), dtype=torch.long)
    step = GraphStep(torch.tensor(n_past), tokens, torch.tensor([start]), rotation, Tricks())
    query = torch.zeros(1, 1, 1 if last else len(new), 1)
    return (
        store.attend(query, torch.tensor(new, dtype=torch.float32).expand(2, 1, 1, -1)[..., None], step)
        .flatten()
        .tolist()
    )


@pytest.mark.parametrize(("start", "expected"), [(0, [1, 1.5]), (1, [1.5, 2]), (2, [2, 2.5]), (3, [2, 3])])
def test_every_real_column_up_to_the_query_is_seen(start: int, expected: list[float]) -> None:
    assert attended(Past(1), [0, 1, 99, 99], [2, 3], 2, start) == expected


def test_a_window_sees_the_sink_and_the_latest_columns() -> None:
    found = attended(Past(1, (2,), 1), [0, 4, 3], [5, 6], 5)  # column c in slot c modulo 2, behind the sink
    assert found == pytest.approx([(0 + 4 + 5) / 3, (0 + 5 + 6) / 3])


def test_a_sink_in_the_ring_is_seen_once() -> None:
    assert attended(Past(1, (4,), 1), [0, 0, 1, 99, 99], [2], 2) == [1]


def test_the_sink_is_the_first_column_that_is_not_padding() -> None:
    assert attended(Past(1, (1,), 1), [2, 4], [5], 5, start=2) == [3.5]


def test_a_sink_among_the_new_columns_stays_in_sight() -> None:
    assert attended(Past(1, (1,), 1), [99, 99], [0, 1, 2, 3], 0) == [0, 0.5, 1, 1.5]


def test_the_last_layer_needs_the_last_query_only() -> None:
    assert attended(Past(1), [0, 1, 99], [2, 3], 2, last=True) == [1.5]
    assert attended(Past(1, (2,), 0), [4, 3], [5, 6], 5, last=True) == [5.5]


@settings(max_examples=30, deadline=None)
@given(
    n_past=st.integers(0, 20), n_new=st.integers(1, 12), window=st.integers(0, 12), sinks=st.integers(0, 4),
    spare=st.integers(0, 3), starts=st.lists(st.integers(0, 8), min_size=2, max_size=2),
)  # fmt: skip
def test_any_group_attends_as_defined(
    n_past: int, n_new: int, window: int, sinks: int, spare: int, starts: list[int]
) -> None:
    n_total, random = n_past + n_new, torch.Generator().manual_seed(n_past)
    starts = [min(start, n_total - 1) for start in starts]
    query, kv = torch.randn(2, 3, n_new, 4, generator=random), torch.randn(2, 2, 3, n_total, 4, generator=random)
    layout = Past(3, (window,) * 3, sinks) if window else Past(3)
    past = torch.full((2, 2, 3, layout.slots + spare if window else 21, 4), 7.0)
    keep(past, kv[:, :, :, :n_past], layout, 0, starts)
    rotation, tokens = (torch.ones(1, n_new, 2), torch.zeros(1, n_new, 2)), torch.zeros(2, n_new, dtype=torch.long)
    step = GraphStep(torch.tensor(n_past), tokens, torch.tensor(starts), rotation, Tricks())
    found = PastStore(layout, past, False).attend(query, kv[:, :, :, n_past:], step)
    real = torch.arange(n_total) >= torch.tensor(starts)[:, None]
    same(found, naive(query, kv, HeadGroup((0, 1, 2), window, sinks if window else 0), real).float(), EXACT)


# The model.


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("chunks", CHUNKINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_pieces_give_the_logits_of_the_model_with_its_cache(kind: str, chunks: list[int], together: bool) -> None:
    model = pruned(kind=kind)
    same(caller(model, together).read_all(TOKENS, chunks), ends(in_chunks(model, TOKENS, chunks), chunks), EXACT)


@settings(max_examples=8, deadline=None)
@given(data=st.data(), wish=wishes("parallel"), together=st.booleans())
def test_any_plan_gives_the_logits_of_the_model_with_its_cache(
    data: st.DataObject, wish: dict[str, str], together: bool
) -> None:
    model, chunks = pruned(plan_of(wish)), data.draw(chunkings(70))
    same(caller(model, together).read_all(TOKENS, chunks), ends(in_chunks(model, TOKENS, chunks), chunks), EXACT)


@pytest.mark.parametrize("chunks", [[50], [1] * 50, [3, 1, 40, 6], [30, 20]])
def test_padding_in_front_gives_the_logits_of_each_row_alone(chunks: list[int]) -> None:
    (tokens, _), model = left_padded(random_ids(3, 50), [50, 3, 17]), pruned()
    found = caller(model, slots=50, starts=(0, 47, 33)).read_all(tokens, chunks)[:, -1]
    for row, length in enumerate([50, 3, 17]):
        same(found[row], in_chunks(model, tokens[row : row + 1, 50 - length :], [length])[0, -1], EXACT)


def test_more_slots_than_are_needed_change_nothing() -> None:
    model = pruned()
    found = caller(model, slots=90, ring=13).read_all(TOKENS, [20, 1, 49])
    same(found, caller(model).read_all(TOKENS, [20, 1, 49]), EXACT)


@pytest.mark.parametrize("garbage", [-1e3, 1e6, 1e30])
def test_what_lies_in_slots_that_hold_no_column_does_not_matter(garbage: float) -> None:
    tokens, _ = left_padded(TOKENS, [70, 40])
    found = caller(pruned(), slots=90, starts=(0, 30), ring=13, filled_with=garbage).read_all(tokens, [1, 2, 1, 66])
    expected = caller(pruned(), slots=90, starts=(0, 30), ring=13).read_all(tokens, [1, 2, 1, 66])
    same(found[0], expected[0], EXACT)
    same(found[1, -1], expected[1, -1], EXACT)  # before, all of the row was padding


def test_a_step_leaves_the_past_as_it_was() -> None:
    one = caller(pruned(), slots=9)
    one.read(TOKENS[:, :5])
    before = [buffer.clone() for buffer in one.buffers]
    with torch.no_grad():
        one.run(TOKENS[:, 5:7], torch.tensor([[5, 6]]), torch.tensor(5), one.starts, *one.buffers)
    assert all(torch.equal(*both) for both in zip(before, one.buffers, strict=True))


def test_a_step_gives_new_keys_and_values_of_every_group() -> None:
    one = caller(pruned(), slots=9)
    with torch.no_grad():
        logits, *new = one.run(TOKENS[:, :5], torch.arange(5)[None], torch.tensor(0), one.starts, *one.buffers)
    assert logits.shape == (2, 1, 272)
    assert [tuple(kv.shape) for kv in new] == [(2, 2, group.n_heads, 5, 8) for group in one.groups]


# As a program of torch.export.

PLAN = {"L0H0": "window:5+1", "L0H1": "window:3+1", "L0H2": "zero", "L1H3": "window:60+0"}
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]


@pytest.fixture(scope="module")
def program(unchecked: None) -> tuple[Any, list[list[Past]]]:
    made, layout = step_program(live(plan=PLAN))
    return made.module(), layout


@pytest.mark.parametrize("slots", [40, 55])
@pytest.mark.parametrize(("n_rows", "chunks"), [(1, [1] * 40), (2, [3, 37]), (3, [20, *[1] * 20]), (5, [7, 1, 32])])
def test_a_program_serves_all_sizes(program: Any, n_rows: int, chunks: list[int], slots: int) -> None:
    run, layout = program
    tokens = random_ids(n_rows, 40)
    found = Caller(run, layout, slots, [0] * n_rows, 16).read_all(tokens, chunks, apart=True)
    same(found, ends(in_chunks(live(plan=PLAN), tokens, chunks), chunks), EXACT)


def test_a_program_serves_padding_in_front(program: Any) -> None:
    run, layout = program
    tokens, _ = left_padded(random_ids(2, 40), [40, 9])
    found = Caller(run, layout, 40, [0, 31], 16).read_all(tokens, [33, *[1] * 7], apart=True)
    expected = in_chunks(live(plan=PLAN), tokens[1:, 31:], [9])
    same(found[1, 1:], expected[0, 2:], EXACT)


def test_a_model_in_training_stays_in_training_when_it_is_exported() -> None:
    model = live(plan=dict.fromkeys(HEADS[1:], "zero")).train()
    step_program(model)
    assert all(module.training for module in model.modules())


def test_a_model_without_heads_is_a_program_too() -> None:
    model = live(plan=dict.fromkeys(HEADS, "zero"))
    made, layout = step_program(model)
    found = Caller(made.module(), layout, 0, [0, 0], 16).read_all(TOKENS, [3, 1, 66], apart=True)
    same(found, ends(in_chunks(model, TOKENS, [70]), [3, 1, 66]), EXACT)


def test_heads_that_choose_their_keys_are_not_exported() -> None:
    with pytest.raises(ValueError, match="which no graph can do"):
        step_program(compressed("compress:snapkv:0.5"))
