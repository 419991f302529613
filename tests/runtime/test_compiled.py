"""Decoding through a graph gives what the model gives without, and steps aside for what the graph does not serve."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from compression_reference import compressed
from live_makers import ANYTHING, N_PROMPT, QUICK, live
from runtime_makers import GREEDY, KINDS, in_chunks, left_padded, plan_of, pruned, random_ids, same, storages
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.compiled import in_place
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.functional import Past
from headspec.runtime.packing import ONEDNN
from headspec.runtime.stores import GROWTH, FullStore, RingStore

pytestmark = pytest.mark.usefixtures("unchecked")

EXACT = 1e-5
TOKENS = random_ids(3, 70)
PROMPT, NEW = TOKENS[:2, :20], 18
ONE_BY_ONE = [20, *[1] * 50]
PLAN = {"L0H0": "window:5+2", "L0H1": "window:3+0", "L0H2": "zero", "L1H2": "window:60+1", "L1H3": "window:9"}
SMALL = {"L0H0": "window:5+2", "L0H1": "zero", "L0H2": "zero", **{f"L1H{head}": "zero" for head in range(4)}}
"""Two heads in all."""


class Compiled(NamedTuple):
    """A model whose graph serves all sizes, and how often it was called. Shared: leave it as it is."""

    model: Any
    graphs: CompileCounterWithBackend
    calls: list[int]

    def used(self, run: Any) -> int:
        """How many tokens went through the graph."""
        before = len(self.calls)
        run()
        return len(self.calls) - before


def with_graph(model: Any, **options: Any) -> Compiled:
    graphs, calls = CompileCounterWithBackend("eager"), list[int]()
    model.compile_decoding(backend=graphs, **options)
    step = model.compiled.step

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return step(*arguments)

    model.compiled.step = counted
    return Compiled(model, graphs, calls)


@pytest.fixture(scope="module")
def compiled(unchecked: None) -> Compiled:
    return with_graph(live(plan=PLAN), dynamic=True)


def eager() -> Any:
    return live(plan=PLAN)


def generated(model: Any, prompt: Tensor = PROMPT, **options: Any) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return model.generate(prompt, **{"max_new_tokens": NEW, **GREEDY, **options})


def asked(model: Any, cache: Any, tokens: Tensor = TOKENS[:, 20:21], **options: Any) -> Any:
    with torch.no_grad():
        return model(tokens, past_key_values=cache, **options)


def onednn_calls(model: Any, rows: int) -> int:
    """How often one token of so many rows goes through oneDNN."""
    cache = model.make_cache()
    with torch.no_grad():
        model(TOKENS[:rows, :20], past_key_values=cache)
        with torch.profiler.profile() as profile:
            model(TOKENS[:rows, 20:21], past_key_values=cache)
    return sum(event.name == "mkldnn::_linear_pointwise" for event in profile.events())


# Putting new keys into buffers, by hand.


def placed(group: Past, n_slots: int, n_past: int, start: int = 0) -> list[float]:
    """The keys in a buffer of zeros after the one of column `n_past`, which is 7."""
    buffer, kv = torch.zeros(2, 1, 1, n_slots, 1), torch.full((2, 1, 1, 1, 1), 7.0)
    run = in_place(lambda *_: (torch.zeros(1), kv), [[group]])  # type: ignore[arg-type]
    run(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor(n_past), torch.tensor([start]), buffer)
    assert torch.equal(*buffer)
    return buffer[0].flatten().tolist()


def test_a_column_has_the_slot_of_its_number() -> None:
    assert placed(Past(1), 4, 2) == [0, 0, 7, 0]


@pytest.mark.parametrize(("n_past", "expected"), [(4, [0, 0, 7, 0]), (5, [0, 0, 0, 7]), (6, [0, 7, 0, 0])])
def test_a_column_overwrites_the_oldest_of_a_ring(n_past: int, expected: list[float]) -> None:
    assert placed(Past(1, (3,), 1), 4, n_past) == expected


def test_the_first_column_that_is_not_padding_is_a_sink_as_well() -> None:
    assert placed(Past(1, (3,), 2), 5, 4, start=4) == [7, 0, 0, 7, 0]
    assert placed(Past(1, (3,), 2), 5, 4, start=3) == [0, 7, 0, 7, 0]
    assert placed(Past(1, (3,), 2), 5, 4, start=2) == [0, 0, 0, 7, 0]


def test_a_full_store_makes_room_when_there_is_none() -> None:
    store, like = FullStore(HeadGroup((0,)), 4, 1000), torch.ones(2, 1, 1, 1, 1)
    first = store.with_room(like, 0, 4)
    first[:] = 3
    assert store.with_room(first, 3, 4) is first
    assert store.with_room(first, 4, 5).flatten(2)[0, 0].tolist() == [3] * 4 + [0] * (GROWTH - 4)


def test_a_ring_makes_room_for_its_window_and_keeps_the_columns_in_their_slots() -> None:
    store = RingStore(HeadGroup((0,), 5, 1), 3)
    store.with_room(torch.ones(2, 1, 1, 1, 1), 0, 1)[:] = torch.tensor([0.0, 0, 1, 2])[:, None]
    assert store.buffer is not None
    assert store.with_room(store.buffer, 3, 4)[0].flatten().tolist() == [0, 0, 1, 2, 0, 0]


def test_a_ring_in_which_somebody_has_put_columns_has_lost_the_oldest() -> None:
    store = RingStore(HeadGroup((0,), 3, 1), 3)
    store.appended(3)
    assert store.oldest == 0
    store.appended(7)
    assert store.oldest == 4


# The same logits and tokens.


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("expected", [0, 70, 24])
def test_logits_are_those_without_a_graph_however_the_cache_grows(
    compiled: Compiled, expected: int, n_rows: int
) -> None:
    tokens, found = TOKENS[:n_rows], list[Tensor]()
    cache = compiled.model.make_cache(expected=expected)
    n_used = compiled.used(lambda: found.append(in_chunks(compiled.model, tokens, ONE_BY_ONE, cache=cache)))
    assert n_used == 50
    same(found[0], in_chunks(eager(), tokens, ONE_BY_ONE), EXACT)


def test_padded_logits_are_those_without_a_graph(compiled: Compiled) -> None:
    tokens, mask = left_padded(TOKENS, [40, 21, 3])
    found = in_chunks(compiled.model, tokens, [38, 1, 1], mask)
    same(found[:, -2:], in_chunks(eager(), tokens, [40], mask)[:, -2:], EXACT)


def test_a_row_that_begins_with_the_last_token_of_the_prompt_gets_its_sinks(compiled: Compiled) -> None:
    tokens, mask = left_padded(TOKENS, [40, 31])
    found = in_chunks(compiled.model, tokens, [10, *[1] * 30], mask)
    same(found[1, 9:], in_chunks(eager(), TOKENS[1:2, :31], [31])[0], EXACT)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 2}]
)
def test_tokens_are_those_without_a_graph(compiled: Compiled, options: dict[str, Any]) -> None:
    found: list[Tensor] = []
    assert compiled.used(lambda: found.append(generated(compiled.model, **options))) == NEW - 1
    assert torch.equal(found[0], generated(eager(), **options))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_tokens_of_a_padded_batch_are_those_without_a_graph(compiled: Compiled, options: dict[str, Any]) -> None:
    tokens, mask = left_padded(TOKENS, [30, 4, 17])
    expected = generated(eager(), tokens, attention_mask=mask, **options)
    assert torch.equal(generated(compiled.model, tokens, attention_mask=mask, **options), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_serves_all_positions(kind: str) -> None:
    compiled = with_graph(pruned(kind=kind))
    assert torch.equal(generated(compiled.model, max_new_tokens=60), generated(pruned(kind=kind), max_new_tokens=60))
    assert compiled.graphs.frame_count == 1


def test_one_graph_serves_tokens_however_they_lie_in_memory_and_wherever_positions_come_from() -> None:
    compiled, mask = with_graph(live(plan=SMALL)), torch.ones(3, 21, dtype=torch.long)
    for tokens in (TOKENS[:, :21], TOKENS[:, :21].clone(), TOKENS[:, 20:41]):
        for more in ({}, {"position_ids": torch.full((3, 1), 20)}, {"position_ids": torch.full((1, 1), 20)}):
            cache = compiled.model.make_cache(expected=30)
            in_chunks(compiled.model, tokens[:, :20], [20], cache=cache)
            asked(compiled.model, cache, tokens[:, 20:], attention_mask=mask, **more)
    asked(compiled.model, cache, TOKENS[:, 0].clone()[:, None])
    assert compiled.graphs.frame_count == 1


def test_a_model_without_heads_has_a_graph_too() -> None:
    plan = plan_of({f"L{layer}H{head}": "mean" for layer in range(4) for head in range(4)})
    compiled = with_graph(pruned(plan))
    assert torch.equal(generated(compiled.model), generated(pruned(plan)))
    assert compiled.graphs.frame_count == 1


def test_graphs_of_other_models_do_not_count_against_the_limit_of_one() -> None:
    plan = dict.fromkeys([f"L{layer}H{head}" for layer in range(2) for head in range(4)], "zero")
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(3):
            compiled = with_graph(live(plan=plan))
            generated(compiled.model, max_new_tokens=3)
            assert compiled.graphs.frame_count == 1


def test_what_torch_compiles_by_itself_gives_the_same() -> None:
    model = live(plan=SMALL)
    expected = in_chunks(model, TOKENS[:2, :23], [20, 1, 1, 1])
    model.compile_decoding()
    same(in_chunks(model, TOKENS[:2, :23], [20, 1, 1, 1]), expected, EXACT)


def test_a_table_of_the_first_layer_may_be_in_the_graph() -> None:
    model, tokens = live(plan=SMALL), TOKENS[:2, :22]
    expected = in_chunks(model, tokens, [22])
    model.tabulate_first_layer()
    same(in_chunks(with_graph(model).model, tokens, [20, 1, 1]), expected, EXACT)


# The cache.


def test_the_cache_takes_the_bytes_that_it_takes_without_a_graph(compiled: Compiled) -> None:
    sizes = []
    for model in (compiled.model, eager()):
        cache = model.make_cache(expected=70)
        in_chunks(model, TOKENS, ONE_BY_ONE, cache=cache)
        sizes.append((cache.nbytes, storages(cache), cache.get_seq_length()))
    assert sizes[0] == sizes[1]


def test_a_graph_and_the_model_without_may_take_turns(compiled: Compiled) -> None:
    chunks = [10, 1, 1, 8, 1, 30, *[1] * 19]
    same(in_chunks(compiled.model, TOKENS, chunks), in_chunks(eager(), TOKENS, [70]), EXACT)


def test_recorded_tokens_can_be_taken_back(compiled: Compiled) -> None:
    cache = compiled.model.make_cache()
    cache.activate_past_recording()
    in_chunks(compiled.model, TOKENS[:, :50], [20, *[1] * 30], cache=cache)
    cache.crop(-25)
    found = in_chunks(compiled.model, TOKENS[:, 25:], [1] * 45, cache=cache)
    same(found, in_chunks(eager(), TOKENS, [70])[:, 25:], EXACT)


def test_what_a_ring_has_overwritten_in_a_graph_cannot_be_taken_back(compiled: Compiled) -> None:
    cache = compiled.model.make_cache()
    in_chunks(compiled.model, TOKENS[:, :12], [2, *[1] * 10], cache=cache)
    with pytest.raises(RuntimeError, match="cannot take back 2 tokens: windowed heads have overwritten"):
        cache.crop(-2)


def test_rows_can_be_repeated_and_reordered_between_steps(compiled: Compiled) -> None:
    cache = compiled.model.make_cache()
    in_chunks(compiled.model, TOKENS[:2, :22], [20, 1, 1], cache=cache)
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 0, 1]))
    rows = TOKENS[[1, 0, 0]]
    same(
        in_chunks(compiled.model, rows[:, 22:30], [1] * 8, cache=cache), in_chunks(eager(), rows, [70])[:, 22:30], EXACT
    )


def test_more_tokens_than_the_context_are_refused_and_leave_the_cache_as_it_is(compiled: Compiled) -> None:
    cache, long = compiled.model.make_cache(), random_ids(1, 257)
    in_chunks(compiled.model, long[:, :256], [255, 1], cache=cache)
    with pytest.raises(ValueError, match="257 tokens are more than the model's context of 256"):
        in_chunks(compiled.model, long[:, 256:], [1], cache=cache)
    assert cache.get_seq_length() == 256


# What a graph does not serve.


OTHERS: dict[str, dict[str, Any]] = {
    "labels": {"labels": TOKENS[:, 20:21]}, "hidden states": {"output_hidden_states": True},
    "several tokens": {"tokens": TOKENS[:, 20:23]},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_graph_does_not_know_goes_without(compiled: Compiled, name: str) -> None:
    outputs = []
    for model in (compiled.model, eager()):
        cache = model.make_cache()
        in_chunks(model, TOKENS[:, :20], [20], cache=cache)
        run = lambda model=model, cache=cache: outputs.append(asked(model, cache, **OTHERS[name]))  # noqa: E731
        assert compiled.used(run) == 0
    same(outputs[0].logits, outputs[1].logits, EXACT)
    assert outputs[0].keys() == outputs[1].keys()


def test_gradients_go_without(compiled: Compiled) -> None:
    cache = compiled.model.make_cache()
    in_chunks(compiled.model, TOKENS[:, :20], [20], cache=cache)
    embedding = compiled.model.get_input_embeddings().weight.requires_grad_(True)
    assert compiled.used(lambda: compiled.model(TOKENS[:, 20:21], past_key_values=cache).logits.sum().backward()) == 0
    assert embedding.grad is not None


@pytest.mark.parametrize("case", ["no cache", "an empty cache", "padding behind", "in training"])
def test_without_a_past_that_the_graph_can_read_it_is_not_used(compiled: Compiled, case: str) -> None:
    model, mask = compiled.model, None
    cache = None if case == "no cache" else model.make_cache()
    if case == "padding behind":
        mask = torch.ones(3, 20, dtype=torch.long)
        mask[1, 18:] = 0
    if case in ("padding behind", "in training"):
        in_chunks(model, TOKENS[:, :20], [20], mask, cache)
        mask = None if mask is None else torch.cat((mask, mask.new_ones(3, 1)), dim=1)
    try:
        model.train(case == "in training")
        assert compiled.used(lambda: asked(model, cache, attention_mask=mask)) == 0
    finally:
        model.eval()


def test_live_heads_go_without(compiled: Compiled) -> None:
    policy = AdaptivePolicy(**QUICK, thresholds=ANYTHING)
    found = []
    for model in (compiled.model, eager()):
        cache = model.make_cache(policy)
        run = lambda model=model, cache=cache: found.append(  # noqa: E731
            in_chunks(model, TOKENS, [N_PROMPT, *[1] * 30], cache=cache)
        )
        assert compiled.used(run) == 0
    assert torch.equal(*found)


# Copies, and what is refused.


def test_a_copy_has_a_graph_of_its_own() -> None:
    compiled = with_graph(live(plan=SMALL))
    expected = generated(compiled.model)
    made = copy.deepcopy(compiled.model)
    assert made.compiled is not compiled.model.compiled
    assert made.compiled.model is made
    with torch.no_grad():
        made.get_output_embeddings().weight.zero_()
    assert torch.equal(generated(compiled.model), expected)
    assert not torch.equal(generated(made), expected)


def test_a_compiled_model_can_be_saved_and_read(compiled: Compiled, tmp_path: Path) -> None:
    compiled.model.save_pretrained(tmp_path)
    again = type(compiled.model).from_pretrained(tmp_path)
    assert again.compiled is None
    assert torch.equal(generated(again), generated(eager()))


def test_heads_that_choose_their_keys_are_refused() -> None:
    model = compressed("compress:snapkv:0.5")
    with pytest.raises(ValueError, match=r"heads whose keys are compressed \(snapkv\), which no graph can do"):
        model.compile_decoding(backend="eager")
    assert model.compiled is None


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_packed_weights_are_refused(kind: str) -> None:
    model = pruned()
    model.pack_weights(kind)
    with pytest.raises(ValueError, match="packed weights cannot be compiled"):
        model.compile_decoding(backend="eager")


@pytest.mark.parametrize("later", ["pack_weights", "tabulate_first_layer", "compile_decoding"])
def test_what_would_change_the_model_must_come_before(compiled: Compiled, later: str) -> None:
    with pytest.raises(ValueError, match="decoding is compiled already, for the model as it was: do this first"):
        getattr(compiled.model, later)()


@pytest.mark.skipif(not ONEDNN, reason="torch has no oneDNN here")
@pytest.mark.parametrize("rows", [1, 2])
def test_a_graph_multiplies_as_the_eager_form_does(compiled: Compiled, rows: int) -> None:
    expected = onednn_calls(eager(), rows)
    assert (expected > 0) is (rows > 1)
    assert onednn_calls(compiled.model, rows) == expected
