"""What is measured through the real caches is what masks give, and what is fed and counted."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contender_makers import FOR_ALL, HEADS, MIXED, N_PROMPT, N_TOKENS, ids, plan_of, running, tiny
from quality_figures import FEW, NONE, value
from torch import Tensor, nn

from headspec.errors import TextError
from headspec.intervene.ablate import apply_plan
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows, load_text
from headspec.measure.compare import Comparison, compare
from headspec.measure.continuation import compare_continuations, measure_continuation, read_through
from headspec.measure.quality import measure_plan
from headspec.measure.systems.static_cache import static_cache
from headspec.measure.systems.system import System
from headspec.measure.systems.transformers_default import transformers_default
from headspec.measure.systems.unpruned import unpruned
from headspec.measure.texts import ScoredText, needles_text, repeats_text, scored_text
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.workload import Workload

WORKLOAD = Workload(N_PROMPT, N_TOKENS - N_PROMPT)
WISHES: list[Any] = [*FOR_ALL, MIXED]
CLOSE = 1e-5
"""In KL, nats a token."""
FIGURES = ("loss", "kl", "perplexity_increase", "top1_agreement", "repeats_kl", "induction_accuracy")


class Recorder:
    """A system that takes every token for equally likely, and writes down what it is asked for."""

    def __init__(self, vocabulary: int) -> None:
        self.model: Any = nn.Linear(1, 1)
        self.vocabulary, self.diary, self.kv_bytes = vocabulary, list[str](), 0

    def start(self, prompt: int, expected: int, batch: int = 1) -> None:
        self.diary.append(f"start {prompt} {expected} {batch}")

    def read(self, tokens: Tensor, n_last: int = 1) -> Tensor:
        self.diary.append(f"read {tokens.shape[1]} for {n_last}")
        return torch.zeros(len(tokens), n_last or tokens.shape[1], self.vocabulary)

    def repeat(self, times: int) -> None:
        raise AssertionError("nothing is to be repeated")

    def forget(self) -> None:
        self.diary.append("forget")


def texts() -> dict[str, ScoredText]:
    """Of the tiny model: continued text, repeats, needles."""
    windows = TokenWindows(ids(), "ids")
    repeats = repeats_text(tiny().identity, 2, seed=3)
    needles = needles_text(tiny(), windows, 3, seed=3)
    assert repeats is not None
    assert needles is not None
    return {"text": scored_text(tiny(), windows, WORKLOAD), "repeats": repeats, "needles": needles}


def by_masks(plan: HeadPlan, text: ScoredText) -> Comparison:
    def treated(window: Tensor) -> Any:
        with apply_plan(tiny(), plan, prompt=text.n_prompt):
            return tiny()(window)

    return compare(tiny(), treated, text)


# By hand.


def test_a_system_that_knows_nothing_loses_the_log_of_the_vocabulary() -> None:
    recorder = Recorder(tiny().identity.d_vocab)
    found = measure_continuation(tiny(), recorder, ids(), WORKLOAD, **NONE)
    assert found.loss.value == pytest.approx(math.log(tiny().identity.d_vocab))


def test_its_kl_is_what_the_original_knows() -> None:
    recorder, tokens = Recorder(tiny().identity.d_vocab), ids()
    found = measure_continuation(tiny(), recorder, tokens, WORKLOAD, **NONE)
    with torch.no_grad():
        logs = tiny()(tokens)[:, N_PROMPT - 1 : -1].log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1).mean()
    assert found.kl.value == pytest.approx(math.log(tiny().identity.d_vocab) - float(entropy), rel=1e-5)


def test_a_prompt_is_read_in_one_piece_and_what_follows_in_another() -> None:
    recorder = Recorder(tiny().identity.d_vocab)
    read_through(recorder, ids(2, 10), 6)
    assert recorder.diary == ["start 6 10 2", "read 6 for 1", "read 4 for 0", "forget"]


def test_a_text_that_is_all_prompt_is_read_once() -> None:
    recorder = Recorder(tiny().identity.d_vocab)
    assert read_through(recorder, ids(2, 10), 10).shape[1] == 1
    assert recorder.diary == ["start 10 10 2", "read 10 for 1", "forget"]


def test_the_last_token_is_only_predicted() -> None:
    recorder = Recorder(tiny().identity.d_vocab)
    measure_continuation(tiny(), recorder, ids(1), WORKLOAD, **NONE)
    assert recorder.diary[0] == f"start {N_PROMPT} {N_TOKENS - 1} 1"


def test_four_windows_are_read_at_once_and_a_step_is_told_for_each_four() -> None:
    recorder, steps = Recorder(tiny().identity.d_vocab), list[int]()
    measure_continuation(tiny(), recorder, ids(9), WORKLOAD, step=lambda: steps.append(1), **NONE)
    assert [line for line in recorder.diary if "start" in line] == [
        f"start {N_PROMPT} {N_TOKENS - 1} {rows}" for rows in (4, 4, 1)
    ]
    assert len(steps) == 3


def test_of_repeats_the_first_copy_is_the_prompt() -> None:
    recorder, text = Recorder(tiny().identity.d_vocab), texts()["repeats"]
    compare_continuations(tiny(), recorder, text)
    length = text.tokens.shape[1]
    assert recorder.diary[:2] == [f"start {text.first + 1} {length - 1} 2", f"read {text.first + 1} for 1"]
    assert text.tokens[0, text.first] == text.tokens[0, 1]  # where the second copy begins


def test_of_needles_all_up_to_the_last_key_is_the_prompt() -> None:
    recorder, text = Recorder(tiny().identity.d_vocab), texts()["needles"]
    compare_continuations(tiny(), recorder, text)
    assert recorder.diary[0] == f"start {N_TOKENS - 4} {N_TOKENS - 1} 3"


# Caches against masks.


@pytest.mark.parametrize("wish", WISHES, ids=str)
@pytest.mark.parametrize("kind", ["text", "repeats", "needles"])
def test_caches_give_the_kl_that_masks_give(wish: Any, kind: str) -> None:
    plan, text = plan_of(wish), texts()[kind]
    found, expected = compare_continuations(tiny(), running(plan), text), by_masks(plan, text)
    np.testing.assert_allclose(found.kl, expected.kl, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=0, atol=CLOSE)
    assert (expected.kl.max() > 1e-3) == (wish != "keep"), "a treatment without effect shows nothing"


def test_the_report_is_that_of_measure_plan_with_the_same_workload() -> None:
    plan, options = plan_of(MIXED), {"seed": 4, **FEW}
    found = measure_continuation(tiny(), running(plan), ids(), WORKLOAD, **options)
    expected = measure_plan(tiny(), plan, ids(), workload=WORKLOAD, **options)
    for name in FIGURES:
        assert value(found, name) == pytest.approx(value(expected, name), abs=CLOSE), name
    assert (found.model, found.text, found.text_digest) == (expected.model, expected.text, expected.text_digest)


@pytest.mark.parametrize("make", [transformers_default, static_cache, unpruned])
def test_the_original_loses_nothing(make: Callable[[PlainModel], System]) -> None:
    found = measure_continuation(tiny(), make(tiny()).open(), ids(), WORKLOAD, **FEW)
    assert abs(found.kl.value) < 1e-7
    assert found.top1_agreement.value == 1
    assert abs(value(found, "repeats_kl")) < 1e-7


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_one_piece_gives_what_token_after_token_gives(wish: Any) -> None:
    system, tokens = running(plan_of(wish)), ids()
    found = read_through(system, tokens, N_PROMPT)
    system.start(N_PROMPT, N_TOKENS, len(tokens))
    pieces = [system.read(tokens[:, :N_PROMPT]), *(system.read(token) for token in tokens[:, N_PROMPT:].split(1, 1))]
    torch.testing.assert_close(found, torch.cat(pieces, 1), rtol=0, atol=1e-4)


def test_no_cache_is_left_behind() -> None:
    system = running(plan_of("window:6"))
    measure_continuation(tiny(), system, ids(), WORKLOAD, **NONE)
    assert system.kv_bytes == 0


def test_the_demo_model_finds_its_needles_through_a_cache_and_not_through_a_window(plain_demo: PlainModel) -> None:
    windows = load_text(plain_demo, "certify", n_tokens=512, window=128)
    heads = [f"L{layer}H{head}" for layer in range(4) for head in range(8)]
    systems = [unpruned(plain_demo).open(),
               running(plan_heads(plain_demo, dict.fromkeys(heads, "window:12")), plain_demo)]  # fmt: skip
    kept, lost = (measure_continuation(plain_demo, each, windows, Workload(64, 64), n_repeats=2) for each in systems)
    assert value(kept, "needle_accuracy") == value(kept, "needle_accuracy_original") > 0.5
    assert value(lost, "needle_accuracy") < 0.5 * value(kept, "needle_accuracy")
    assert value(kept, "induction_accuracy") == value(kept, "induction_accuracy_original")
    assert value(lost, "induction_accuracy") < value(kept, "induction_accuracy")


# The workload.


def test_what_lies_behind_the_workload_is_not_read() -> None:
    plan, workload = plan_of("compress:snapkv:12"), Workload(30, 20)
    long, short = (measure_continuation(tiny(), running(plan), tokens, workload, **NONE)
                   for tokens in (ids(), ids()[:, :50]))  # fmt: skip
    assert long.kl == short.kl


def test_a_longer_prompt_leaves_fewer_tokens_that_count() -> None:
    plan = plan_of(dict.fromkeys(HEADS[:3], "zero"))
    whole = by_masks(plan, scored_text(tiny(), ids())).kl
    parts = [measure_continuation(tiny(), running(plan), ids(), Workload(n, N_TOKENS - n), **NONE).kl.value
             for n in (1, N_PROMPT)]  # fmt: skip
    assert parts[0] == pytest.approx(whole.mean(), abs=CLOSE)
    assert parts[1] != pytest.approx(parts[0], abs=CLOSE)


@pytest.mark.parametrize("workload", [Workload(60, 21), Workload(N_TOKENS, 1), Workload(40, 0)])
def test_a_workload_that_the_windows_cannot_hold_is_refused(workload: Workload) -> None:
    said = f"a prompt of {workload.n_prompt} and {workload.n_new} new tokens: want at least 1 .* the 80 of a window"
    with pytest.raises(TextError, match=said):
        measure_continuation(tiny(), running(plan_of("keep")), ids(), workload)


def test_fewer_repeats_or_needles_than_none_are_refused() -> None:
    with pytest.raises(TextError, match="n_repeats=-1, n_needles=0: want 0 or more"):
        measure_continuation(tiny(), running(plan_of("keep")), ids(), WORKLOAD, n_repeats=-1, n_needles=0)


def test_without_a_workload_the_first_half_is_the_prompt_where_heads_are_compressed() -> None:
    model, text = tiny(), TokenWindows(ids(2), "ids")
    plan = plan_of(dict.fromkeys(HEADS, "compress:snapkv:4"))
    half = text.tokens.shape[1] // 2
    found = measure_plan(model, plan, text, **NONE)
    assert found.kl.value > 0, "as if nothing were lost"
    assert found == measure_plan(model, plan, text, workload=Workload(half, text.tokens.shape[1] - half), **NONE)
