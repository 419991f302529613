"""The timeline of a text generated with live treatment: stretches, changes of role, bytes, titles, and many heads."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_records import by_hand, live_record, many, short

from headspec import show
from headspec.heads import HeadId, HeadRole
from headspec.runtime.record import Change, Held, LiveRecord
from headspec.show.live_segments import bytes_words, layer_edges, row_names, segments, title_lines, why_nothing
from headspec.show.live_timeline import timeline
from headspec.show.live_timeline_png import draw_timeline, timeline_png

GATHERING, POSITIONAL, DEAD = HeadRole.GATHERING, HeadRole.POSITIONAL, HeadRole.DEAD


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if (trace.name or "").startswith(name))


def without_tags(words: str) -> str:
    """Lines as they are read, `|` between."""
    return "|".join(re.sub("<[^>]*>", "", line) for line in words.split("<br>"))


def bars(figure: Any, name: str) -> set[tuple[int, int, int]]:
    """Row, start and length of the bars of a role."""
    known = trace(figure, name)
    return set(zip(known.y, known.base, known.x, strict=True))


# What is drawn


def test_by_hand_a_head_has_a_stretch_for_each_role_and_treatment() -> None:
    assert [tuple(stretch) for stretch in segments(by_hand())] == [
        (0, HeadId(0, 0), 100, 150, GATHERING, 0, "full", None),
        (1, HeadId(0, 1), 100, 120, POSITIONAL, 8, "window:8", None),
        (1, HeadId(0, 1), 120, 150, GATHERING, 0, "window:8", POSITIONAL),
        (2, HeadId(1, 1), 100, 140, GATHERING, 0, "compress:snapkv:0.5", None),
        (2, HeadId(1, 1), 140, 150, DEAD, 0, "removed", GATHERING),
    ]


def test_another_treatment_of_the_same_role_is_no_flip() -> None:
    record = live_record(Change(100, 0, 0, "positional", 8, "keep"), Change(120, 0, 0, "positional", 8, "window:8"))
    assert [(stretch.treatment, stretch.before) for stretch in segments(record)] == [("full", None), ("window:8", None)]


def test_what_was_decided_at_the_end_is_still_seen() -> None:
    record = live_record(Change(150, 0, 0, "dead", 0, "mean"))
    assert [(stretch.start, stretch.end) for stretch in segments(record)] == [(150, 151)]
    assert timeline(record).layout.xaxis.range[1] == 151


def test_stretches_of_a_head_leave_no_gap_and_do_not_overlap() -> None:
    record = many(4, 8)
    for row in range(32):
        mine = [stretch for stretch in segments(record) if stretch.row == row]
        assert [stretch.end for stretch in mine[:-1]] == [stretch.start for stretch in mine[1:]]
        assert (mine[0].start, mine[-1].end) == (record.n_prompt, record.n_read)


def test_stretches_know_the_flips_of_the_record() -> None:
    record = many(4, 8)
    flips = {(stretch.start, stretch.head) for stretch in segments(record) if stretch.before is not None}
    assert flips == {(change.at, HeadId(change.layer, change.head)) for change in record.flips()}


def test_few_rows_have_the_names_of_heads_and_many_those_of_layers() -> None:
    heads = [(layer, head) for layer in range(32) for head in range(32)]
    assert row_names(heads[:33]) == {float(row): f"L{row // 32}H{row % 32}" for row in range(33)}
    names = row_names(heads)
    assert (names[15.5], names[1007.5], len(names)) == ("layer 0", "layer 31", 32)


def test_names_of_many_layers_are_thinned() -> None:
    names = row_names([(layer, head) for layer in range(80) for head in range(2)])
    assert list(names.values())[:2] == ["layer 0", "layer 2"]


def test_a_layer_begins_between_two_rows() -> None:
    assert layer_edges([(0, 0), (0, 1), (2, 0), (3, 1)]) == [1.5, 2.5]


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(0, "0 bytes"), (640, "640 bytes"), (40_000, "40 kB"), (2_500_000, "2.5 MB"), (3 * 10**9, "3 GB")],
)
def test_bytes_are_said_in_a_unit_that_fits(n_bytes: int, words: str) -> None:
    assert bytes_words(n_bytes) == words


# The title


def test_the_title_says_what_was_read_and_what_came_of_it() -> None:
    assert title_lines(by_hand()) == [
        "What every head of demo was taken for while text was generated",
        "150 tokens read, 100 of them the prompt; 3 × classified; gathering heads keep all keys",
        "in the end the KV cache holds 33% of the bytes of all keys; roles changed 2 ×; not shown: heads that the "
        "checkpoint treats itself (1)",
    ]  # fmt: skip


@pytest.mark.parametrize("given", [True, False])
def test_what_was_only_watched_says_so(given: bool) -> None:
    lines = title_lines(by_hand(policy={"watch_only": given}))
    assert any("WATCHED ONLY: heads were classified, none was treated" in line for line in lines) is given


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "random:pythia-14m"}, "RANDOM WEIGHTS"),
        ({"n_rows": 3}, "150 tokens read in each of 3 rows"),
        ({"n_prompt": 50}, "first at 100 tokens"),
        ({"policy": {"policy": "snapkv"}}, "gathering heads: snapkv"),
    ],
)
def test_what_is_out_of_the_ordinary_is_in_the_title(fields: dict[str, Any], words: str) -> None:
    assert words not in " ".join(title_lines(by_hand()))
    assert words in " ".join(title_lines(by_hand(**fields)))


def test_a_short_text_says_how_long_it_should_have_been() -> None:
    assert why_nothing(short()) == "No head was classified: it takes 80 tokens, 12 were read."
    assert why_nothing(by_hand()) == ""


def test_a_checkpoint_that_treats_every_head_says_so() -> None:
    assert why_nothing(live_record()) == "No head was watched: the checkpoint treats every head itself."


# The page


def test_bars_are_coloured_by_role_from_where_to_where() -> None:
    figure = timeline(by_hand())
    assert bars(figure, "gathering (2") == {(0, 100, 50), (1, 120, 30), (2, 100, 40)}
    assert bars(figure, "positional (0") == {(1, 100, 20)}
    assert bars(figure, "dead (1") == {(2, 140, 10)}
    assert trace(figure, "dead").marker.color == "#BBBBBB"


def test_bars_say_the_treatment_and_pointing_at_one_says_more() -> None:
    known = trace(timeline(by_hand()), "gathering")
    assert list(known.text) == ["full", "window:8", "compress:snapkv:0.5"]
    words = without_tags(known.customdata[1])
    assert words == (
        "L0H1 gathering|looks where the content says: needs the whole context|treatment: window:8 sees its last 8 keys "
        "and the first 4 tokens (sinks)|from token 120 to 150|before: positional"
    )


def test_changes_of_role_are_marked() -> None:
    marks = trace(timeline(by_hand()), "change of role (2)")
    assert list(zip(marks.x, marks.y, strict=True)) == [(120, 1), (140, 2)]
    assert not [each for each in timeline(live_record(by_hand().changes[0])).data if "change" in (each.name or "")]


def test_bytes_stand_below_in_a_unit_that_fits() -> None:
    figure = timeline(by_hand())
    held, full = trace(figure, "bytes held"), trace(figure, "if every head")
    assert list(zip(held.x, held.y, strict=True)) == [(100, 40.0), (125, 45.0), (150, 50.0)]
    assert list(full.y) == [100.0, 125.0, 150.0]
    assert figure.layout.yaxis2.title.text == "KV cache, kB"
    assert held.xaxis == "x2"
    assert figure.layout.xaxis.matches == "x2"


def test_the_end_of_the_prompt_is_marked_in_both_parts() -> None:
    figure = timeline(by_hand())
    marked = {line.yref for line in figure.layout.shapes if line.x0 == line.x1 == 100}
    assert marked == {"y domain", "y2 domain"}
    assert "end of the prompt: 100" in [note.text for note in figure.layout.annotations]


def test_many_heads_are_one_picture_that_agrees_with_the_stretches() -> None:
    record = many(32, 32)
    figure = timeline(record)
    for role in HeadRole:
        picture = trace(figure, f"{role} (")
        shown = {
            (row, picture.x[column])
            for row, cells in enumerate(picture.z) for column, cell in enumerate(cells) if cell is not None
        }  # fmt: skip
        starts = {edge for stretch in segments(record) for edge in (stretch.start, stretch.end)}
        wanted = {
            (stretch.row, edge)
            for stretch in segments(record) if stretch.role is role
            for edge in starts if stretch.start <= edge < stretch.end
        }  # fmt: skip
        assert shown == wanted
    assert figure.layout.height < 2000


def test_words_of_the_record_are_no_tags() -> None:
    figure = timeline(live_record(Change(100, 0, 0, "gathering", 0, "<b>x"), model="<script>"))
    assert "<script>" not in figure.layout.title.text
    assert "<b>x" not in trace(figure, "gathering").customdata[0]


@pytest.mark.parametrize("record", [short(), live_record(), live_record(n_read=100, held=(Held(100, 0, 0),))])
def test_a_record_without_classifications_gives_figures_that_say_so(record: LiveRecord, tmp_path: Path) -> None:
    figure = timeline(record)
    assert figure.data[0].text[0] == why_nothing(record)
    assert "No head was" in figure.layout.title.text
    assert why_nothing(record) in [text.get_text() for text in draw_timeline(record).axes[0].texts]
    assert timeline_png(record, tmp_path / "t.png").is_file()


def test_a_saved_record_drawn_again_is_the_same_figure(tmp_path: Path) -> None:
    record = many(4, 8)
    again = LiveRecord.load(record.save(tmp_path / "live.json"))
    assert timeline(again).to_json() == timeline(record).to_json()


def test_the_page_is_whole_without_a_network(tmp_path: Path) -> None:
    page = show.save_page(show.timeline(by_hand()), tmp_path / "t.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert "<title>What every head of demo was taken for while text was generated</title>" in page


def test_the_names_of_the_room_stay_functions() -> None:
    assert show.timeline_png is timeline_png
    assert show.timeline is timeline


# The PNG


def test_the_png_draws_every_stretch_once() -> None:
    boxes = [box.get_extents().bounds for drawn in draw_timeline(by_hand()).axes[0].collections[:3]
             for box in drawn.get_paths()]  # fmt: skip
    found = {(round(x), round(y + height / 2), round(width)) for x, y, width, height in boxes}
    wanted = {(stretch.start, stretch.row, stretch.end - stretch.start) for stretch in segments(by_hand())}
    assert (found, len(boxes)) == (wanted, 5)


def test_the_png_names_treatments_where_there_is_room() -> None:
    crowded = live_record(Change(100, 0, 0, "gathering", 0, "compress:snapkv:0.5"),
                          Change(101, 0, 0, "positional", 8, "window:8"))  # fmt: skip
    assert [text.get_text() for text in draw_timeline(crowded).axes[0].texts] == ["window:8"]


def test_the_png_has_the_title_the_legend_and_the_bytes() -> None:
    figure = draw_timeline(by_hand(policy={"watch_only": True}))
    assert figure.get_suptitle() == "\n".join(title_lines(by_hand(policy={"watch_only": True})))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:4] == ["positional (0 in the end)", "gathering (2 in the end)", "dead (1 in the end)",
                          "change of role (2)"]  # fmt: skip
    assert figure.axes[1].get_ylabel() == "KV cache, kB"
    assert [list(line.get_ydata()) for line in figure.axes[1].lines[:2]] == [[100, 125, 150], [40, 45, 50]]


@pytest.mark.parametrize("record", [by_hand(), many(32, 32), many(12, 12), replace(by_hand(), n_read=140)])
def test_the_png_is_written(record: LiveRecord, tmp_path: Path) -> None:
    path = show.timeline_png(record, tmp_path / "timeline.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [each.name for each in tmp_path.iterdir()] == ["timeline.png"]


def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    by_hand().save(tmp_path / "live.json")
    code = (
        "import sys; from headspec import LiveRecord, show; record = LiveRecord.load('live.json')\n"
        "show.timeline_png(record, 'a.png'); show.timeline(record); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
