"""Everything that makes the model fast can be turned off, and the logits stay the same."""

from dataclasses import fields

import pytest
import torch
from runtime_makers import GREEDY, KINDS, hooked, in_chunks, left_padded, mixed, pruned, random_ids, same

from headspec.runtime.layers import PrunedMLP
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM
from headspec.runtime.tricks import Tricks

NAMES = [field.name for field in fields(Tricks)]
TOKENS = random_ids(2, 100)


def without(name: str, kind: str = "parallel") -> PrunedGPTNeoXForCausalLM:
    """A model with one trick off, or with all."""
    model = pruned(kind=kind)
    for each in NAMES if name == "all" else [name]:
        setattr(model.tricks, each, False)
    return model


def test_tricks_are_on_unless_turned_off() -> None:
    assert all(getattr(Tricks(), name) for name in NAMES)


def test_none_of_them_can_be_had() -> None:
    assert not any(getattr(Tricks.none(), name) for name in NAMES)


def test_a_switch_reaches_every_part_of_the_model() -> None:
    model = without("onednn")
    parts = {id(module.tricks) for module in model.modules() if hasattr(module, "tricks")}
    assert parts == {id(model.tricks)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_logits_stay_the_same_without(name: str, kind: str) -> None:
    model, expected = without(name, kind), hooked(mixed(kind), TOKENS)
    with torch.no_grad():
        same(model(TOKENS, use_cache=False).logits, expected)
        same(model(TOKENS, logits_to_keep=2).logits, expected[:, -2:])
    same(in_chunks(model, TOKENS, [60, 1, 1, 38]), expected)


@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_padded_logits_stay_the_same_without(name: str) -> None:
    tokens, mask = left_padded(TOKENS, [100, 30])
    found = in_chunks(without(name), tokens, [80, 1, 19], mask)
    same(found[1, -30:], hooked(mixed(), TOKENS[1:, :30])[0])


@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_tokens_stay_the_same_without(name: str) -> None:
    prompt = TOKENS[:, :20]
    expected = pruned().generate(prompt, max_new_tokens=6, **GREEDY)
    assert torch.equal(without(name).generate(prompt, max_new_tokens=6, **GREEDY), expected)


@pytest.mark.parametrize("name", ["rings", "all"])
def test_tokens_can_be_taken_back_without_recording_where_every_key_is_kept(name: str) -> None:
    model = without(name)
    cache = model.make_cache()
    in_chunks(model, TOKENS[:, :60], [60], cache=cache)
    cache.crop(-30)
    same(in_chunks(model, TOKENS[:, 30:], [1, 69], cache=cache), hooked(mixed(), TOKENS)[:, 30:])


def test_pieces_of_an_mlp_give_what_the_whole_gives() -> None:
    tricks = Tricks()
    mlp = PrunedMLP(pruned().config, tricks)
    hidden = torch.randn(3, 700, 32)
    with torch.no_grad():
        found = mlp(hidden)
        tricks.pieces = False
        same(found, mlp(hidden), 1e-6)
