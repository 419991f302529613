"""Which unfinished probes are refused: those of another model, text or setting, damaged and foreign files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accounts import random_ids
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import bridge_of, tiny_neox
from transformer_lens.model_bridge import TransformerBridge
from unfinished import IDS, N_LAYERS, leave_unfinished, read

from headspec.errors import RecordError
from headspec.load.text import TokenWindows
from headspec.probe.profile import HeadProfile

Header = dict[str, str]


@pytest.fixture
def file(deep: TransformerBridge, tmp_path: Path) -> Path:
    """What the fast engine leaves when it is interrupted in the second batch of text."""
    return leave_unfinished(deep, "fast", tmp_path / "unfinished.safetensors")


def rewritten(file: Path, edit: Callable[[Header], object]) -> None:
    """Give an unfinished probe another header."""
    with safe_open(file, framework="pt") as opened:
        header = dict(opened.metadata())
        arrays = {name: opened.get_tensor(name) for name in list(opened.keys())}
    edit(header)
    save_file(arrays, file, metadata=header)


def with_settings(header: Header, **changes: Any) -> None:
    header["settings"] = json.dumps(json.loads(header["settings"]) | changes)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"batch_size": 1}, "batch_size 2 there, 1 now"),
        ({"n_sinks": 3}, "n_sinks 4 there, 3 now"),
        ({"first_query": 20}, "first_query 16 there, 20 now"),
        ({"layers": [0, 2]}, r"layers \[0, 1, 2\] there, \[0, 2\] now"),
        ({"n_repeats": 3}, "n_repeats 2 there, 3 now"),
        ({"seed": 7}, "seed 0 there, 7 now"),
        ({"query_statistics": False}, "query_statistics True there, False now"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_setting_is_refused_naming_both(
    deep: TransformerBridge, file: Path, changes: dict[str, Any], difference: str
) -> None:
    with pytest.raises(RecordError, match=rf"cannot resume: .*unfinished\.safetensors.*{difference}"):
        read(deep, "fast", file, **changes)


def test_another_engine_is_refused_naming_both(deep: TransformerBridge, file: Path) -> None:
    with pytest.raises(RecordError, match=r"engine 'fast' there, 'hooks' now"):
        read(deep, "hooks", file)


def test_another_model_is_refused_naming_both(file: Path) -> None:
    with pytest.raises(RecordError, match=r"is of planted on tokens, this one of GPTNeoXForCausalLM on tokens"):
        read(tiny_neox(0, n_layers=N_LAYERS), "fast", file)


def test_a_model_of_the_same_name_but_another_size_is_refused_naming_both(file: Path) -> None:
    with pytest.raises(RecordError, match=r"n_layers 3 there, 4 now"):
        read(bridge_of(tiny_neox(0, n_layers=4)), "fast", file)


def test_another_text_is_refused_naming_both(deep: TransformerBridge, file: Path) -> None:
    there, now = (TokenWindows(ids, "tokens").digest for ids in (IDS, random_ids(3, 80, seed=1)))
    with pytest.raises(RecordError, match=rf"text_digest '{there}' there, '{now}' now"):
        read(deep, "fast", file, tokens=random_ids(3, 80, seed=1))


def test_another_source_of_text_is_refused_naming_both(deep: TransformerBridge, file: Path) -> None:
    with pytest.raises(RecordError, match=r"is of planted on tokens, this one of planted on a book"):
        read(deep, "fast", file, tokens=TokenWindows(IDS, "a book"))


def test_another_dtype_is_refused_naming_both(file: Path) -> None:
    with pytest.raises(RecordError, match=r"dtype 'float32' there, 'bfloat16' now"):
        read(bridge_of(tiny_neox(0, n_layers=N_LAYERS).bfloat16()), "fast", file)


def test_what_is_refused_stays_as_it_is(deep: TransformerBridge, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(RecordError, match="cannot resume"):
        read(deep, "fast", file, seed=7)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "changes", [{"device": "cuda:0"}, {"versions": [["torch", "9.9"]]}], ids=lambda c: next(iter(c))
)
def test_another_device_or_other_versions_are_not_refused(
    deep: TransformerBridge, file: Path, changes: dict[str, Any]
) -> None:
    rewritten(file, lambda header: with_settings(header, **changes))
    about = read(deep, "fast", file).about
    assert about.device == "cpu"
    assert dict(about.versions)["torch"] == torch.__version__


@pytest.mark.parametrize("kept", [0, 4, 200, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused_by_its_name(deep: TransformerBridge, file: Path, kept: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(kept if kept >= 1 or kept == 0 else kept * len(data))])
    with pytest.raises(RecordError, match=r"unfinished\.safetensors is damaged .*: delete it and start anew"):
        read(deep, "fast", file)


@pytest.mark.parametrize("part", ["settings", "place"])
@pytest.mark.parametrize("text", [None, "{", "[]", "{}"], ids=str)
def test_a_file_with_a_damaged_header_is_refused_by_its_name(
    deep: TransformerBridge, file: Path, part: str, text: str | None
) -> None:
    rewritten(file, lambda header: header.pop(part) if text is None else header.update({part: text}))
    with pytest.raises(RecordError, match=r"unfinished\.safetensors"):
        read(deep, "fast", file)


def test_a_file_of_weights_is_refused_by_its_name(deep: TransformerBridge, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(RecordError, match=r"model\.safetensors is not a headspec\.UnfinishedProbe/1"):
        read(deep, "fast", tmp_path / "model.safetensors")


def test_a_finished_profile_is_refused_by_its_name(
    deep: TransformerBridge, tiny_profile: HeadProfile, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=r"profile\.safetensors is not a headspec\.UnfinishedProbe/1"):
        read(deep, "fast", tiny_profile.save(tmp_path / "profile.safetensors"))


def test_an_unfinished_probe_of_another_version_is_refused_by_its_name(deep: TransformerBridge, file: Path) -> None:
    rewritten(file, lambda header: header.update(schema="headspec.UnfinishedProbe/9"))
    with pytest.raises(RecordError, match=r"unfinished\.safetensors is not a headspec\.UnfinishedProbe/1"):
        read(deep, "fast", file)
