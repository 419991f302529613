"""`generate` with compressed heads gives token for token what transformers' own model gives behind the right masks."""

import copy
from typing import Any

import pytest
import torch
from compression_reference import compress_plan, compressed, masked_by, source
from runtime_makers import GREEDY, in_chunks, left_padded, random_ids
from torch import Tensor

FEW = ("compress:snapkv:0.25", "compress:snapkv:24:latest8:adakv", "compress:expected_attention:0.3:adakv",
       "compress:streaming:16", "compress:random:0.5")  # fmt: skip
N_PROMPT, NEW = 40, 20
PROMPT = random_ids(2, N_PROMPT)
BEAMS: dict[str, Any] = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}


def reference(text: str, prompt: Tensor = PROMPT, n_compressed: int = 0, **options: Any) -> Tensor:
    """Tokens by transformers' own model, without a cache; `n_compressed` (the whole prompt) is what is compressed."""
    with masked_by(compress_plan(text), n_compressed or prompt.shape[1]):
        return source().huggingface.generate(
            prompt, **{"max_new_tokens": NEW, **GREEDY, **options, "use_cache": False, "attention_mask": None}
        )


def generated(model: Any, prompt: Tensor = PROMPT, **options: Any) -> Any:
    return model.generate(prompt, **{"max_new_tokens": NEW, **GREEDY, **options})


@pytest.mark.parametrize("text", FEW)
def test_greedy_tokens_are_those_of_the_reference(text: str) -> None:
    assert torch.equal(generated(compressed(text)), reference(text))


def test_compression_changes_the_greedy_tokens() -> None:
    assert not torch.equal(reference("compress:snapkv:0.25"), reference("compress:snapkv:1.0"))


@pytest.mark.parametrize("text", FEW)
def test_beams_give_the_tokens_of_the_reference(text: str) -> None:
    assert torch.equal(generated(compressed(text), **BEAMS), reference(text, **BEAMS))


@pytest.mark.parametrize("text", FEW)
def test_samples_of_a_seed_are_those_of_the_reference(text: str) -> None:
    options, drawn = {"do_sample": True, "num_return_sequences": 3, "top_k": 20}, []
    for draw in (lambda: generated(compressed(text), **options), lambda: reference(text, **options)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            drawn.append(draw())
    assert torch.equal(*drawn)


@pytest.mark.parametrize("size", [7, 39, 64])
@pytest.mark.parametrize("text", FEW)
def test_a_prompt_may_be_read_in_chunks(text: str, size: int) -> None:
    assert torch.equal(generated(compressed(text), prefill_chunk_size=size), reference(text))


@pytest.mark.parametrize("options", [GREEDY, BEAMS])
@pytest.mark.parametrize("text", FEW)
def test_a_padded_batch_gives_the_tokens_of_each_row_alone(text: str, options: dict[str, Any]) -> None:
    tokens, mask = left_padded(PROMPT, [40, 9])
    found = generated(compressed(text), tokens, attention_mask=mask, **options)
    for row, alone in enumerate((PROMPT[:1], PROMPT[1:, :9])):
        expected = reference(text, alone, **options)[:, -NEW:]
        assert torch.equal(found.view(2, -1, N_PROMPT + NEW)[row, :, -NEW:], expected)


@pytest.mark.parametrize("text", FEW)
def test_embeddings_may_be_the_prompt(text: str) -> None:
    model = compressed(text)
    embedded = model.get_input_embeddings()(PROMPT).detach()
    found = model.generate(inputs_embeds=embedded, max_new_tokens=NEW, **GREEDY)
    assert torch.equal(found, reference(text)[:, N_PROMPT:])


# Assisted decoding: tokens are taken back.


@pytest.mark.parametrize("text", FEW)
def test_prompt_lookup_gives_the_greedy_tokens(text: str) -> None:
    prompt = random_ids(1, 8).repeat(1, 5)
    assert torch.equal(generated(compressed(text), prompt, prompt_lookup_num_tokens=5), reference(text, prompt))


@pytest.mark.parametrize("text", FEW)
def test_an_assistant_with_every_key_leaves_the_greedy_tokens_as_they_are(text: str) -> None:
    found = generated(compressed(text), PROMPT[:1], assistant_model=copy.deepcopy(source().huggingface))
    assert torch.equal(found, reference(text, PROMPT[:1]))


# (This one holds.)
@pytest.mark.parametrize("text", FEW)
def test_a_compressed_assistant_leaves_the_greedy_tokens_of_the_original_as_they_are(text: str) -> None:
    original = copy.deepcopy(source().huggingface)
    found = generated(original, PROMPT[:1], assistant_model=compressed(text))
    assert torch.equal(found, generated(source().huggingface, PROMPT[:1]))


# Going on with a cache.


@pytest.mark.parametrize("text", FEW)
def test_generation_goes_on_with_the_cache_it_gave_back(text: str) -> None:
    model = compressed(text)
    first = generated(model, return_dict_in_generate=True, max_new_tokens=10)
    second = generated(model, first.sequences, past_key_values=first.past_key_values, max_new_tokens=NEW - 10)
    assert torch.equal(second, reference(text))


@pytest.mark.parametrize("text", FEW)
def test_a_cache_compresses_the_first_prompt_and_not_what_follows(text: str) -> None:
    model = compressed(text)
    known = model.make_cache()
    in_chunks(model, PROMPT[:, :25], [25], cache=known)
    assert torch.equal(generated(model, past_key_values=known), reference(text, n_compressed=25))


@pytest.mark.parametrize("text", FEW)
def test_one_prompts_cache_can_be_copied_and_continued_twice(text: str) -> None:
    model = compressed(text)
    known = model.make_cache()
    in_chunks(model, PROMPT, [N_PROMPT], cache=known)
    for end in (random_ids(2, 5, seed=1), random_ids(2, 9, seed=2)):
        prompt = torch.cat((PROMPT, end), 1)
        found = generated(model, prompt, past_key_values=copy.deepcopy(known))
        assert torch.equal(found, reference(text, prompt, n_compressed=N_PROMPT))
