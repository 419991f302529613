"""The dense twin: a plain GPT-NeoX of the original shape that computes what the plan without its windows says."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from export_makers import GREEDY, hooked, hooked_greedy, in_fresh_process, logits_of, plan_of, random_ids, same
from tiny_models import save_neox_hub_layout, tiny_neox
from transformers import GPTNeoXForCausalLM

from headspec.export.export import export_model
from headspec.export.twin import dense_twin
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Remove

WISH = {"L0H0": "mean", "L0H3": "zero", "L1H1": "random", "L1H2": "mean"}


@pytest.fixture
def model() -> PlainModel:
    return PlainModel(tiny_neox(3), "tiny")


def without_bias(tied: bool = False) -> PlainModel:
    config = tiny_neox().config
    config.attention_bias, config.tie_word_embeddings = False, tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return PlainModel(GPTNeoXForCausalLM(config).eval(), "bare")


def removals(plan: HeadPlan) -> HeadPlan:
    return plan.only(plan.heads(Remove))


def heads_of(model: Any, layer: int, part: str) -> torch.Tensor:
    """Rows (of query_key_value) or columns (of dense), `[head, …]`."""
    attention = model.gpt_neox.layers[layer].attention
    if part == "columns":
        return attention.dense.weight.reshape(32, 4, 8).transpose(0, 1)
    return getattr(attention.query_key_value, part).reshape(4, 24, -1)


@pytest.mark.parametrize("part", ["weight", "bias", "columns"])
def test_weights_of_removed_heads_are_zero(model: PlainModel, part: str) -> None:
    with torch.no_grad():
        for layer in model.huggingface.gpt_neox.layers:
            layer.attention.query_key_value.bias.normal_()
    twin = dense_twin(model.huggingface, plan_of(model, WISH))
    assert not heads_of(twin, 0, part)[[0, 3]].any()
    assert not heads_of(twin, 1, part)[[1, 2]].any()


@pytest.mark.parametrize("part", ["weight", "bias", "columns"])
def test_weights_of_other_heads_are_those_of_the_source(model: PlainModel, part: str) -> None:
    twin = dense_twin(model.huggingface, plan_of(model, WISH))
    assert torch.equal(heads_of(twin, 0, part)[[1, 2]], heads_of(model.huggingface, 0, part)[[1, 2]])
    assert torch.equal(heads_of(twin, 1, part)[[0, 3]], heads_of(model.huggingface, 1, part)[[0, 3]])


def test_all_tensors_have_the_shapes_of_the_source(model: PlainModel) -> None:
    twin, source = dense_twin(model.huggingface, plan_of(model, WISH)).state_dict(), model.huggingface.state_dict()
    assert {name: tensor.shape for name, tensor in twin.items()} == {n: t.shape for n, t in source.items()}


@pytest.mark.parametrize("wish", [WISH, {}, {f"L0H{head}": "mean" for head in range(4)}], ids=["some", "none", "bare"])
def test_logits_are_those_of_the_hooked_model(model: PlainModel, wish: dict[str, str]) -> None:
    plan, tokens = plan_of(model, wish), random_ids()
    with torch.device("cpu"):
        twin = reloaded(dense_twin(model.huggingface, plan))
    same(logits_of(twin, tokens), hooked(model, plan, tokens))


def reloaded(twin: Any) -> Any:
    """A usual model with the weights of the twin, which is for saving only."""
    found = GPTNeoXForCausalLM(twin.config).eval()
    found.load_state_dict(twin.state_dict(), strict=True)
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_a_source_without_attention_biases_gets_some(tied: bool) -> None:
    model = without_bias(tied)
    plan, tokens = plan_of(model, WISH), random_ids()
    twin = dense_twin(model.huggingface, plan)
    assert twin.config.attention_bias
    same(logits_of(reloaded(twin), tokens), hooked(model, plan, tokens))


def test_windows_are_left_out(model: PlainModel) -> None:
    plan, tokens = plan_of(model), random_ids()
    found = logits_of(reloaded(dense_twin(model.huggingface, plan)), tokens)
    same(found, hooked(model, removals(plan), tokens))
    assert (found - hooked(model, plan, tokens)).abs().max() > 0.01


def test_the_source_is_not_changed(model: PlainModel) -> None:
    def written() -> bytes:
        file = io.BytesIO()
        torch.save(model.huggingface.state_dict(), file)
        return file.getvalue()

    before, config = written(), model.huggingface.config.to_dict()
    dense_twin(model.huggingface, plan_of(model))
    assert written() == before
    assert model.huggingface.config.to_dict() == config


def test_a_source_without_attention_biases_keeps_its_configuration() -> None:
    model = without_bias()
    dense_twin(model.huggingface, plan_of(model))
    assert model.huggingface.config.attention_bias is False


def test_windows_in_the_plan_give_a_warning(model: PlainModel, tmp_path: Path) -> None:
    said = "a dense twin cannot hold windows or compressed caches: the 2 windowed and 0 compressed heads see every key"
    with pytest.warns(UserWarning, match=said):
        export_model(model, plan_of(model), tmp_path / "o", to="dense-twin")


@pytest.mark.filterwarnings("error::UserWarning")
def test_without_windows_there_is_no_warning(model: PlainModel, tmp_path: Path) -> None:
    export_model(model, plan_of(model, WISH), tmp_path / "o", to="dense-twin")


def test_the_folder_has_no_code(model: PlainModel, tmp_path: Path) -> None:
    files = export_model(model, plan_of(model, WISH), tmp_path / "o", to="dense-twin")
    assert not [name for name in files if name.endswith(".py")]
    assert "auto_map" not in (tmp_path / "o/config.json").read_text()


# In a process without headspec


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], PlainModel, HeadPlan]]:
    """What a fresh process finds in dense twins, each with its original and plan."""
    place = tmp_path_factory.mktemp("twins")
    hub = str(save_neox_hub_layout(place / "hub", 6))
    models = {"hub": load_plain(hub, device="cpu"), "no bias": without_bias()}
    jobs, plans = [], {}
    for name, model in models.items():
        plans[name] = plan_of(model, WISH)
        export_model(hub if name == "hub" else model, plans[name], place / name / "out", to="dense-twin")
        jobs.append({"folder": place / name / "out", "tokens": random_ids().tolist(), "greedy": GREEDY})
    found = in_fresh_process(jobs, place / "fresh")
    return {name: (found[i], models[name], plans[name]) for i, name in enumerate(models)}


@pytest.mark.parametrize("kind", ["hub", "no bias"])
def test_transformers_loads_it_as_its_own_class_without_remote_code(fresh: Any, kind: str) -> None:
    found = fresh[kind][0]
    assert found["class"] == "GPTNeoXForCausalLM"
    assert found["module"].startswith("transformers.models.gpt_neox")


@pytest.mark.parametrize("kind", ["hub", "no bias"])
def test_loaded_in_a_process_without_headspec_it_computes_what_the_plan_says(fresh: Any, kind: str) -> None:
    found, model, plan = fresh[kind]
    same(found["logits"], hooked(model, plan, random_ids()))
    assert found["greedy"] == hooked_greedy(model, plan, random_ids())
