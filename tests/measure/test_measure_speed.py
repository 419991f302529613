"""What is timed, in which order and how often: shown by systems that only write down what they are asked for."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headspec.errors import HeadspecError
from headspec.load.plain import PlainModel
from headspec.measure import speed
from headspec.measure.speed import Lap, device_of, summary, throughput, time_decode, time_prefill
from headspec.measure.systems.static_cache import static_cache
from headspec.measure.systems.transformers_default import transformers_default
from headspec.measure.systems.unpruned import unpruned

PROMPT = torch.arange(12).view(2, 6)
ONE = PROMPT[:1]


class Diary:
    """A system that computes nothing."""

    def __init__(self, name: str, diary: list[str], vocabulary: int = 50):
        self.model: Any = nn.Linear(1, 1)
        self.model.config = SimpleNamespace(vocab_size=vocabulary)
        self.name, self.diary, self.fed = name, diary, list[Tensor]()
        self.kv_bytes = 0

    def note(self, what: str) -> None:
        self.diary.append(f"{self.name} {what}")

    def start(self, prompt: int, expected: int, batch: int = 1) -> None:
        self.note(f"start {prompt} {expected} {batch}")
        self.fed = []

    def read(self, tokens: Tensor, n_last: int = 1) -> Tensor:
        self.note(f"read {tokens.shape[0]}x{tokens.shape[1]} for {n_last}")
        self.fed.append(tokens)
        return torch.zeros(len(tokens), n_last, 50)

    def repeat(self, times: int) -> None:
        self.note(f"repeat {times}")

    def forget(self) -> None:
        self.note("forget")


def systems(names: str, vocabulary: int = 50) -> tuple[list[str], dict[str, Diary]]:
    diary: list[str] = []
    return diary, {name: Diary(name, diary, vocabulary) for name in names}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Lets the diary say what is within the time."""

    def watch(diary: list[str]) -> None:
        def fake(work: Callable[[], object], device: str) -> Lap:
            diary.append(f"begin on {device}")
            work()
            diary.append("end")
            return Lap(1.0, 1.0)

        monkeypatch.setattr(speed, "lap", fake)

    return watch


# Prefill.


def test_making_the_cache_counts_and_dropping_it_does_not(watched: Callable[[list[str]], None]) -> None:
    diary, running = systems("a")
    watched(diary)
    time_prefill(running, PROMPT, rounds=1, warmup=0)
    assert diary == ["begin on cpu", "a start 6 6 2", "a read 2x6 for 1", "end", "a forget"]


def test_every_round_but_the_warm_up_gives_a_lap() -> None:
    diary, running = systems("ab")
    found = time_prefill(running, PROMPT, rounds=3, warmup=2)
    assert {name: len(laps) for name, laps in found.items()} == {"a": 3, "b": 3}
    assert diary.count("a read 2x6 for 1") == 5


def test_prompts_are_read_in_turns_and_everybody_comes_first_once() -> None:
    diary, running = systems("abc")
    time_prefill(running, PROMPT, rounds=3, warmup=0)
    assert "".join(line[0] for line in diary if "read" in line) == "abcbcacab"


def test_all_read_the_same_prompt() -> None:
    _, running = systems("ab")
    time_prefill(running, PROMPT, rounds=2)
    assert all(torch.equal(fed, PROMPT) for system in running.values() for fed in system.fed)


# Decoding.


def test_a_prompt_of_one_row_is_read_once_and_repeated(watched: Callable[[list[str]], None]) -> None:
    diary, running = systems("a")
    watched(diary)
    time_decode(running, ONE, batch=4, n_tokens=1, warmup=1)
    token = ["begin on cpu", "a read 4x1 for 1", "end"]
    assert diary == ["a start 6 8 1", "a read 1x6 for 1", "a repeat 4", *token, *token]


def test_a_prompt_of_every_row_is_not_repeated() -> None:
    diary, running = systems("a")
    time_decode(running, PROMPT, batch=2, n_tokens=1, warmup=0)
    assert diary == ["a start 6 7 2", "a read 2x6 for 1", "a read 2x1 for 1"]


def test_a_batch_of_one_is_not_repeated() -> None:
    diary, running = systems("a")
    time_decode(running, ONE, batch=1, n_tokens=1, warmup=0)
    assert "a repeat 1" not in diary


def test_every_token_but_the_warm_up_gives_a_lap() -> None:
    diary, running = systems("ab")
    found = time_decode(running, ONE, batch=2, n_tokens=5, warmup=2)
    assert {name: len(laps) for name, laps in found.items()} == {"a": 5, "b": 5}
    assert diary.count("b read 2x1 for 1") == 7


def test_tokens_are_read_in_turns_and_everybody_comes_first_once() -> None:
    diary, running = systems("abc")
    time_decode(running, ONE, batch=2, n_tokens=3, warmup=0)
    assert "".join(line[0] for line in diary if "x1 " in line) == "abcbcacab"


def test_all_are_fed_the_same_tokens() -> None:
    _, running = systems("ab")
    time_decode(running, ONE, batch=3, n_tokens=4)
    pairs = zip(running["a"].fed, running["b"].fed, strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def fed(seed: int) -> list[int]:
    _, running = systems("a")
    time_decode(running, ONE, batch=8, n_tokens=4, seed=seed)
    return torch.cat(running["a"].fed[1:]).flatten().tolist()


def test_the_seed_draws_the_tokens() -> None:
    assert fed(1) == fed(1) != fed(2)


def test_the_global_random_state_is_left_alone() -> None:
    _, running = systems("a")
    before = torch.get_rng_state()
    time_decode(running, ONE, batch=2, n_tokens=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_tokens_are_known_to_all() -> None:
    _, running = systems("ab")
    running["b"] = Diary("b", [], vocabulary=2)
    time_decode(running, ONE, batch=50, n_tokens=4)
    assert set(torch.cat(running["a"].fed[1:]).flatten().tolist()) == {0, 1}


def test_caches_stay_so_that_their_bytes_can_be_read(tiny_plain: PlainModel) -> None:
    running = {"V": transformers_default(tiny_plain).open()}
    time_decode(running, ONE, batch=3, n_tokens=4, warmup=2)
    column = 2 * 4 * 2 * 8 * 4  # layers, heads, key and value, d_head, float32
    assert running["V"].kv_bytes == 3 * (6 + 4 + 2) * column


def test_rows_that_do_not_fit_the_batch_are_refused() -> None:
    _, running = systems("a")
    with pytest.raises(HeadspecError, match="a prompt of 2 rows for a batch of 4: give one row, or 4"):
        time_decode(running, PROMPT, batch=4, n_tokens=1)


def test_real_systems_are_timed_together_and_alone(tiny_plain: PlainModel) -> None:
    makers = {"V": transformers_default, "S": static_cache, "P0": unpruned}
    running = {name: make(tiny_plain).open() for name, make in makers.items()}
    for some in (running, {"S": running["S"]}):
        for work in (partial(time_prefill, some, PROMPT, 2), partial(time_decode, some, ONE, 2, 2)):
            found = work()
            assert {name: len(laps) for name, laps in found.items()} == dict.fromkeys(some, 2)
            assert all(one.wall_ms > 0 and one.cpu_ms > 0 for laps in found.values() for one in laps)


# Summing up.


def test_a_summary_has_medians_and_95th_percentiles() -> None:
    laps = [Lap(wall_ms=float(number), cpu_ms=10.0 * number) for number in range(21)]
    found = summary(laps)
    assert found.to_dict() == {
        "wall_ms": 10.0, "wall_p95_ms": 19.0, "cpu_ms": 100.0, "cpu_p95_ms": 190.0, "n_laps": 21,
    }  # fmt: skip


def test_no_laps_have_no_summary() -> None:
    with pytest.raises(HeadspecError, match="no laps to sum up: time one round or more"):
        summary([])


def test_sixteen_rows_in_half_a_second_are_thirty_two_tokens_a_second() -> None:
    assert throughput([Lap(400.0, 1.0), Lap(500.0, 1.0), Lap(9000.0, 1.0)], batch=16) == 32


def test_a_system_computes_where_its_weights_are(tiny_plain: PlainModel) -> None:
    assert device_of(unpruned(tiny_plain).open()) == "cpu"
