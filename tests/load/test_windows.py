"""What a user hands in becomes windows; random and shuffled tokens; the digest."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from texts import ALPHABET, ids, letters
from tiny_models import CONTEXT, VOCABULARY

from headspec.errors import ModelError, TextError
from headspec.load.model import load_model
from headspec.load.text import (
    TokenWindows,
    as_windows,
    load_text,
    random_tokens,
    shuffled,
)

# What a user hands in.


def test_text_is_tokenized(neox: Any) -> None:
    assert as_windows(ALPHABET, neox).tokens.tolist() == [letters(neox, 26)]


def test_one_sequence_is_one_window(neox: Any) -> None:
    assert torch.equal(as_windows(ids(40), neox).tokens, ids(1, 40))


def test_a_sequence_beyond_the_context_is_cut_into_windows(neox: Any) -> None:
    assert torch.equal(as_windows(ids(2 * CONTEXT), neox).tokens, ids(2, CONTEXT))


def test_windows_stay_as_they_are(neox: Any) -> None:
    assert torch.equal(as_windows(ids(3, 40), neox).tokens, ids(3, 40))


def test_loaded_windows_keep_their_source(neox: Any) -> None:
    assert as_windows(TokenWindows(ids(2, 40), "my text"), neox).source == "my text"


@pytest.mark.parametrize(
    "given", [list(range(40)), np.arange(40), [list(range(20)), list(range(20))]], ids=lambda g: str(np.shape(g))
)
def test_lists_and_numpy_arrays_are_token_ids_too(untokenized: Any, given: Any) -> None:
    assert as_windows(given, untokenized).tokens.flatten().tolist() == np.asarray(given).flatten().tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16])
def test_token_ids_of_any_whole_type_become_int64(untokenized: Any, dtype: torch.dtype) -> None:
    assert as_windows(ids(40).to(dtype), untokenized).tokens.dtype == torch.int64


@pytest.mark.parametrize("shape", [(16,), (3, 16), (0,), (2, 0)], ids=str)
def test_windows_of_fewer_than_17_tokens_are_refused(untokenized: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(TextError, match=rf"the text has {shape[-1]} tokens; 17 or more are needed"):
        as_windows(ids(*shape), untokenized)


def test_the_least_number_of_tokens_can_be_set(untokenized: Any) -> None:
    with pytest.raises(TextError, match="the text has 40 tokens; 41 or more are needed"):
        as_windows(ids(40), untokenized, least=41)


def test_no_windows_are_refused(untokenized: Any) -> None:
    with pytest.raises(TextError, match="token"):
        as_windows(torch.empty(0, 40, dtype=torch.int64), untokenized)


def test_windows_beyond_the_context_are_refused(untokenized: Any) -> None:
    with pytest.raises(TextError, match=f"windows of 129 tokens are beyond the model's context of {CONTEXT}: cut them"):
        as_windows(ids(1, CONTEXT + 1), untokenized)


@pytest.mark.parametrize(("low", "high"), [(0, VOCABULARY), (-1, 5)])
def test_ids_out_of_the_vocabulary_are_refused_with_the_range(untokenized: Any, low: int, high: int) -> None:
    tokens = ids(40).clamp(max=5)
    tokens[3], tokens[4] = low, high
    with pytest.raises(TextError, match=f"token ids from {low} to {high}: this model knows 0–{VOCABULARY - 1}"):
        as_windows(tokens, untokenized)


def test_the_last_row_of_the_embedding_is_known(untokenized: Any) -> None:
    assert as_windows(torch.full((20,), VOCABULARY - 1), untokenized).tokens.shape == (1, 20)


@pytest.mark.parametrize("shape", [(40,), (2, 40)], ids=str)
def test_ids_that_are_no_whole_numbers_are_refused(untokenized: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(TextError, match=r"torch\.float32: want whole numbers, \[window, token\]"):
        as_windows(ids(*shape).float(), untokenized)


@pytest.mark.parametrize("shape", [(2, 2, 40), ()], ids=str)
def test_ids_of_another_number_of_dimensions_are_refused(untokenized: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(TextError, match=r"want whole numbers, \[window, token\]"):
        as_windows(torch.zeros(shape, dtype=torch.int64), untokenized)


def test_windows_of_unequal_lengths_are_refused(untokenized: Any) -> None:
    with pytest.raises(TextError, match="token"):
        as_windows([list(range(20)), list(range(30))], untokenized)


def test_text_without_a_tokenizer_is_refused(untokenized: Any) -> None:
    with pytest.raises(ModelError, match="has no tokenizer"):
        as_windows(ALPHABET, untokenized)


# Random token ids, and shuffled ones.


def test_random_weights_without_a_tokenizer_read_random_tokens() -> None:
    model = load_model("random:pythia-14m", device="cpu")
    assert load_text(model, n_tokens=100, window=50, seed=4).source == "random token ids (seed 4)"


def test_random_tokens_come_in_windows() -> None:
    assert random_tokens(range(10), 100, 20, 0).tokens.shape == (5, 20)


def test_random_tokens_are_from_the_vocabulary() -> None:
    assert set(random_tokens([5, 7, 11], 1000, 20, 0).tokens.flatten().tolist()) == {5, 7, 11}


def test_random_tokens_are_seeded() -> None:
    digests = [random_tokens(range(100), 100, 20, seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_fewer_than_17_random_tokens_are_refused() -> None:
    with pytest.raises(TextError, match="16 tokens; 17 or more are needed"):
        random_tokens(range(10), 16, 16, 0)


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    return TokenWindows(ids(4, 60), "numbers")


def test_shuffling_keeps_every_token(windows: TokenWindows) -> None:
    count = Counter(windows.tokens.flatten().tolist())
    assert Counter(shuffled(windows).tokens.flatten().tolist()) == count


def test_shuffling_keeps_the_shape(windows: TokenWindows) -> None:
    assert shuffled(windows).tokens.shape == (4, 60)


def test_shuffling_moves_tokens_between_windows(windows: TokenWindows) -> None:
    assert set(shuffled(windows).tokens[0].tolist()) != set(windows.tokens[0].tolist())


def test_shuffling_leaves_the_original_alone(windows: TokenWindows) -> None:
    shuffled(windows)
    assert torch.equal(windows.tokens, ids(4, 60))


def test_shuffling_is_seeded(windows: TokenWindows) -> None:
    digests = [shuffled(windows, seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_shuffled_windows_say_so(windows: TokenWindows) -> None:
    assert shuffled(windows).source == "numbers, shuffled"


# The digest.


def test_the_digest_is_the_sha_256_of_shape_and_ids() -> None:
    expected = hashlib.sha256(b"(1, 2)" + bytes([3, *[0] * 7, 4, *[0] * 7])).hexdigest()
    assert TokenWindows(torch.tensor([[3, 4]]), "").digest == expected


def test_the_digest_changes_with_one_token() -> None:
    changed = ids(4, 60)
    changed[3, 59] += 1
    assert TokenWindows(changed, "").digest != TokenWindows(ids(4, 60), "").digest


def test_the_digest_changes_with_the_shape() -> None:
    assert TokenWindows(ids(4, 60), "").digest != TokenWindows(ids(2, 120), "").digest


def test_the_digest_does_not_change_with_the_source_or_the_integer_type() -> None:
    assert TokenWindows(ids(4, 60).int(), "a").digest == TokenWindows(ids(4, 60), "b").digest


def test_the_digest_does_not_change_with_the_layout_in_memory() -> None:
    assert TokenWindows(ids(4, 60).T.contiguous().T, "").digest == TokenWindows(ids(4, 60), "").digest
