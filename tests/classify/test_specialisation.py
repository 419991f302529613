"""Do heads specialise? The measure, and the verdict against untrained weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headspec.classify.specialisation import HeadDiversity, Specialisation, head_diversity
from headspec.load.text import load_text
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="module")
def profile(demo: Any) -> HeadProfile:
    return probe_heads(demo, load_text(demo, "probe", n_tokens=512), progress=False)


def diversity(bits: float) -> HeadDiversity:
    return HeadDiversity("a model", bits, 0.1, 0.2, 0.3)


def test_heads_that_look_alike_carry_no_information(profile: HeadProfile) -> None:
    alike = np.broadcast_to(profile.offset_mass[:1, :1], profile.offset_mass.shape)
    assert head_diversity(replace(profile, offset_mass=alike)).offset_information == pytest.approx(0, abs=1e-9)


def test_heads_at_as_many_offsets_as_heads_carry_log2_of_their_number(profile: HeadProfile) -> None:
    n_bins = profile.offset_mass.shape[-1]
    apart = np.eye(n_bins)[:32].reshape(4, 8, n_bins)
    assert head_diversity(replace(profile, offset_mass=apart)).offset_information == pytest.approx(5)


def test_clear_difference_from_untrained_is_specialised() -> None:
    verdict = Specialisation(diversity(0.8), diversity(0.7), diversity(0.01))
    assert verdict.specialised
    assert verdict.sentence.startswith("Heads specialise: which head it is tells 0.80 bits")


def test_little_difference_from_untrained_is_not_specialised() -> None:
    assert not Specialisation(diversity(0.03), diversity(0.0), diversity(0.0)).specialised
    assert not Specialisation(diversity(0.25), diversity(0.2), diversity(0.1)).specialised


def test_random_weights_get_no_verdict() -> None:
    verdict = Specialisation(diversity(0.8))
    assert verdict.specialised is None
    assert verdict.sentence.startswith("Random weights")


def test_the_saved_file_holds_numbers_and_verdict(tmp_path: Path) -> None:
    verdict = Specialisation(diversity(0.8), diversity(0.7), diversity(0.01))
    saved = json.loads(verdict.save(tmp_path / "specialisation.json").read_text(encoding="utf-8"))
    assert saved["specialised"] is True
    assert saved["text"]["offset_information"] == 0.8
