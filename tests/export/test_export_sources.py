"""What can be exported: names, directories, plain models, bridges; and what becomes of the user's own model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from export_makers import MIXED, hooked, loads_registered, logits_of, plan_of, random_ids, same
from tiny_models import bridge_of, save_neox_hub_layout, tiny_neox
from transformers import AutoModelForCausalLM

from headspec.errors import ModelError, RecordError
from headspec.export.export import export_model
from headspec.intervene.ablate import apply_plan
from headspec.load.model import load_model, load_plain
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan

GONE = {"L0H0": "mean", "L1H2": "random"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Pythia as on the hub, with a generation config of its own."""
    folder = save_neox_hub_layout(tmp_path_factory.mktemp("hub"), 7)
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "repetition_penalty": 1.2}))
    return str(folder)


@pytest.fixture(scope="module")
def plain(hub: str) -> PlainModel:
    """The same as float32. Shared: leave it as it is."""
    return load_plain(hub, device="cpu")


SOURCES = ("name", "path", "plain", "bridge")


def source_of(kind: str, hub: str, plain: PlainModel) -> Any:
    if kind == "bridge":
        return load_model(hub, device="cpu")
    return {"name": hub, "path": Path(hub), "plain": plain}[kind]


@pytest.mark.parametrize("kind", SOURCES)
def test_each_source_gives_the_hooked_model(kind: str, hub: str, plain: PlainModel, tmp_path: Path) -> None:
    plan = plan_of(plain)
    export_model(source_of(kind, hub, plain), plan, tmp_path / "o")
    same(logits_of(loads_registered(tmp_path / "o"), random_ids()), hooked(plain, plan, random_ids()))


@pytest.mark.parametrize("kind", SOURCES)
def test_each_source_gives_a_dense_twin(kind: str, hub: str, plain: PlainModel, tmp_path: Path) -> None:
    plan = plan_of(plain, GONE)
    export_model(source_of(kind, hub, plain), plan, tmp_path / "o", to="dense-twin")
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "o")
    same(logits_of(twin, random_ids()), hooked(plain, plan, random_ids()))


@pytest.mark.parametrize("kind", SOURCES)
def test_each_source_gives_the_same_configuration(kind: str, hub: str, plain: PlainModel, tmp_path: Path) -> None:
    plan = plan_of(plain)
    export_model(hub, plan, tmp_path / "name")
    export_model(source_of(kind, hub, plain), plan, tmp_path / "o")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("name", "o"))
    assert second == first


@pytest.mark.parametrize("target", ["hf", "dense-twin"])
@pytest.mark.parametrize("kind", SOURCES)
def test_each_source_keeps_its_generation_config(
    kind: str, target: str, hub: str, plain: PlainModel, tmp_path: Path
) -> None:
    export_model(source_of(kind, hub, plain), plan_of(plain, GONE), tmp_path / "o", to=target)
    assert json.loads((tmp_path / "o/generation_config.json").read_text())["repetition_penalty"] == 1.2


@pytest.mark.parametrize("kind", SOURCES)
def test_each_source_brings_its_tokenizer(kind: str, hub: str, plain: PlainModel, tmp_path: Path) -> None:
    files = export_model(source_of(kind, hub, plain), plan_of(plain), tmp_path / "o")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(files)


@pytest.mark.parametrize("kind", ["name", "bridge", "plain"])
def test_the_demo_can_be_exported(kind: str, demo: Any, tmp_path: Path) -> None:
    plain = load_plain("demo", device="cpu")
    plan = plan_of(plain, {"L0H1": "mean", "L1H0": "window:8", "L3H7": "zero"})
    export_model({"name": "demo", "bridge": demo, "plain": plain}[kind], plan, tmp_path / "o")
    tokens = random_ids(vocabulary=1000)
    same(logits_of(loads_registered(tmp_path / "o"), tokens), hooked(plain, plan, tokens), 2e-4)


@pytest.mark.filterwarnings("ignore:a dense twin cannot hold windows")
@pytest.mark.parametrize("target", ["hf", "dense-twin"])
def test_a_model_of_transformers_needs_no_name(target: str, tmp_path: Path) -> None:
    model = tiny_neox(3)
    plan = plan_of(PlainModel(model, "GPTNeoXForCausalLM"))
    files = export_model(model, plan, tmp_path / "o", to=target)
    assert "tokenizer.json" not in files


def test_a_model_of_transformers_under_another_name_takes_a_renamed_plan(tmp_path: Path) -> None:
    model = tiny_neox(3)
    plan = plan_of(PlainModel(model, "elsewhere"))
    with pytest.raises(RecordError, match=r"made for elsewhere .* use plan\.renamed\(name\)"):
        export_model(model, plan, tmp_path / "o")
    export_model(model, plan.renamed("GPTNeoXForCausalLM"), tmp_path / "o")
    same(logits_of(loads_registered(tmp_path / "o"), random_ids()), hooked(PlainModel(model, "elsewhere"), plan,
         random_ids()))  # fmt: skip


def test_a_plan_is_taken_by_its_path(hub: str, plain: PlainModel, tmp_path: Path) -> None:
    plan = plan_of(plain)
    plan.save(tmp_path / "plan.json")
    export_model(plain, str(tmp_path / "plan.json"), tmp_path / "o")
    assert HeadPlan.load(tmp_path / "o/plan.json") == plan


@pytest.mark.parametrize("target", ["hf", "dense-twin"])
def test_a_bridge_with_edited_weights_is_refused(target: str, hub: str, plain: PlainModel, tmp_path: Path) -> None:
    bridge = load_model(hub, device="cpu")
    with torch.no_grad():
        bridge.blocks[0].attn.q.weight.mul_(3)
    with pytest.raises(ModelError, match="gives other logits than its Hugging Face model"):
        export_model(bridge, plan_of(plain, GONE), tmp_path / "o", to=target)
    assert not (tmp_path / "o").exists()


def test_the_refusal_of_an_edited_bridge_says_what_to_do_about_an_export(hub: str, plain: PlainModel, tmp_path: Path):
    bridge = load_model(hub, device="cpu")
    with torch.no_grad():
        bridge.blocks[0].attn.q.weight.mul_(3)
    with pytest.raises(ModelError) as raised:
        export_model(bridge, plan_of(plain, GONE), tmp_path / "o")
    assert "engine" not in str(raised.value)


def test_a_bridge_with_hooks_that_change_it_is_refused(hub: str, plain: PlainModel, tmp_path: Path) -> None:
    bridge, plan = load_model(hub, device="cpu"), plan_of(plain, GONE)
    with apply_plan(bridge, plan), pytest.raises(ModelError, match="hooks that change activations"):
        export_model(bridge, plan, tmp_path / "o")


def test_plain_models_export_their_weights_whatever_is_hooked(plain: PlainModel, tmp_path: Path) -> None:
    plan, expected = plan_of(plain), hooked(plain, plan_of(plain), random_ids())
    with apply_plan(plain, plan_of(plain, {"L1H0": "zero"})):
        export_model(plain, plan, tmp_path / "o")
    same(logits_of(loads_registered(tmp_path / "o"), random_ids()), expected)


# The user's model


@pytest.mark.filterwarnings("ignore:a dense twin cannot hold windows")
@pytest.mark.parametrize("target", ["hf", "dense-twin"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_model_is_as_it_was(target: str, attention: str, tmp_path: Path) -> None:
    model = tiny_neox(3)
    model.set_attn_implementation(attention)
    plain = PlainModel(model, "m")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, generation, logits = model.config.to_dict(), model.generation_config.to_dict(), plain(random_ids())
    export_model(plain, plan_of(plain), tmp_path / "o", to=target)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == attention
    assert model.generation_config.to_dict() == generation
    assert torch.equal(plain(random_ids()), logits)


@pytest.mark.filterwarnings("ignore:a dense twin cannot hold windows")
def test_a_plan_can_be_edited_and_exported_again(hub: str, tmp_path: Path) -> None:
    model = load_plain(hub, device="cpu")
    first = plan_of(model)
    second = first.without(["L0H0"]) | plan_of(model, {"L1H2": "window:4", "L1H1": "mean"}, seed=5)
    export_model(model, first, tmp_path / "1")
    export_model(model, first, tmp_path / "t", to="dense-twin")
    export_model(model, second, tmp_path / "2")
    expected = hooked(load_plain(hub, device="cpu"), second, random_ids())
    same(logits_of(loads_registered(tmp_path / "2"), random_ids()), expected)
    same(hooked(model, second, random_ids()), expected)


def test_a_bridge_can_be_hooked_and_exported_again(hub: str, plain: PlainModel, tmp_path: Path) -> None:
    bridge = load_model(hub, device="cpu")
    before = bridge(random_ids())
    export_model(bridge, plan_of(plain, GONE), tmp_path / "1")
    same(bridge(random_ids()), before, 0)
    second = plan_of(plain, MIXED, seed=3)
    with apply_plan(bridge, second):
        expected = bridge(random_ids())
    export_model(bridge, second, tmp_path / "2")
    same(logits_of(loads_registered(tmp_path / "2"), random_ids()), expected)


def test_a_bridge_booted_by_hand_goes_by_its_own_name(tmp_path: Path) -> None:
    bridge = bridge_of(tiny_neox(3))
    plan = plan_of(bridge)
    export_model(bridge, plan, tmp_path / "o")
    expected = hooked(PlainModel(tiny_neox(3), "m"), plan.renamed("m"), random_ids())
    same(logits_of(loads_registered(tmp_path / "o"), random_ids()), expected)


def test_another_export_of_the_same_gives_the_same_bytes(plain: PlainModel, tmp_path: Path) -> None:
    for name in ("1", "2"):
        export_model(plain, plan_of(plain), tmp_path / name)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("1", "2"))
    assert first == second
