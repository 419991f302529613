"""What the names of models mean, and the table of the Pythia models."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headspec.errors import ModelError
from headspec.load.names import DEMO_FOLDER, ModelName, Origin, folder_name, resolve
from headspec.load.pythia import ALIASES, SHAPES, STEPS

PUBLISHED = {
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
}
"""Total parameters in table 1 of Biderman et al. 2023."""


PUBLISHED_SIZES = {
    "pythia-70m": (6, 512, 8),
    "pythia-160m": (12, 768, 12),
    "pythia-410m": (24, 1024, 16),
    "pythia-1b": (16, 2048, 8),
    "pythia-1.4b": (24, 2048, 16),
    "pythia-2.8b": (32, 2560, 32),
    "pythia-6.9b": (32, 4096, 32),
    "pythia-12b": (36, 5120, 40),
}
"""Layers, width and heads in the same table."""


def test_demo_is_the_packaged_directory() -> None:
    assert resolve("demo") == ModelName("demo", Origin.DIRECTORY, str(DEMO_FOLDER))


def test_the_packaged_directory_holds_weights() -> None:
    assert (DEMO_FOLDER / "model.safetensors").is_file()


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_a_repository_of_eleutherai(alias: str) -> None:
    assert resolve(alias) == ModelName(alias, Origin.HUB, f"EleutherAI/{alias}")


def test_the_full_hub_id_of_a_pythia_is_its_alias() -> None:
    assert resolve("EleutherAI/pythia-70m") == resolve("pythia-70m")


def test_an_alias_has_a_deduped_twin() -> None:
    assert resolve("pythia-1b-deduped").location == "EleutherAI/pythia-1b-deduped"


def test_a_training_step_is_a_revision() -> None:
    expected = ModelName("pythia-70m@step1000", Origin.HUB, "EleutherAI/pythia-70m", "step1000")
    assert resolve("pythia-70m@step1000") == expected


def test_a_training_step_may_be_given_apart() -> None:
    assert resolve("pythia-70m", revision="step1000") == resolve("pythia-70m@step1000")


@pytest.mark.parametrize("step", [0, 1, 512, 1000, 143000])
def test_every_step_of_training_that_was_saved_resolves(step: int) -> None:
    assert resolve(f"pythia-2.8b-deduped@step{step}").revision == f"step{step}"


def test_154_steps_of_training_were_saved() -> None:
    assert len(STEPS) == 154


@pytest.mark.parametrize(
    ("step", "nearest"),
    [(3, 2), (600, 512), (900, 1000), (1400, 1000), (1600, 2000), (143001, 143000), (10**9, 143000)],
)
def test_a_step_that_was_not_saved_is_refused_with_the_nearest(step: int, nearest: int) -> None:
    message = f"pythia-70m has no checkpoint step{step}: nearest is pythia-70m@step{nearest}."
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        resolve(f"pythia-70m@step{step}")


def test_a_step_given_apart_is_checked_too() -> None:
    with pytest.raises(ModelError, match="nearest is pythia-70m@step1000"):
        resolve("pythia-70m", revision="step1001")


def test_a_pythia_takes_other_revisions_than_steps() -> None:
    assert resolve("pythia-70m@main").revision == "main"


@pytest.mark.parametrize("name", ["gpt2", "org/model", "org-1/model_2.0-x"])
def test_any_other_name_is_a_hub_id(name: str) -> None:
    assert resolve(name) == ModelName(name, Origin.HUB, name)


def test_a_hub_id_takes_a_revision_after_the_at_sign() -> None:
    assert resolve("org/model@v1.0") == ModelName("org/model@v1.0", Origin.HUB, "org/model", "v1.0")


def test_a_hub_id_is_called_the_same_whichever_way_its_revision_is_given() -> None:
    assert resolve("org/model", revision="v1.0") == resolve("org/model@v1.0")


def test_the_same_revision_twice_is_no_conflict() -> None:
    assert resolve("pythia-70m@step1000", revision="step1000").revision == "step1000"


def test_two_revisions_are_refused() -> None:
    with pytest.raises(ModelError, match="names revision step1000, and revision='step2000' another: give one"):
        resolve("pythia-70m@step1000", revision="step2000")


@pytest.mark.parametrize("name", ["demo", "random:pythia-70m"])
def test_a_revision_of_what_has_none_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="revision"):
        resolve(name, revision="step1000")


@pytest.mark.parametrize("shape", SHAPES)
def test_random_weights_come_in_every_pythia_shape(shape: str) -> None:
    assert resolve(f"random:{shape}") == ModelName(f"random:{shape}", Origin.RANDOM, shape)


def test_random_weights_of_a_deduped_name_are_those_of_the_shape() -> None:
    assert resolve("random:pythia-70m-deduped") == resolve("random:pythia-70m")


@pytest.mark.parametrize("name", ["random:", "random:gpt2", "random:pythia-70m@step1000"])
def test_random_weights_of_another_shape_are_refused_with_the_shapes(name: str) -> None:
    with pytest.raises(ModelError, match="random weights come in the shapes pythia-14m, pythia-31m, pythia-70m, "):
        resolve(name)


def test_a_mistyped_random_shape_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"Did you mean pythia-2\.8b or"):
        resolve("random:pythia-2.8")


def test_a_random_demo_is_not_answered_with_the_demo() -> None:
    with pytest.raises(ModelError, match=r"^(?!.*Did you mean demo)random:demo: random weights come in"):
        resolve("random:demo")


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == ModelName(str(tmp_path), Origin.DIRECTORY, str(tmp_path))


def test_a_directory_with_an_at_sign_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model@2").mkdir()
    assert resolve(str(tmp_path / "model@2")).origin is Origin.DIRECTORY


def test_the_home_directory_is_found_behind_its_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve("~/model").location == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "../nowhere"])
def test_a_path_to_nowhere_is_refused_as_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"^{re.escape(name)}: no such directory. A model directory holds config.json"):
        resolve(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("pythia-70", "pythia-70m"), ("pythia-28b", r"pythia-2\.8b"), ("pythia-1b-dedup", "pythia-1b-deduped"),
     ("pythia70m", "pythia-70m"), ("dmeo", "demo"), ("demo1", "demo")],
)  # fmt: skip
def test_a_mistyped_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ModelError, match=rf"^unknown model '{name}'\. Did you mean .*{nearest}.*\? `headspec models`"):
        resolve(name)


def test_the_nearest_name_comes_first() -> None:
    with pytest.raises(ModelError, match="Did you mean pythia-70m "):
        resolve("pythia-70mm")


@pytest.mark.parametrize("name", ["a/b/c", "two words", "what?", "org/", "", "@step1000"])
def test_what_can_be_no_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="`headspec models` lists the names"):
        resolve(name)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("demo", "demo"),
        ("pythia-70m", "70m"),
        ("pythia-2.8b", "2.8b"),
        ("pythia-1b-deduped", "1b-deduped"),
        ("pythia-70m@step1000", "70m-step1000"),
        ("EleutherAI/pythia-70m@step1000", "70m-step1000"),
        ("random:pythia-160m", "random-160m"),
        ("org/model@v1.0", "model-v1.0"),
        ("org/model@refs/pr/1", "model-refs-pr-1"),
    ],
)
def test_the_results_folder_of_a_name(name: str, folder: str) -> None:
    assert resolve(name).folder == folder


def test_the_results_folder_of_a_directory_is_its_last_part(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    assert resolve(f"{tmp_path / 'my model'}/").folder == "my-model"


@pytest.mark.parametrize("name", [".", "./", "../here"])
def test_the_results_folder_of_the_current_directory_is_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert resolve(name).folder == "here"


@pytest.mark.parametrize("name", ["random:demo", "random:org/demo"])
def test_an_untrained_twin_does_not_share_the_results_folder_of_the_trained_model(name: str) -> None:
    assert folder_name(name) == "random-demo"


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_the_table_has_the_published_sizes(name: str) -> None:
    shape = SHAPES[name]
    assert (shape.n_layers, shape.d_model, shape.n_heads) == PUBLISHED_SIZES[name]


def test_a_quarter_of_each_head_is_rotated_as_in_the_published_configurations() -> None:
    rotary = SHAPES["pythia-70m"].config()["rope_parameters"]
    assert (rotary["partial_rotary_factor"], rotary["rope_theta"]) == (0.25, 10000)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_the_published_number_of_parameters(name: str) -> None:
    assert SHAPES[name].n_parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", SHAPES)
def test_a_real_gpt_neox_of_the_shape_has_as_many_parameters(name: str) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with torch.device("meta"):
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPES[name].config()))
    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPES[name].n_parameters


@pytest.mark.parametrize("name", SHAPES)
def test_the_heads_of_a_shape_divide_its_width(name: str) -> None:
    assert SHAPES[name].d_model % SHAPES[name].n_heads == 0


def test_names_are_resolved_without_torch() -> None:
    command = (
        "import sys; from headspec.load.names import resolve; resolve('pythia-70m'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
