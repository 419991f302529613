"""Compressed heads of a live model see what those of the pruned model have kept, whichever form the model has."""

from typing import Any

import pytest
import torch
from compress_makers import (
    FORMS,
    MIXED,
    N_PROMPT,
    N_TOKENS,
    POLICIES,
    SIZES,
    TOKENS,
    Compressible,
    compressible,
    in_pieces,
    read,
    same,
    seen_by,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_references import HEADS, logits

from headspec.intervene.ablate import apply_plan, plan_hooks
from headspec.intervene.compress import Chosen
from headspec.search.layerwise import LayerWise

form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(params=SIZES)
def each(request: pytest.FixtureRequest) -> Compressible:
    """Either model."""
    return compressible(request.param)


@pytest.fixture
def model() -> Compressible:
    return compressible()


# By hand.


def rows(seen: torch.Tensor) -> list[str]:
    return ["".join("x" if key else "." for key in row) for row in seen.tolist()]


def chosen(kept: list[int], ring: int, first: int) -> Chosen:
    """Of one row and one head."""
    return Chosen(torch.tensor(kept, dtype=torch.bool)[None, None], torch.tensor([[ring]]), torch.tensor([[first]]))


def test_without_a_ring_all_that_follows_the_prompt_stays() -> None:
    drops = chosen([1, 0, 1, 0], ring=0, first=4).drops(n_past=3, n_keys=7)
    assert rows(~drops[0, 0]) == ["xxxxxxx", "x.x.xxx", "x.x.xxx", "x.x.xxx"]


def test_with_a_ring_the_latest_keys_stay_those_of_the_prompt_too() -> None:
    drops = chosen([1, 0, 0, 0], ring=2, first=2).drops(n_past=4, n_keys=7)
    assert rows(~drops[0, 0]) == ["x..xxxx", "x...xxx", "x....xx"]


def test_a_ring_does_not_reach_before_its_first_column() -> None:
    drops = chosen([1, 0, 0, 0], ring=9, first=3).drops(n_past=4, n_keys=6)
    assert rows(~drops[0, 0]) == ["x..xxx", "x..xxx"]


def test_streaming_keeps_the_sinks_and_the_latest_keys(model: Compressible) -> None:
    with apply_plan(model.bridge, model.plan({"L1H2": "compress:streaming:6"}), prompt=8):
        (seen,) = seen_by(model.bridge, "L1H2", lambda: logits(model.bridge, TOKENS[:1, :11]))
    assert rows(seen)[7:] == ["xxxxxxxx...", "xxxx...xx..", "xxxx....xx.", "xxxx.....xx"]


def test_streaming_does_so_token_by_token(model: Compressible) -> None:
    with apply_plan(model.bridge, model.plan({"L1H2": "compress:streaming:6"})):
        seen = seen_by(model.bridge, "L1H2", lambda: read(model.bridge, TOKENS[:1, :11], [8, 1, 1, 1]))
    assert [rows(part)[-1] for part in seen] == ["xxxxxxxx", "xxxx...xx", "xxxx....xx", "xxxx.....xx"]


@pytest.mark.parametrize(("text", "kept"), [("0.25", 12), ("20", 20), ("1.0", 48)])
@pytest.mark.parametrize("policy", ["snapkv", "expected_attention", "random"])
def test_a_head_keeps_as_many_keys_as_its_budget_says(model: Compressible, policy: str, text: str, kept: int) -> None:
    with apply_plan(model.bridge, model.plan({"L1H2": f"compress:{policy}:{text}"}), prompt=N_PROMPT):
        (seen,) = seen_by(model.bridge, "L1H2", lambda: logits(model.bridge, TOKENS))
    assert seen[N_PROMPT:].sum(-1).tolist() == [kept + number for number in range(1, N_TOKENS - N_PROMPT + 1)]
    assert (seen[N_PROMPT:, :N_PROMPT] == seen[N_PROMPT, :N_PROMPT]).all()


def test_a_bounded_head_never_sees_more_than_its_budget(model: Compressible) -> None:
    with apply_plan(model.bridge, model.plan({"L1H2": "compress:snapkv:24:latest12"}), prompt=N_PROMPT):
        (seen,) = seen_by(model.bridge, "L1H2", lambda: logits(model.bridge, TOKENS))
    assert seen[N_PROMPT:].sum(-1).tolist() == [24] * (N_TOKENS - N_PROMPT)


def test_heads_that_share_a_budget_keep_different_numbers_of_keys(model: Compressible) -> None:
    with apply_plan(model.bridge, model.plan("compress:snapkv:0.5:adakv"), prompt=N_PROMPT):
        texts = [seen_by(model.bridge, f"L0H{head}", lambda: logits(model.bridge, TOKENS)) for head in range(4)]
    seen = [int(seen[N_PROMPT, :N_PROMPT].sum()) for (seen,) in texts]
    assert sum(seen) == 4 * N_PROMPT // 2
    assert len(set(seen)) > 1


def test_other_heads_see_everything(model: Compressible) -> None:
    with apply_plan(model.bridge, model.plan({"L1H2": "compress:snapkv:8"}), prompt=N_PROMPT):
        (seen,) = seen_by(model.bridge, "L1H1", lambda: logits(model.bridge, TOKENS))
    assert torch.equal(seen, torch.ones(N_TOKENS, N_TOKENS, dtype=torch.bool).tril())


# The prompt.


@form
def test_a_whole_text_without_a_prompt_is_a_prompt(each: Compressible, form: str) -> None:
    same(whole(each.form(form), each.plan("compress:snapkv:8"), TOKENS), logits(each.form(form), TOKENS))


@form
@pytest.mark.parametrize("prompt", [N_TOKENS, N_TOKENS + 1, 10 * N_TOKENS])
def test_a_text_that_does_not_go_beyond_its_prompt_is_untreated(model: Compressible, form: str, prompt: int) -> None:
    same(whole(model.form(form), model.plan("compress:snapkv:8"), TOKENS, prompt), logits(model.form(form), TOKENS))


@form
def test_the_prompt_is_read_with_every_key_and_what_follows_is_not(each: Compressible, form: str) -> None:
    found = whole(each.form(form), each.plan("compress:random:8"), TOKENS, N_PROMPT)
    moved = (found - logits(each.form(form), TOKENS)).abs().amax(-1)
    assert moved[:, :N_PROMPT].max() <= 1e-5
    assert moved[:, N_PROMPT:].min() > 1e-4


@form
def test_windows_do_not_heed_the_prompt(each: Compressible, form: str) -> None:
    plan = each.plan({"L0H1": "window:4+1", "L1H0": "window:9"})
    same(whole(each.form(form), plan, TOKENS, N_PROMPT), whole(each.form(form), plan, TOKENS))


# The pruned model.


@form
@pytest.mark.parametrize("text", POLICIES)
def test_a_whole_text_is_read_as_by_the_pruned_model(each: Compressible, text: str, form: str) -> None:
    plan = each.plan(text)
    same(whole(each.form(form), plan, TOKENS, N_PROMPT), each.expected(plan, TOKENS, N_PROMPT))


@form
@pytest.mark.parametrize("text", POLICIES)
def test_through_a_cache_it_is_read_as_by_the_pruned_model(each: Compressible, text: str, form: str) -> None:
    plan = each.plan(text)
    found = in_pieces(each.form(form), plan, TOKENS, [N_PROMPT, 1, 1, 20, N_TOKENS - N_PROMPT - 22])
    same(found, each.expected(plan, TOKENS, N_PROMPT))


@form
@pytest.mark.parametrize("prompt", [1, 3, 8, 20, 33])
def test_prompts_may_be_shorter_than_budgets_and_what_a_policy_watches(
    each: Compressible, form: str, prompt: int
) -> None:
    plan = each.plan(MIXED)
    same(whole(each.form(form), plan, TOKENS, prompt), each.expected(plan, TOKENS, prompt))


@form
def test_windows_and_removed_heads_stand_beside_compressed_ones(each: Compressible, form: str) -> None:
    plan, pieces = each.plan(MIXED), [N_PROMPT, 7, 1, 1, N_TOKENS - N_PROMPT - 9]
    same(in_pieces(each.form(form), plan, TOKENS, pieces), each.expected(plan, TOKENS, N_PROMPT))


def test_a_plan_as_a_list_of_hooks_does_the_same(each: Compressible) -> None:
    plan = each.plan(MIXED)
    hooks = plan_hooks(each.bridge, plan, N_PROMPT)
    for row in TOKENS.split(1):
        with torch.no_grad():
            found = each.bridge.run_with_hooks(row, fwd_hooks=hooks)
        same(found, each.expected(plan, row, N_PROMPT))


treatments = st.sampled_from(
    (*POLICIES, "compress:snapkv:3", "compress:streaming:2", "compress:expected_attention:1.0", "window:4", "mean")
)


@settings(max_examples=15, deadline=None)
@given(
    wish=st.dictionaries(st.sampled_from(HEADS), treatments, min_size=1), prompt=st.integers(1, N_TOKENS - 1),
    piece=st.integers(1, 30), form=st.sampled_from(FORMS), kind=st.sampled_from(tuple(SIZES)),
)  # fmt: skip
def test_any_plan_reads_any_prompt_as_the_pruned_model_does(
    wish: dict[str, str], prompt: int, piece: int, form: str, kind: str
) -> None:
    model = compressible(kind)
    plan = model.plan(wish)
    rest = N_TOKENS - prompt
    pieces = [prompt, *[piece] * (rest // piece), *[rest % piece] * bool(rest % piece)]
    expected = model.expected(plan, TOKENS, prompt)
    same(in_pieces(model.form(form), plan, TOKENS, pieces), expected)
    same(whole(model.form(form), plan, TOKENS, prompt), expected)


# Layer by layer.


def test_a_text_that_goes_layer_by_layer_is_read_as_a_whole_one(each: Compressible) -> None:
    layers, plan = LayerWise(each.sdpa), each.plan(MIXED)
    with torch.no_grad():
        residual, given = layers.enter(TOKENS)
        found = layers.unembedding(layers.on_with(plan, 0, residual, given, N_PROMPT))
    same(found, whole(each.sdpa, plan, TOKENS, N_PROMPT))


@pytest.mark.parametrize("text", POLICIES)
def test_z_of_a_layer_is_that_of_a_plan_for_all_its_heads(each: Compressible, text: str) -> None:
    layers, plan = LayerWise(each.sdpa), each.plan({f"L0H{head}": text for head in range(4)})
    what, queries = plan["L0H0"], {head.head: facts for head, facts in plan.queries.items()}
    caught: list[Any] = []
    hook = ("blocks.0.attn.hook_z", lambda z, hook=None: caught.append(z))
    with torch.no_grad():
        residual, given = layers.enter(TOKENS)
        found = layers.z(0, residual, given, what, N_PROMPT, queries)  # type: ignore[arg-type]
        with apply_plan(each.bridge, plan, N_PROMPT), each.bridge.hooks(fwd_hooks=[hook]):
            each.bridge(TOKENS)
    same(found, caught[0])
