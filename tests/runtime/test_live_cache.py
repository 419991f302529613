"""The cache of a live model does what caches do: rows change places, tokens are taken back, it is used again."""

import copy
from typing import Any

import pytest
import torch
from compression_reference import EXACT, source
from live_makers import ANYTHING, N_PROMPT, NOTHING, QUICK, Script, live, reference, scripted, treated
from runtime_makers import GREEDY, a_step, in_chunks, left_padded, random_ids, same
from torch import Tensor

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.cache import PrunedCache
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.stores import RingStore

TEXTS = random_ids(3, 68, seed=3)
MIX = {
    "L0H0": "mean", "L0H1": "window:4", "L0H2": "compress:snapkv:0.5", "L1H0": "compress:streaming:10",
    "L1H1": "mean", "L1H2": "window:2+1",
}  # fmt: skip
SCRIPT: Script = {N_PROMPT: MIX}
LATER: Script = {N_PROMPT: {"L0H0": "mean", "L0H1": "window:4"}, 48: {"L0H2": "window:4", "L1H1": "mean"}}
ENDLESS = {"pad_token_id": 0, "eos_token_id": 10**6, "max_new_tokens": 24}


def begun(script: Script = SCRIPT, n_read: int = N_PROMPT, rows: Any = slice(None), **options: Any) -> Any:
    """A model and its cache, after a part of the texts."""
    model = live()
    cache = model.make_cache(scripted(script), **options)
    if n_read:
        in_chunks(model, TEXTS[rows, :n_read], [min(n_read, N_PROMPT)] + [1] * (n_read - N_PROMPT), cache=cache)
    return model, cache


def logits(model: Any, cache: PrunedCache, tokens: Tensor, chunks: list[int] | None = None) -> Tensor:
    return in_chunks(model, tokens, chunks or [1] * tokens.shape[1], cache=cache)


def wanted(script: Script, tokens: Tensor) -> Tensor:
    return torch.stack(reference(script, list(tokens)))


# Where nothing is decided, plain generation.


@pytest.mark.parametrize(
    "policy",
    [AdaptivePolicy(thresholds=NOTHING, **QUICK), AdaptivePolicy(thresholds=ANYTHING, watch_only=True, **QUICK)],
    ids=["nothing fits", "watch only"],
)
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True}, {"num_beams": 3}])
def test_where_nothing_is_treated_generation_is_plain(policy: AdaptivePolicy, options: dict[str, Any]) -> None:
    tokens, mask = left_padded(TEXTS[:2], [40, 31])
    found = []
    for model, more in ((source().huggingface, {}), (live(), {"past_key_values": live().make_cache(policy)})):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            found.append(model.generate(tokens, attention_mask=mask, **ENDLESS, **options, **more))
    assert torch.equal(*found)


def test_watch_only_has_an_opinion_all_the_same() -> None:
    model = live()
    cache = model.make_cache(AdaptivePolicy(thresholds=ANYTHING, watch_only=True, **QUICK))
    logits(model, cache, TEXTS[:, :60], [40, 20])
    assert set(treated(cache).values()) == {"keep"}
    assert set(cache.record().counts()) == {"dead"}


# Rows.


@pytest.mark.parametrize("n_read", [N_PROMPT, 46])
def test_rows_can_be_reordered(n_read: int) -> None:
    model, cache = begun(n_read=n_read)
    order = torch.tensor([2, 0, 0])
    cache.reorder_cache(order)
    same(logits(model, cache, TEXTS[order, n_read:]), wanted(SCRIPT, TEXTS)[order, n_read:], EXACT)


def test_rows_can_be_repeated_and_selected() -> None:
    model, cache = begun(LATER)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([1, 2, 5]))
    rows = TEXTS[[0, 1, 2]]
    same(logits(model, cache, rows[:, N_PROMPT:]), wanted(LATER, TEXTS)[:, N_PROMPT:], EXACT)


@pytest.mark.parametrize("how", ["repeat", "select", "reorder"])
def test_rows_may_change_before_heads_are_classified(how: str) -> None:
    script = {20: {"L0H0": "mean", "L0H1": "window:4"}}
    model, cache = begun({}, n_read=0)
    model, cache = live(), live().make_cache(scripted(script))
    order = {"repeat": [0, 0, 1, 1, 2, 2], "select": [1], "reorder": [2, 2, 0]}[how]
    in_chunks(model, TEXTS[:, :12], [10, 1, 1], cache=cache)
    if how == "repeat":
        cache.batch_repeat_interleave(2)
    elif how == "select":
        cache.batch_select_indices(torch.tensor(order))
    else:
        cache.reorder_cache(torch.tensor(order))
    expected = torch.stack(reference(script, list(TEXTS[order]), n_settled=20))
    same(logits(model, cache, TEXTS[order, 12:]), expected[:, 12:], EXACT)


def test_beams_are_those_of_a_search_that_reads_everything_anew() -> None:
    model, found = live(), []
    for n_beams in (1, 4):
        options = {**GREEDY, "max_new_tokens": 12, "num_beams": n_beams, "num_return_sequences": n_beams}
        cache = model.make_cache(scripted(SCRIPT))
        out = model.generate(
            TEXTS[:1, :N_PROMPT], past_key_values=cache, return_dict_in_generate=True, output_scores=True, **options
        )
        for row, score in zip(out.sequences, getattr(out, "sequences_scores", [None]), strict=True):
            expected = reference(SCRIPT, [row])[0].log_softmax(-1)[N_PROMPT - 1 : -1]
            expected = expected.gather(1, row[N_PROMPT:, None]).mean()
            found.append(expected if score is None else score - expected)
    assert max(map(abs, found[1:])) < 1e-4


# Tokens taken back.


@pytest.mark.parametrize("script", [SCRIPT, LATER], ids=["at the prompt", "later"])
@pytest.mark.parametrize("n_back", [1, 5, 9])
def test_tokens_that_follow_the_prompt_can_be_taken_back(script: Script, n_back: int) -> None:
    model, cache = begun(script, 0)
    cache.activate_past_recording()
    n_read = 50
    logits(model, cache, TEXTS[:, :n_read], [N_PROMPT, 2, 2, 2, 2, 2])
    logits(model, cache, random_ids(3, n_back, seed=9), [n_back])
    cache.crop(-n_back)
    same(logits(model, cache, TEXTS[:, n_read:]), wanted(script, TEXTS)[:, n_read:], EXACT)


def test_tokens_can_be_taken_back_after_a_window_was_made_of_them() -> None:
    model, cache = begun(LATER, 0)
    cache.activate_past_recording()
    logits(model, cache, TEXTS[:, :46], [N_PROMPT, 6])
    logits(model, cache, random_ids(3, 2, seed=9), [2])  # heads are treated here, after 48 columns
    cache.crop(-2)
    expected = wanted({N_PROMPT: LATER[N_PROMPT], 46: LATER[48]}, TEXTS)
    same(logits(model, cache, TEXTS[:, 46:], [1] * 22), expected[:, 46:], EXACT)


def test_tokens_of_the_prompt_cannot_be_taken_back() -> None:
    _, cache = begun({})
    with pytest.raises(RuntimeError, match=r"cannot take back 1 tokens: .* by which heads are classified"):
        cache.crop(-1)


def test_what_windows_have_overwritten_cannot_be_taken_back_without_recording() -> None:
    _, cache = begun(n_read=50)
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        cache.crop(-5)
    assert cache.get_seq_length() == 50


@pytest.mark.parametrize("n_prompt", [12, N_PROMPT])
@pytest.mark.parametrize("assisted", ["lookup", "model"])
@pytest.mark.parametrize(
    "options",
    [{"thresholds": NOTHING}, {"thresholds": NOTHING, "policy": "snapkv", "budget": 44, "latest": 8}],
    ids=["plain", "snapkv"],
)
def test_assisted_decoding_runs_to_the_end(n_prompt: int, assisted: str, options: dict[str, Any]) -> None:
    model, prompt = live(), random_ids(1, 4).repeat(1, n_prompt // 4)
    help_of = {"prompt_lookup_num_tokens": 4} if assisted == "lookup" else {"assistant_model": source().huggingface}
    cache = model.make_cache(AdaptivePolicy(**{**QUICK, **options}))
    found = model.generate(prompt, past_key_values=cache, **GREEDY, max_new_tokens=40, **help_of)
    assert found.shape[1] == n_prompt + 40
    if "policy" not in options:
        assert torch.equal(found, source().huggingface.generate(prompt, **GREEDY, max_new_tokens=40))


def test_assisted_decoding_with_treated_heads_gives_the_greedy_tokens() -> None:
    model, prompt = live(), random_ids(1, 8).repeat(1, 5)
    plain = model.generate(prompt, past_key_values=model.make_cache(scripted(SCRIPT)), **GREEDY, max_new_tokens=24)
    cache = model.make_cache(scripted(SCRIPT))
    found = model.generate(prompt, past_key_values=cache, **GREEDY, max_new_tokens=24, prompt_lookup_num_tokens=5)
    assert torch.equal(found, plain)


@pytest.mark.parametrize("n_back", [3, 20])
def test_keys_chosen_later_know_nothing_of_tokens_taken_back(n_back: int) -> None:
    script = {60: {"L0H0": "compress:snapkv:0.4", "L1H1": "compress:snapkv:20:latest5"}}
    model, cache = begun({}, 0)
    cache = model.make_cache(scripted(script))
    cache.activate_past_recording()
    logits(model, cache, TEXTS[:, :55], [N_PROMPT, 15])
    logits(model, cache, random_ids(3, n_back, seed=9), [n_back])
    cache.crop(-n_back)
    same(logits(model, cache, TEXTS[:, 55:]), wanted(script, TEXTS)[:, 55:], EXACT)


# Used again.


@pytest.mark.parametrize("n_prompt", [30, N_PROMPT, 62])
def test_a_cache_that_was_reset_is_as_new(n_prompt: int) -> None:
    model, cache = begun(n_read=60)
    cache.reset()
    assert cache.nbytes == 0
    assert cache.record().changes == ()
    fresh = model.make_cache(scripted(SCRIPT))
    for again in (cache, fresh):
        in_chunks(model, TEXTS, [n_prompt] + [1] * (68 - n_prompt), cache=again)
    assert cache.record() == fresh.record()


def test_a_cache_that_was_reset_gives_the_same_logits() -> None:
    model, cache = begun(n_read=60)
    cache.reset()
    longer = {62: MIX}
    expected = torch.stack(reference(longer, list(TEXTS), n_settled=62))
    model, cache = live(), live().make_cache(scripted(longer))
    in_chunks(model, TEXTS[:, :50], [N_PROMPT, 10], cache=cache)
    cache.reset()
    same(logits(model, cache, TEXTS, [62] + [1] * 6), expected, EXACT)


def test_recording_outlives_a_reset() -> None:
    model, cache = begun(n_read=0)
    cache.activate_past_recording()
    logits(model, cache, TEXTS[:, :50], [N_PROMPT, 10])
    cache.reset()
    logits(model, cache, TEXTS[:, :52], [N_PROMPT, 12])
    cache.crop(-5)
    same(logits(model, cache, TEXTS[:, 47:]), wanted(SCRIPT, TEXTS)[:, 47:], EXACT)


@pytest.mark.parametrize("n_read", [N_PROMPT, 46])
def test_a_copy_goes_its_own_way(n_read: int) -> None:
    model, cache = begun(LATER, n_read)
    other = copy.deepcopy(cache)
    logits(model, other, random_ids(3, 20, seed=8))
    same(logits(model, cache, TEXTS[:, n_read:]), wanted(LATER, TEXTS)[:, n_read:], EXACT)


def test_generation_goes_on_with_a_cache() -> None:
    model, prompt = live(), TEXTS[:2, :N_PROMPT]
    cache, whole = (model.make_cache(scripted(LATER)) for _ in range(2))
    first = model.generate(prompt, past_key_values=cache, **GREEDY, max_new_tokens=10)
    second = model.generate(first, past_key_values=cache, **GREEDY, max_new_tokens=14)
    assert torch.equal(second, model.generate(prompt, past_key_values=whole, **GREEDY, max_new_tokens=24))
    assert cache.record().n_prompt == N_PROMPT


@pytest.mark.parametrize("size", [1, 7, 16, 39, 64])
def test_generate_may_read_the_prompt_in_chunks(size: int) -> None:
    model, found, records = live(), [], []
    for options in ({}, {"prefill_chunk_size": size}):
        cache = model.make_cache(scripted(LATER))
        found.append(model.generate(TEXTS[:2, :N_PROMPT], past_key_values=cache, **ENDLESS, do_sample=False, **options))
        records.append(cache.record())
    assert torch.equal(*found)
    assert records[0].changes == records[1].changes


# Inference mode, gradients, the context.


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("script", [SCRIPT, LATER], ids=["at the prompt", "later"])
def test_a_prompt_read_in_inference_mode_goes_on_outside_it(script: Script, grad: bool) -> None:
    model = live()
    cache = model.make_cache(scripted(script))
    with torch.inference_mode():
        found = [model(TEXTS[:, :N_PROMPT], past_key_values=cache).logits]
    with torch.set_grad_enabled(grad):
        found += [model(part, past_key_values=cache).logits for part in TEXTS[:, N_PROMPT:60].split(1, dim=1)]
    with torch.inference_mode():
        found += [model(part, past_key_values=cache).logits for part in TEXTS[:, 60:].split(1, dim=1)]
    same(torch.cat([part.detach().clone() for part in found], 1), wanted(script, TEXTS), EXACT)


def test_a_text_may_fill_the_context() -> None:
    model = live()
    context = model.config.max_position_embeddings
    cache, tokens = model.make_cache(scripted({N_PROMPT: MIX})), random_ids(1, context, seed=5)
    found = in_chunks(model, tokens, [N_PROMPT, *[8] * 27], cache=cache)
    same(found, torch.stack(reference({N_PROMPT: MIX}, list(tokens))), EXACT)
    before = cache.nbytes
    with pytest.raises(ValueError, match="257 tokens are more than the model's context of 256"):
        model(tokens[:, :1], past_key_values=cache)
    assert (cache.get_seq_length(), cache.nbytes) == (context, before)


def test_generation_that_cannot_fit_is_refused_before_anything_is_read() -> None:
    model = live()
    cache = model.make_cache(scripted(SCRIPT))
    with pytest.raises(ValueError, match="more than the model's context of 256"):
        model.generate(TEXTS[:, :N_PROMPT], past_key_values=cache, **GREEDY, max_new_tokens=300)
    assert cache.get_seq_length() == 0


def test_a_prompt_of_the_whole_context_is_classified() -> None:
    model = live()
    tokens = random_ids(1, model.config.max_position_embeddings)
    cache = model.make_cache(AdaptivePolicy(thresholds=ANYTHING, dead=False))
    model(tokens, past_key_values=cache)
    assert set(cache.record().counts()) == {"positional"}


def test_a_ring_in_which_columns_were_overwritten_has_not_everything_after_a_crop() -> None:
    # BUG: RingStore.everything goes by the number of columns alone. After more columns than slots and a crop it gives
    # later columns for the first ones (it should say None where `oldest` is past 0), and heads are judged by these.
    ring = RingStore(HeadGroup((0,), 4, 1), slots=12)
    kv = torch.arange(16.0)[None, None, None, :, None].expand(2, 1, 1, -1, 1)
    ring.attend(kv[0], kv, a_step(0, 16))
    ring.check_crop(16, 11)
    assert ring.everything(11) is None
