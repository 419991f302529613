"""An interrupted probe goes on where it was, and ends with the very numbers of one that was not interrupted."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comparing import flat
from transformer_lens.model_bridge import TransformerBridge
from unfinished import A_STEP, CALLS, leave_unfinished, read
from watching import counted

from headspec.probe import averages, checkpoint
from headspec.probe.collect import ENGINES
from headspec.probe.profile import HeadProfile

POINTS = [("hooks", call) for call in (1, 3, 4, 9, 10, 17, 19, 24, 27)] + [("fast", call) for call in range(1, 10)]
"""First, middle and last steps of each batch: 1–9 and 10–18 (hooks), 1–3 and 4–6 (fast) are text, then come repeats."""


@pytest.fixture(scope="module")
def uninterrupted(deep: TransformerBridge) -> dict[str, HeadProfile]:
    return {engine: read(deep, engine) for engine in ENGINES}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "unfinished.safetensors"


def assert_same(found: HeadProfile, expected: HeadProfile) -> None:
    """Every number of two profiles is the same, to the last bit, and so is what they say of themselves."""
    assert found.about == expected.about
    arrays = flat(found)
    assert arrays.keys() == flat(expected).keys()
    for name, array in flat(expected).items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_probe_reads_as_many_layers_as_the_points_of_interruption_assume(
    deep: TransformerBridge, engine: str
) -> None:
    with counted() as layers:
        read(deep, engine)
    assert len(layers) == CALLS[engine]


@pytest.mark.parametrize(("engine", "call"), POINTS)
def test_a_probe_that_goes_on_gives_the_numbers_of_one_that_was_not_interrupted(
    deep: TransformerBridge, uninterrupted: dict[str, HeadProfile], file: Path, engine: str, call: int
) -> None:
    leave_unfinished(deep, engine, file, call)
    assert_same(read(deep, engine, file), uninterrupted[engine])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_probe_may_be_interrupted_again_and_again(
    deep: TransformerBridge, uninterrupted: dict[str, HeadProfile], file: Path, engine: str
) -> None:
    for call in (2 * A_STEP[engine], 3 * A_STEP[engine], 2 * A_STEP[engine]):
        leave_unfinished(deep, engine, file, call)
    assert_same(read(deep, engine, file), uninterrupted[engine])


@pytest.mark.parametrize(("engine", "call"), POINTS)
def test_what_was_read_is_not_read_again(deep: TransformerBridge, file: Path, engine: str, call: int) -> None:
    leave_unfinished(deep, engine, file, call)
    with counted() as layers:
        read(deep, engine, file)
    before = (call - 1) // A_STEP[engine] * A_STEP[engine]
    assert len(layers) == CALLS[engine] - before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_probe_stopped_while_a_batch_is_added_up_counts_it_once(
    deep: TransformerBridge,
    uninterrupted: dict[str, HeadProfile],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    add = averages.Totals.add

    def stopped(self: averages.Totals, *batch: object) -> None:
        add(self, *batch)
        raise KeyboardInterrupt("stopped just after adding")

    with monkeypatch.context() as patch:
        patch.setattr(averages.Totals, "add", stopped)
        with pytest.raises(KeyboardInterrupt, match="just after adding"):
            read(deep, engine, file)
    assert_same(read(deep, engine, file), uninterrupted[engine])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_probe_leaves_one_whole_file(deep: TransformerBridge, file: Path, engine: str) -> None:
    leave_unfinished(deep, engine, file)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_finished_probe_is_read_back_without_reading_the_text(
    deep: TransformerBridge, uninterrupted: dict[str, HeadProfile], file: Path, engine: str
) -> None:
    read(deep, engine, file)
    with counted() as layers:
        again = read(deep, engine, file)
    assert layers == []
    assert_same(again, uninterrupted[engine])


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_checkpoint_no_file_is_left(
    deep: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.chdir(tmp_path)
    read(deep, engine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_resume_false_starts_anew(
    deep: TransformerBridge, uninterrupted: dict[str, HeadProfile], file: Path, engine: str
) -> None:
    leave_unfinished(deep, engine, file, CALLS[engine])
    with counted() as layers:
        anew = read(deep, engine, file, resume=False)
    assert len(layers) == CALLS[engine]
    assert_same(anew, uninterrupted[engine])


def test_resume_false_does_not_look_at_the_file_that_is_there(deep: TransformerBridge, file: Path) -> None:
    file.write_bytes(b"something else")
    read(deep, "fast", file, resume=False)
    assert file.read_bytes() != b"something else"


def test_a_probe_saves_itself_now_and_then(
    deep: TransformerBridge, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 12))  # seconds between two looks at it
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    saved: list[int] = []
    save = checkpoint.Checkpoint.save
    monkeypatch.setattr(
        checkpoint.Checkpoint, "save", lambda self, state: saved.append(state.done) or save(self, state)
    )
    read(deep, "fast", file)
    assert saved == [3, 3, 3, 0]  # every third step, of which a batch has three; and at the end


@pytest.mark.parametrize("engine", ENGINES)
def test_a_probe_whose_process_dies_without_a_word_can_go_on(
    deep: TransformerBridge, uninterrupted: dict[str, HeadProfile], file: Path, engine: str
) -> None:
    script = f"""
import os, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from tiny_models import bridge_of, tiny_neox
from unfinished import N_LAYERS, read
from headspec.probe import checkpoint
from headspec.probe.reader import LayerReader

checkpoint.SAVE_EVERY_S = 0
on_z, calls = LayerReader.on_z, []

def dies(self, z, hook=None):
    calls.append(self.layer)
    if len(calls) == {A_STEP[engine] * 5}:
        os._exit(9)
    on_z(self, z)

LayerReader.on_z = dies
read(bridge_of(tiny_neox(0, n_layers=N_LAYERS)), {engine!r}, Path({str(file)!r}))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    with counted() as layers:
        profile = read(deep, engine, file)
    assert len(layers) == CALLS[engine] - 4 * A_STEP[engine]
    assert_same(profile, uninterrupted[engine])
