"""A sweep that was killed goes on where it was, and a folder takes rows of one configuration only."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sweep_makers import HEADS, bridge, cases_of, difference, ids, new_plain, plain, profile_of
from sweep_to_kill import many_cases, run
from tiny_models import bridge_of, tiny_neox

from headspec.errors import RecordError
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows
from headspec.rowlog import LOG
from headspec.search import sweep as sweeps
from headspec.search.cases import Case, single_cases
from headspec.search.fast import measure_fast
from headspec.search.sweep import sweep
from headspec.search.table import SWEEP, TABLE, SweepTable

TEXT = ids(2, 40)
Measured = list[str]
GIVEN = ("kind", "case", "heads", "n_heads", "layer", "treatment", "kv_share", "removed_share", "key")
"""The columns for which nothing is measured."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """The keys of the cases that the fast engine is given, in order."""
    keys: Measured = []

    def watch(model: Any, cases: Sequence[Case], texts: Any) -> Any:
        keys.extend(case.key for case in cases)
        return measure_fast(model, cases, texts)

    monkeypatch.setattr(sweeps, "measure_fast", watch)
    return keys


def lines_of(folder: Path) -> list[bytes]:
    return (folder / LOG).read_bytes().splitlines(keepends=True) if (folder / LOG).exists() else []


def swept(cases: Sequence[Case], folder: Path | None, model: Any = None, tokens: Any = TEXT, **options: Any) -> Any:
    model = plain() if model is None else model
    return sweep(model, cases, tokens, out=folder, **({"n_repeats": 1, "progress": False} | options))


def some_cases(n: int = 8) -> list[Case]:
    return cases_of(plain(), [{head: "zero"} for head in HEADS[:n]])


# Killed.


@pytest.fixture(scope="module")
def uninterrupted(neox_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweep that is to be killed, run to its end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(load_plain(str(neox_folder), device="cpu"), folder)
    return folder


@pytest.fixture(scope="module")
def killed(neox_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose sweep was killed, by SIGKILL, after some rows. Shared: copy it."""
    folder = tmp_path_factory.mktemp("killed") / "out"
    script = Path(__file__).with_name("sweep_to_kill.py")
    process = subprocess.Popen([sys.executable, str(script), str(neox_folder), str(folder)])
    try:
        deadline = time.monotonic() + 100
        while len(lines_of(folder)) < 7 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return folder


@pytest.fixture
def to_resume(killed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(killed, tmp_path / "resumed")


def test_a_sweep_that_is_killed_leaves_the_rows_it_has_finished_and_no_table(killed: Path, neox_folder: Path) -> None:
    n_rows = len(SweepTable.load(killed))
    assert 7 <= n_rows < len(many_cases(load_plain(str(neox_folder), device="cpu")))
    assert not (killed / TABLE).exists()


def test_a_resumed_sweep_keeps_the_finished_rows_to_the_byte_and_measures_only_the_others(
    to_resume: Path, neox_folder: Path, measured: Measured
) -> None:
    model = load_plain(str(neox_folder), device="cpu")
    before = [line for line in lines_of(to_resume) if line.endswith(b"\n")]
    finished = {row["key"] for row in SweepTable.load(to_resume).rows}
    table = run(model, to_resume)
    keys = [case.key for case in many_cases(model)]
    assert lines_of(to_resume)[: len(before)] == before
    assert measured == [key for key in keys if key not in finished]
    assert len(lines_of(to_resume)) == len(keys) == len(table)
    assert sorted(row["key"] for row in SweepTable.load(to_resume).rows) == sorted(keys)


def test_a_resumed_sweep_ends_in_the_table_of_an_uninterrupted_one(
    to_resume: Path, uninterrupted: Path, neox_folder: Path
) -> None:
    model = load_plain(str(neox_folder), device="cpu")
    resumed, whole = run(model, to_resume), run(model, uninterrupted)
    assert resumed.settings == whole.settings
    assert difference(resumed, whole) <= 1e-6
    assert [row["case"] for row in resumed.rows] == [case.label for case in many_cases(model)]
    assert (to_resume / SWEEP.settings).read_bytes() == (uninterrupted / SWEEP.settings).read_bytes()
    assert [[row[name] for name in GIVEN] for row in resumed.rows] == [
        [row[name] for name in GIVEN] for row in whole.rows
    ]


@pytest.mark.parametrize("share", [0.0, 0.11, 0.5, 0.73, 0.999])
def test_wherever_the_rows_end_the_sweep_is_completed(
    uninterrupted: Path, neox_folder: Path, tmp_path: Path, measured: Measured, share: float
) -> None:
    folder, model = shutil.copytree(uninterrupted, tmp_path / "cut"), load_plain(str(neox_folder), device="cpu")
    rows = (folder / LOG).read_bytes()
    torn = rows[: int(share * len(rows))]
    (folder / LOG).write_bytes(torn)
    resumed = run(model, folder)
    whole = torn[: torn.rfind(b"\n") + 1]
    assert (folder / LOG).read_bytes().startswith(whole)
    assert len(measured) == len(resumed) - whole.count(b"\n")
    assert difference(resumed, run(model, uninterrupted)) <= 1e-6
    assert len(SweepTable.load(folder)) == len(resumed)


def test_a_resumed_sweep_writes_the_table_as_csv(to_resume: Path, neox_folder: Path) -> None:
    run(load_plain(str(neox_folder), device="cpu"), to_resume)
    n_cases = len(many_cases(load_plain(str(neox_folder), device="cpu")))
    assert len((to_resume / TABLE).read_text().splitlines()) == 1 + n_cases


def test_a_row_is_on_the_disk_before_the_next_case_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk: list[int] = []

    def watch(model: Any, cases: Sequence[Case], texts: Any) -> Iterator[Any]:
        for found in measure_fast(model, cases, texts):
            on_disk.append(len(lines_of(tmp_path)))
            yield found

    monkeypatch.setattr(sweeps, "measure_fast", watch)
    swept(some_cases(), tmp_path)
    assert on_disk == list(range(8))


@pytest.mark.parametrize("engine", ["fast", "hooks"])
def test_an_interrupt_keeps_the_rows_that_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    inner = getattr(sweeps, "measure_fast" if engine == "fast" else "measure_hooked")

    def stop(*arguments: Any) -> Iterator[Any]:
        for number, found in enumerate(inner(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(sweeps, inner.__name__, stop)
        with pytest.raises(KeyboardInterrupt):
            swept(some_cases(), tmp_path, engine=engine)
    assert len(SweepTable.load(tmp_path)) == 3
    assert difference(swept(some_cases(), tmp_path, engine=engine), swept(some_cases(), None)) <= 1e-5


# Finished.


def test_a_finished_sweep_is_read_back_and_nothing_is_measured(tmp_path: Path, measured: Measured) -> None:
    first = swept(some_cases(), tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    measured.clear()
    assert swept(some_cases(), tmp_path) == first
    assert measured == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert sorted(files) == sorted([LOG, SWEEP.settings, TABLE])


def test_what_a_sweep_returns_is_what_can_be_read_from_its_folder(tmp_path: Path) -> None:
    cases = cases_of(plain(), [{"L0H1": "zero"}, {"L0H2": "window:3"}, {"L1H0": "mean"}])
    assert swept(cases, tmp_path) == SweepTable.load(tmp_path)


def test_a_sweep_with_a_folder_measures_what_one_without_measures(tmp_path: Path) -> None:
    assert swept(some_cases(), tmp_path).rows == swept(some_cases(), None).rows


def test_more_cases_in_a_finished_folder_are_the_only_ones_measured(tmp_path: Path, measured: Measured) -> None:
    swept(some_cases(3), tmp_path)
    before = lines_of(tmp_path)
    measured.clear()
    more = [*reversed(some_cases()), *cases_of(plain(), [{"L0H0": "window:3"}])]
    table = swept(more, tmp_path)
    finished = {case.key for case in some_cases(3)}
    assert measured == [case.key for case in more if case.key not in finished]
    assert lines_of(tmp_path)[:3] == before
    assert [row["key"] for row in table.rows] == [case.key for case in more]
    assert len((tmp_path / TABLE).read_text().splitlines()) == 1 + len(more)


def test_a_table_has_the_rows_of_its_cases_only_though_the_folder_has_more(tmp_path: Path) -> None:
    swept(some_cases(), tmp_path)
    table = swept(some_cases(2), tmp_path)
    assert [row["heads"] for row in table.rows] == HEADS[:2]
    assert len(SweepTable.load(tmp_path)) == 8


def test_a_case_with_other_fills_is_another_case(tmp_path: Path, measured: Measured) -> None:
    for seed in (0, 1, 0):
        swept(single_cases(profile_of(plain(), seed), ["mean"], ["L0H1"]), tmp_path)
    assert len(set(measured)) == len(measured) == 2
    first, second = SweepTable.load(tmp_path).rows
    assert first["kl"] != second["kl"]


def test_equal_cases_make_one_row(tmp_path: Path) -> None:
    assert len(swept([*some_cases(2), *some_cases(2)], tmp_path)) == 2
    assert len(lines_of(tmp_path)) == 2


# Another configuration.


def with_head(model: PlainModel) -> PlainModel:
    model.huggingface.lm_head.weight.data[0, 0] += 1
    return model


def with_weights_scaled(model: PlainModel) -> PlainModel:
    model.huggingface.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.data *= 1.5
    return model


def in_half_precision(model: PlainModel) -> PlainModel:
    model.huggingface.bfloat16()
    return model


OTHERS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "another text": ("text_digest", lambda: {"tokens": ids(2, 40, seed=9)}),
    "more windows": ("n_windows", lambda: {"tokens": ids(3, 40)}),
    "longer windows": ("window", lambda: {"tokens": ids(2, 41)}),
    "another name of the text": ("text", lambda: {"tokens": TokenWindows(TEXT, "a book")}),
    "another seed": ("repeats_digest", lambda: {"seed": 7}),
    "more repeats": ("repeats_digest", lambda: {"n_repeats": 2}),
    "no repeats": ("repeats_digest", lambda: {"n_repeats": 0}),
    "one number changed": ("weights", lambda: {"model": with_head(new_plain())}),
    "weights scaled": ("weights", lambda: {"model": with_weights_scaled(new_plain())}),
    "half precision": ("dtype", lambda: {"model": in_half_precision(new_plain())}),
}


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configured")
    swept(some_cases(2), folder)
    return folder


@pytest.mark.parametrize(("name", "other"), OTHERS.values(), ids=OTHERS)
def test_another_configuration_is_refused_naming_both_values_and_measures_nothing(
    configured: Path, tmp_path: Path, measured: Measured, name: str, other: Callable[[], dict[str, Any]]
) -> None:
    there, now = SweepTable.load(configured).settings, swept(some_cases(1), tmp_path, **other()).settings
    before = {path.name: path.read_bytes() for path in configured.iterdir()}
    measured.clear()
    assert there[name] != now[name]
    values = re.escape(f"{name} {there[name]!r} there, {now[name]!r} now")
    with pytest.raises(RecordError, match=rf"holds a sweep of another configuration \(.*{values}.*another folder"):
        swept(some_cases(2), configured, **other())
    assert measured == []
    assert {path.name: path.read_bytes() for path in configured.iterdir()} == before


def test_another_model_is_refused_naming_both(configured: Path) -> None:
    other = new_plain(name="another")
    with pytest.raises(RecordError, match="model 'planted' there, 'another' now"):
        swept(cases_of(other, [{"L0H1": "zero"}]), configured, other)


def test_a_model_of_another_size_and_the_same_name_is_refused(configured: Path) -> None:
    hf = tiny_neox(3, n_layers=3)
    hf.set_attn_implementation("sdpa")
    other = PlainModel(hf, "planted")
    with pytest.raises(RecordError, match="n_layers 2 there, 3 now"):
        swept(cases_of(other, [{"L0H1": "zero"}]), configured, other)


def last_rows(model: PlainModel) -> None:
    model.huggingface.gpt_neox.layers[0].attention.dense.weight.data[-1] = 0


def one_head_removed(model: PlainModel) -> None:
    model.huggingface.gpt_neox.layers[0].attention.query_key_value.weight.data[-24:] = 0


def embeddings(model: PlainModel) -> None:
    model.huggingface.gpt_neox.embed_in.weight.data[100:] *= 2


@pytest.mark.parametrize("edit", [last_rows, one_head_removed, embeddings])
def test_weights_edited_anywhere_are_refused(configured: Path, edit: Callable[[PlainModel], None]) -> None:
    model = new_plain()
    edit(model)
    with pytest.raises(RecordError, match=r"weights .* there"):
        swept(some_cases(2), configured, model)


def test_heads_that_have_changed_places_are_other_weights() -> None:
    # heads 5 and 7 of the demo model can swap what they write. Its logits move by 7.5, its digest stays.
    model, swapped = (load_plain("demo", device="cpu") for _ in range(2))
    weight, d_head = swapped.huggingface.gpt_neox.layers[1].attention.dense.weight.data, swapped.identity.d_head
    fifth, seventh = (slice(head * d_head, (head + 1) * d_head) for head in (5, 7))
    weight[:, fifth], weight[:, seventh] = weight[:, seventh].clone(), weight[:, fifth].clone()
    assert sweeps.weights_digest(swapped) != sweeps.weights_digest(model)


def test_the_same_weights_laid_out_otherwise_in_memory_are_the_same_configuration(configured: Path) -> None:
    model = new_plain()
    model.huggingface.lm_head.weight.data = model.huggingface.lm_head.weight.data.t().contiguous().t()
    assert len(swept(some_cases(2), configured, model)) == 2


def test_a_bridge_goes_on_with_what_its_plain_model_has_begun(configured: Path, measured: Measured) -> None:
    assert len(swept(some_cases(2), configured, bridge())) == 2
    assert measured == []


def test_the_hooks_engine_goes_on_with_what_the_fast_engine_has_begun(configured: Path) -> None:
    assert len(swept(some_cases(2), configured, bridge(), engine="hooks")) == 2


def test_edited_weights_of_a_bridge_are_refused_by_the_hooks_engine(tmp_path: Path) -> None:
    model = bridge_of(tiny_neox(3))
    swept(some_cases(2), tmp_path, model, engine="hooks")
    with torch.no_grad():
        model.original_model.lm_head.weight[0, 0] += 1
    with pytest.raises(RecordError, match=r"weights .* there"):
        swept(some_cases(2), tmp_path, model, engine="hooks")
