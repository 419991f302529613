"""One figure of a benchmark: the quality, else the speed, or the part asked for; every measure with its meaning."""

import re
from typing import Any

import pytest
from benchmark_reports import full_report, quality, report, times

from headspec.errors import HeadspecError
from headspec.measure.report import MEASURES
from headspec.show.benchmark_page import benchmark, parts_of


def words(figure: Any) -> str:
    """All that pointing at something can show, as it is read."""
    shown = [text for trace in figure.data for text in (trace.hovertext or trace.text)]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", "", " ".join(shown).replace("<br>", " ")))


def test_quality_over_bytes_comes_first() -> None:
    assert benchmark(full_report()).layout.title.text.startswith("<b>What holding fewer KV bytes costs")


def test_without_quality_it_is_the_speed() -> None:
    timed = report(times("V", "reference", "decode", 1, 512))
    assert benchmark(timed).layout.title.text.startswith("<b>How fast")


def test_random_weights_have_no_quality_to_show() -> None:
    rows = [*quality("a", "certified", 0.5, 0.01), *times("V", "reference", "decode", 1, 512)]
    assert parts_of(report(rows, model="random:pythia-14m"))[0] == "speed"


@pytest.mark.parametrize(
    ("part", "headline"), [("quality", "What holding"), ("speed", "How fast"), ("roofline", "How near")]
)
def test_a_part_can_be_asked_for(part: str, headline: str) -> None:
    assert benchmark(full_report(), part).layout.title.text.startswith(f"<b>{headline}")


def test_an_unknown_part_names_those_there_are() -> None:
    with pytest.raises(HeadspecError, match="no part 'memory' of a benchmark: choose one of quality, speed, roofline"):
        benchmark(full_report(), "memory")


def test_a_part_that_was_not_measured_says_what_is_missing() -> None:
    with pytest.raises(HeadspecError, match="no times to draw"):
        benchmark(report(quality("a", "certified", 0.5, 0.01)), "speed")
    with pytest.raises(HeadspecError, match="neither quality nor times"):
        benchmark(report([]))


@pytest.mark.parametrize(
    ("part", "measures"),
    [("quality", ("kl", "perplexity", "top1_agreement", "induction_accuracy")), ("speed", ("ttft_ms", "tpot_ms"))],
)
def test_pointing_at_a_system_says_what_the_numbers_mean(part: str, measures: tuple[str, ...]) -> None:
    shown = words(benchmark(full_report(), part))
    for measure in measures:
        assert MEASURES[measure][1] in shown
