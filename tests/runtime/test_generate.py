"""`generate` gives token for token what the hooked model gives, in every way of decoding that transformers has."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_makers import GREEDY, KINDS, in_chunks, left_padded, mixed, plan_of, pruned, random_ids, source, wishes
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from headspec.intervene.ablate import apply_plan
from headspec.plan.plan import HeadPlan

PROMPT = random_ids(2, 20)
NEW = 18
BEAMS: dict[str, Any] = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def reference(plan: HeadPlan, prompt: Tensor = PROMPT, **options: Any) -> Tensor:
    """Tokens by transformers' own model under hooks, without a cache."""
    model = source(plan.about.model)
    with apply_plan(model, plan):
        return model.huggingface.generate(prompt, **{"max_new_tokens": NEW, **GREEDY, **options, "use_cache": False})


@cache
def greedy(kind: str) -> Tensor:
    """Tokens of the mixed plan."""
    return reference(mixed(kind))


def generated(model: Any, prompt: Tensor = PROMPT, **options: Any) -> Any:
    return model.generate(prompt, **{"max_new_tokens": NEW, **GREEDY, **options})


# Greedy.


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens_are_those_of_the_hooked_model(kind: str, use_cache: bool | None) -> None:
    assert torch.equal(generated(pruned(kind=kind), use_cache=use_cache), greedy(kind))


def test_use_cache_none_gives_the_tokens_of_the_hooked_model() -> None:
    assert torch.equal(generated(pruned(), use_cache=None), greedy("parallel"))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(data=st.data(), n_prompt=st.integers(1, 70), n_new=st.integers(1, 30))
def test_greedy_tokens_of_any_plan_are_those_of_the_hooked_model(
    kind: str, data: st.DataObject, n_prompt: int, n_new: int
) -> None:
    plan, prompt = plan_of(data.draw(wishes(kind)), kind), random_ids(2, n_prompt)
    assert torch.equal(
        generated(pruned(plan, kind), prompt, max_new_tokens=n_new), reference(plan, prompt, max_new_tokens=n_new)
    )


def test_a_prompt_can_be_filled_up_to_the_whole_context(kind: str) -> None:
    prompt = random_ids(1, 108)
    found = generated(pruned(kind=kind), prompt, max_new_tokens=20)
    assert found.shape == (1, 128)
    assert torch.equal(found, reference(mixed(kind), prompt, max_new_tokens=20))


def test_a_padded_batch_gives_the_tokens_of_each_row_alone(kind: str) -> None:
    prompts, lengths = random_ids(3, 50), [50, 3, 17]
    tokens, mask = left_padded(prompts, lengths)
    found = generated(pruned(kind=kind), tokens, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone = reference(mixed(kind), prompts[row : row + 1, :length])
        assert torch.equal(found[row, -NEW:], alone[0, -NEW:])


def test_rows_that_end_early_are_filled_with_padding_as_the_hooked_model_does() -> None:
    ends = greedy("sequential")[0, 28].item()
    found = generated(pruned(kind="sequential"), eos_token_id=ends)
    assert torch.equal(found, reference(mixed("sequential"), eos_token_id=ends))


def test_max_length_counts_the_prompt() -> None:
    found = generated(pruned(), max_new_tokens=None, max_length=33)
    assert torch.equal(found, reference(mixed(), max_new_tokens=13))


def test_the_config_may_say_how_much() -> None:
    config = GenerationConfig(max_new_tokens=9, do_sample=False, pad_token_id=0, eos_token_id=10**6)
    assert torch.equal(pruned().generate(PROMPT, generation_config=config), reference(mixed(), max_new_tokens=9))


def test_a_limit_that_no_one_set_is_that_of_transformers() -> None:
    assert torch.equal(pruned().generate(PROMPT, **GREEDY), reference(mixed(), max_new_tokens=20))


def test_tokens_may_be_given_by_name() -> None:
    found = pruned().generate(input_ids=PROMPT, max_new_tokens=NEW, **GREEDY)
    assert torch.equal(found, greedy("parallel"))


def test_embeddings_may_be_the_prompt() -> None:
    model = pruned()
    embedded = model.get_input_embeddings()(PROMPT).detach()
    found = model.generate(inputs_embeds=embedded, max_new_tokens=NEW, **GREEDY)
    assert torch.equal(found, greedy("parallel")[:, 20:])


@pytest.mark.parametrize("size", [7, 64])
def test_a_prompt_may_be_read_in_chunks(size: int) -> None:
    assert torch.equal(generated(pruned(kind="sequential"), prefill_chunk_size=size), greedy("sequential"))


def test_packed_weights_generate_the_same() -> None:
    model = copy.deepcopy(pruned())
    model.pack_weights()
    assert torch.equal(generated(model), greedy("parallel"))


def test_scores_are_the_logits_of_the_hooked_model() -> None:
    found = generated(pruned(), return_dict_in_generate=True, output_logits=True)
    model = source()
    with apply_plan(model, mixed()), torch.no_grad():
        expected = model(found.sequences)[:, 19:-1]
    torch.testing.assert_close(torch.stack(found.logits, 1), expected, rtol=0, atol=1e-4)


# Beams and sampling.


@pytest.mark.parametrize("eos", [GREEDY["eos_token_id"], list(range(2, 40))])
def test_beams_give_the_tokens_of_the_hooked_model(kind: str, eos: Any) -> None:
    found = generated(pruned(kind=kind), **{**BEAMS, "eos_token_id": eos})
    assert torch.equal(found, reference(mixed(kind), **{**BEAMS, "eos_token_id": eos}))


def test_beams_with_a_cache_give_the_tokens_of_beams_without(kind: str) -> None:
    model = pruned(kind=kind)
    assert torch.equal(generated(model, **BEAMS), generated(model, **BEAMS, use_cache=False))


def test_beams_of_a_padded_batch_give_the_tokens_of_each_row_alone() -> None:
    prompts, lengths = random_ids(2, 30), [30, 4]
    tokens, mask = left_padded(prompts, lengths)
    found = generated(pruned(kind="sequential"), tokens, attention_mask=mask, **BEAMS)
    for row, length in enumerate(lengths):
        alone = reference(mixed("sequential"), prompts[row : row + 1, :length], **BEAMS)
        assert torch.equal(found[2 * row : 2 * row + 2, -NEW:], alone[:, -NEW:])


@pytest.mark.parametrize("sampling", [{"top_k": 20}, {"top_p": 0.8, "temperature": 2.0}, {"num_return_sequences": 3}])
def test_samples_of_a_seed_are_those_of_the_hooked_model(sampling: dict[str, Any]) -> None:
    options, drawn = {**sampling, "do_sample": True}, []
    for draw in (
        lambda: generated(pruned(kind="sequential"), **options),
        lambda: reference(mixed("sequential"), **options),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            drawn.append(draw())
    assert torch.equal(*drawn)


# Assisted decoding: tokens are taken back.


@pytest.mark.parametrize("n_lookup", [1, 10])
def test_prompt_lookup_gives_the_greedy_tokens(n_lookup: int) -> None:
    prompt = random_ids(1, 8).repeat(1, 5)
    found = generated(pruned(kind="sequential"), prompt, prompt_lookup_num_tokens=n_lookup, max_new_tokens=30)
    assert torch.equal(found, reference(mixed("sequential"), prompt, max_new_tokens=30))


def test_an_assistant_with_all_heads_leaves_the_greedy_tokens_as_they_are(kind: str) -> None:
    found = generated(pruned(kind=kind), PROMPT[:1], assistant_model=source(kind).huggingface)
    assert torch.equal(found, reference(mixed(kind), PROMPT[:1]))


def test_a_pruned_assistant_leaves_the_greedy_tokens_of_the_original_as_they_are(kind: str) -> None:
    original = copy.deepcopy(source(kind).huggingface)
    found = generated(original, PROMPT[:1], assistant_model=pruned(kind=kind))
    assert torch.equal(found, reference(plan_of({}, kind), PROMPT[:1]))


def test_a_pruned_assistant_helps_a_pruned_model() -> None:
    assistant = pruned(plan_of({"L0H1": "window:8", "L1H0": "zero"}, "sequential"), "sequential")
    found = generated(pruned(kind="sequential"), PROMPT[:1], assistant_model=assistant)
    assert torch.equal(found, reference(mixed("sequential"), PROMPT[:1]))


# Going on with a cache.


def test_generation_goes_on_with_the_cache_it_gave_back(kind: str) -> None:
    model = pruned(kind=kind)
    first = generated(model, return_dict_in_generate=True, max_new_tokens=10)
    second = generated(model, first.sequences, past_key_values=first.past_key_values, max_new_tokens=NEW - 10)
    assert torch.equal(second, greedy(kind))


def test_a_padded_batch_goes_on_with_the_cache_it_gave_back(kind: str) -> None:
    model, (tokens, mask) = pruned(kind=kind), left_padded(PROMPT, [20, 6])
    first = generated(model, tokens, attention_mask=mask, return_dict_in_generate=True, max_new_tokens=10)
    longer = torch.cat((mask, mask.new_ones(2, 10)), 1)
    second = generated(
        model, first.sequences, attention_mask=longer, past_key_values=first.past_key_values, max_new_tokens=NEW - 10
    )
    assert torch.equal(second, generated(model, tokens, attention_mask=mask))


def test_generation_takes_a_cache_that_has_read_part_of_the_prompt(kind: str) -> None:
    model = pruned(kind=kind)
    known = model.make_cache()
    in_chunks(model, PROMPT[:, :13], [9, 4], cache=known)
    assert torch.equal(generated(model, past_key_values=known), greedy(kind))


def test_one_prompts_cache_can_be_copied_and_continued_twice() -> None:
    model = pruned(kind="sequential")
    known = model.make_cache()
    in_chunks(model, PROMPT[:, :13], [13], cache=known)
    for end in (random_ids(2, 5, seed=1), random_ids(2, 9, seed=2)):
        prompt = torch.cat((PROMPT[:, :13], end), 1)
        found = generated(model, prompt, past_key_values=copy.deepcopy(known))
        assert torch.equal(found, reference(mixed("sequential"), prompt))


# Refused.


@pytest.mark.parametrize(("n_prompt", "n_new"), [(100, 30), (128, 2), (129, 1), (1, 129)])
def test_more_tokens_than_the_context_are_refused_before_anything_is_computed(n_prompt: int, n_new: int) -> None:
    with pytest.raises(ValueError, match="more than the model's context of 128"):
        generated(pruned(), random_ids(1, n_prompt), max_new_tokens=n_new)


def test_the_last_token_that_the_context_allows_is_generated() -> None:
    assert generated(pruned(), random_ids(1, 100), max_new_tokens=29, min_new_tokens=29).shape == (1, 129)


def test_a_dynamic_cache_may_be_asked_for() -> None:
    same = generated(pruned(), cache_implementation="dynamic", max_new_tokens=9)
    assert torch.equal(same, generated(pruned(), max_new_tokens=9))


def test_positional_arguments_are_those_of_transformers() -> None:
    found = pruned().generate(
        random_ids(1, 20), GenerationConfig(max_new_tokens=5, do_sample=False), LogitsProcessorList()
    )
    assert found.shape[0] == 1


@pytest.mark.parametrize("implementation", ["static", "offloaded", "quantized"])
def test_other_kinds_of_cache_are_refused(implementation: str) -> None:
    with pytest.raises(ValueError, match="has a cache of its own"):
        generated(pruned(), cache_implementation=implementation)


def test_another_kind_of_cache_in_the_config_is_refused() -> None:
    config = GenerationConfig(max_new_tokens=9, cache_implementation="static")
    with pytest.raises(ValueError, match="has a cache of its own"):
        pruned().generate(PROMPT, generation_config=config)


def test_attention_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match="forms no attention patterns"):
        generated(pruned(), output_attentions=True, return_dict_in_generate=True)
