"""The page as a file: its sections, its notes, nothing in it that a browser could take for something else."""

import base64
import json
import re
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from plotly.graph_objects import Figure
from report_records import (
    NASTY,
    about_of,
    benchmark_of,
    certificate,
    live_of,
    map_of,
    plan_of,
    profile_of,
    sample_of,
    search_of,
    specialisation_of,
    sweep_of,
)

from headspec.classify.clustering import cluster_heads
from headspec.classify.head_map import HeadStatus
from headspec.classify.specialisation import HeadDiversity, Specialisation
from headspec.heads import HeadRole
from headspec.search.table import SweepTable
from headspec.show.report.frame import taken_apart
from headspec.show.report.page import draw_page
from headspec.show.report.parts import ReportParts
from headspec.show.report.payload import Payload, as_json, make_payload
from headspec.show.report.sections import SECTIONS
from headspec.show.report.tables import benchmark_blocks, plain, specialisation_blocks
from headspec.show.style import plotly_layout

ABOUT = about_of(2, 8)
RANDOM = "RANDOM WEIGHTS: timing and tests only"


@cache
def parts() -> ReportParts:
    """All of a trained model; shared."""
    return parts_of()


@cache
def payload_of_all() -> Payload:
    return make_payload(parts())


def parts_of(model: str = "made-up", **changes: Any) -> ReportParts:
    about = about_of(2, 8, model)
    profile, head_map = profile_of(about), map_of(about)
    known: dict[str, Any] = {
        "head_map": head_map, "profile": profile, "clusters": cluster_heads(profile, head_map),
        "specialisation": specialisation_of(about), "sample": sample_of(about), "sweep": sweep_of(about),
        "search": search_of(about), "plan": plan_of(profile), "benchmark": benchmark_of(about), "live": live_of(about),
    }  # fmt: skip
    return ReportParts(**known | changes)


def values_on(page: str) -> dict[str, Any]:
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return dict(json.loads(data))


# Sections


def test_all_records_make_all_sections_and_no_note() -> None:
    payload = payload_of_all()
    assert payload.notes == []
    assert [section["there"] for section in payload.values["sections"]] == [True] * len(SECTIONS)
    assert [section["name"] for section in payload.values["sections"] if not section["figures"]] == ["specialisation"]
    numbers = [figure["number"] for section in payload.values["sections"] for figure in section["figures"]]
    assert numbers == list(range(len(payload.figures)))


def test_a_head_map_alone_makes_a_page_whose_sections_name_their_commands() -> None:
    payload = make_payload(ReportParts(map_of(about_of(2, 8))))
    assert payload.notes == []
    assert payload.figures == []
    assert not any(section["there"] for section in payload.values["sections"])
    sweep = next(section for section in payload.values["sections"] if section["name"] == "sweep")
    assert sweep["command"] == "headspec sweep made-up --profile DIR/analysis --out DIR/sweep"


def test_the_commands_of_absent_sections_exist_with_these_options() -> None:
    from headspec.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    bare = ReportParts(map_of(about_of(1, 2)))
    for section in SECTIONS:
        _, name, *rest = section.command_for(bare).split()
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, section.name


def test_a_model_with_blanks_is_quoted_in_commands() -> None:
    bare = ReportParts(map_of(about_of(1, 2, "my models/a b; rm")))
    assert SECTIONS[0].command_for(bare) == "headspec analyze 'my models/a b; rm' --out DIR/analysis"


def test_what_cannot_be_drawn_is_a_note_and_the_rest_is_there() -> None:
    bare = SweepTable({"model": "made-up"}, ({"key": "a", "n_heads": 1},))
    payload = make_payload(parts_of(sweep=bare, files={"sweep": "sweep/sweep.json"}))
    assert payload.notes != []
    assert all(note.startswith("sweep/sweep.json") for note in payload.notes)
    there = {section["name"]: section["there"] for section in payload.values["sections"]}
    assert [name for name, is_there in there.items() if not is_there] == ["sweep"]


def test_a_note_about_a_record_is_one_short_line() -> None:
    def fail() -> None:
        raise KeyError("a\nb" * 1000)

    payload = Payload()
    payload.attempt("x.json", fail)
    [note] = payload.notes
    assert "\n" not in note
    assert len(note) < 400


def test_the_summary_tells_what_the_plan_saves_and_costs() -> None:
    texts = [finding["text"] for finding in payload_of_all().values["findings"]]
    assert texts[0].startswith("Heads specialise: which head it is tells 0.78 bits")
    assert texts[1] == (
        "The plan: 1 removed, 1 windowed; 60% of the KV cache left, KL 0.0123 nats a token, perplexity +1.8%, on fresh "
        "text."
    )


def test_a_plan_that_nobody_judged_says_so() -> None:
    plan = plan_of(profile_of(about_of(2, 8)), judged=False)
    [finding] = make_payload(parts_of(plan=plan, specialisation=None)).values["findings"]
    assert finding["text"] == "The plan: 1 removed, 1 windowed. Nobody has measured what it costs."


# Random weights


def test_random_weights_are_announced_and_whatever_judges_a_model_carries_the_words() -> None:
    payload = make_payload(parts_of("random:pythia-14m"))
    assert payload.values["random"] == RANDOM
    assert all(RANDOM in finding["text"] for finding in payload.values["findings"] if "KL" in finding["text"])
    names = [figure["name"] for section in payload.values["sections"] for figure in section["figures"]]
    assert "quality" not in names
    for section in payload.values["sections"]:
        if section["quality"] and section["name"] != "benchmark":
            titles = [figure["title"] for figure in section["figures"]]
            assert all(RANDOM in title for title in titles), section["name"]


def test_trained_weights_are_not_called_random() -> None:
    assert payload_of_all().values["random"] == ""


# What a browser reads


def test_the_page_asks_for_nothing() -> None:
    page, _ = draw_page(parts())
    head, plotly = page.split('<script type="text/plain" id="plotly">')
    assert len(plotly) > 1e6
    assert re.findall(r"<(?:link|img|iframe|script)[^>]*\b(?:src|href)\s*=", head) == []
    assert "default-src 'none'" in head
    assert page.count("</html>") == 1


def test_without_figures_plotly_stays_at_home() -> None:
    page, _ = draw_page(ReportParts(map_of(about_of(2, 8))))
    assert len(page) < 200_000


def test_no_record_can_end_a_script_or_begin_a_tag() -> None:
    nasty = "".join(NASTY) + "{{plotly}} {{scripts}}"
    named = parts_of(nasty)
    page, notes = draw_page(replace(named, notes=("<script>alert(1)</script>",)))
    assert notes[0] == "<script>alert(1)</script>"
    assert values_on(page)["model"] == nasty
    assert values_on(page)["patterns"]["tokens"][: len(NASTY)] == list(NASTY)
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    scripts = len(re.findall(r"<script\b", page.split('id="plotly">')[0]))
    assert scripts == len(re.findall(r"</script>", page)) == 3 + len(make_payload(named).figures)
    page.encode("utf-8")


@pytest.mark.parametrize("text", NASTY)
def test_json_is_ascii_without_tags_and_comes_back_equal(text: str) -> None:
    written = as_json({text: [text]})
    assert written.isascii()
    assert "<" not in written
    assert json.loads(written) == {text: [text]}


def test_figures_come_back_from_what_the_page_holds() -> None:
    page, _ = draw_page(parts())
    packed = re.findall(r'<script type="text/plain" id="figure-(\d+)">(.*?)</script>', page)
    unpacked = [json.loads(zlib.decompress(base64.b64decode(text))) for _, text in packed]
    assert [int(number) for number, _ in packed] == list(range(len(unpacked)))
    assert unpacked == json.loads(json.dumps(payload_of_all().figures))


def test_the_same_records_give_the_same_page() -> None:
    assert draw_page(parts_of()) == draw_page(parts())


def test_every_file_of_the_web_folder_is_on_the_page() -> None:
    from headspec.show.report.page import LOOKS, SCRIPTS

    folder = Path(__import__("headspec.show.report", fromlist=["report"]).__file__).parent / "web"
    assert {path.name for path in folder.iterdir()} == {"page.html", *LOOKS, *SCRIPTS}


# Figures taken apart


def test_by_hand_title_and_menus_leave_the_figure_and_so_does_their_room() -> None:
    figure = Figure()
    button = {
        "label": "b",
        "method": "update",
        "args": [{"y": [[1]]}, {"title.text": "two<br>lines", "yaxis.type": "log"}],
    }
    figure.update_layout(plotly_layout(["one", "two<br>lines"], 400, [{**button, "label": "a"}, button]))
    apart = taken_apart(figure)
    assert apart["title"] == "one"
    assert [choice["label"] for choice in apart["menus"][0]] == ["a", "b"]
    assert apart["menus"][0][1]["title"] == "two<br>lines"
    assert apart["menus"][0][1]["args"] == [{"y": [[1]]}, {"yaxis.type": "log"}]
    layout = apart["figure"]["layout"]
    assert "title" not in layout
    assert "updatemenus" not in layout
    assert layout["margin"]["t"] == 24
    assert apart["height"] == layout["height"] == 400 + 24 + 80


def test_a_figure_without_title_menus_or_height_is_left_as_it_is() -> None:
    apart = taken_apart(Figure())
    assert (apart["title"], apart["menus"]) == ("", [])


# Tables


def test_the_table_of_a_benchmark_keeps_every_number() -> None:
    from headspec.show.benchmark_table import markdown

    report = benchmark_of(about_of(2, 8))
    blocks = benchmark_blocks(report)
    cells = {cell for block in blocks if block["kind"] == "table" for row in block["rows"] for cell in row}
    lines = [line for line in markdown(report).splitlines() if line.startswith("|") and not line.startswith("| ---")]
    wanted = {plain(cell.strip()) for line in lines for cell in line.strip("|").split(" | ")}
    assert wanted - cells - {cell for block in blocks for cell in block.get("head", ())} == set()
    assert {block["kind"] for block in blocks} == {"heading", "list", "table"}


def test_names_with_marks_of_markdown_come_back_as_they_are() -> None:
    report = benchmark_of(about_of(2, 8))
    nasty = "a|b <i> *c* `d` e_f \\ &amp;"
    rows = [{**row, "system": nasty} if row["system"] == "SnapKV 25 %" else row for row in report.rows]
    settings = {**report.settings, "systems": [nasty]}
    tables = [block for block in benchmark_blocks(replace(report, rows=tuple(rows), settings=settings))
              if block["kind"] == "table"]  # fmt: skip
    assert nasty in {row[0] for table in tables for row in table["rows"]}
    assert all(len(row) == len(table["head"]) for table in tables for row in table["rows"])


def test_what_was_not_measured_of_specialisation_is_said() -> None:
    text = HeadDiversity("demo on x", 0.5, 0.1, np.nan, np.nan)
    sentence, table = specialisation_blocks(Specialisation(text))
    assert sentence["text"].startswith("Random weights")
    assert table["head"] == ["", "this text", "how to read it"]
    assert [row[1] for row in table["rows"]] == ["0.5", "0.1", "not measured", "not measured"]


# Budgets, statuses, and how much was measured


@pytest.mark.parametrize(("within", "broken"), [(False, []), (True, ["KL up to 0.3 > 0.1"])])
def test_a_plan_over_budget_says_so_in_the_summary_and_in_its_section(within: bool, broken: list[str]) -> None:
    known = certificate() | {"budget": {"max_kl": 0.1}, "broken": broken}
    plan, record = (
        plan_of(profile_of(ABOUT)).certified(known),
        replace(search_of(ABOUT), within_budget=within, certificate=known),
    )
    payload = make_payload(parts_of(plan=plan, search=record))
    [sentence] = [each["text"] for each in payload.values["findings"] if each["section"] == "plans"]
    [section] = [each for each in payload.values["sections"] if each["name"] == "plans"]
    for words in (sentence, section["verdict"]):
        assert "OVER BUDGET (KL up to 0.1 nats a token)" in words
        assert not broken or broken[0] in words


def test_by_hand_the_dead_are_split_by_status() -> None:
    verdicts = list(map_of(ABOUT))
    dead = [place for place, verdict in enumerate(verdicts) if verdict.role is HeadRole.DEAD]
    verdicts[dead[0]] = replace(verdicts[dead[0]], status=HeadStatus.REJECTED)
    given = replace(map_of(ABOUT), verdicts=tuple(verdicts))
    splits = {each["name"]: each["split"] for each in make_payload(parts_of(head_map=given)).values["roles"]}
    assert splits == {"positional": "", "gathering": "", "dead": f"{len(dead) - 1} confirmed, 1 rejected"}


def test_an_unfinished_sweep_says_how_much_was_measured() -> None:
    whole = sweep_of(ABOUT)
    payload = make_payload(parts_of(sweep=replace(whole, rows=whole.rows[:6])))
    [section] = [each for each in payload.values["sections"] if each["name"] == "sweep"]
    assert section["verdict"] == f"6 cases measured; 3 of {len(map_of(ABOUT))} heads treated alone"
