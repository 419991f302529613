"""Loading without a TransformerBridge gives the same model: the same facts, logits and tokens."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_llama, save_neox_hub_layout, tiny_neox
from torch import Tensor

from headspec.errors import ModelError, TextError
from headspec.load.identity import identify, prepends_bos
from headspec.load.model import load_model, load_plain, reinitialised
from headspec.load.plain import PlainModel, as_plain
from headspec.load.text import load_text

TOKENS = torch.randint(2, 256, (2, 100), generator=torch.Generator().manual_seed(0))
NAMES: dict[str, Callable[[Path], str]] = {
    "demo": lambda folder: "demo",
    "neox": lambda folder: str(save_neox_hub_layout(folder)),
    "llama": lambda folder: str(save_llama(folder)),
    "untokenized": lambda folder: str(save_neox_hub_layout(folder, tokenizer=False)),
    "random": lambda folder: "random:pythia-14m",
}


@dataclass(frozen=True)
class Both:
    """One model, loaded either way."""

    bridge: Any
    plain: PlainModel


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    name = NAMES[request.param](tmp_path_factory.mktemp("either"))
    return Both(load_model(name, device="cpu"), load_plain(name, device="cpu"))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


# The same model.


def test_a_plain_model_has_the_identity_of_the_bridge(both: Both) -> None:
    assert identify(both.plain) == identify(both.bridge)


def test_a_plain_model_has_the_logits_of_the_bridge(both: Both) -> None:
    torch.testing.assert_close(logits(both.plain), logits(both.bridge), rtol=0, atol=1e-4)


def test_a_plain_model_does_not_train(both: Both) -> None:
    assert not both.plain.huggingface.training


def test_a_plain_model_holds_no_more_weights_than_the_checkpoint(both: Both) -> None:
    own = sum(parameter.numel() for parameter in both.plain.huggingface.parameters())
    twin = as_plain(both.bridge).huggingface
    assert own == sum(parameter.numel() for parameter in twin.parameters())


@pytest.mark.parametrize("name", ["demo", "neox", "llama"])
@pytest.mark.parametrize("bos", [None, True, False])
def test_a_plain_model_reads_the_tokens_that_the_bridge_reads(tmp_path: Path, name: str, bos: bool | None) -> None:
    where = NAMES[name](tmp_path / "either")
    plain, bridge = load_plain(where, device="cpu"), load_model(where, device="cpu")
    found = load_text(plain, n_tokens=200, window=50, bos=bos)
    assert found.digest == load_text(bridge, n_tokens=200, window=50, bos=bos).digest


def test_a_plain_llama_starts_every_window_with_bos(llama_folder: Path) -> None:
    plain = load_plain(str(llama_folder), device="cpu")
    assert prepends_bos(plain)
    assert load_text(plain, n_tokens=200, window=50).tokens[:, 0].tolist() == [0] * 4


def test_a_plain_pythia_starts_no_window_with_bos(neox_folder: Path) -> None:
    plain = load_plain(str(neox_folder), device="cpu")
    assert not prepends_bos(plain)
    assert 0 not in load_text(plain, n_tokens=200, window=50).tokens


def test_a_plain_model_with_random_weights_reads_the_random_tokens_of_the_bridge() -> None:
    plain, bridge = (load("random:pythia-14m", device="cpu") for load in (load_plain, load_model))
    found, expected = (load_text(model, n_tokens=200, window=50, seed=3) for model in (plain, bridge))
    assert (found.digest, found.source) == (expected.digest, expected.source)


def test_without_a_tokenizer_text_is_refused_as_by_the_bridge(tmp_path: Path) -> None:
    plain = load_plain(str(save_neox_hub_layout(tmp_path, tokenizer=False)), device="cpu")
    assert plain.tokenizer is None
    with pytest.raises(ModelError, match="has no tokenizer, so it cannot read text: give --token-ids FILE"):
        load_text(plain)


def test_a_window_beyond_the_context_is_refused_as_by_the_bridge(neox_folder: Path) -> None:
    with pytest.raises(TextError, match="a window of 129 tokens: this model takes 17 to 128"):
        load_text(load_plain(str(neox_folder), device="cpu"), window=129)


# The same choices.


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
@pytest.mark.parametrize("name", ["neox", "random"])
def test_another_dtype_is_honoured(tmp_path: Path, name: str, dtype: Any) -> None:
    plain = load_plain(NAMES[name](tmp_path), device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in plain.huggingface.parameters()} == {torch.bfloat16}
    assert identify(plain).dtype == "bfloat16"


def test_weights_of_another_format_are_loaded_in_float32(neox_folder: Path) -> None:
    assert load_file(neox_folder / "model.safetensors")["embed_out.weight"].dtype == torch.float16
    assert identify(load_plain(str(neox_folder), device="cpu")).dtype == "float32"


def test_a_device_map_is_handed_on(neox_folder: Path) -> None:
    assert identify(load_plain(str(neox_folder), device_map={"": "meta"})).device == "meta"


def test_a_plain_model_can_be_moved(neox_folder: Path) -> None:
    plain = load_plain(str(neox_folder), device="cpu")
    assert plain.to("meta") is plain
    assert identify(plain).device == "meta"


def test_on_mps_the_logits_are_compared_before_the_model_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("headspec.load.model.settle_on_mps", lambda model, vocabulary: handed.append(model) or model)
    plain = load_plain("demo")
    assert isinstance(plain, PlainModel)
    assert plain is handed[0]


@pytest.mark.parametrize("name", ["demo", "random:pythia-14m"])
def test_loading_leaves_the_global_random_state_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    load_plain(name, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_weights_are_the_bridges_for_the_same_seed() -> None:
    plain, bridge = (load("random:pythia-14m", device="cpu", seed=3) for load in (load_plain, load_model))
    torch.testing.assert_close(logits(plain), logits(bridge))


def test_random_weights_differ_between_seeds() -> None:
    first, second = (load_plain("random:pythia-14m", device="cpu", seed=seed) for seed in (0, 1))
    assert not torch.equal(logits(first), logits(second))


def test_a_plain_pythia_is_loaded_without_importing_transformer_lens(neox_folder: Path) -> None:
    script = f"""
import sys
from headspec.load.model import load_plain
from headspec.load.text import load_text
load_text(load_plain({str(neox_folder)!r}, device="cpu"), n_tokens=100)
sys.exit("transformer_lens" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# An untrained twin.


@pytest.fixture(scope="module")
def trained(neox_folder: Path) -> PlainModel:
    return load_plain(str(neox_folder), device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def untrained(trained: PlainModel) -> Any:
    return reinitialised(trained, seed=1)


def test_an_untrained_twin_of_a_plain_model_is_plain(untrained: Any) -> None:
    assert isinstance(untrained, PlainModel)


def test_an_untrained_twin_differs_in_nothing_but_its_name(trained: PlainModel, untrained: Any) -> None:
    assert identify(untrained) == replace(identify(trained), name=f"random:{trained.name}")


def test_an_untrained_twin_has_the_same_sizes_and_other_weights(trained: PlainModel, untrained: Any) -> None:
    ours, theirs = trained.huggingface.state_dict(), untrained.huggingface.state_dict()
    assert {name: tensor.shape for name, tensor in theirs.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }
    assert not any(torch.equal(ours[name], theirs[name]) for name in ours if ours[name].ndim == 2)


def test_an_untrained_twin_is_the_one_of_the_bridge(neox_folder: Path) -> None:
    plain, bridge = (reinitialised(load(str(neox_folder), device="cpu"), seed=1) for load in (load_plain, load_model))
    torch.testing.assert_close(logits(plain), logits(bridge))


def test_an_untrained_twin_reads_the_same_text(trained: PlainModel, untrained: Any) -> None:
    assert load_text(untrained, n_tokens=200).digest == load_text(trained, n_tokens=200).digest


def test_an_untrained_twin_does_not_train(untrained: Any) -> None:
    assert not untrained.huggingface.training


# What else is taken for a plain model.


def test_a_hugging_face_model_goes_by_its_type_unless_it_was_loaded_by_a_name(neox_folder: Path) -> None:
    loaded = load_plain(str(neox_folder), device="cpu").huggingface
    assert [as_plain(model).name for model in (tiny_neox(), loaded)] == ["GPTNeoXForCausalLM", str(neox_folder)]
