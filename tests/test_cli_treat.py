"""`ablate`, `sweep` and `search`: what they print and write, and how they refuse. Most run in this process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from command_line import Run, one_line

from headspec.classify.head_map import HeadMap
from headspec.measure.quality import QualityReport
from headspec.pipeline import HEAD_MAP, PROFILE
from headspec.plan.plan import HeadPlan
from headspec.probe.profile import HeadProfile
from headspec.search.record import SEARCH, SearchRecord

SMALL = ("--tokens", "256", "--device", "cpu")


@pytest.fixture(scope="module")
def profile_folder(neox_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the tiny GPT-NeoX, as `headspec analyze` leaves it."""
    from headspec.load.model import load_plain
    from headspec.load.text import load_text
    from headspec.probe.collect import probe_heads

    model = load_plain(str(neox_folder), device="cpu")
    profile = probe_heads(model, load_text(model, "probe", n_tokens=256), engine="fast", progress=False)
    return profile.save(tmp_path_factory.mktemp("profile") / PROFILE).parent


# ablate


def test_ablate_prints_every_measure_with_its_interval(run: Run, neox_folder: Path) -> None:
    code, printed, said = run("ablate", neox_folder, "L0H1=zero", "L1H0=window:4", *SMALL)
    assert code == 0, said
    assert f"2treatedheadsof{neox_folder}" in "".join(printed.split())  # long names are broken
    for name in ("perplexity increase", "kl", "top1 agreement", "induction accuracy", "needle accuracy"):
        assert name in printed
    assert "measuring 2 treated heads on packaged select.txt" in said
    assert "RANDOM" not in printed


def test_ablate_writes_the_report_and_the_plan_beside_it(
    run: Run, neox_folder: Path, profile_folder: Path, tmp_path: Path
) -> None:
    code, printed, said = run(
        "ablate", neox_folder, "L0H1=mean", "L1H0=window:4", *SMALL, "--profile", profile_folder, "--out", "r/one.json"
    )
    assert code == 0, said
    report, plan = QualityReport.load(tmp_path / "r/one.json"), HeadPlan.load(tmp_path / "r/one_plan.json")
    assert report.kl.value > 0
    assert {str(head): str(what) for head, what in plan.treatments.items()} == {"L0H1": "mean", "L1H0": "window:4"}
    assert "one.json" in printed
    assert "one_plan.json" in printed


def test_ablate_takes_a_plan_and_heads_beside_it_change_it(run: Run, neox_folder: Path, tmp_path: Path) -> None:
    first = ("ablate", neox_folder, "L0H1=zero", "L1H0=window:4", *SMALL, "--out", "first.json")
    assert run(*first)[0] == 0
    assert run("ablate", neox_folder, "--plan", "first_plan.json", *SMALL, "--out", "same.json")[0] == 0
    assert (tmp_path / "same.json").read_text() == (tmp_path / "first.json").read_text()
    changed = run("ablate", neox_folder, "L1H0=window:9", "--plan", "first_plan.json", *SMALL, "--out", "new.json")
    assert changed[0] == 0
    plan = HeadPlan.load(tmp_path / "new_plan.json")
    assert {str(head): str(what) for head, what in plan.treatments.items()} == {"L0H1": "zero", "L1H0": "window:9"}


def test_keep_beside_a_plan_spares_a_head_of_it(run: Run, neox_folder: Path, tmp_path: Path) -> None:
    assert run("ablate", neox_folder, "L0H1=zero", "L1H0=window:4", *SMALL, "--out", "first.json")[0] == 0
    done = run("ablate", neox_folder, "L1H0=keep", "--plan", "first_plan.json", *SMALL, "--out", "new.json")
    assert done[0] == 0
    assert [str(head) for head in HeadPlan.load(tmp_path / "new_plan.json").treatments] == ["L0H1"]


def test_a_plan_of_another_model_is_refused(run: Run, neox_folder: Path, llama_folder: Path, tmp_path: Path) -> None:
    assert run("ablate", neox_folder, "L0H1=zero", *SMALL, "--out", "first.json")[0] == 0
    code, _, said = run("ablate", llama_folder, "--plan", "first_plan.json", *SMALL)
    assert code == 2
    assert str(neox_folder) in one_line(said)
    assert str(llama_folder) in one_line(said)


def test_ablate_probes_where_a_fill_needs_it(run: Run, neox_folder: Path) -> None:
    code, _, said = run("ablate", neox_folder, "L0H0=mean", *SMALL)
    assert code == 0
    assert "probing (--profile DIR takes" in said


# sweep


@pytest.fixture
def swept(run: Run, neox_folder: Path, profile_folder: Path) -> Run:
    def sweep(*more: Any) -> tuple[int, str, str]:
        return run("sweep", neox_folder, *SMALL, "--profile", profile_folder, "--out", "o", *more)

    return sweep


def test_a_sweep_has_a_row_a_head_and_treatment(swept: Run, tmp_path: Path) -> None:
    code, printed, said = swept()
    assert code == 0, said
    table = pandas.read_csv(tmp_path / "o/sweep.csv")
    assert len(table) == 8 * 4
    assert set(table.treatment) == {"zero", "mean", "random", "window:8"}
    assert "the 15 most harmful of 32 cases" in printed
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"sweep.csv", "rows.jsonl", "sweep.json"}


def test_a_sweep_repeated_measures_nothing_again(swept: Run, tmp_path: Path) -> None:
    arguments = ("--treatments", "zero", "--heads", "L0H1,L1H3")
    assert swept(*arguments)[0] == 0
    log, table = tmp_path / "o/rows.jsonl", (tmp_path / "o/sweep.csv").read_text()
    before = log.read_bytes()
    assert swept(*arguments)[0] == 0
    assert log.read_bytes() == before
    assert (tmp_path / "o/sweep.csv").read_text() == table
    assert before.count(b"\n") == 2


def test_a_sweep_with_more_cases_adds_to_its_rows(swept: Run, tmp_path: Path) -> None:
    assert swept("--treatments", "zero", "--heads", "L0H1,L1H3")[0] == 0
    before = (tmp_path / "o/rows.jsonl").read_text()
    assert swept("--treatments", "zero")[0] == 0
    after = (tmp_path / "o/rows.jsonl").read_text()
    assert after.startswith(before)
    assert after.count("\n") == 8


def test_plans_of_varied_cut_offs_are_swept_with_every_fill(swept: Run, tmp_path: Path) -> None:
    done = swept("--heads", "L0H0", "--treatments", "zero", "--vary", "dead_spread=0.05,9", "--vary",
                 "dead_repeat_deviation=9", "--vary", "dead_spread_p95=9", "--fills", "mean,zero")  # fmt: skip
    assert done[0] == 0, done[2]
    table = pandas.read_csv(tmp_path / "o/sweep.csv")
    grid = table[table.kind == "grid"]
    assert len(grid) == 2 * 2
    assert grid["case"].str.contains("dead_spread=9.0").sum() == 2
    assert grid["case"].str.contains("fill=zero").sum() == 2
    assert grid.n_heads.max() == 8


def test_curves_bring_random_plans_of_the_same_layers(swept: Run, tmp_path: Path) -> None:
    done = swept("--heads", "L0H0", "--treatments", "zero", "--curves", "--controls", "1")
    assert done[0] == 0, done[2]
    table = pandas.read_csv(tmp_path / "o/sweep.csv")
    assert sorted(table[table.kind == "curve"].n_heads) == [1, 2, 4, 8]
    assert sorted(table[table.kind == "control"].n_heads) == [2, 4, 8]
    assert "forecasting" in done[2]


def test_a_sweep_of_another_configuration_is_refused(swept: Run) -> None:
    assert swept("--heads", "L0H0", "--treatments", "zero")[0] == 0
    code, _, said = swept("--heads", "L0H0", "--treatments", "zero", "--seed", "1")
    assert code == 2
    assert "holds a sweep of another configuration" in one_line(said)


# search


@pytest.fixture
def searched(run: Run, neox_folder: Path, profile_folder: Path) -> Run:
    def search(*more: Any) -> tuple[int, str, str]:
        quick = ("--max-evaluations", "9", "--controls", "1", "--treatments", "mean,window:8")
        return run("search", neox_folder, *SMALL, "--profile", profile_folder, *quick, *more)

    return search


def test_a_search_writes_all_its_files(searched: Run, tmp_path: Path) -> None:
    code, printed, said = searched("--max-kv-share", "50%", "--out", "o")
    assert code == 0, said
    names = {"plan.json", "plan.safetensors", "certificate.json", HEAD_MAP, SEARCH, "pareto.png", "pareto.html"}
    assert {path.name for path in (tmp_path / "o").iterdir()} == names
    assert all(name in printed for name in names)
    plan, certificate = (
        HeadPlan.load(tmp_path / "o/plan.json"),
        json.loads((tmp_path / "o/certificate.json").read_text()),
    )
    assert certificate.pop("within_budget") is True
    assert plan.certificate == certificate
    assert certificate["kv_share"] <= 0.5
    assert len(HeadMap.load(tmp_path / "o" / HEAD_MAP)) == 8
    record = SearchRecord.load(tmp_path / "o")
    assert (record.certificate, record.chosen.counts) == (certificate, dict(sorted(plan.counts().items())))
    assert all(point.kl.value >= 0 for point in record.points)
    assert "OVER BUDGET" not in printed


def test_a_share_in_percent_is_the_same_as_the_share(searched: Run, tmp_path: Path) -> None:
    for share, folder in (("50%", "percent"), ("0.5", "share")):
        assert searched("--max-kv-share", share, "--out", folder)[0] == 0
    for name in ("plan.json", "certificate.json"):
        assert (tmp_path / "percent" / name).read_text() == (tmp_path / "share" / name).read_text()
    percent, share = (SearchRecord.load(tmp_path / name).points for name in ("percent", "share"))
    # times are those of the machine, which is measured each time
    assert [replace(point, decode_ms=None) for point in percent] == [replace(point, decode_ms=None) for point in share]
    assert all(point.decode_ms is not None and point.decode_ms > 0 for point in (*percent, *share))


def test_a_budget_that_nothing_keeps_is_said_to_be_over(searched: Run, tmp_path: Path) -> None:
    code, printed, said = searched("--max-kl", "1e-9", "--max-kv-share", "0.05", "--out", "o")
    assert code == 0, said
    assert "OVER BUDGET: no plan keeps the budget; the nearest was chosen." in printed
    assert json.loads((tmp_path / "o/certificate.json").read_text())["within_budget"] is False


def test_ablate_takes_the_plan_of_a_search(searched: Run, run: Run, neox_folder: Path) -> None:
    assert searched("--max-kv-share", "0.5", "--out", "o")[0] == 0
    code, printed, said = run("ablate", neox_folder, "--plan", "o/plan.json", *SMALL)
    assert code == 0, said
    assert "treated heads of" in printed


# Random weights, and what is refused


def test_random_weights_say_so(
    run: Run, neox_folder: Path, profile_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import headspec.load.model
    from headspec.load.model import load_plain
    from headspec.load.plain import PlainModel

    def renamed(*_: Any, **options: Any) -> PlainModel:
        model = load_plain(str(neox_folder), device="cpu")
        return PlainModel(model.huggingface, "random:pythia-14m", model.tokenizer)

    monkeypatch.setattr(headspec.load.model, "load_plain", renamed)  # the real one is too slow to measure here
    profile = HeadProfile.load(profile_folder / PROFILE)
    replace(profile, about=replace(profile.about, model="random:pythia-14m")).save(tmp_path / PROFILE)
    known = (*SMALL, "--profile", ".")
    words = "RANDOM WEIGHTS: these figures are good for timing and tests only."
    random = "random:pythia-14m"
    assert words in run("ablate", random, "L0H0=zero", *SMALL)[1]
    assert words in run("sweep", random, "--treatments", "zero", "--heads", "L0H0", *known)[1]
    assert words in run("search", random, "--max-kv-share", "1", "--controls", "0", "--treatments", "zero", *known)[1]
    folders = {path.name for path in (tmp_path / "results").iterdir()}
    assert folders == {"sweep_random-14m", "search_random-14m"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate", "demo"], "nothing to treat: name heads, as L3H7=mean"),
        (["ablate", "demo", "L0H0"], "'L0H0': write HEAD=TREATMENT"),
        (["ablate", "demo", "L0H0=gone"], "'gone' is no treatment"),
        (["ablate", "demo", "L0H0=window:0"], "window 0"),
        (["ablate", "demo", "--plan", "missing.json"], "no plan at missing.json"),
        (["ablate", "NEOX", "L9H0=zero"], "unknown heads L9H0"),
        (["ablate", "NEOX", "3.7=zero"], "3.7"),
        (["ablate", "NEOX", "L0H0=zero", "L0H0=window:3"], "L0H0 is in the plan twice"),
        (["ablate", "NEOX", "L0H0=mean", "--profile", "nowhere"], "no profile at nowhere"),
        (["sweep", "demo", "--treatments", "gone"], "'gone' is no treatment"),
        (["sweep", "demo", "--vary", "dead_spread"], "--vary dead_spread: write it as"),
        (["sweep", "demo", "--vary", "dead_spred=1"], "unknown threshold dead_spred"),
        (["sweep", "NEOX", "--engine", "slow"], "engine 'slow': choose one of fast, hooks, ray"),
        (["sweep", "NEOX", "--heads", "L7H0"], "layer 7 was not probed|unknown heads L7H0"),
        (["search", "demo", "--max-kv-share", "half"], "--max-kv-share 'half': write a share like 2% or 0.02"),
        (["search", "demo", "--max-ppl-increase", "%"], "--max-ppl-increase '%': write a share"),
        (["search", "demo", "--max-kv-share", "25"], r"max_kv_share is a share in \[0, 1\]"),
        (["search", "demo", "--max-kv-share", "nan"], "max_kv_share is a limit of 0 or more"),
        (["search", "demo", "--max-kl", "-1"], "max_kl is a limit of 0 or more"),
        (["search", "demo", "--max-kl", "1", "--min-induction-kept", "110%"], "min_induction_kept is a share"),
        (["search", "NEOX", "--max-kl", "1", "--treatments", "gone"], "'gone' is no treatment"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, neox_folder: Path, profile_folder: Path, arguments: list[str], message: str
) -> None:
    import re

    given = [str(neox_folder) if part == "NEOX" else part for part in arguments]
    needs_profile = "NEOX" in arguments and "--profile" not in arguments
    code, _, said = run(*given, *(("--profile", profile_folder, *SMALL) if needs_profile else ()))
    assert code == 2
    assert re.search(message, one_line(said)), said


def test_a_bad_budget_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    run("search", "demo", "--max-kv-share", "half")
    run("search", "demo", "--max-kl", "-1")
    run("sweep", "demo", "--treatments", "gone")
    assert list(tmp_path.iterdir()) == []


def test_bad_treatments_of_a_search_are_found_before_the_model_is_loaded(run: Run) -> None:
    _, _, said = run("search", "demo", "--max-kl", "1", "--treatments", "gone", "--tokens", "32")
    assert "loading" not in said


@pytest.mark.parametrize(
    "arguments",
    [["ablate", "pythia-71m", "L0H0=mean"], ["sweep", "pythia-71m"], ["search", "pythia-71m", "--max-kl", "1"]],
)
def test_a_wrong_name_is_refused_before_torch_is_imported(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, headspec.cli\n"
        "try: headspec.cli.main()\n"
        "except SystemExit as done: sys.exit(9 if 'torch' in sys.modules else done.code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "COLUMNS": "200"}, check=False)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Did you mean pythia-70m" in done.stderr
    assert list(tmp_path.iterdir()) == []
