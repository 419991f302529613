"""The short text of treatments: what is read, what is written, and what is no treatment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headspec.errors import HeadspecError
from headspec.plan.treatments import (
    KEEP,
    POLICIES,
    SINKS,
    Compress,
    Fill,
    Keep,
    Remove,
    Treatment,
    Window,
    parse_treatment,
)

WRITTEN: dict[str, Treatment] = {
    "keep": Keep(),
    "zero": Remove(Fill.ZERO),
    "mean": Remove(Fill.MEAN),
    "random": Remove(Fill.RANDOM),
    "window:8": Window(8, 4),
    "window:1+0": Window(1, 0),
    "window:16+5": Window(16, 5),
    "compress:snapkv:0.5": Compress("snapkv", 0.5),
    "compress:expected_attention:128": Compress("expected_attention", 128),
}
shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
policies = st.sampled_from([policy for policy in POLICIES if policy != "streaming"])
treatments = st.one_of(
    st.just(KEEP),
    st.builds(Remove, st.sampled_from(Fill)),
    st.builds(Window, st.integers(1, 10**6), st.integers(0, 10**6)),
    st.builds(Compress, policies, st.integers(1, 10**6)),
    st.builds(
        Compress,
        policies,
        shares.filter(lambda share: share >= 1e-4),
    ),
)


@pytest.mark.parametrize("text", WRITTEN)
def test_each_treatment_is_read_from_its_text(text: str) -> None:
    assert parse_treatment(text) == WRITTEN[text]


@pytest.mark.parametrize("text", WRITTEN)
def test_each_treatment_is_written_as_its_text(text: str) -> None:
    assert str(WRITTEN[text]) == text


@given(treatments)
def test_what_is_written_is_read_back(treatment: Treatment) -> None:
    assert parse_treatment(str(treatment)) == treatment


@given(shares)
def test_every_share_of_the_keys_is_read_back(share: float) -> None:
    assert parse_treatment(str(Compress("snapkv", share))) == Compress("snapkv", share)


@given(treatments)
def test_a_treatment_is_its_own_reading(treatment: Treatment) -> None:
    assert parse_treatment(treatment) is treatment


def test_spaces_around_a_text_do_not_matter() -> None:
    assert parse_treatment(" window:8\n") == Window(8)


def test_a_window_keeps_four_sinks_unless_told_otherwise() -> None:
    assert parse_treatment("window:8") == Window(8, SINKS) == Window(8, 4)


def test_a_fill_may_be_given_by_its_word() -> None:
    assert Remove("mean") == Remove(Fill.MEAN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "", "remove", "Mean", "mean:", "keep:1", "window", "window:", "window:8+", "window:+4", "window:8:4",
        "window:8.5", "window:eight", "compress", "compress:snapkv", "compress:snapkv:", "compress:snapkv:half",
        "compress:snapkv:0.5:1", "zero mean",
    ],
)  # fmt: skip
def test_what_is_no_treatment_is_refused_with_the_ways_to_write_one(text: str) -> None:
    with pytest.raises(HeadspecError, match="is no treatment: write keep, zero, mean, random, window:8"):
        parse_treatment(text)


@pytest.mark.parametrize("text", ["window:0", "window:-1", "window:0+4"])
def test_a_window_without_keys_is_refused(text: str) -> None:
    with pytest.raises(HeadspecError, match=r"window (0|-1): want a number of keys, 1 or more"):
        parse_treatment(text)


def test_fewer_than_no_sinks_are_refused() -> None:
    with pytest.raises(HeadspecError, match="sinks -1: want a number of keys, 0 or more"):
        parse_treatment("window:8+-1")


def test_a_window_that_is_true_is_refused() -> None:
    with pytest.raises(HeadspecError, match="window True: want a number of keys, 1 or more"):
        Window(True)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HeadspecError, match="policy 'h2o': choose one of snapkv, expected_attention"):
        parse_treatment("compress:h2o:0.5")


@pytest.mark.parametrize("budget", ["0", "0.0", "1.5", "-0.5", "-3", "nan.", "inf."])
def test_a_budget_that_is_no_share_and_no_number_of_keys_is_refused(budget: str) -> None:
    with pytest.raises(HeadspecError, match=r"budget .*: want a share of the keys like 0\.5|is no treatment"):
        parse_treatment(f"compress:snapkv:{budget}")


def test_a_budget_that_is_true_is_refused() -> None:
    with pytest.raises(HeadspecError, match="budget True"):
        Compress("snapkv", True)


def test_an_unknown_fill_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HeadspecError, match="fill 'average': choose zero, mean or random"):
        Remove("average")  # type: ignore[arg-type]


def test_treatments_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        Window(8).window = 0  # type: ignore[misc]
