"""The Markdown of a benchmark: its tables hold the rows, its headline says what was gained and what was lost."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from benchmark_reports import full_report, quality, report, row, skipped, times

from headspec.show.benchmark_headline import NO_BASELINE, equal_bytes, headlines
from headspec.show.benchmark_rows import Numbers
from headspec.show.benchmark_table import markdown


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a title, the line under its head left out."""
    (part,) = [part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(title)]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]


def sentence(rows: list[dict[str, Any]], name: str = "mine") -> str:
    return next(words for entrant, words in headlines(Numbers(report(rows))) if entrant.name == name)


def speedup(ratio: float, low: float, high: float, base: str = "S", bound: float = 1.5) -> list[dict[str, Any]]:
    about = {"part": "decode", "standing": "certified", "batch": 4, "context": 100}
    return [
        row("mine", "tpot_ms", 10.0, **about), row("mine", "pruning_bound", bound, against="P0", **about),
        row("mine", "speedup", ratio, low=low, high=high, against=base, **about),
    ]  # fmt: skip


def test_by_hand_a_row_of_quality() -> None:
    head, cells = table(markdown(report(quality("a", "certified", 0.25, 0.04))), "Quality")
    assert head == ["system", "KV share", "perplexity [95 %]", "KL, nats/token [95 %]", "top-1", "induction", "needles"]
    assert cells == ["**a**", "25.0 %", "25.1 [22.6, 27.6]", "0.0400 [0.0320, 0.0500]", "96.1 %", "84.0 %", "72.4 %"]


def test_by_hand_a_row_of_speed() -> None:
    about = {"part": "decode", "standing": "baseline", "batch": 4, "context": 100}
    values = {"tpot_ms": 8.0, "tpot_p95_ms": 9.5, "tpot_cpu_ms": 7.5, "throughput": 500.0, "kv_bytes": 1_234_000_000,
              "pruning_bound": 1.9, "roofline_share": 0.4567}  # fmt: skip
    rows = [row("a", measure, value, **about) for measure, value in values.items()]
    rows.append(row("a", "speedup", 1.5, low=1.25, high=2.0, against="S", **about))
    head, cells = table(markdown(report(rows)), "Decoding: batch 4, context 100")
    found = dict(zip(head, cells, strict=True))
    assert found == {
        "system": "a", "TPOT median / p95, ms": "8.00 / 9.50", "CPU, ms": "7.50", "tokens/s": "500",
        "× S [95 %]": "1.50 [1.25, 2.00]", "by pruning, at most × P0": "1.90", "KV bytes": "1.23 GB",
        "of roofline": "45.7 %",
    }  # fmt: skip


def test_every_system_and_every_cell_is_in_a_table() -> None:
    known = full_report(hypothetical=True)
    text = markdown(known)
    assert len(table(text, "Quality")) == 1 + len(known.settings["systems"])
    titles = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert titles == ["Quality", "Reading a prompt: batch 1, prompt 2048",
                      *(f"Decoding: batch {batch}, context 2000" for batch in (1, 4, 16)), "Weights", "Headline",
                      "Notes"]  # fmt: skip


def test_all_lines_of_a_table_have_as_many_cells() -> None:
    text = markdown(full_report(hypothetical=True))
    for title in ("Quality", "Reading a prompt", "Decoding: batch 4", "Weights"):
        assert len({len(cells) for cells in table(text, title)}) == 1


def test_the_head_names_model_machine_threads_versions_and_seed() -> None:
    head = markdown(full_report()).split("## ")[0]
    for known in ("pythia-160m", "AMD EPYC", "1 thread", "python 3.11.7", "torch 2.13.0+cpu", "seed: 0", "24.8 GB/s"):
        assert known in head


def test_by_hand_what_other_engines_compute_is_a_table_of_its_own() -> None:
    found = {"CTranslate2": 1.25e-5, "P0 int8": 0.3456}
    rows = [row(name, "logits_difference", value, "check", "peer") for name, value in found.items()]
    text = markdown(report([*quality("V", "reference", 1.0, 0.0), *rows]))
    title = "Logits, beside those of torch in float32"
    assert table(text, title) == [["system", "largest difference of a logit"], ["CTranslate2", "1.25e-05"],
                                  ["P0 int8", "0.346"]]  # fmt: skip
    assert text.index(title) < text.index("## Quality")


def test_without_other_engines_there_is_no_such_table() -> None:
    assert "## Logits" not in markdown(full_report())


def test_by_hand_the_speed_up_on_the_same_engine_is_a_column() -> None:
    about = {"part": "decode", "standing": "peer", "batch": 4, "context": 100}
    rows = [row(name, "tpot_ms", 8.0, **about) for name in ("P0 OpenVINO", "mine OpenVINO")]
    rows.append(row("mine OpenVINO", "engine_speedup", 1.5, low=1.25, high=2.0, against="P0 OpenVINO", **about))
    head, *cells = table(markdown(report(rows)), "Decoding: batch 4, context 100")
    place = head.index("× the whole model there [95 %]")
    assert {each[0]: each[place] for each in cells} == {"P0 OpenVINO": "–", "mine OpenVINO": "1.50 [1.25, 2.00]"}


def test_who_could_not_take_part_is_a_note() -> None:
    text = markdown(report([skipped("check", "CTranslate2: it is not installed", None, None)]))
    assert "- skipped: check: CTranslate2: it is not installed" in text


def test_peers_claim_nothing_in_the_headline() -> None:
    rows = [*quality("mine", "certified", 0.25, 0.1), *quality("mine int8", "peer", 0.25, 0.1)]
    numbers = Numbers(report(rows))
    assert [entrant.name for entrant, _ in headlines(numbers)] == ["mine"]
    (mine,) = [entrant for entrant in numbers.entrants if entrant.name == "mine"]
    assert equal_bytes(numbers, mine) == []


def test_only_certified_names_are_bold_in_tables() -> None:
    names = [cells[0] for cells in table(markdown(full_report(hypothetical=True)), "Quality")]
    bold = [name for name in names if name.startswith("**")]
    assert bold == ["**pruned**", "**head map 50 %**", "**head map 25 %**", "**head map 12 %**"]


def test_hypothetical_plans_are_named_so() -> None:
    names = [cells[0] for cells in table(markdown(full_report(hypothetical=True)), "Decoding: batch 1,")]
    assert "plan c (hypothetical)" in names
    assert "plan c" not in names


def test_random_weights_have_a_sentence_in_place_of_quality() -> None:
    text = markdown(full_report(model="random:pythia-1b"))
    assert "**RANDOM WEIGHTS: timing only**" in text
    assert "The weights are random, so there is no quality to lose" in text
    assert "KL, nats/token" not in text


def test_columns_without_numbers_are_left_out() -> None:
    (head, _) = table(markdown(report([row("a", "kl", 0.1)])), "Quality")
    assert head == ["system", "KL, nats/token [95 %]"]


def test_a_report_without_rows_claims_nothing() -> None:
    text = markdown(report([]))
    assert "No certified system took part: nothing is claimed." in text
    assert "|" not in text


def test_odd_names_are_neither_tags_nor_columns() -> None:
    name = "<b>a|b</b> *c* `d`"
    text = markdown(report(quality(name, "baseline", 0.5, 0.1), model="<i>m</i>"))
    assert len(table(text, "Quality")[1]) == len(table(text, "Quality")[0])
    assert "&lt;b&gt;a\\|b&lt;/b&gt; \\*c\\* \\`d\\`" in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_a_skipped_cell_is_a_note() -> None:
    text = markdown(report([skipped("decode", "needs about 40 GB", 16, 2000)]))
    assert "- skipped: decode, batch 16, context 2000: needs about 40 GB" in text


@pytest.mark.parametrize("value", [None, math.inf, math.nan])
def test_a_value_that_is_no_number_is_a_note(value: float | None) -> None:
    text = markdown(report([row("a", "kl", value, standing="baseline"), row("a", "kv_share", 0.5)]))
    assert "- no number: kl of a (quality)" in text


@pytest.mark.parametrize(("p95", "noted"), [(14.9, False), (15.1, True)])
def test_scattered_times_are_a_note(p95: float, noted: bool) -> None:
    about = {"part": "decode", "batch": 1, "context": 100}
    text = markdown(report([row("V", "tpot_ms", 10.0, **about), row("V", "tpot_p95_ms", p95, **about)]))
    assert ("- noisy: decode, batch 1, context 100" in text) is noted


@pytest.mark.parametrize(("cpu", "threads", "noted"), [(8.1, 1, False), (7.9, 1, True), (7.9, 2, False)])
def test_waiting_is_a_note_where_one_thread_computes(cpu: float, threads: int, noted: bool) -> None:
    about = {"part": "decode", "batch": 1, "context": 100, "threads": threads}
    text = markdown(report([row("V", "tpot_ms", 10.0, **about), row("V", "tpot_cpu_ms", cpu, **about)]))
    assert ("- busy machine: decode, batch 1, context 100" in text) is noted


def test_every_system_is_explained() -> None:
    text = markdown(full_report())
    assert all(f"- {name} (" in text and f"what {name} is" in text for name in full_report().settings["systems"])


def test_a_headline_is_written_for_certified_systems_only() -> None:
    names = [entrant.name for entrant, _ in headlines(Numbers(full_report(hypothetical=True)))]
    assert names == ["pruned", "head map 50 %", "head map 25 %", "head map 12 %"]


def test_by_hand_a_headline_says_what_was_lost() -> None:
    words = sentence([*quality("V", "reference", 1.0, 0.0), *quality("mine", "certified", 0.25, 0.04)])
    assert words.startswith("Gained: it holds 25.0 % of the KV bytes. Lost: perplexity +4.08 [3.25, 5.13] %")
    assert "KL 0.0400 [0.0320, 0.0500] nats a token" in words
    assert "induction accuracy 84.0 % (original 91.0 %)" in words


@pytest.mark.parametrize(
    ("limits", "found"),
    [((1.5, 1.2, 1.8), "Gained: it decodes 1.50"), ((0.5, 0.4, 0.6), "Lost: it decodes 0.500"),
     ((1.1, 0.9, 1.3), "No difference to be told: it decodes 1.10")],
)  # fmt: skip
def test_a_speed_up_counts_as_what_its_interval_allows(limits: tuple[float, float, float], found: str) -> None:
    assert found in sentence(speedup(*limits))


@pytest.mark.parametrize(("bound", "beyond"), [(1.1, True), (1.4, False)])
def test_a_speed_up_beyond_what_pruning_can_give_is_called_so(bound: float, beyond: bool) -> None:
    assert ("not all of it is pruning" in sentence(speedup(1.5, 1.2, 1.8, "P0", bound))) is beyond


def test_heavier_weights_are_a_loss() -> None:
    rows = [row("P0", "weight_bytes", 1e6, "size"), row("mine", "weight_bytes", 2e6, "size", "certified")]
    assert "Lost: weights of 2.00 MB, P0 has 1.00 MB" in sentence(rows)


def test_a_system_that_was_not_judged_says_so() -> None:
    assert "its quality was not measured here" in sentence(times("pruned", "certified", "decode", 1, 100), "pruned")


def test_by_hand_baselines_of_equal_bytes_are_those_within_a_tenth() -> None:
    shares = {"a": 0.226, "b": 0.274, "c": 0.22, "d": 0.28}
    rows = [each for name, share in shares.items() for each in quality(name, "baseline", share, 0.1)]
    rows += [*quality("random", "control", 0.25, 0.1), *quality("mine", "certified", 0.25, 0.1)]
    numbers = Numbers(report(rows))
    (mine,) = [entrant for entrant in numbers.entrants if entrant.name == "mine"]
    assert [rival.name for rival in equal_bytes(numbers, mine)] == ["a", "b"]


def test_by_hand_baselines_are_told_apart_by_their_intervals() -> None:
    kls = {"worse": 0.2, "alike": 0.11, "better": 0.05}  # limits are 0.8 and 1.25 times the value
    rows = [each for name, kl in kls.items() for each in quality(name, "baseline", 0.25, kl)]
    words = sentence([*rows, *quality("mine", "certified", 0.25, 0.1)])
    assert "its KL is lower than that of worse; not to be told from that of alike; higher than that of better." in words
    assert NO_BASELINE not in words


@pytest.mark.parametrize("kl", [0.11, 0.05])
def test_a_system_that_beats_no_baseline_is_told_so_plainly(kl: float) -> None:
    rows = [*quality("rival", "baseline", 0.25, kl), *quality("mine", "certified", 0.25, 0.1)]
    assert f"**{NO_BASELINE}**" in markdown(report(rows))


def test_without_intervals_the_values_decide() -> None:
    rows = [*quality("rival", "baseline", 0.25, 0.11), *quality("mine", "certified", 0.25, 0.1)]
    known = report([{**each, "low": None, "high": None} for each in rows])
    assert "lower than that of rival" in headlines(Numbers(known))[0][1]


def test_no_baseline_of_equal_bytes_is_no_claim() -> None:
    rows = [*quality("rival", "baseline", 0.5, 0.2), *quality("mine", "certified", 0.25, 0.1)]
    words = sentence(rows)
    assert "No baseline was judged that holds as many bytes" in words
    assert NO_BASELINE not in words


def test_a_run_that_was_killed_early_has_the_tables_it_can_have() -> None:
    known = full_report()
    rows = tuple(each for each in known.rows if each["part"] in ("size", "prefill"))
    titles = re.findall(r"^## (.*)$", markdown(replace(known, rows=rows)), flags=re.MULTILINE)
    assert titles == ["Reading a prompt: batch 1, prompt 2048", "Weights", "Headline", "Notes"]
