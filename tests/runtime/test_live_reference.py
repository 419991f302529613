"""What is decided while a text is read is what the model then does: as transformers' own model behind masks."""

from functools import cache
from typing import Any

import pytest
import torch
from compression_reference import EXACT, KINDS
from live_makers import N_PROMPT, Script, live, reference, scripted, treated
from runtime_makers import GREEDY, in_chunks, left_padded, random_ids, same
from torch import Tensor

N_TOKENS = 68
TEXTS = random_ids(2, N_TOKENS)
SCRIPTS: dict[str, Script] = {
    "small windows": {N_PROMPT: {"L0H0": "window:1+0", "L0H1": "window:3", "L0H2": "window:8+2"}},
    "wide windows": {N_PROMPT: {"L0H1": "window:60", "L1H0": "window:39+1", "L1H2": "window:40+0"}},
    "one window for all": {N_PROMPT: {f"L{layer}H{head}": "window:5" for layer in range(2) for head in range(3)}},
    "streaming": {N_PROMPT: {"L0H0": "compress:streaming:12", "L1H2": "compress:streaming:12"}},
    "snapkv": {N_PROMPT: {"L0H0": "compress:snapkv:0.4", "L0H2": "compress:snapkv:0.4", "L1H1": "compress:snapkv:9"}},
    "bounded": {N_PROMPT: {"L0H1": "compress:snapkv:20:latest8", "L1H1": "compress:random:14:latest4"}},
    "shared": {N_PROMPT: {f"L{layer}H{head}": "compress:snapkv:0.3:adakv" for layer in range(2) for head in range(3)}},
    "dead": {N_PROMPT: {"L0H0": "mean", "L1H1": "mean", "L1H2": "mean"}},
    "a dead layer": {N_PROMPT: {f"L0H{head}": "mean" for head in range(3)}},
    "a last layer that is dead": {N_PROMPT: {f"L1H{head}": "mean" for head in range(3)}},
    "a mix": {N_PROMPT: {
        "L0H0": "mean", "L0H1": "window:4", "L0H2": "compress:snapkv:0.5", "L1H0": "compress:streaming:10",
        "L1H1": "mean", "L1H2": "window:2+1",
    }},
    "later": {48: {"L0H0": "mean", "L0H1": "window:4", "L1H2": "compress:snapkv:0.5"}},
    "much later": {56: {"L0H2": "window:64", "L1H0": "compress:snapkv:30:latest10", "L1H1": "mean"}},
    "one after another": {
        N_PROMPT: {"L0H0": "window:6", "L1H0": "mean"}, 44: {"L0H1": "window:6", "L1H1": "compress:snapkv:0.5"},
        52: {"L0H0": "mean", "L0H2": "mean", "L1H1": "mean"}, 60: {"L0H1": "mean", "L1H2": "window:3"},
    },
}  # fmt: skip
"""Heads are numbered so that both kinds of models have them."""


def found_in(script: Script, kind: str, chunks: list[int], **options: Any) -> Tensor:
    model = live(kind)
    return in_chunks(model, TEXTS, chunks, cache=model.make_cache(scripted(script), **options))


@cache
def wanted_in(name: str, kind: str = "parallel") -> Tensor:
    return torch.stack(reference(SCRIPTS.get(name, {}), list(TEXTS), kind))


def one_by_one(n_tokens: int = N_TOKENS, n_prompt: int = N_PROMPT) -> list[int]:
    return [n_prompt] + [1] * (n_tokens - n_prompt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_logits_are_those_of_the_reference(name: str, kind: str) -> None:
    same(found_in(SCRIPTS[name], kind, one_by_one()), wanted_in(name, kind), EXACT)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_changes_the_logits_after_its_decisions(name: str) -> None:
    difference = (wanted_in(name) - wanted_in("nothing")).abs().amax(-1)
    first = min(SCRIPTS[name])
    assert difference[:, :first].max() < 1e-9
    assert difference[:, -1].min() > 10 * EXACT


@pytest.mark.parametrize("name", ["a mix", "later", "one after another"])
def test_the_record_says_what_was_done(name: str) -> None:
    model = live()
    cache = model.make_cache(scripted(SCRIPTS[name]))
    in_chunks(model, TEXTS, one_by_one(), cache=cache)
    wanted = {f"L{layer}H{head}": "keep" for layer in range(2) for head in range(4)}
    for _, heads in sorted(SCRIPTS[name].items()):
        wanted |= heads
    assert treated(cache) == wanted


@pytest.mark.parametrize("sizes", [[7] * 6, [1] * 40, [39, 1], [24, 16], [64]])
def test_a_prompt_that_was_told_may_be_read_in_chunks(sizes: list[int]) -> None:
    chunks = [*sizes, N_TOKENS - sum(sizes)]
    same(found_in(SCRIPTS["a mix"], "parallel", chunks, prompt=N_PROMPT), wanted_in("a mix"), EXACT)


@pytest.mark.parametrize("sizes", [[4] * 7, [28], [2, 6, 8, 12], [8, 20]])
def test_what_follows_may_come_in_chunks_too(sizes: list[int]) -> None:
    script = SCRIPTS["a mix"]
    same(found_in(script, "parallel", [N_PROMPT, *sizes]), wanted_in("a mix"), EXACT)


@pytest.mark.parametrize("expected", [30, N_PROMPT, N_TOKENS, 200])
@pytest.mark.parametrize("name", ["one after another", "much later", "wide windows"])
def test_it_makes_no_difference_how_many_tokens_were_expected(name: str, expected: int) -> None:
    found = found_in(SCRIPTS[name], "sequential", one_by_one(), expected=expected)
    same(found, wanted_in(name, "sequential"), EXACT)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("small windows", "parallel"), ("shared", "sequential"), ("a mix", "sequential"), ("a mix", "parallel"),
     ("one after another", "parallel")],
)  # fmt: skip
def test_rows_with_padding_are_treated_as_the_reference_treats_them_alone(name: str, kind: str) -> None:
    lengths = [N_TOKENS, N_TOKENS - 21]
    tokens, mask = left_padded(TEXTS, lengths)
    model = live(kind)
    found = in_chunks(model, tokens, one_by_one(), mask, model.make_cache(scripted(SCRIPTS[name])))
    rows = [row[:length] for row, length in zip(TEXTS, lengths, strict=True)]
    for row, expected in zip(found, reference(SCRIPTS[name], rows, kind), strict=True):
        same(row[-len(expected) :], expected, EXACT)


@pytest.mark.parametrize("tricks", ["bands", "rings", "last_tokens"])
def test_no_trick_changes_the_logits(tricks: str) -> None:
    model = live()
    setattr(model.tricks, tricks, False)
    cache = model.make_cache(scripted(SCRIPTS["one after another"]))
    same(in_chunks(model, TEXTS, one_by_one(), cache=cache), wanted_in("one after another"), EXACT)


def test_only_the_last_logits_may_be_asked_for() -> None:
    model, script = live(), SCRIPTS["a mix"]
    found = in_chunks(model, TEXTS, one_by_one(), cache=model.make_cache(scripted(script)), logits_to_keep=1)
    same(found, wanted_in("a mix")[:, N_PROMPT - 1 :], EXACT)


@pytest.mark.parametrize("name", ["snapkv", "a mix", "one after another"])
def test_greedy_tokens_are_those_of_the_reference(name: str) -> None:
    model, prompt, new = live(), TEXTS[:2, :N_PROMPT], 24
    found = model.generate(
        prompt, past_key_values=model.make_cache(scripted(SCRIPTS[name])), max_new_tokens=new, **GREEDY
    )
    expected = torch.stack(reference(SCRIPTS[name], list(found)))[:, N_PROMPT - 1 : -1].argmax(-1)
    assert torch.equal(found[:, N_PROMPT:], expected)


# Short prompts: decided when enough was generated.


@pytest.mark.parametrize("n_prompt", [1, 5, 19])
def test_after_a_short_prompt_heads_are_classified_as_soon_as_enough_was_read(n_prompt: int) -> None:
    model, settled = live(), 20
    script = {settled: {"L0H0": "mean", "L0H1": "window:4", "L1H0": "compress:snapkv:0.5"}, 28: {"L1H3": "mean"}}
    cache = model.make_cache(scripted(script))
    found = in_chunks(model, TEXTS, one_by_one(n_prompt=n_prompt), cache=cache)
    expected = reference(script, list(TEXTS), n_settled=settled)
    same(found, torch.stack(expected), EXACT)


@pytest.mark.parametrize("n_chunk", [19, 30, 63])
def test_a_short_prompt_may_be_followed_by_a_long_piece(n_chunk: int) -> None:
    settled = 1 + n_chunk
    script = {settled: {"L0H0": "mean", "L0H1": "window:4"}}
    found = found_in(script, "parallel", [1, n_chunk, *[1] * (N_TOKENS - settled)])
    same(found, torch.stack(reference(script, list(TEXTS), n_settled=settled)), EXACT)
