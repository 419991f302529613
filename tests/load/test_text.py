"""Where text comes from, and how it becomes windows. The tiny model's tokenizer makes one token of each byte."""

import hashlib
import io
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CONTEXT, VOCABULARY, bridge_of, save_byte_tokenizer, save_neox_hub_layout, tiny_neox
from torch import Tensor

from headspec.errors import ModelError, TextError
from headspec.load.model import load_model
from headspec.load.sources import PACKAGED, read_text, read_token_ids
from headspec.load.text import (
    TokenWindows,
    as_windows,
    draw_windows,
    load_text,
    random_tokens,
    shuffled,
    tokenize,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def neox(neox_folder: Path) -> Any:
    return load_model(str(neox_folder), device="cpu")


@pytest.fixture(scope="module")
def llama(llama_folder: Path) -> Any:
    return load_model(str(llama_folder), device="cpu")


@pytest.fixture(scope="module")
def untokenized() -> Any:
    return bridge_of(tiny_neox())


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a text of so many bytes, all different from their neighbours, and says where it is."""

    def write(length: int) -> str:
        path = tmp_path / "text.txt"
        path.write_text((ALPHABET * (length // 26 + 1))[:length])
        return str(path)

    return write


def letters(model: Any, length: int) -> list[int]:
    return tokenize(model, (ALPHABET * (length // 26 + 1))[:length]).tolist()


def ids(*shape: int) -> Tensor:
    return torch.arange(int(np.prod(shape))).view(*shape) % VOCABULARY


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


# Where text comes from.


def test_a_file_is_read(written: Any) -> None:
    assert read_text(written(30)) == (ALPHABET + "abcd")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes("\N{BOM}wörds".encode())
    assert read_text(str(tmp_path / "text.txt")) == "wörds"


def test_a_file_in_the_home_directory_is_found_behind_its_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "text.txt").write_text("words")
    assert read_text("~/text.txt") == "words"


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"words from a pipe")))
    assert read_text("-") == "words from a pipe"


def test_an_empty_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    with pytest.raises(TextError, match="- is empty"):
        read_text("-")


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"], ids=repr)
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(TextError, match=r"text\.txt is empty"):
        read_text(str(tmp_path / "text.txt"))


def test_a_file_that_is_not_utf_8_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"words\xff\xfe")
    with pytest.raises(TextError, match=r"text\.txt is not UTF-8 text \(byte 5\): is it a binary file\?"):
        read_text(str(tmp_path / "text.txt"))


def test_a_file_with_zero_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"words\0words")
    with pytest.raises(TextError, match=r"text\.txt contains zero bytes: is it a binary file\?"):
        read_text(str(tmp_path / "text.txt"))


def test_a_missing_file_is_refused_with_what_can_be_given() -> None:
    match = "cannot read the text nowhere.txt: No such file or directory.*datasets:NAME.*probe, select, certify"
    with pytest.raises(TextError, match=match):
        read_text("nowhere.txt")


def test_a_directory_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"cannot read the text .*Give a file"):
        read_text(str(tmp_path))


def test_without_a_tokenizer_text_is_refused(untokenized: Any) -> None:
    with pytest.raises(ModelError, match="planted has no tokenizer, so it cannot read text: give --token-ids FILE"):
        load_text(untokenized)


def test_tokenizing_adds_no_special_tokens(llama: Any) -> None:
    assert tokenize(llama, "aab").tolist() == letters(llama, 1) * 2 + letters(llama, 2)[1:]


# Data sets.


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Two rows in the layout that `datasets` reads from a folder."""
    rows = [{"text": "one one", "title": "first", "year": 1}, {"text": "two two", "title": "second", "year": 2}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `datasets.load_dataset` is asked for; it answers with rows without end. Rows that were read are counted."""
    diary: list[Any] = []

    def rows() -> Iterator[dict[str, str]]:
        while True:
            diary.append("row")
            yield {"text": "x" * 100}

    def load_dataset(*names: str | None, **options: Any) -> Iterator[dict[str, str]]:
        given = [name for name in (*names, options.pop("name", None)) if name is not None]
        diary.append((*given, options))
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return diary


def test_the_rows_of_a_data_set_are_paragraphs(data_set: Path) -> None:
    assert read_text(f"datasets:{data_set}") == "one one\n\ntwo two"


def test_the_lines_of_a_text_file_are_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one one\ntwo two\n")
    assert read_text(f"datasets:{tmp_path}") == "one one\n\ntwo two"


def test_another_column_of_a_data_set_is_read(data_set: Path) -> None:
    assert read_text(f"datasets:{data_set}#title") == "first\n\nsecond"


def test_a_column_that_a_data_set_lacks_is_refused_with_the_way_to_name_one(data_set: Path) -> None:
    with pytest.raises(TextError, match=r"has no column body: name it as in datasets:.*#title"):
        read_text(f"datasets:{data_set}#body")


def test_a_column_of_numbers_is_refused(data_set: Path) -> None:
    with pytest.raises(TextError, match=str(data_set)):
        read_text(f"datasets:{data_set}#year")


def test_a_data_set_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"cannot read data set .*nowhere"):
        read_text(f"datasets:{tmp_path / 'nowhere'}")


def test_a_data_set_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(TextError, match=f"{tmp_path}"):
        read_text(f"datasets:{tmp_path}")


def test_a_data_set_of_empty_rows_is_refused(neox: Any, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    with pytest.raises(TextError, match=r"is empty|has \d tokens"):
        load_text(neox, f"datasets:{tmp_path}")


def test_a_data_set_becomes_windows(neox: Any, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(f"{ALPHABET}\n" * 2)
    found = load_text(neox, f"datasets:{tmp_path}", n_tokens=27, window=27)
    assert found.tokens.tolist() in ([tokenize(neox, piece).tolist()] for piece in (f"{ALPHABET}\n", f"\n{ALPHABET}"))


def test_a_data_set_is_streamed_from_its_training_split(asked: list[Any]) -> None:
    read_text("datasets:org/name", 100)
    assert asked[0] == ("org/name", {"split": "train", "streaming": True})


def test_the_configuration_of_a_data_set_follows_its_name(asked: list[Any]) -> None:
    read_text("datasets:org/name/config-1#text", 100)
    assert asked[0][:2] == ("org/name", "config-1")


def test_no_more_of_a_data_set_is_read_than_needed(asked: list[Any]) -> None:
    read_text("datasets:org/name", 250)
    assert asked[1:] == ["row"] * 3


def test_a_data_set_without_end_becomes_windows(neox: Any, asked: list[Any]) -> None:
    assert load_text(neox, "datasets:org/name", n_tokens=1000, window=100).tokens.shape == (10, 100)


# Token ids from a file.


@pytest.mark.parametrize("content", ["3 1 2", "3\n1\n2\n", "3 1\n2\n", " 3\t1  2 "], ids=repr)
def test_token_ids_are_separated_by_any_white_space(tmp_path: Path, content: str) -> None:
    (tmp_path / "ids.txt").write_text(content)
    assert read_token_ids(str(tmp_path / "ids.txt")).tolist() == [3, 1, 2]


def test_one_token_id_is_a_sequence(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("7")
    assert read_token_ids(str(tmp_path / "ids.txt")).tolist() == [7]


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint16", "uint8"])
def test_token_ids_are_read_from_numpy(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "ids.npy", np.array([3, 1, 2], dtype=dtype))
    assert read_token_ids(str(tmp_path / "ids.npy")).tolist() == [3, 1, 2]


def test_token_ids_become_int64(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([3, 1, 2], dtype="uint16"))
    assert read_token_ids(str(tmp_path / "ids.npy")).dtype == torch.int64


@pytest.mark.parametrize("content", [b"1 two 3", b"1.5 2.5", b"1,2,3", b"\x93\xff\x00\x01"], ids=repr)
def test_what_are_no_whole_numbers_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(
        TextError, match=r"cannot read token ids from .*ids\.txt: .*Want whole numbers, or a \.npy file"
    ):
        read_token_ids(str(tmp_path / "ids.txt"))


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_file_without_token_ids_is_refused(untokenized: Any, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").touch()
    with pytest.raises(TextError, match=r"ids\.txt|the text has 0 tokens"):
        as_windows(read_token_ids(str(tmp_path / "ids.txt")), untokenized)


@pytest.mark.parametrize(
    "array", [np.array([1.0, 2.0]), np.array(["a"]), np.array([1, None])], ids=lambda a: str(a.dtype)
)
def test_a_numpy_file_of_no_whole_numbers_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(TextError, match=r"cannot read token ids from .*ids\.npy"):
        read_token_ids(str(tmp_path / "ids.npy"))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array"], ids=repr)
def test_a_damaged_numpy_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.npy").write_bytes(content)
    with pytest.raises(TextError, match=r"cannot read token ids from .*ids\.npy"):
        read_token_ids(str(tmp_path / "ids.npy"))


@pytest.mark.parametrize("name", ["nowhere.txt", "nowhere.npy"])
def test_a_missing_file_of_token_ids_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TextError, match=rf"cannot read token ids from .*{name}"):
        read_token_ids(str(tmp_path / name))


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
