"""What is read off a loaded model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    TOKENIZER_SIZE,
    VOCABULARY,
    bridge_of,
    save_byte_tokenizer,
    save_neox_hub_layout,
    tiny_llama,
    tiny_neox,
)

from headspec.errors import ModelError
from headspec.load.identity import identify
from headspec.load.model import load_model


@pytest.fixture(scope="module")
def neox(neox_folder: Path) -> Any:
    return load_model(str(neox_folder), device="cpu")


def test_the_demo_is_4_layers_of_8_heads_over_512_tokens(demo: Any) -> None:
    found = identify(demo)
    sizes = (found.name, found.n_layers, found.n_heads, found.d_head, found.d_model, found.context)
    assert sizes == ("demo", 4, 8, 24, 192, 512)


def test_heads_are_query_heads_where_keys_and_values_are_shared() -> None:
    assert identify(bridge_of(tiny_llama(n_heads=4, n_key_value_heads=2))).n_heads == 4


def test_a_model_booted_by_hand_goes_by_its_own_name() -> None:
    assert identify(bridge_of(tiny_neox())).name == "planted"


def test_a_loaded_directory_is_called_as_it_was_asked_for(neox: Any, neox_folder: Path) -> None:
    assert identify(neox).name == str(neox_folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_that_of_the_weights(dtype: str) -> None:
    assert identify(bridge_of(tiny_neox().to(getattr(torch, dtype)))).dtype == dtype


def test_the_dtype_follows_a_later_cast(neox_folder: Path) -> None:
    model = load_model(str(neox_folder), device="cpu").to(torch.bfloat16)
    assert identify(model).dtype == "bfloat16"


def test_the_device_follows_a_later_move() -> None:
    assert identify(bridge_of(tiny_neox()).to("meta")).device == "meta"


def test_ordinary_tokens_are_neither_special_nor_padding_of_the_embedding(neox: Any) -> None:
    assert VOCABULARY > TOKENIZER_SIZE
    assert list(identify(neox).vocabulary) == list(range(2, TOKENIZER_SIZE))


def test_without_a_tokenizer_every_row_of_the_embedding_is_a_token() -> None:
    assert list(identify(bridge_of(tiny_neox())).vocabulary) == list(range(VOCABULARY))


def test_tokens_that_the_embedding_lacks_are_no_tokens(tmp_path: Path) -> None:
    folder = save_neox_hub_layout(tmp_path, vocabulary=100)
    assert list(identify(load_model(str(folder), device="cpu")).vocabulary) == list(range(2, 100))


def test_a_text_starts_with_the_bos_token(neox: Any) -> None:
    assert identify(neox).bos == 0


def test_without_a_tokenizer_there_is_no_bos_token() -> None:
    assert identify(bridge_of(tiny_neox())).bos is None


def test_a_bos_token_that_the_embedding_lacks_is_none(tmp_path: Path) -> None:
    folder = save_neox_hub_layout(tmp_path, tokenizer=False, vocabulary=256)
    save_byte_tokenizer(folder, special_tokens=False)
    assert identify(load_model(str(folder), device="cpu")).bos is None


@pytest.mark.parametrize(("name", "random"), [("random:demo", True), ("demo", False), ("my-random:demo", False)])
def test_random_weights_are_known_by_the_name(demo: Any, name: str, random: bool) -> None:
    assert replace(identify(demo), name=name).random_weights is random


@pytest.mark.parametrize("model", [tiny_neox(), "demo", None, torch.nn.Linear(2, 2)], ids=lambda m: type(m).__name__)
def test_what_is_no_bridge_is_refused_with_the_way_to_one(model: Any) -> None:
    match = rf"^{type(model).__name__} is not a TransformerBridge: load it with headspec\.load_model\(name\)"
    with pytest.raises(ModelError, match=match):
        identify(model)
