"""The roofline, worked by hand, and the closed formula beside real pruned models."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_neox
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from headspec.errors import HeadspecError
from headspec.export.surgery import pruned_model
from headspec.load.plain import PlainModel
from headspec.measure import bound
from headspec.measure.bound import (
    Rates,
    decode_bound_ms,
    keys_seen,
    linear_weights,
    measure_rates,
    plan_decode_ms,
    prefill_bound_ms,
    pruning_bound,
)
from headspec.measure.systems.planned import planned
from headspec.measure.systems.system import Standing
from headspec.measure.timing import Lap
from headspec.plan.make import plan_heads
from headspec.plan.treatments import KEEP, Compress, Treatment, Window

EVEN = Rates(read_bytes_s=1e9, flops_s=1e9)
READS_ONLY = Rates(read_bytes_s=1e9, flops_s=1e30)
MULTIPLIES_ONLY = Rates(read_bytes_s=1e30, flops_s=1e9)
D_MLP, VOCABULARY = 128, 272
WISHES: dict[str, dict[str, str]] = {
    "empty": {},
    "mixed": {"L0H0": "zero", "L0H2": "window:5+2", "L1H1": "zero", "L1H3": "window:3"},
    "a layer without heads": {f"L0H{head}": "zero" for head in range(4)} | {"L1H0": "window:9+0"},
    "no heads": {f"L{layer}H{head}": "zero" for layer in range(2) for head in range(4)},
}


def weights_of(model: Any) -> int:
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))


# Decoding.


def test_one_row_waits_for_the_weights_to_be_read() -> None:
    assert decode_bound_ms(nn.Linear(100, 10), batch=1, kv_bytes=0, rates=EVEN) == pytest.approx(4e-3)


def test_many_rows_wait_for_the_multiplication() -> None:
    assert decode_bound_ms(nn.Linear(100, 10), batch=3, kv_bytes=0, rates=EVEN) == pytest.approx(2 * 3 * 1e-3)


def test_half_precision_is_read_in_half_the_time() -> None:
    model = nn.Linear(100, 10).to(torch.bfloat16)
    assert decode_bound_ms(model, batch=1, kv_bytes=0, rates=READS_ONLY) == pytest.approx(2e-3)


def test_keys_are_read_once() -> None:
    assert decode_bound_ms(nn.Linear(1, 1), batch=1, kv_bytes=5_000_000, rates=READS_ONLY) == pytest.approx(5, rel=1e-4)


def test_embeddings_and_norms_are_not_read() -> None:
    model = nn.Sequential(nn.Embedding(999, 10), nn.LayerNorm(10))
    assert decode_bound_ms(model, batch=1, kv_bytes=0, rates=EVEN) == 0


def test_the_closed_formula_worked_by_hand(tiny_plain: PlainModel) -> None:
    plan = plan_heads(tiny_plain, {"L0H0": "zero", "L1H2": "window:6+2"})
    weights = 7 * 4 * 8 * 32 + 2 * 2 * 32 * D_MLP + VOCABULARY * 32
    keys = 3 * (6 * 100 + 8) * 2 * 8 * 4
    found = plan_decode_ms(plan, D_MLP, VOCABULARY, batch=3, n_tokens=100, rates=READS_ONLY)
    assert found == pytest.approx(1e3 * (4 * weights + keys) / 1e9)


@pytest.mark.parametrize("name", WISHES)
def test_the_weights_left_are_those_of_the_pruned_model(tiny_plain: PlainModel, name: str) -> None:
    plan = plan_heads(tiny_plain, WISHES[name])
    assert linear_weights(plan, D_MLP, VOCABULARY) == weights_of(pruned_model(tiny_plain.huggingface, plan))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", WISHES)
def test_the_closed_formula_is_the_bound_of_the_pruned_model(tiny_plain: PlainModel, name: str, batch: int) -> None:
    plan = plan_heads(tiny_plain, WISHES[name])
    running = planned(tiny_plain, plan, "a", "b", Standing.HYPOTHETICAL).open()
    running.start(40, 40, batch)
    running.read(torch.zeros(batch, 40, dtype=torch.long))
    expected = decode_bound_ms(running.model, batch, running.kv_bytes, EVEN)
    assert plan_decode_ms(plan, D_MLP, VOCABULARY, batch, 40, EVEN) == pytest.approx(expected)


def test_while_text_is_written_the_keys_are_those_of_the_mean(tiny_plain: PlainModel) -> None:
    plan = plan_heads(tiny_plain, {})
    times = [plan_decode_ms(plan, D_MLP, VOCABULARY, 1, n, READS_ONLY) for n in range(41, 46)]
    found = plan_decode_ms(plan, D_MLP, VOCABULARY, 1, 40, READS_ONLY, n_new=5)
    assert found == pytest.approx(sum(times) / 5)


# Reading a prompt.


def test_a_prompt_worked_by_hand(tiny_plain: PlainModel) -> None:
    plan = plan_heads(tiny_plain, {"L0H0": "zero", "L0H1": "window:2+1", "L1H0": "zero", "L1H1": "window:3+1"})
    head, mlp, batch, n = 8 * 32, 2 * 32 * D_MLP, 2, 5
    first_layer = n * (3 * 4 * head + mlp)
    last_layer = n * 3 * 2 * head + 3 * 2 * head + mlp
    scores_and_sums = 2 * 8 * ((2 * 15 + (1 + 2 + 3 + 3 + 3)) + (2 * 5 + 4))
    operations = 2 * batch * (first_layer + last_layer + VOCABULARY * 32 + scores_and_sums)
    found = prefill_bound_ms(plan, D_MLP, VOCABULARY, n, batch, MULTIPLIES_ONLY)
    assert found == pytest.approx(1e3 * operations / 1e9)


def test_a_prompt_of_one_token_takes_as_long_as_reading_the_weights(tiny_plain: PlainModel) -> None:
    found = prefill_bound_ms(plan_heads(tiny_plain, {}), D_MLP, VOCABULARY, 1, 1, READS_ONLY)
    assert found == pytest.approx(1e3 * 4 * weights_of(tiny_plain.huggingface) / 1e9)


def test_half_precision_halves_the_reading_of_a_prompt_too(tiny_plain: PlainModel) -> None:
    plan = plan_heads(tiny_plain, {"L0H0": "zero"})
    times = [prefill_bound_ms(plan, D_MLP, VOCABULARY, 9, 2, READS_ONLY, width) for width in (2, 4)]
    assert 2 * times[0] == pytest.approx(times[1])


@pytest.mark.parametrize("name", WISHES)
def test_the_bound_is_no_more_than_torch_counts_without_shortcuts(name: str) -> None:
    model = PlainModel(tiny_neox(), "tiny")
    plan = plan_heads(model, WISHES[name])
    pruned = pruned_model(model.huggingface, plan)
    for trick in vars(pruned.tricks):
        setattr(pruned.tricks, trick, False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pruned(torch.zeros(2, 30, dtype=torch.long), logits_to_keep=1)
    bound_ms = prefill_bound_ms(plan, D_MLP, VOCABULARY, 30, 2, MULTIPLIES_ONLY)
    counted_ms = 1e3 * counter.get_total_flops() / 1e9
    assert 0.5 * counted_ms < bound_ms < counted_ms


def test_a_window_sees_three_keys_at_most() -> None:
    assert keys_seen(Window(2, sinks=1), n_tokens=5, n_queries=5) == 1 + 2 + 3 + 3 + 3


@pytest.mark.parametrize("treatment", [KEEP, Compress("snapkv", 0.5)])
def test_other_heads_see_all_that_came_before(treatment: Treatment) -> None:
    assert keys_seen(treatment, n_tokens=5, n_queries=2) == 4 + 5


@given(st.integers(1, 12), st.integers(0, 5), st.integers(1, 40), st.data())
def test_keys_seen_are_those_of_the_mask(window: int, sinks: int, n_tokens: int, data: st.DataObject) -> None:
    n_queries = data.draw(st.integers(1, n_tokens))
    query, key = torch.arange(n_tokens)[:, None], torch.arange(n_tokens)
    mask = (key <= query) & ((key > query - window) | (key < sinks))
    assert keys_seen(Window(window, sinks), n_tokens, n_queries) == int(mask[n_tokens - n_queries :].sum())


# What pruning can give.


def test_the_most_that_pruning_gives_is_the_ratio_of_the_bounds() -> None:
    assert pruning_bound(8.0, 5.0) == 1.6


def test_what_is_not_pruned_stays(tiny_plain: PlainModel) -> None:
    times = [plan_decode_ms(plan_heads(tiny_plain, WISHES[name]), D_MLP, VOCABULARY, 1, 100, READS_ONLY)
             for name in ("empty", "no heads")]  # fmt: skip
    rest = 2 * 2 * 32 * D_MLP + VOCABULARY * 32
    whole = rest + 2 * 4 * 32 * 32 + 8 * 100 * 2 * 8
    assert pruning_bound(*times) == pytest.approx(whole / rest)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0)])
def test_bounds_are_more_than_nothing(bounds: tuple[float, float]) -> None:
    with pytest.raises(HeadspecError, match=r"bounds of .* ms: want more than 0"):
        pruning_bound(*bounds)


# Rates.


@pytest.mark.parametrize("rates", [(0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_rates_are_more_than_nothing(rates: tuple[float, float]) -> None:
    with pytest.raises(HeadspecError, match=r"rates of .* bytes/s and .* FLOP/s: want more than 0"):
        Rates(*rates)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth lap is the quickest: 2 s by the clock, 1 s of CPU time."""
    numbers = iter(range(10**6))

    def fake(work: Any, device: str) -> Lap:
        quick = next(numbers) % 5 == 0
        return Lap(2e3, 1e3) if quick else Lap(9e3, 8e3)

    monkeypatch.setattr(bound, "lap", fake)
    monkeypatch.setattr(bound, "READ_BYTES", 4096)


@pytest.mark.usefixtures("clocked")
@pytest.mark.parametrize(("threads", "seconds"), [(1, 1), (2, 2)])
def test_rates_are_of_the_quickest_round(monkeypatch: pytest.MonkeyPatch, threads: int, seconds: int) -> None:
    """In CPU time with one thread, by the clock with more."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert measure_rates() == Rates(4096 / seconds, 2 * 1024**3 / seconds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_this_machine_has_rates(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(bound, "READ_BYTES", 2**22)
    monkeypatch.setattr(bound, "ROUNDS", 1)
    found = measure_rates(dtype=dtype)
    assert min(found.read_bytes_s, found.flops_s) > 1e6


def test_the_bandwidth_is_measured_beyond_any_cache() -> None:
    assert bound.READ_BYTES >= 256 * 2**20
