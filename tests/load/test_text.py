"""How text becomes windows. The tiny model's tokenizer makes one token of each byte."""

import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from texts import letters
from tiny_models import CONTEXT, save_byte_tokenizer, save_neox_hub_layout

from headspec.errors import TextError
from headspec.load.model import load_model
from headspec.load.sources import PACKAGED, read_text
from headspec.load.text import (
    draw_windows,
    load_text,
)

# The packaged texts.


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_text_has_30000_bytes_or_more(name: str) -> None:
    assert len(read_text(name).encode()) >= 30_000


@pytest.mark.parametrize("pair", list(combinations(PACKAGED, 2)), ids="-".join)
def test_two_packaged_texts_share_no_line_longer_than_40_characters(pair: tuple[str, str]) -> None:
    first, second = ({line for line in read_text(name).splitlines() if len(line) > 40} for name in pair)
    assert not first & second


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_text_is_long_enough_for_the_default_number_of_tokens(demo: Any, name: str) -> None:
    assert load_text(demo, name).tokens.shape == (16, 512)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_default_windows_of_the_demo_come_without_a_warning(demo: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_text(demo, name)


# Windows of a text.


def test_the_default_window_is_the_context(neox: Any) -> None:
    assert load_text(neox, n_tokens=8192).tokens.shape == (64, CONTEXT)


def test_fewer_tokens_than_the_context_are_one_window(neox: Any) -> None:
    assert load_text(neox, n_tokens=50).tokens.shape == (1, 50)


def test_a_window_of_another_length_is_honoured(neox: Any) -> None:
    assert load_text(neox, n_tokens=1000, window=50).tokens.shape == (20, 50)


def test_windows_know_which_packaged_text_they_came_from(neox: Any) -> None:
    assert load_text(neox, "select", n_tokens=50).source == "packaged select.txt"


def test_windows_know_which_file_they_came_from(neox: Any, written: Any) -> None:
    path = written(50)
    assert load_text(neox, path, n_tokens=50).source == path


def test_three_windows_of_twenty_are_consecutive_tokens_from_multiples_of_twenty() -> None:
    drawn = draw_windows(torch.arange(110), n_tokens=60, window=20, seed=0)
    starts = drawn[:, 0]
    assert drawn.shape == (3, 20)
    assert (starts % 20).tolist() == [0, 0, 0]
    assert torch.equal(drawn, starts[:, None] + torch.arange(20))


def test_all_windows_of_a_text_are_the_text() -> None:
    assert torch.equal(draw_windows(torch.arange(60), n_tokens=60, window=20, seed=5), torch.arange(60).view(3, 20))


@given(length=st.integers(17, 400), n_tokens=st.integers(17, 400), window=st.integers(17, 100), seed=st.integers(0, 99))
@pytest.mark.filterwarnings("ignore:the text has")
def test_windows_are_disjoint_and_in_the_order_of_the_text(length: int, n_tokens: int, window: int, seed: int) -> None:
    drawn = draw_windows(torch.arange(length), n_tokens, window, seed).flatten()
    assert (drawn.diff() > 0).all()


def test_a_seed_draws_the_same_windows_again(neox: Any) -> None:
    assert load_text(neox, n_tokens=512, seed=3).digest == load_text(neox, n_tokens=512, seed=3).digest


def test_other_seeds_draw_other_windows(neox: Any) -> None:
    assert len({load_text(neox, n_tokens=512, seed=seed).digest for seed in range(5)}) == 5


def test_drawing_leaves_the_global_random_state_alone(neox: Any) -> None:
    before = torch.random.get_rng_state()
    load_text(neox, n_tokens=512)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_text_shorter_than_the_context_is_one_window(neox: Any, written: Any) -> None:
    with pytest.warns(UserWarning, match="the text has 40 tokens, not the 8192 asked for: using all of it"):
        found = load_text(neox, written(40))
    assert found.tokens.tolist() == [letters(neox, 40)]


def test_of_a_text_shorter_than_asked_for_every_whole_window_is_used(neox: Any, written: Any) -> None:
    warning = f"has 300 tokens, not the 8192 asked for: using {2 * CONTEXT} of them, in windows of {CONTEXT}"
    with pytest.warns(UserWarning, match=warning):
        found = load_text(neox, written(300))
    assert found.tokens.shape == (2, CONTEXT)


def test_a_text_of_just_the_tokens_asked_for_comes_without_a_warning(neox: Any, written: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_text(neox, written(40), n_tokens=40).tokens.shape == (1, 40)


def test_17_tokens_are_enough(neox: Any, written: Any) -> None:
    assert load_text(neox, written(17), n_tokens=17).tokens.shape == (1, 17)


@pytest.mark.filterwarnings("ignore:the text has")
def test_16_tokens_are_too_few(neox: Any, written: Any) -> None:
    with pytest.raises(TextError, match="the text has 16 tokens; 17 or more are needed: averages skip the first"):
        load_text(neox, written(16))


def test_asking_for_16_tokens_is_asking_for_too_few(neox: Any) -> None:
    with pytest.raises(TextError, match="16 tokens are too few: at least 17, averages skip the first 16 queries"):
        load_text(neox, n_tokens=16)


@pytest.mark.parametrize("window", [CONTEXT + 1, 16, 0, -5])
def test_a_window_out_of_range_is_refused_with_the_range(neox: Any, window: int) -> None:
    with pytest.raises(TextError, match=f"a window of {window} tokens: this model takes 17 to {CONTEXT}"):
        load_text(neox, window=window)


@pytest.mark.parametrize("window", [17, CONTEXT])
def test_a_window_at_the_end_of_the_range_is_taken(neox: Any, window: int) -> None:
    assert load_text(neox, n_tokens=window, window=window).tokens.shape == (1, window)


# The beginning of a window.


def test_a_pythia_reads_without_bos(neox: Any, written: Any) -> None:
    assert load_text(neox, written(20), n_tokens=20).tokens.tolist() == [letters(neox, 20)]


def test_a_llama_reads_with_bos(llama: Any, written: Any) -> None:
    assert load_text(llama, written(20), n_tokens=20).tokens.tolist() == [[0, *letters(llama, 19)]]


@pytest.mark.filterwarnings("ignore:the text has")
def test_a_bos_is_put_before_each_window_and_the_window_keeps_its_length(neox: Any, written: Any) -> None:
    found = load_text(neox, written(38), n_tokens=40, window=20, bos=True).tokens
    text = letters(neox, 38)
    assert found.tolist() == [[0, *text[:19]], [0, *text[19:]]]


def test_a_llama_reads_without_bos_when_told_to(llama: Any, written: Any) -> None:
    assert load_text(llama, written(20), n_tokens=20, bos=False).tokens.tolist() == [letters(llama, 20)]


def test_with_bos_windows_still_fit_the_context(neox: Any) -> None:
    assert load_text(neox, n_tokens=8192, bos=True).tokens.shape == (64, CONTEXT)


def test_a_bos_that_the_tokenizer_lacks_is_refused(tmp_path: Path) -> None:
    folder = save_neox_hub_layout(tmp_path, tokenizer=False, vocabulary=256)
    save_byte_tokenizer(folder, special_tokens=False)
    with pytest.raises(TextError, match="tokenizer has no BOS token: leave bos= out"):
        load_text(load_model(str(folder), device="cpu"), n_tokens=20, bos=True)
