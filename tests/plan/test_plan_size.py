"""What a plan saves, by numbers worked out by hand.

The made-up model has 8 heads of 8 numbers, width 32. A key and its value take 2 × 8 numbers; the query, key, value and
output projections of a head 4 × 8 × 32 weights and 3 × 8 biases: 1048.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_makers import CONTEXT, made_up_profile
from tiny_models import tiny_neox

from headspec.load.plain import PlainModel
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.size import keys_held, plan_size
from headspec.plan.treatments import KEEP, Compress, Remove, Treatment, Window, parse_treatment
from headspec.probe.profile import HeadProfile

PER_KEY = 2 * 8 * 4
treatments = st.one_of(
    st.just(KEEP),
    st.just(Remove()),
    st.builds(Window, st.integers(1, 64), st.integers(0, 64)),
    st.builds(Compress, st.just("snapkv"), st.integers(1, 200)),
    st.builds(Compress, st.just("snapkv"), st.floats(0.01, 0.99)),
)


@pytest.mark.parametrize(
    ("text", "n_tokens", "held"),
    [
        ("keep", 50, 50), ("mean", 50, 0), ("zero", 50, 0), ("window:8", 50, 12), ("window:8+0", 50, 8),
        ("window:8", 12, 12), ("window:8", 11, 11), ("window:8", 5, 5), ("window:1+0", 1, 1),
        ("compress:snapkv:0.5", 50, 25), ("compress:snapkv:20", 50, 20), ("compress:snapkv:20", 10, 10),
    ],
)  # fmt: skip
def test_a_head_holds_as_many_keys_as_its_treatment_leaves(text: str, n_tokens: int, held: int) -> None:
    assert keys_held(parse_treatment(text), n_tokens) == held


@given(treatments, st.integers(0, 100))
def test_no_head_holds_more_keys_than_there_are_or_fewer_than_none(treatment: Treatment, n_tokens: int) -> None:
    assert 0 <= keys_held(treatment, n_tokens) <= n_tokens


@given(treatments, st.integers(0, 100))
def test_more_tokens_never_mean_fewer_keys(treatment: Treatment, n_tokens: int) -> None:
    assert keys_held(treatment, n_tokens) <= keys_held(treatment, n_tokens + 1)


def test_a_plan_that_keeps_all_heads_saves_nothing(profile: HeadProfile) -> None:
    size = plan_size(plan_heads(profile, {}))
    assert size.n_tokens == CONTEXT
    assert size.kv_bytes == size.full_kv_bytes == 8 * 64 * PER_KEY == 32768
    assert (size.removed_weights, size.attention_weights) == (0, 8 * 1048)
    assert (size.kv_share, size.removed_share) == (1, 0)


def test_the_size_of_a_mixed_plan(mixed: HeadPlan) -> None:
    size = plan_size(mixed)  # 3 kept, 3 removed, one with 8 keys, one with half
    assert size.kv_bytes == (3 * 64 + 8 + 32) * PER_KEY == 14848
    assert size.removed_weights == 3 * 1048
    assert size.kv_share == pytest.approx(232 / 512)
    assert size.removed_share == pytest.approx(3 / 8)


def test_fewer_tokens_fill_less_of_the_cache(mixed: HeadPlan) -> None:
    size = plan_size(mixed, 6)
    assert (size.kv_bytes, size.full_kv_bytes) == ((3 * 6 + 6 + 3) * PER_KEY, 8 * 6 * PER_KEY)


def test_half_the_bytes_a_number_take_half_the_cache(mixed: HeadPlan) -> None:
    assert plan_size(mixed, bytes_per_number=2).kv_bytes * 2 == plan_size(mixed).kv_bytes


def test_with_all_heads_removed_nothing_is_left(profile: HeadProfile) -> None:
    size = plan_size(plan_heads(profile, dict.fromkeys(profile.about.heads(), "zero")))
    assert (size.kv_share, size.removed_share) == (0, 1)


def test_the_weights_are_those_of_the_model_but_for_the_bias_that_all_heads_share() -> None:
    model = tiny_neox()
    attention = [layer.attention for layer in model.gpt_neox.layers]
    counted = sum(parameter.numel() for module in attention for parameter in module.parameters())
    shared = sum(module.dense.bias.numel() for module in attention)
    plan = plan_heads(PlainModel(model, "tiny"), {})
    assert plan_size(plan).attention_weights == counted - shared


def test_the_cache_is_that_of_the_model() -> None:
    import torch

    model = tiny_neox()
    with torch.no_grad():
        cache = model(torch.arange(50)[None], use_cache=True).past_key_values
    found = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert plan_size(plan_heads(PlainModel(model, "tiny"), {}), 50).full_kv_bytes == found


@given(st.dictionaries(st.sampled_from(made_up_profile().about.heads()), treatments))
def test_shares_lie_between_nothing_and_all(heads: dict[object, Treatment]) -> None:
    size = plan_size(plan_heads(made_up_profile(), heads))
    assert 0 <= size.kv_share <= 1
    assert 0 <= size.removed_share <= 1
