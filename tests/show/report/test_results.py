"""What a results folder holds: what is found, what is preferred, and what is left out with a word about it."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, one_line, runner
from report_records import (
    MODEL,
    about_of,
    live_of,
    map_of,
    plan_of,
    profile_of,
    sample_of,
    search_of,
    specialisation_of,
    sweep_of,
    write_analysis,
    write_results,
    write_rows,
)

from headspec.classify.clustering import cluster_heads
from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadRole
from headspec.pipeline import CLUSTERS, HEAD_MAP, PROFILE, SAMPLE, SPECIALISATION
from headspec.results import find_parts, report
from headspec.search.table import SWEEP
from headspec.show.report.parts import ReportParts

SIZE = (2, 8)
OTHER = about_of(2, 8, "another")
RECORDS = [field.name for field in fields(ReportParts) if field.name not in ("files", "notes")]
FILES = {
    "profile": f"analysis/{PROFILE}", "clusters": f"analysis/{CLUSTERS}",
    "specialisation": f"analysis/{SPECIALISATION}", "sample": f"analysis/{SAMPLE}", "sweep": "sweep/sweep.json",
    "search": "search/search.json", "plan": "search/plan.json", "benchmark": "benchmark/benchmark.json",
    "live": "live/live.json",
}  # fmt: skip


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy it to change it."""
    return write_results(tmp_path_factory.mktemp("whole"), *SIZE)


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "results"))


# What is found


def test_a_run_is_found_whole_and_nothing_is_left_out(whole: Path) -> None:
    parts = find_parts(whole)
    assert parts.notes == ()
    assert parts.files == FILES | {"head_map": f"search/{HEAD_MAP}"}
    assert [name for name in RECORDS if getattr(parts, name) is None] == []


def test_an_analysis_is_found_in_the_folder_itself(whole: Path) -> None:
    parts = find_parts(whole / "analysis")
    assert parts.files["head_map"] == HEAD_MAP
    assert {name for name in RECORDS if getattr(parts, name) is not None} == {
        "head_map", "profile", "clusters", "specialisation", "sample"}  # fmt: skip


def test_a_head_map_alone_will_do(tmp_path: Path) -> None:
    map_of(about_of(*SIZE)).save(tmp_path / HEAD_MAP)
    parts = find_parts(tmp_path)
    assert parts.head_map.about.model == MODEL
    assert all(getattr(parts, name) is None for name in RECORDS if name != "head_map")
    assert parts.notes == ()


def test_the_head_map_of_a_search_goes_before_that_of_the_analysis(whole: Path) -> None:
    confirmed = [verdict.status for verdict in find_parts(whole).head_map if verdict.role is HeadRole.DEAD]
    assert set(confirmed) == {"confirmed"}


def test_what_was_read_is_what_was_saved(whole: Path) -> None:
    parts, about = find_parts(whole), about_of(*SIZE)
    assert parts.profile is not None
    assert parts.profile.digest == profile_of(about).digest
    assert parts.specialisation is not None
    assert parts.specialisation.sentence == specialisation_of(about).sentence
    assert parts.sweep == sweep_of(about)
    assert parts.search == search_of(about)
    assert parts.plan == plan_of(profile_of(about))
    assert parts.live == live_of(about)
    assert parts.benchmark is not None
    assert parts.benchmark.value("V", "throughput", batch=4) is not None


def test_subfolders_of_interrupted_runs_and_hidden_ones_are_passed_by(results: Path) -> None:
    for name in ("unfinished", ".unfinished-x"):
        (results / name).mkdir()
        (results / name / "live.json").write_text("half a file", encoding="utf-8")
    assert find_parts(results).notes == ()


# What is left out


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_left_out_by_name_and_the_rest_is_kept(name: str, results: Path) -> None:
    path = results / FILES[name]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    parts = find_parts(results)
    [note] = parts.notes
    assert note.startswith(f"{FILES[name]} was left out: ")
    assert str(results) not in note
    assert [each for each in RECORDS if getattr(parts, each) is None] == [name]


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name].endswith(".json") and name != "specialisation"])
def test_a_file_of_another_version_is_left_out_by_name(name: str, results: Path) -> None:
    path = results / FILES[name]
    values = json.loads(path.read_text(encoding="utf-8"))
    kind, _, _ = values["schema"].partition("/")
    path.write_text(json.dumps(values | {"schema": f"{kind}/99"}), encoding="utf-8")
    parts = find_parts(results)
    [note] = parts.notes
    assert note.startswith(f"{FILES[name]} was left out: ")
    assert getattr(parts, name) is None


SAVES: dict[str, Callable[[Path], object]] = {
    "profile": lambda path: profile_of(OTHER).save(path),
    "clusters": lambda path: cluster_heads(profile_of(OTHER), map_of(OTHER)).save(path),
    "specialisation": lambda path: specialisation_of(OTHER).save(path),
    "sample": lambda path: sample_of(OTHER).save(path),
    "sweep": lambda path: write_rows(path.parent, sweep_of(OTHER), SWEEP.schema, SWEEP.settings),
    "search": lambda path: search_of(OTHER).save(path.parent),
    "plan": lambda path: plan_of(profile_of(OTHER)).save(path),
    "live": lambda path: live_of(OTHER).save(path),
}


@pytest.mark.parametrize("name", SAVES)
def test_a_record_of_another_model_is_left_out_by_name(name: str, results: Path) -> None:
    SAVES[name](results / FILES[name])
    parts = find_parts(results)
    assert getattr(parts, name) is None
    assert parts.notes == (
        f"{FILES[name]} was left out: it is about another, and the head map about {MODEL}, or another size of it.",
    )


def test_a_head_map_of_another_model_is_left_out(results: Path) -> None:
    map_of(OTHER).save(results / "search" / HEAD_MAP)
    parts = find_parts(results)
    assert parts.files["head_map"] == f"analysis/{HEAD_MAP}"
    assert [note for note in parts.notes if note.startswith(f"search/{HEAD_MAP} was left out: it is about another")]


def test_a_profile_of_other_layers_is_left_out(tmp_path: Path) -> None:
    about = about_of(3, 8)
    map_of(about).save(tmp_path / HEAD_MAP)
    some = replace(about, layers=(0, 2))
    profile_of(some).save(tmp_path / PROFILE)
    parts = find_parts(tmp_path)
    assert parts.profile is None
    assert parts.notes == (f"{PROFILE} was left out: it has other layers than the head map ({HEAD_MAP}).",)


def test_a_second_plan_is_named_unless_it_is_the_same(results: Path) -> None:
    (results / "pruned").mkdir()
    plan_of(profile_of(about_of(*SIZE))).save(results / "pruned" / "plan.json")
    assert find_parts(results).notes == ()
    plan_of(profile_of(about_of(*SIZE))).without(["L0H0"]).save(results / "pruned" / "plan.json")
    assert find_parts(results).notes == ("pruned/plan.json is not shown: the page has search/plan.json.",)


def test_the_plan_of_the_search_is_shown_also_where_another_folder_comes_first(results: Path) -> None:
    plan_of(profile_of(about_of(*SIZE))).without(["L0H0"]).save(results / "pruned" / "plan.json")
    parts = find_parts(results)
    assert parts.files["plan"] == "search/plan.json"
    assert parts.plan == plan_of(profile_of(about_of(*SIZE)))


def test_the_head_map_beside_the_search_is_shown_also_if_it_settles_nothing(results: Path) -> None:
    map_of(about_of(*SIZE), settled=False).save(results / "search" / HEAD_MAP)
    map_of(about_of(*SIZE)).save(results / "a-later-one" / HEAD_MAP)
    assert find_parts(results).files["head_map"] == f"search/{HEAD_MAP}"


@pytest.mark.parametrize("change", [{"text_digest": "other"}, {"window": 256}, {"seed": 3}])
def test_a_profile_and_clusters_read_otherwise_than_the_head_map_are_left_out(
    change: dict[str, Any], results: Path
) -> None:
    map_of(replace(about_of(*SIZE), **change)).save(results / "search" / HEAD_MAP)
    parts = find_parts(results)
    assert parts.profile is None
    assert parts.clusters is None
    why = f"was left out: it was read from another text or with other settings ({next(iter(change))})"
    assert [why in note for note in parts.notes] == [True, True]


def test_another_engine_or_device_is_no_other_reading(results: Path) -> None:
    map_of(replace(about_of(*SIZE), engine="fast", device="cuda", versions=())).save(results / "search" / HEAD_MAP)
    assert find_parts(results).notes == ()


def test_a_sample_of_other_layers_is_left_out(tmp_path: Path) -> None:
    about = about_of(3, 8)
    map_of(about).save(tmp_path / HEAD_MAP)
    sample_of(replace(about, layers=(0, 2))).save(tmp_path / SAMPLE)
    parts = find_parts(tmp_path)
    assert parts.sample is None
    assert parts.notes == (f"{SAMPLE} was left out: it has other layers than the head map ({HEAD_MAP}).",)


def test_the_head_map_of_an_export_will_do_where_there_is_no_other(tmp_path: Path) -> None:
    map_of(about_of(*SIZE)).save(tmp_path / "head_map.json")
    assert find_parts(tmp_path).files["head_map"] == "head_map.json"


def test_a_folder_of_only_a_sweep_is_not_told_to_write_an_analysis_into_itself(results: Path) -> None:
    with pytest.raises(RecordError, match="name the folder above") as found:
        find_parts(results / "sweep")
    assert f"--out {results}" not in str(found.value)


# What cannot be shown at all


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere: no such folder. `headspec run MODEL`"):
        find_parts(tmp_path / "nowhere")


def test_no_head_map_is_an_error_that_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        RecordError, match=r"a page needs a head map: name the folder above them .* `headspec analyze MODEL"
    ):
        find_parts(tmp_path)


def test_a_damaged_head_map_with_nothing_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / HEAD_MAP).write_text("{", encoding="utf-8")
    with pytest.raises(
        RecordError, match=r"nothing to show in .*: head_classification.json was left out: it is damaged"
    ):
        find_parts(tmp_path)


def test_a_head_map_with_values_of_other_types_is_damaged(tmp_path: Path) -> None:
    damages: list[dict[str, Any]] = [{"model": 5}, {"window": "wide"}, {"margin": "large"}, {"window": "8"},
                                     {"evidence": {"output_spread": "much"}}]  # fmt: skip
    for number, damage in enumerate(damages):
        path = map_of(about_of(*SIZE)).save(tmp_path / str(number) / HEAD_MAP)
        values = json.loads(path.read_text(encoding="utf-8"))
        target = values["about"] if number < 2 else values["heads"][3]
        target |= damage
        path.write_text(json.dumps(values), encoding="utf-8")
    script = """import sys
from headspec.results import find_parts
for number in range(5):
    try:
        find_parts(f"{sys.argv[1]}/{number}")
    except ValueError as error:
        print(error)"""  # in a process of its own: here the type checker of the tests would be first
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
    words = [line.partition("left out: ")[2] for line in done.stdout.splitlines()]
    assert [each[:13] for each in words] == ["it is damaged"] * len(damages)


def test_a_damaged_head_map_is_made_anew_from_the_profile(tmp_path: Path) -> None:
    write_analysis(tmp_path, about_of(*SIZE))
    (tmp_path / HEAD_MAP).write_text("{", encoding="utf-8")
    parts = find_parts(tmp_path)
    assert len(parts.head_map) == 16
    assert parts.profile is not None
    assert parts.notes[1] == "Roles were worked out anew from the profile, with the default cut-offs."


# The page


def test_the_page_lies_in_the_folder_unless_told_otherwise(results: Path, tmp_path: Path) -> None:
    assert report(results) == results / "report.html"
    assert report(results, tmp_path / "page.html") == tmp_path / "page.html"
    assert report(results, tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_what_is_left_out_is_a_warning_and_stands_on_the_page(results: Path) -> None:
    (results / "live" / "live.json").write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"live/live.json was left out: it is not a headspec.LiveRecord/1") as found:
        path = report(results)
    assert len(found) == 1
    assert "live/live.json was left out" in path.read_text(encoding="utf-8")


def test_a_whole_folder_gives_no_warning(results: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(results)


def test_a_page_that_cannot_be_written_is_an_error(results: Path) -> None:
    with pytest.raises(HeadspecError, match="cannot write"):
        report(results, results / "analysis" / PROFILE / "page.html")


def test_a_page_is_made_without_torch(whole: Path, tmp_path: Path) -> None:
    script = (
        f"import sys; from headspec.results import report; report({str(whole)!r}, {str(tmp_path / 'page.html')!r})\n"
        "sys.exit(bool({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_the_command_writes_the_page_and_says_where(command: Run, results: Path) -> None:
    code, output, progress = command("report", results)
    assert code == 0, progress
    assert output.startswith(f"{results / 'report.html'} (")
    assert progress == ""


def test_the_command_warns_of_what_is_left_out(command: Run, results: Path) -> None:
    (results / "sweep" / "sweep.json").write_text("{}", encoding="utf-8")
    code, _, progress = command("report", results, "--out", results / "page.html")
    assert code == 0
    assert "warning: sweep/sweep.json was left out: it is not a headspec.SweepTable/1" in progress
    assert (results / "page.html").is_file()


def test_the_command_refuses_a_folder_without_results_in_one_line(command: Run, tmp_path: Path) -> None:
    code, _, progress = command("report", tmp_path)
    assert code == 2
    assert "hold no head_classification.json" in one_line(progress)
