"""Where text and token ids come from."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from texts import ALPHABET, letters

from headspec.errors import ModelError, TextError
from headspec.load.sources import read_text, read_token_ids
from headspec.load.text import (
    as_windows,
    load_text,
    tokenize,
)

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
