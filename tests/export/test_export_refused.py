"""What cannot be exported, and what an exported model cannot be used for: one sentence that says what to do."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export_makers import MIXED, loads_registered, plan_of
from tiny_models import bridge_of, save_llama, save_neox_hub_layout, tiny_llama, tiny_neox

from headspec.errors import HeadspecError, ModelError, RecordError
from headspec.export.export import export_model
from headspec.intervene.ablate import apply_plan
from headspec.load.model import load_model, load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import load_text
from headspec.measure.quality import measure_plan
from headspec.plan.plan import HeadPlan
from headspec.probe.collect import probe_heads
from headspec.search.cases import Case
from headspec.search.sweep import sweep


@pytest.fixture(scope="module")
def model() -> PlainModel:
    """Shared: leave it as it is."""
    return PlainModel(tiny_neox(), "tiny")


@pytest.fixture(scope="module")
def plan(model: PlainModel) -> HeadPlan:
    return plan_of(model)


@pytest.mark.parametrize("kind", ["plain", "raw", "directory", "bridge"])
@pytest.mark.parametrize("target", ["hf", "dense-twin"])
def test_models_that_are_no_gpt_neox_are_refused(tmp_path: Path, kind: str, target: str) -> None:
    llama = PlainModel(tiny_llama(), "tiny")
    folder = str(save_llama(tmp_path / "llama")) if kind == "directory" else ""
    sources: dict[str, Callable[[], Any]] = {
        "plain": lambda: llama, "raw": lambda: llama.huggingface, "directory": lambda: folder,
        "bridge": lambda: bridge_of(llama.huggingface),
    }  # fmt: skip
    plan = plan_of(llama, {"L0H0": "zero"}).renamed(folder or "tiny")
    with pytest.raises(ModelError, match=r"[Ll]lama.* cannot be exported: headspec writes GPT-?NeoX"):
        export_model(sources[kind](), plan, tmp_path / "o", to=target)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["GPTNeoXModel", "GPTNeoXForSequenceClassification"])
@pytest.mark.parametrize("target", ["hf", "dense-twin"])
def test_a_gpt_neox_that_is_no_language_model_is_refused(tmp_path: Path, name: str, target: str) -> None:
    import transformers

    other = getattr(transformers, name)(tiny_neox().config)
    plan = plan_of(PlainModel(other, name), {"L0H0": "zero"})
    with pytest.raises(ModelError, match=f"{name} cannot be exported"):
        export_model(other, plan, tmp_path / "o", to=target)


@pytest.mark.parametrize("thing", [3, None, {"a": 1}, torch.nn.Linear(2, 2)], ids=repr)
def test_what_is_no_model_is_refused(plan: HeadPlan, tmp_path: Path, thing: Any) -> None:
    with pytest.raises(ModelError, match="is neither a TransformerBridge nor a Hugging Face model"):
        export_model(thing, plan, tmp_path / "o")


def test_a_plan_for_another_model_is_refused(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"made for another .* not for tiny"):
        export_model(model, plan.renamed("another"), tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", [{"n_layers": 3}, {"n_heads": 8}, {"d_model": 64}])
def test_a_plan_for_another_shape_is_refused(model: PlainModel, tmp_path: Path, sizes: dict[str, int]) -> None:
    other = plan_of(PlainModel(tiny_neox(**sizes), "tiny"), {"L0H0": "zero"})
    with pytest.raises(RecordError, match=r"\d × \d heads of \d+\), not for tiny \(2 × 4 of 8\)"):
        export_model(model, other, tmp_path / "o")


def test_an_unknown_target_is_refused(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    with pytest.raises(HeadspecError, match="to='onnx': choose hf or dense-twin"):
        export_model(model, plan, tmp_path / "o", to="onnx")


def test_a_plan_that_is_not_there_is_refused(model: PlainModel, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no plan at .*plan\.json: `headspec search MODEL` writes one"):
        export_model(model, tmp_path / "plan.json", tmp_path / "o")


def test_a_plan_without_its_vectors_is_refused(model: PlainModel, plan: HeadPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(RecordError, match=r"plan\.safetensors"):
        export_model(model, tmp_path / "plan.json", tmp_path / "o")


@pytest.mark.parametrize("name", ["pythia-71m", "./nowhere", "random:pythia-3m"])
def test_an_unknown_name_is_refused(plan: HeadPlan, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError):
        export_model(name, plan, tmp_path / "o")


def test_an_unknown_dtype_is_refused(plan: HeadPlan, tmp_path: Path, neox_folder: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'float9': choose"):
        export_model(str(neox_folder), plan.renamed(str(neox_folder)), tmp_path / "o", dtype="float9")


# An exported model where its original is needed


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy it to change it."""
    place = tmp_path_factory.mktemp("exported")
    source = str(save_neox_hub_layout(place / "source"))
    export_model(source, plan_of(load_plain(source, device="cpu"), MIXED), place / "o")
    return place / "o"


@pytest.fixture(scope="module")
def pruned(exported: Path) -> PlainModel:
    return load_plain(str(exported), device="cpu")


REFUSED = "exported, pruned one, which cannot be .*: use the original model"


@pytest.mark.parametrize("kind", ["name", "plain", "raw"])
def test_an_exported_model_is_not_exported_again(exported: Path, pruned: PlainModel, tmp_path: Path, kind: str) -> None:
    source = {"name": str(exported), "plain": pruned, "raw": loads_registered(exported)}[kind]
    plan = plan_of(PlainModel(tiny_neox(), str(exported)), {"L0H0": "zero"})
    with pytest.raises(ModelError, match="exported, pruned one, which cannot be exported again: use the original"):
        export_model(source, plan, tmp_path / "o")


def test_load_model_makes_no_bridge_of_it(exported: Path) -> None:
    with pytest.raises(ModelError, match=REFUSED):
        load_model(str(exported), device="cpu")


def test_load_model_makes_no_bridge_of_it_without_tokenizer(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "o")
    for path in (tmp_path / "o").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=REFUSED):
        load_model(str(tmp_path / "o"), device="cpu")


def test_no_plan_is_applied_to_it(pruned: PlainModel) -> None:
    plan = plan_of(pruned, {"L0H1": "zero"})
    with pytest.raises(ModelError, match=REFUSED), apply_plan(pruned, plan):
        pass


def test_it_is_not_probed(pruned: PlainModel) -> None:
    with pytest.raises(ModelError, match=REFUSED):
        probe_heads(pruned, load_text(pruned, "probe", n_tokens=128), engine="fast", progress=False)


def test_it_is_not_probed_with_hooks(pruned: PlainModel) -> None:
    with pytest.raises(ModelError):
        probe_heads(pruned, load_text(pruned, "probe", n_tokens=128), engine="hooks", progress=False)


@pytest.mark.parametrize("engine", ["fast", "hooks"])
def test_it_is_not_swept(pruned: PlainModel, engine: str) -> None:
    cases = [Case("single", "L0H1=zero", plan_of(pruned, {"L0H1": "zero"}))]
    text = load_text(pruned, "select", n_tokens=128)
    with pytest.raises(ModelError, match=REFUSED):
        sweep(pruned, cases, text, engine=engine, progress=False, n_repeats=1)


def test_no_plan_is_measured_on_it(pruned: PlainModel) -> None:
    with pytest.raises(ModelError, match=REFUSED):
        measure_plan(pruned, plan_of(pruned, {"L0H1": "zero"}), load_text(pruned, "select", n_tokens=128), n_repeats=1)


def test_its_quality_can_be_scored(pruned: PlainModel) -> None:
    tokens = torch.tensor([[5, 6, 7, 8]])
    assert pruned(tokens).isfinite().all()
