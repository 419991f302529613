"""What a KV cache is weighed for, by hand: a prompt, and the mean while its continuation is written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_makers import made_up_profile

from headspec.errors import HeadspecError
from headspec.plan.make import plan_heads
from headspec.plan.size import keys_held, kv_bytes_held, mean_keys_held, plan_size
from headspec.plan.treatments import KEEP, parse_treatment
from headspec.plan.workload import Workload, halves

workloads = st.builds(Workload, st.integers(1, 60), st.integers(0, 60))
TREATMENTS = ("keep", "zero", "window:8", "window:30+0", "compress:snapkv:0.5", "compress:snapkv:24",
              "compress:snapkv:24:latest8", "compress:streaming:16")  # fmt: skip


def test_a_prompt_alone_is_weighed_when_it_has_been_read() -> None:
    assert (Workload(200).n_total, Workload(200).mean_keys) == (200, 200)


def test_by_hand_the_mean_while_four_tokens_are_written() -> None:
    assert (Workload(10, 4).n_total, Workload(10, 4).mean_keys) == (14, 12.5)  # 11, 12, 13, 14


def test_one_new_token_is_weighed_with_itself() -> None:
    assert Workload(10, 1).mean_keys == 11


@given(workloads)
def test_a_full_cache_holds_the_mean_keys(workload: Workload) -> None:
    assert mean_keys_held(KEEP, workload) == pytest.approx(workload.mean_keys)


@given(workloads, st.sampled_from(TREATMENTS))
def test_the_mean_is_that_of_the_keys_after_every_new_token(workload: Workload, what: str) -> None:
    treatment = parse_treatment(what)
    numbers = range(1, workload.n_new + 1) if workload.n_new else [0]
    expected = np.mean([keys_held(treatment, workload.n_prompt, number) for number in numbers])
    assert mean_keys_held(treatment, workload) == pytest.approx(expected)


@given(workloads)
def test_a_plan_that_keeps_every_head_holds_everything(workload: Workload) -> None:
    size = plan_size(plan_heads(made_up_profile(), {}), workload)
    assert size.kv_share == 1
    assert (size.n_tokens, size.n_new) == (workload.n_prompt, workload.n_new)


@pytest.mark.parametrize(
    ("what", "share"),
    [
        ("keep", 1), ("zero", 0), ("window:4", 8 / 12.5), ("window:8", (11 + 3 * 12) / 50),
        ("compress:snapkv:0.5", 7.5 / 12.5), ("compress:snapkv:6:latest2", 6 / 12.5),
        ("compress:snapkv:12:latest2", (11 + 3 * 12) / 50), ("compress:streaming:5", 5 / 12.5),
    ],
)  # fmt: skip
def test_by_hand_the_share_of_a_prompt_of_ten_and_four_more(what: str, share: float) -> None:
    profile = made_up_profile()
    plan = plan_heads(profile, dict.fromkeys(profile.about.heads(), what))
    assert plan_size(plan, Workload(10, 4)).kv_share == pytest.approx(share, abs=1e-3)


def test_by_hand_the_bytes_after_the_last_new_token() -> None:
    plan = plan_heads(made_up_profile(), {"L0H0": "zero", "L0H1": "window:4", "L1H0": "compress:snapkv:0.5"})
    per_key = 2 * 8 * 4
    assert kv_bytes_held(plan, 10, 4) == (5 * 14 + 8 + 5 + 4) * per_key
    assert kv_bytes_held(plan, 10) == (5 * 10 + 8 + 5) * per_key


@pytest.mark.parametrize(("n_tokens", "prompt", "new"), [(512, 256, 256), (81, 40, 41), (2, 1, 1)])
def test_halves_of_a_text(n_tokens: int, prompt: int, new: int) -> None:
    assert halves(n_tokens) == Workload(prompt, new)


@pytest.mark.parametrize(("prompt", "new"), [(0, 5), (-1, 5), (5, -1)])
def test_a_workload_without_a_prompt_is_refused(prompt: int, new: int) -> None:
    said = rf"Workload\(n_prompt={prompt}, n_new={new}\): want a prompt of 1 token or more, and 0 or more new"
    with pytest.raises(HeadspecError, match=said):
        Workload(prompt, new)


def test_a_text_of_one_token_has_no_halves() -> None:
    with pytest.raises(HeadspecError, match="want a prompt of 1 token or more"):
        halves(1)
