"""What models are measured on, and which predictions count."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from measure_oracles import Copier, filler, finder, made_up_identity
from torch import Tensor

from headspec.errors import ModelError, TextError
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows
from headspec.measure.compare import compare
from headspec.measure.texts import ScoredText, needles_text, repeats_text, scored_text

NEEDLE = 8
"""Tokens of a needle: four of the key, four of the value."""


def depths_of(text: ScoredText) -> list[int]:
    """Where the needle that ends a row stands for the first time."""
    return [places(row)[0] for row in text.tokens]


def places(row: Tensor) -> list[int]:
    needle = row[-NEEDLE:]
    return [start for start in range(len(row) - NEEDLE + 1) if torch.equal(row[start : start + NEEDLE], needle)]


# Which predictions count.


def test_targets_are_the_tokens_after_the_queries() -> None:
    assert ScoredText(torch.tensor([[1, 2, 3, 4, 5]]), 0, "").targets.tolist() == [[2, 3, 4, 5]]


def test_targets_begin_after_the_first_query_that_counts() -> None:
    assert ScoredText(torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]), 2, "").targets.tolist() == [[4, 5], [9, 0]]


def test_the_digest_is_that_of_the_windows() -> None:
    tokens = torch.tensor([[1, 2, 3]])
    assert ScoredText(tokens, 1, "a").digest == TokenWindows(tokens, "b").digest


def test_text_is_scored_at_every_token(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    text = scored_text(tiny_plain, tiny_ids)
    assert text.first == 0
    assert torch.equal(text.targets, tiny_ids[:, 1:])


def test_scored_windows_keep_their_source(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    assert scored_text(tiny_plain, TokenWindows(tiny_ids, "my text")).name == "my text"


def test_words_are_tokenized_before_they_are_scored(neox_folder: Path) -> None:
    plain = load_plain(str(neox_folder), device="cpu")
    assert scored_text(plain, "ab").tokens.tolist() == [plain.tokenizer("ab")["input_ids"]]


def test_two_tokens_can_be_scored(tiny_plain: PlainModel) -> None:
    assert scored_text(tiny_plain, [5, 6]).targets.tolist() == [[6]]


def test_one_token_cannot_be_scored(tiny_plain: PlainModel) -> None:
    with pytest.raises(TextError, match="the text has 1 tokens; 2 or more are needed"):
        scored_text(tiny_plain, [5])


def test_words_without_a_tokenizer_are_refused(tiny_plain: PlainModel) -> None:
    with pytest.raises(ModelError, match="tiny has no tokenizer"):
        scored_text(tiny_plain, "ab")


# Repeated random tokens.


def test_repeats_are_scored_inside_the_second_copy_only() -> None:
    text = repeats_text(made_up_identity(context=9, bos=999), 3)  # one token and twice four
    assert text is not None
    assert text.tokens.shape == (3, 9)
    assert text.first == 5
    for row, targets in zip(text.tokens.tolist(), text.targets.tolist(), strict=True):
        front, a, b, c, d, *again = row
        assert (front, again, targets) == (999, [a, b, c, d], [b, c, d])


def test_the_first_scored_query_is_the_first_that_induction_can_answer() -> None:
    identity = made_up_identity(context=41, vocabulary=range(100_000), bos=7)
    text = repeats_text(identity, 4)
    assert text is not None
    for row in text.tokens.tolist():
        able = [query for query in range(40) if Copier(identity).copied(row[: query + 1]) is not None]
        assert able == list(range(text.first, 40))


def test_a_perfect_copier_is_always_right_on_repeats() -> None:
    copier = Copier(made_up_identity(context=41, vocabulary=range(10_000)))
    text = repeats_text(copier.identity, 4)
    assert text is not None
    assert compare(copier, copier, text).accuracy.tolist() == [1] * 4


def test_a_copier_that_does_not_see_the_first_copy_is_never_right_on_repeats() -> None:
    seeing = Copier(made_up_identity(context=41, vocabulary=range(1, 10_000)))
    blind = Copier(seeing.identity, reach=20)  # what followed its token lies 20 back: the 20 last end just after it
    text = repeats_text(seeing.identity, 4)
    assert text is not None
    assert compare(seeing, blind, text).accuracy.tolist() == [0] * 4


def test_repeats_start_with_the_token_that_starts_a_text() -> None:
    text = repeats_text(made_up_identity(bos=3), 5)
    assert text is not None
    assert text.tokens[:, 0].tolist() == [3] * 5


def test_repeats_are_made_of_ordinary_tokens() -> None:
    text = repeats_text(made_up_identity(vocabulary=[5, 9, 11], bos=0), 5)
    assert text is not None
    assert set(text.tokens[:, 1:].flatten().tolist()) == {5, 9, 11}


@pytest.mark.parametrize(("context", "length"), [(5, 2), (6, 2), (64, 31), (65, 32), (512, 255), (2048, 255)])
def test_repeats_fill_the_context_up_to_512_tokens(context: int, length: int) -> None:
    text = repeats_text(made_up_identity(context=context), 1)
    assert text is not None
    assert text.tokens.shape == (1, 2 * length + 1)
    assert text.targets.shape == (1, length - 1)


def test_a_context_too_short_for_two_copies_has_no_repeats() -> None:
    assert repeats_text(made_up_identity(context=4), 8) is None


def test_no_repeats_asked_for_are_none() -> None:
    assert repeats_text(made_up_identity(), 0) is None


def test_the_seed_draws_the_repeats() -> None:
    texts = [repeats_text(made_up_identity(), 2, seed) for seed in (1, 1, 2)]
    digests = [text.digest for text in texts if text is not None]
    assert digests[0] == digests[1] != digests[2]


def test_repeats_are_named() -> None:
    text = repeats_text(made_up_identity(context=64), 2)
    assert text is not None
    assert text.name == "random tokens twice (2 × 31)"


# Needles.


def needles(length: int, n_needles: int, n_windows: int = 1, seed: int = 0) -> ScoredText:
    text = needles_text(finder(length, n_windows), filler(length, n_windows), n_needles, seed)
    assert text is not None
    return text


def test_needles_are_as_long_as_the_windows_they_are_put_into() -> None:
    assert needles(64, 5).tokens.shape == (5, 64)


def test_a_needle_of_eight_tokens_stands_exactly_twice_in_its_row() -> None:
    for row in needles(64, 8).tokens:
        assert len(places(row)) == 2
        assert places(row)[1] == 64 - NEEDLE


def test_every_token_of_a_needle_stands_exactly_twice_in_its_row() -> None:
    for row in needles(64, 8).tokens.tolist():
        assert [row.count(token) for token in row[-NEEDLE:]] == [2] * NEEDLE


def test_scored_is_the_value_at_the_end_and_nothing_else() -> None:
    text = needles(64, 8)
    assert text.targets.shape == (8, 4)
    assert torch.equal(text.targets, text.tokens[:, -4:])
    value = torch.stack([row[depth + 4 : depth + 8] for row, depth in zip(text.tokens, depths_of(text), strict=True)])
    assert torch.equal(text.targets, value)


def test_depths_are_spread_evenly() -> None:
    assert depths_of(needles(64, 4)) == [1, 12, 24, 36]  # 1, and quarters of the 47 places that are left


@pytest.mark.parametrize(("length", "n_needles"), [(32, 5), (100, 16), (257, 7), (64, 1)])
def test_neighbouring_depths_are_equally_far_apart(length: int, n_needles: int) -> None:
    depths = [*depths_of(needles(length, n_needles)), length - 2 * NEEDLE]
    gaps = [after - before for before, after in pairwise(depths)]
    assert depths[0] == 1
    assert max(gaps) - min(gaps) <= 1


def test_more_needles_than_places_are_put_into_the_same_places() -> None:
    depths = depths_of(needles(32, 40))
    assert depths == sorted(depths)
    assert set(depths) == set(range(1, 16))


def test_the_first_token_of_a_window_stays_first() -> None:
    assert needles(64, 8).tokens[:, 0].tolist() == [500] * 8


def test_without_its_needles_a_row_is_the_start_of_the_filler() -> None:
    text = needles(64, 8)
    for row, depth in zip(text.tokens, depths_of(text), strict=True):
        assert torch.equal(torch.cat([row[:depth], row[depth + NEEDLE : -NEEDLE]]), filler(64).tokens[0, :48])


def test_needles_go_into_the_windows_in_turn() -> None:
    assert needles(64, 5, n_windows=2).tokens[:, 0].tolist() == [500, 564, 500, 564, 500]


def test_the_filler_is_left_alone() -> None:
    windows = filler(64)
    needles_text(finder(64), windows, 4)
    assert torch.equal(windows.tokens, filler(64).tokens)


def test_needles_are_made_of_ordinary_tokens() -> None:
    assert needles(64, 20).tokens[:, -NEEDLE:].unique().max() < 500


def test_needles_differ_from_each_other() -> None:
    assert len({tuple(row) for row in needles(64, 20).tokens[:, -NEEDLE:].tolist()}) == 20


def test_a_model_that_copies_what_followed_the_key_finds_every_needle() -> None:
    copier = finder(200)
    text = needles_text(copier, filler(200), 8)
    assert text is not None
    assert compare(copier, copier, text).accuracy.tolist() == [1] * 8


def test_a_model_that_sees_64_tokens_finds_the_near_needles_only() -> None:
    near = finder(200, reach=64)
    text = needles_text(near, filler(200), 8)
    assert text is not None
    # From the last token of the key, which stands 5 before the end, to the one of depth d: 192 − d keys back.
    expected = [1.0 if 192 - depth < 64 else 0.0 for depth in depths_of(text)]
    assert expected == [0] * 6 + [1] * 2
    assert compare(finder(200), near, text).accuracy.tolist() == expected


@pytest.mark.parametrize(("length", "some"), [(17, False), (31, False), (32, True)])
def test_windows_shorter_than_two_needles_and_16_tokens_have_no_needles(length: int, some: bool) -> None:
    assert (needles_text(finder(length), filler(length), 4) is not None) == some


def test_no_needles_asked_for_are_none() -> None:
    assert needles_text(finder(64), filler(64), 0) is None


def test_the_seed_draws_the_needles() -> None:
    digests = [needles(64, 4, seed=seed).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_the_seed_does_not_move_the_depths() -> None:
    assert depths_of(needles(64, 4, seed=1)) == depths_of(needles(64, 4, seed=2))


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    needles(64, 4)
    repeats_text(made_up_identity(), 4)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_needles_are_named_after_their_filler() -> None:
    assert needles(64, 4).name == "4 needles in numbers"
