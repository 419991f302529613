"""What a report says of each head: words, numbers, effects, treatments, and patterns a byte a number."""

import base64
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_records import about_of, map_of, plan_of, profile_of, sample_of, sweep_of

from headspec.classify.head_map import HeadStatus, HeadVerdict, Trait
from headspec.heads import HeadId, HeadRole
from headspec.probe.catalogue import STATISTICS
from headspec.search.table import SweepTable
from headspec.show.report.heads import (
    effects,
    head_rows,
    margin_text,
    offsets,
    planned,
    rounded,
    statistics,
    verdict_text,
)
from headspec.show.report.patterns import MOST_TOKENS, patterns, quantise

ABOUT = about_of(2, 8)
HEAD_MAP, PROFILE = map_of(ABOUT), profile_of(ABOUT)
L0H1 = HeadId(0, 1)


def verdict(role: HeadRole, **fields: Any) -> HeadVerdict:
    return HeadVerdict(**{"head": L0H1, "role": role, "margin": 0.5, "reason": "because"} | fields)


def case(heads: str, treatment: str, kl: Any, kind: str = "single", n_heads: int = 1) -> dict[str, Any]:
    return {"kind": kind, "heads": heads, "n_heads": n_heads, "treatment": treatment, "kl": kl, "key": f"{kind}{heads}"}


# The verdict


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (verdict(HeadRole.POSITIONAL, window=8), "positional, window of 8 keys"),
        (verdict(HeadRole.GATHERING), "gathering"),
        (verdict(HeadRole.DEAD, status=HeadStatus.CANDIDATE), "dead, candidate"),
        (
            verdict(HeadRole.POSITIONAL, window=3, status=HeadStatus.PROTECTED),
            "positional, window of 3 keys, protected",
        ),
    ],
)
def test_by_hand_the_role_in_words(given: HeadVerdict, words: str) -> None:
    assert verdict_text(given) == words


def test_an_infinite_margin_is_said_in_words_and_is_none_in_json() -> None:
    given = verdict(HeadRole.GATHERING, margin=math.inf)
    assert margin_text(given) == "nothing measured could change the role"
    [row] = head_rows([given])
    assert row["margin"] is None


def test_by_hand_a_row_says_what_was_decided() -> None:
    given = verdict(HeadRole.POSITIONAL, window=8, traits=(Trait.PREVIOUS_TOKEN, Trait.FIXED_OFFSET),
                    evidence=(("output_spread", 0.25), ("judged_window", 8.0)))  # fmt: skip
    [row] = head_rows([given])
    assert (row["name"], row["layer"], row["head"], row["role"]) == ("L0H1", 0, 1, 0)
    assert (row["traits"], row["marks"]) == (["previous-token", "fixed-offset"], "p")
    assert row["evidence"] == [["output spread", "0.25"], ["judged window", "8"]]


# Numbers


def test_every_statistic_that_was_measured_comes_with_its_words() -> None:
    found = statistics(PROFILE)
    assert [each["name"] for each in found] == list(STATISTICS)
    entropy = found[0]
    assert (entropy["unit"], entropy["caution"]) == ("nats", STATISTICS["attention_entropy"].caution)
    assert entropy["values"] == [rounded(value) for value in PROFILE["attention_entropy"].ravel().tolist()]


def test_what_was_not_measured_is_left_out_and_a_single_gap_is_none() -> None:
    gap, nothing = PROFILE["output_norm"].copy(), np.full((2, 8), np.nan, "f4")
    gap[0, 1] = np.nan
    known = replace(PROFILE, grids={**PROFILE.grids, "output_norm": gap, "induction_score": nothing})
    found = {each["name"]: each["values"] for each in statistics(known)}
    assert "induction_score" not in found
    assert [value is None for value in found["output_norm"]] == [False, True] + [False] * 14


def test_without_a_profile_there_are_no_numbers() -> None:
    assert statistics(None) == []
    assert offsets(None) is None


def test_the_shares_by_distance_add_up_to_one() -> None:
    found = offsets(PROFILE)
    assert found is not None
    assert found["names"][:2] == ["0", "1"]
    np.testing.assert_allclose(np.sum(found["shares"], axis=1), 1, atol=1e-3)


# Effects of a sweep


def test_by_hand_the_effects_of_heads_that_were_treated_alone() -> None:
    rows = (
        case("L0H1", "mean", 0.5), case("L0H1", "window:8", 0.25), case("L0H1 L0H2", "mean", 9.0, n_heads=2),
        case("L7H7", "mean", 9.0),
    )  # fmt: skip
    found = effects(SweepTable({}, rows), HEAD_MAP)
    assert found is not None
    assert found["heads"] == {"L0H1": {"mean": [0.5] + [None] * 4, "window:8": [0.25] + [None] * 4}}
    assert list(found["treatments"]) == ["mean", "window:8"]


def test_the_case_of_a_single_head_goes_before_a_curve_of_one() -> None:
    rows = case("L0H1", "mean", 9.0, "curve"), case("L0H1", "mean", 0.5), case("L0H2", "mean", 0.75, "curve")
    found = effects(SweepTable({}, rows), HEAD_MAP)
    assert found is not None
    assert [found["heads"][head]["mean"][0] for head in ("L0H1", "L0H2")] == [0.5, 0.75]


def test_a_measure_that_overflowed_is_not_finite_and_a_word_is_none() -> None:  # rows have null for NaN and infinity
    rows = case("L0H1", "mean", "much"), case("L0H2", "mean", None), case("L0H3", "mean", math.nan)
    found = effects(SweepTable({}, rows), HEAD_MAP)
    assert found is not None
    assert [found["heads"][head]["mean"][0] for head in ("L0H1", "L0H2", "L0H3")] == [None, "not finite", "not finite"]


@pytest.mark.parametrize(("accuracy", "says"), [(0.5, "not finite"), (None, None)])
def test_repeats_overflowed_only_if_they_were_run(accuracy: float | None, says: str | None) -> None:
    row = case("L0H1", "mean", 0.5) | {"repeats_kl": None, "induction_accuracy": accuracy}
    found = effects(SweepTable({}, (row,)), HEAD_MAP)
    assert found is not None
    assert found["heads"]["L0H1"]["mean"][3] == says


def test_every_head_of_a_whole_sweep_has_every_treatment() -> None:
    found = effects(sweep_of(ABOUT), HEAD_MAP)
    assert found is not None
    assert {head: list(rows) for head, rows in found["heads"].items()} == {
        str(head): ["mean", "window:8"] for head in ABOUT.heads()
    }


def test_by_hand_what_a_plan_does_with_heads() -> None:
    found = planned(plan_of(PROFILE), HEAD_MAP)
    assert found is not None
    assert found["L0H0"] == ["window:8", "sees its last 8 keys and the first 4 tokens (sinks)"]
    assert found["L0H1"] == ["keep", "left as it is"]
    assert found["L0H5"][0] == "mean"


# Patterns


def test_by_hand_a_pattern_is_its_lower_triangle_by_square_roots() -> None:
    pattern = np.array([[1.0, 0.7], [0.25, 0.75]])
    assert quantise(pattern).tolist() == [255, 128, 221]  # 255 × 1, ½ and .866; the key after the query is not kept


def test_weights_are_right_within_what_the_page_says() -> None:
    sample = sample_of(ABOUT)
    rows, columns = np.tril_indices(48)
    back = (quantise(sample.patterns) / 255.0) ** 2
    np.testing.assert_allclose(back, sample.patterns[..., rows, columns].astype("f8"), atol=0.004)


def test_weights_that_are_no_numbers_are_nothing() -> None:
    assert quantise(np.array([[np.nan]])).tolist() == [0]


def test_heads_find_their_patterns_also_where_some_layers_have_none() -> None:
    whole = sample_of(about_of(3, 2))
    some = replace(whole, layers=(0, 2), patterns=whole.patterns[[0, 2]])
    found = patterns(some, map_of(about_of(3, 2)))
    assert found is not None
    assert found["places"] == [0, 1, -1, -1, 2, 3]
    length = len(base64.b64decode(found["bytes"]))
    assert length == 4 * 48 * 49 // 2


def test_of_a_long_sample_the_first_tokens_are_shown() -> None:
    sample = sample_of(about_of(1, 2), n_tokens=200)
    found = patterns(sample, map_of(about_of(1, 2)))
    assert found is not None
    assert found["tokens"] == list(sample.tokens[:MOST_TOKENS])
    kept = np.frombuffer(base64.b64decode(found["bytes"]), np.uint8).reshape(2, -1)
    rows, columns = np.tril_indices(MOST_TOKENS)
    np.testing.assert_array_equal(kept, quantise(sample.patterns[0, :, :MOST_TOKENS, :MOST_TOKENS]))
    assert kept.shape[1] == len(rows) == len(columns)


def test_all_of_it_is_plain_json() -> None:
    values = [head_rows(HEAD_MAP), statistics(PROFILE), offsets(PROFILE), effects(sweep_of(ABOUT), HEAD_MAP),
              planned(plan_of(PROFILE), HEAD_MAP), patterns(sample_of(ABOUT), HEAD_MAP)]  # fmt: skip
    assert json.loads(json.dumps(values, allow_nan=False)) == values
