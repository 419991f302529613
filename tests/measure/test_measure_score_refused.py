"""What cannot be scored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from one_pass import CONTINUATION, MODELS, PROMPT
from torch import Tensor

from headspec.errors import ModelError, TextError
from headspec.load.model import load_plain
from headspec.measure.score import score


@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [
        (PROMPT[:, :0], CONTINUATION),
        (PROMPT, CONTINUATION[:, :0]),
        (torch.empty(0, dtype=torch.int64), CONTINUATION[0]),
        (PROMPT, CONTINUATION[:2]),
        (PROMPT, CONTINUATION[0]),
    ],
    ids=["no prompt", "no continuation", "an empty prompt", "fewer rows", "one row"],
)
def test_shapes_that_do_not_fit_are_refused(model: Any, prompt: Tensor, continuation: Tensor) -> None:
    with pytest.raises(TextError, match=r"prompt \(.*\) and continuation \(.*\): want \[batch, token\] each"):
        score(model, prompt, continuation)


@pytest.mark.parametrize("ids", [torch.zeros(3, 4), torch.tensor(3), torch.zeros(1, 2, 3, dtype=torch.int64), []])
def test_ids_that_are_no_rows_of_whole_numbers_are_refused(neox: Any, ids: Any) -> None:
    with pytest.raises(TextError, match=r"token ids of shape .*: want whole numbers"):
        score(neox, ids, CONTINUATION)
    with pytest.raises(TextError, match=r"token ids of shape .*: want whole numbers"):
        score(neox, PROMPT, ids)


@pytest.mark.parametrize("prompt", ["", "Once"])
def test_empty_text_is_refused(neox_folder: Path, prompt: str) -> None:
    model = load_plain(str(neox_folder), device="cpu")
    with pytest.raises(TextError, match=r"want \[batch, token\] each"):
        score(model, prompt, "" if prompt else "Once")


@pytest.mark.parametrize("name", ["plain neox", "neox bridge"])
def test_text_without_a_tokenizer_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="has no tokenizer"):
        score(MODELS[name](), "Once", " upon")


def test_text_for_a_hugging_face_model_is_refused(neox: Any) -> None:
    with pytest.raises(ModelError, match="tokenizer"):
        score(neox, "Once", " upon")


def test_rows_of_unequal_length_are_refused(neox: Any) -> None:
    with pytest.raises(TextError, match="whole numbers"):
        score(neox, [[1, 2], [3]], [[1], [2]])


def test_no_rows_are_refused(neox: Any) -> None:
    with pytest.raises(TextError, match=r"want \[batch, token\]"):
        score(neox, PROMPT[:0], CONTINUATION[:0])


def test_ids_of_one_byte_are_scored_as_the_same_ids(neox: Any) -> None:
    found = score(neox, PROMPT.to(torch.uint8), CONTINUATION.to(torch.uint8))
    assert torch.equal(found.log_probabilities, score(neox, PROMPT, CONTINUATION).log_probabilities)


@pytest.mark.parametrize(("prompt", "continuation"), [([[1, 272]], [[1]]), ([[1, 2]], [[272]]), ([[1, 2]], [[-1]])])
def test_ids_out_of_the_vocabulary_are_refused(neox: Any, prompt: list[Any], continuation: list[Any]) -> None:
    with pytest.raises(TextError, match="token ids"):
        score(neox, prompt, continuation)
