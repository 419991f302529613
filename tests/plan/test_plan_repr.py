"""How a plan shows itself: one line of text; in a notebook what is done to which heads, sizes, and the certificate."""

import re

import pytest
from plan_makers import made_up_profile

from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan

CERTIFICATE = {
    "broken": ["kl"],
    "quality": {
        "text": "fresh <b>text</b>", "n_windows": 8, "window": 64,
        "kl": {"value": 0.0123, "low": 0.01, "high": 0.02},
        "perplexity_increase": {"value": "Infinity", "low": None, "high": None}, "repeats_kl": None,
    },
}  # fmt: skip


def plan(model: str = "made-up") -> HeadPlan:
    return plan_heads(made_up_profile(model=model), {"L0H1": "zero", "L1H0": "window:8", "L1H3": "window:8"})


def rows(body: str) -> list[list[str]]:
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


def test_text_is_one_line() -> None:
    assert repr(plan()) == "HeadPlan(made-up: 5 keep, 2 window:8, 1 zero; no certificate)"
    assert repr(plan().certified({"kl": 0.1})).endswith("; certified)")


def test_by_hand_every_treatment_is_a_row_with_its_heads() -> None:
    assert rows(plan()._repr_html_())[1:] == [
        ["window:8", "2", "sees its last 8 keys and the first 4 tokens (sinks)", "L1H0 L1H3"],
        ["zero", "1", "not computed; zero takes the place of its output", "L0H1"],
        ["keep", "5", "left as it is", ""],
    ]


def test_sizes_are_said() -> None:
    # of 8 heads 5 hold 64 keys, 2 hold 12
    assert (
        "3 of 8 heads are treated; 67.2% of the KV bytes are left at the model&#x27;s context of 64 tokens, 12.5% of"
        in (plan()._repr_html_())
    )


def test_the_certificate_is_shown_in_short() -> None:
    body = plan().certified(CERTIFICATE)._repr_html_()
    assert (
        "Certificate: measured on 8 × 64 tokens of fresh &lt;b&gt;text&lt;/b&gt;; breaks the budget&#x27;s kl" in body
    )
    assert ["KL from the original", "0.0123", "0.01 to 0.02", "nats a token"] in rows(body)
    assert ["perplexity increase", "∞", "–", "relative: 0.02 is 2 % more"] in rows(body)
    assert "repeated random tokens" not in body
    assert "No certificate" in plan()._repr_html_()


@pytest.mark.parametrize(
    "certificate", [{"kl": 0.1}, {"quality": None}, {"quality": {"kl": {"value": [], "low": "x"}}}]
)
def test_a_certificate_of_another_kind_breaks_nothing(certificate: dict[str, object]) -> None:
    assert "Treatments" in plan().certified(certificate)._repr_html_()


def test_random_weights_are_named() -> None:
    assert "RANDOM WEIGHTS" in plan("random:pythia-14m")._repr_html_()
    assert "RANDOM WEIGHTS" not in plan()._repr_html_()
