"""`register`: exported models load with headspec's own code, where it is asked for and not before."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_neox_hub_layout
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import headspec
from headspec.errors import ModelError
from headspec.export.export import export_model
from headspec.load.identity import prepends_bos
from headspec.load.model import load_plain
from headspec.load.pruned import MODEL_TYPE, refuse_pruned
from headspec.load.text import load_text
from headspec.plan.make import plan_heads
from headspec.runtime.configuration import PrunedGPTNeoXConfig
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM

STEPS = """
import json, sys
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

folder, found = sys.argv[1], {}


def state():
    return sorted(CONFIG_MAPPING._extra_content), sorted(map(str, MODEL_FOR_CAUSAL_LM_MAPPING._extra_content))


def load():
    try:
        model = AutoModelForCausalLM.from_pretrained(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return type(model).__module__


before = state()
import headspec
found["import leaves the registries"] = state() == before
import headspec.cli, headspec.export.export, headspec.load.model, headspec.runtime.modeling
found["importing all leaves the registries"] = state() == before
found["before"] = load()
headspec.register()
found["after"] = load()
once = state()
headspec.register()
found["twice is once"] = state() == once != before
found["again"] = load()
print("\\n" + json.dumps(found))  # after a question that was asked on the same line
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: leave it as it is."""
    place = tmp_path_factory.mktemp("exported")
    source = str(save_neox_hub_layout(place / "source"))
    model = load_plain(source, device="cpu")
    export_model(source, plan_heads(model, {"L0H1": "zero", "L1H0": "window:4"}), place / "o")
    return place / "o"


@pytest.fixture(scope="module")
def steps(exported: Path) -> dict[str, Any]:
    """What a process of its own finds before and after it registers."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(exported)], capture_output=True, text=True, check=False, input="n\n",
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(exported.parent / "modules")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("claim", ["import leaves the registries", "importing all leaves the registries"])
def test_importing_headspec_changes_nothing_in_transformers(steps: dict[str, Any], claim: str) -> None:
    assert steps[claim]


def test_before_registering_the_model_needs_trust(steps: dict[str, Any]) -> None:
    assert "trust_remote_code" in steps["before"]


def test_after_registering_it_does_not(steps: dict[str, Any]) -> None:
    assert steps["after"] == "headspec.runtime.modeling"


def test_registering_twice_is_registering_once(steps: dict[str, Any]) -> None:
    assert steps["twice is once"]
    assert steps["again"] == "headspec.runtime.modeling"


def test_the_configuration_loads_too(exported: Path) -> None:
    headspec.register()
    assert type(AutoConfig.from_pretrained(exported)) is PrunedGPTNeoXConfig


def test_a_configuration_makes_a_model(exported: Path) -> None:
    headspec.register()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(exported))
    assert type(model) is PrunedGPTNeoXForCausalLM


def test_trust_changes_nothing_where_headspec_is_registered(exported: Path) -> None:
    headspec.register()
    model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
    assert type(model) is PrunedGPTNeoXForCausalLM


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"trust_remote_code": True}], ids=str)
def test_load_plain_registers_of_itself(exported: Path, options: dict[str, Any]) -> None:
    model = load_plain(str(exported), device="cpu", **options)
    assert type(model.huggingface) is PrunedGPTNeoXForCausalLM
    assert model.identity.dtype == options.get("dtype", "float32")


def test_its_identity_is_that_of_the_original(exported: Path) -> None:
    identity = load_plain(str(exported), device="cpu").identity
    assert (identity.n_layers, identity.n_heads, identity.d_head, identity.d_model) == (2, 4, 8, 32)


def test_it_has_its_tokenizer(exported: Path) -> None:
    model = load_plain(str(exported), device="cpu")
    assert len(AutoTokenizer.from_pretrained(exported)) == len(model.tokenizer)
    assert load_text(model, "probe", n_tokens=128).tokens.numel() >= 128


def test_it_wants_no_token_before_a_text(exported: Path) -> None:
    assert prepends_bos(load_plain(str(exported), device="cpu")) is False


def test_loaded_it_generates(exported: Path) -> None:
    model = load_plain(str(exported), device="cpu").huggingface
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4).shape == (1, 7)


def test_refusal_names_the_purpose() -> None:
    with pytest.raises(ModelError, match="which cannot be eaten: use the original model"):
        refuse_pruned(MODEL_TYPE, "eaten")


def test_other_models_are_not_refused() -> None:
    refuse_pruned("gpt_neox", "eaten")


def test_the_model_type_is_that_of_the_configuration() -> None:
    assert PrunedGPTNeoXConfig.model_type == MODEL_TYPE
