"""torch's fast attention is what runs, in prefill and in decoding; its slow form never does."""

from collections.abc import Callable

import pytest
import torch
from runtime_makers import in_chunks, keep_all, left_padded, mixed, plan_of, pruned, random_ids
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

FAST = "aten::_scaled_dot_product_flash_attention_for_cpu"
SLOW = "aten::_scaled_dot_product_attention_math"
TOKENS = random_ids(2, 100)
ALL_WINDOWS = plan_of({str(head): "window:6+2" for head in keep_all().about.heads})


@torch.no_grad()
def calls(run: Callable[[], object]) -> dict[str, int]:
    """How often each operator ran."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    return {event.key: event.count for event in seen.key_averages()}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("use_cache", [False, True])
def test_prefill_is_fast(use_cache: bool, padded: bool) -> None:
    tokens, mask = left_padded(TOKENS, [100, 60 if padded else 100])
    found = calls(lambda: pruned(keep_all())(tokens, attention_mask=mask, use_cache=use_cache))
    assert found.get(FAST) == 4
    assert SLOW not in found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("plan", "n_groups"), [(keep_all(), 4), (ALL_WINDOWS, 4), (mixed(), 7)], ids=["whole", "windows", "mixed"]
)
def test_decoding_is_fast(plan: object, n_groups: int, padded: bool) -> None:
    model, (tokens, mask) = pruned(plan), left_padded(TOKENS, [100, 60 if padded else 100])
    cache = model.make_cache(expected=100)
    in_chunks(model, tokens[:, :80], [80], mask[:, :80], cache=cache)
    found = calls(lambda: in_chunks(model, tokens[:, 80:81], [1], mask[:, :81], cache=cache))
    assert found.get(FAST) == n_groups
    assert SLOW not in found


def test_the_first_tokens_are_fast() -> None:
    model = pruned(ALL_WINDOWS)
    found = calls(lambda: in_chunks(model, TOKENS[:, :4], [1, 1, 1, 1]))
    assert found.get(FAST) == 16
    assert SLOW not in found


def test_more_tokens_after_a_cache_are_fast() -> None:
    model = pruned(keep_all())
    found = calls(lambda: in_chunks(model, TOKENS, [50, 20, 30]))
    assert found.get(FAST) == 12
    assert SLOW not in found


def test_nothing_needs_the_slow_form() -> None:
    model, (tokens, mask) = pruned(), left_padded(TOKENS, [100, 60])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        in_chunks(model, TOKENS, [50, 1, 49])
        in_chunks(model, tokens, [50, 1, 49], mask)
