"""Treatments in words: every treatment has some, and short texts that are none stay as they are."""

import pytest

from headspec.plan.treatments import POLICIES, Compress, Fill, Remove, Window
from headspec.plan.words import several_words, treatment_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keep", "left as it is"),
        ("zero", "not computed; zero takes the place of its output"),
        ("mean", "not computed; its mean over the probe text takes the place of its output"),
        ("window:1+0", "sees its last 1 key"),
        ("window:1024+1", "sees its last 1,024 keys and the first 1 token (sinks)"),
        ("compress:snapkv:0.25", "after the prompt keeps 25% of the prompt's keys to which the prompt's last queries "
         "attend most (SnapKV)"),
        ("compress:random:64:latest32:adakv", "after the prompt keeps 64 keys drawn by lot (a control), always the "
         "latest 32 among them; the layer's heads share the room (Ada-KV)"),
    ],
)  # fmt: skip
def test_by_hand(text: str, words: str) -> None:
    assert treatment_words(text) == words


def test_every_treatment_has_words() -> None:
    every = [*map(Remove, Fill), Window(8), *(Compress(policy, 64) for policy in POLICIES)]
    assert len({treatment_words(what) for what in every}) == len(every)


def test_several_treatments_stand_behind_each_other() -> None:
    assert several_words("keep window:2+0 mine") == "keep: left as it is; window:2+0: sees its last 2 keys; mine"
