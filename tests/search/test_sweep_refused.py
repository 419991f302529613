"""What a sweep refuses, it refuses at once: no folder is made and the model is not run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sweep_makers import FAMILIES, bridge, cases_of, ids, new_plain, plain
from tiny_models import VOCABULARY, bridge_of, tiny_neox
from transformers import GPT2Config, GPT2LMHeadModel

from headspec.errors import HeadspecError, ModelError, RecordError, TextError
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.search import sweep as sweeps
from headspec.search.cases import Case
from headspec.search.sweep import sweep

TEXT = ids(2, 40)
Arguments = dict[str, Any]


def case(wish: dict[str, str] | None = None) -> Case:
    return cases_of(plain(), [wish or {"L0H1": "zero"}])[0]


def renamed(model: str) -> Case:
    return Case("wish", "0", case().plan.renamed(model))


def of_another_size() -> Case:
    return cases_of(PlainModel(tiny_neox(0, n_layers=3), "planted"), [{"L0H1": "zero"}])[0]


REFUSED: dict[str, tuple[Callable[[], Arguments], type[Exception], str]] = {
    "no cases": (lambda: {"cases": []}, HeadspecError, "no cases to sweep over: make some with single_cases"),
    "an unknown engine": (
        lambda: {"engine": "warp"}, HeadspecError, "engine 'warp': choose one of fast, hooks, ray"),
    "a plan for another model": (
        lambda: {"cases": [case(), renamed("pythia-70m")]}, RecordError,
        r"this plan was made for pythia-70m \(2 × 4 heads of 8\), not for planted \(2 × 4 of 8\)"),
    "a plan for a model of another size": (
        lambda: {"cases": [of_another_size()]}, RecordError, "made for planted .3 × 4 heads .*not for planted .2 × 4"),
    "a plan that compresses heads": (
        lambda: {"cases": [case(), case({"L1H2": "compress:snapkv:0.5"})]}, HeadspecError,
        "L1H2: a sweep reads texts in one piece, of which compressed heads drop nothing: .* `headspec search`"),
    "no text": (lambda: {"tokens": torch.zeros(0, dtype=torch.int64)}, TextError, "the text has 0 tokens; 2 or more"),
    "no windows": (lambda: {"tokens": torch.zeros(0, 40, dtype=torch.int64)}, TextError, "no windows of token ids"),
    "windows of one token": (lambda: {"tokens": ids(3, 1)}, TextError, "the text has 1 tokens; 2 or more"),
    "windows beyond the context": (
        lambda: {"tokens": ids(1, 129)}, TextError, "windows of 129 tokens are beyond the model's context of 128"),
    "tokens that the model does not know": (
        lambda: {"tokens": torch.tensor([[0, VOCABULARY]])}, TextError, "token ids from 0 to 272"),
    "tokens that are no whole numbers": (lambda: {"tokens": [[0.5, 1.0]]}, TextError, "want whole numbers"),
    "text without a tokenizer": (lambda: {"tokens": "Once upon a time"}, ModelError, "planted has no tokenizer"),
}  # fmt: skip

LATE: dict[str, tuple[Callable[[], Arguments], type[Exception], str]] = {
    "workers for an engine that has none": (
        lambda: {"n_workers": 2}, HeadspecError, 'n_workers: only for engine="ray"'),
    "a cluster for an engine that has none": (
        lambda: {"engine": "hooks", "address": "auto", "n_workers": 2}, HeadspecError, "address, n_workers: only for"),
    "a misspelt argument": (lambda: {"n_repeat": 2}, HeadspecError, "n_repeat"),
}  # fmt: skip


def refuse(arguments: Arguments, error: type[Exception], match: str, folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Check that it is refused; answers how often the model was run."""
    model, runs = new_plain(), list[int]()
    model.huggingface.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    for engine in ("measure_fast", "measure_hooked"):
        patch.setattr(sweeps, engine, lambda *_: pytest.fail("it has begun to measure"))
    given = {"cases": [case()], "tokens": TEXT, "out": folder, "progress": False} | arguments
    with pytest.raises(error, match=match):
        sweep(model, given.pop("cases"), given.pop("tokens"), **given)
    return len(runs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_swept_is_refused_before_anything_is_made_or_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, error, match = REFUSED[name]
    assert refuse(arguments(), error, match, tmp_path / "out", monkeypatch) == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", LATE)
def test_options_that_belong_to_another_engine_are_refused_before_anything_is_made_or_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, error, match = LATE[name]
    assert refuse(arguments(), error, match, tmp_path / "out", monkeypatch) == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["hooks", "fast"])
@pytest.mark.parametrize("name", [name for name in REFUSED if name != "an unknown engine"])
def test_every_engine_refuses_the_same_for_a_bridge(name: str, engine: str, tmp_path: Path) -> None:
    arguments, error, match = REFUSED[name]
    given = {"cases": [case()], "tokens": TEXT, "out": tmp_path / "out", "progress": False} | arguments()
    with pytest.raises(error, match=match):
        sweep(bridge(), given.pop("cases"), given.pop("tokens"), engine=engine, **given)
    assert not (tmp_path / "out").exists()


def test_an_empty_text_is_refused(tmp_path: Path, neox_folder: Path) -> None:
    model = load_plain(str(neox_folder), device="cpu")
    with pytest.raises(TextError, match="the text has 0 tokens"):
        sweep(model, cases_of(model, [{"L0H1": "zero"}]), "", out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_number_of_repeats_below_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadspecError, match="n_repeats"):
        sweep(plain(), [case()], TEXT, n_repeats=-1, out=tmp_path / "out", progress=False)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="int is neither a TransformerBridge nor a Hugging Face model"):
        sweep(3, [case()], TEXT, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_hugging_face_model_is_refused_by_the_hooks_engine(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="GPTNeoXForCausalLM is not a TransformerBridge"):
        sweep(plain().huggingface, [case()], TEXT, engine="hooks", out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_bridge_with_hooks_of_its_own_is_refused_by_the_fast_engine(tmp_path: Path) -> None:
    model = bridge_of(FAMILIES["neox-parallel"]())
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: z * 0)
    with pytest.raises(ModelError, match=r'hooks that change activations.*use engine="hooks"'):
        sweep(model, [case()], TEXT, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_bridge_with_edited_weights_is_refused_by_the_fast_engine_and_swept_by_the_other(tmp_path: Path) -> None:
    model = bridge_of(FAMILIES["neox-parallel"]())
    with torch.no_grad():
        model.blocks[0].attn.v.weight.mul_(0)
    with pytest.raises(ModelError, match=r'edited weights.*use engine="hooks"'):
        sweep(model, [case()], TEXT, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    [row] = sweep(model, [case()], TEXT, engine="hooks", n_repeats=0, progress=False).rows
    assert abs(row["kl"]) < 1e-6, "the values of that head are zero already"


def gpt2() -> PlainModel:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    return PlainModel(GPT2LMHeadModel(config).eval(), "gpt2")


def with_a_scaled_final_state() -> PlainModel:
    model = new_plain(name="scaled")

    def scale(module: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = 2 * output.last_hidden_state
        return output

    model.huggingface.base_model.register_forward_hook(scale)
    return model


@pytest.mark.parametrize("make", [gpt2, with_a_scaled_final_state])
def test_a_model_the_fast_engine_does_not_know_is_refused_before_a_folder_is_made(
    make: Callable[[], PlainModel], tmp_path: Path
) -> None:
    model = make()
    with pytest.raises(ModelError, match='use engine="hooks"'):
        sweep(model, cases_of(model, [{"L0H1": "zero"}]), TEXT, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(HeadspecError, match=re.escape(f"cannot write into {tmp_path / 'out'}: File exists")):
        sweep(plain(), [case()], TEXT, out=tmp_path / "out", progress=False)
    assert (tmp_path / "out").read_text() == "mine"


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep(plain(), [case()], TEXT, n_repeats=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    sweep(plain(), [case()], TEXT, n_repeats=0, out=str(tmp_path / "a" / "b"), progress=False)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["rows.jsonl", "sweep.csv", "sweep.json"]
