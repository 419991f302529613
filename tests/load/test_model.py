"""Booting models from every place they come from, and what is said when that fails."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_byte_tokenizer, save_llama, save_neox_hub_layout, tiny_llama, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedModel

from headspec.errors import ModelError
from headspec.load.identity import identify
from headspec.load.model import load_model, reinitialised
from headspec.load.names import DEMO_FOLDER
from headspec.load.text import load_text

TOKENS = torch.randint(2, 258, (2, 100), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def neox(neox_folder: Path) -> Any:
    return load_model(str(neox_folder), device="cpu")


@pytest.fixture(scope="module")
def untokenized(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_neox_hub_layout(tmp_path_factory.mktemp("untokenized"), tokenizer=False)
    return load_model(str(folder), device="cpu")


@pytest.fixture
def copied(neox_folder: Path, tmp_path: Path) -> Path:
    """The hub layout, to be damaged."""
    return shutil.copytree(neox_folder, tmp_path / "copied")


def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        found = model(tokens)
    return found if isinstance(found, Tensor) else found.logits


def eager(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def rounded(model: PreTrainedModel) -> PreTrainedModel:
    """The weights as fp16 keeps them, in float32 again."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def weights(model: Any) -> dict[str, Tensor]:
    return dict(model.original_model.state_dict())


def save_llama_in_shards(folder: Path) -> None:
    tiny_llama().save_pretrained(folder, max_shard_size="20KB")
    save_byte_tokenizer(folder)


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# Loaded models compute what transformers computes.


def test_the_demo_has_the_logits_of_transformers(demo: Any) -> None:
    torch.testing.assert_close(logits(demo), logits(eager(DEMO_FOLDER)))


def test_the_hub_layout_has_the_logits_of_transformers(neox: Any, neox_folder: Path) -> None:
    torch.testing.assert_close(logits(neox), logits(eager(neox_folder)))


def test_the_hub_layout_has_the_logits_of_the_model_it_was_written_from(neox: Any) -> None:
    torch.testing.assert_close(logits(neox), logits(rounded(tiny_neox())))


def test_the_rotary_share_of_the_hub_layout_is_read(tmp_path: Path) -> None:
    folder = save_neox_hub_layout(tmp_path, rotary_share=1.0)
    expected = logits(rounded(tiny_neox(rotary_share=1.0)))
    torch.testing.assert_close(logits(load_model(str(folder), device="cpu")), expected)


def test_a_llama_with_grouped_queries_has_the_logits_of_transformers(llama_folder: Path) -> None:
    torch.testing.assert_close(logits(load_model(str(llama_folder), device="cpu")), logits(tiny_llama()))


def test_old_weights_in_pytorch_bin_are_loaded(copied: Path, neox: Any) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    torch.testing.assert_close(logits(load_model(str(copied), device="cpu")), logits(neox))


def test_weights_in_shards_are_loaded(tmp_path: Path) -> None:
    save_llama_in_shards(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    torch.testing.assert_close(logits(load_model(str(tmp_path), device="cpu")), logits(tiny_llama()))


@pytest.fixture(params=["pretrained", "without a tokenizer", "random", "reinitialised"])
def of_each_origin(request: pytest.FixtureRequest, neox: Any, untokenized: Any) -> Any:
    origins: dict[str, Callable[[], Any]] = {
        "pretrained": lambda: neox,
        "without a tokenizer": lambda: untokenized,
        "random": lambda: load_model("random:pythia-14m", device="cpu"),
        "reinitialised": lambda: reinitialised(neox),
    }
    return origins[request.param]()


def test_attention_can_be_read_off_whatever_the_origin(of_each_origin: Any) -> None:
    _, cache = of_each_origin.run_with_cache(TOKENS[:, :10])
    torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"].sum(-1), torch.ones(2, 4, 10))


def test_without_a_tokenizer_the_logits_are_the_same(neox: Any, untokenized: Any) -> None:
    assert torch.equal(logits(untokenized), logits(neox))


# In which dtype, where, and in which mode.


def test_weights_stored_in_fp16_become_float32(neox: Any, neox_folder: Path) -> None:
    stored = load_file(neox_folder / "model.safetensors")["embed_out.weight"]
    loaded = {parameter.dtype for parameter in neox.original_model.parameters()}
    assert (stored.dtype, loaded) == (torch.float16, {torch.float32})


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_another_dtype_is_honoured(neox_folder: Path, dtype: Any) -> None:
    model = load_model(str(neox_folder), device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in model.original_model.parameters()} == {torch.bfloat16}


def test_random_weights_take_another_dtype_too() -> None:
    assert identify(load_model("random:pythia-14m", device="cpu", dtype="bfloat16")).dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["int8", "nonsense", "", torch.int64, "float8_e4m3fn"])
def test_what_is_no_dtype_to_compute_in_is_refused(dtype: Any) -> None:
    with pytest.raises(ModelError, match=rf"dtype '?{dtype}'?: choose float32, bfloat16 or float16"):
        load_model("demo", dtype=dtype)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="device 'cuda' is not available here: choose --device auto"):
        load_model("demo", device="cuda")


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}], ids=str)
def test_a_device_map_is_handed_on(neox_folder: Path, neox: Any, device_map: Any) -> None:
    model = load_model(str(neox_folder), device_map=device_map)
    assert identify(model).device == "cpu"
    torch.testing.assert_close(logits(model), logits(neox))


def test_on_mps_the_logits_are_compared_before_the_model_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("headspec.load.model.settle_on_mps", lambda model, vocabulary: handed.append(model) or model)
    assert load_model("demo") is handed[0]


def test_a_loaded_model_does_not_train(neox: Any) -> None:
    assert not neox.original_model.training


@pytest.mark.parametrize("load", [
    lambda: load_model("demo", device="cpu"),
    lambda: load_model("random:pythia-14m", device="cpu"),
    lambda: reinitialised(load_model("demo", device="cpu")),
], ids=["demo", "random", "reinitialised"])  # fmt: skip
def test_loading_leaves_the_global_random_state_alone(load: Callable[[], Any]) -> None:
    before = torch.random.get_rng_state()
    load()
    assert torch.equal(torch.random.get_rng_state(), before)


# Random weights.


def test_random_weights_are_called_random() -> None:
    assert identify(load_model("random:pythia-14m", device="cpu")).name == "random:pythia-14m"


def test_random_weights_have_the_real_shape() -> None:
    found = identify(load_model("random:pythia-14m", device="cpu"))
    assert (found.n_layers, found.n_heads, found.d_model, found.context) == (6, 4, 128, 2048)


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    first, second = (load_model("random:pythia-14m", device="cpu", seed=3) for _ in range(2))
    assert torch.equal(logits(first), logits(second))


def test_random_weights_differ_between_seeds() -> None:
    first, second = (load_model("random:pythia-14m", device="cpu", seed=seed) for seed in (0, 1))
    assert not torch.equal(logits(first), logits(second))


@pytest.fixture(scope="module")
def twin(neox: Any) -> Any:
    return reinitialised(neox, seed=1)


def test_an_untrained_twin_has_the_same_sizes(neox: Any, twin: Any) -> None:
    assert {name: tensor.shape for name, tensor in weights(twin).items()} == {
        name: tensor.shape for name, tensor in weights(neox).items()
    }


def test_an_untrained_twin_has_other_weights(neox: Any, twin: Any) -> None:
    ours, theirs = weights(neox), weights(twin)
    matrices = [name for name, tensor in ours.items() if tensor.ndim == 2]
    assert not any(torch.equal(ours[name], theirs[name]) for name in matrices)


def test_an_untrained_twin_is_called_random(neox_folder: Path, twin: Any) -> None:
    assert identify(twin).name == f"random:{neox_folder}"


def test_the_twin_of_a_random_model_is_called_random_once() -> None:
    model = load_model("random:pythia-14m", device="cpu")
    assert identify(reinitialised(model, seed=1)).name == "random:pythia-14m"


def test_an_untrained_twin_reads_the_same_text(neox: Any, twin: Any) -> None:
    assert load_text(twin, n_tokens=512).digest == load_text(neox, n_tokens=512).digest


def test_twins_of_one_seed_are_the_same(neox: Any, twin: Any) -> None:
    assert torch.equal(logits(reinitialised(neox, seed=1)), logits(twin))


def test_twins_of_two_seeds_differ(neox: Any, twin: Any) -> None:
    assert not torch.equal(logits(reinitialised(neox, seed=2)), logits(twin))


def test_an_untrained_twin_does_not_train(twin: Any) -> None:
    assert not twin.original_model.training


def test_making_a_twin_leaves_the_model_as_it_was(neox_folder: Path) -> None:
    model = load_model(str(neox_folder), device="cpu", dtype="bfloat16")
    before = logits(model), identify(model), model.original_model.config.to_dict()
    reinitialised(model)
    after = logits(model), identify(model), model.original_model.config.to_dict()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_llama_has_an_untrained_twin(llama_folder: Path) -> None:
    model = load_model(str(llama_folder), device="cpu")
    assert logits(reinitialised(model)).shape == logits(model).shape


# Without a tokenizer.


@pytest.mark.parametrize("save", [save_neox_hub_layout, save_llama])
def test_a_directory_without_a_tokenizer_is_loaded_without_one(tmp_path: Path, save: Callable[..., Path]) -> None:
    assert load_model(str(save(tmp_path, tokenizer=False)), device="cpu").tokenizer is None


def test_without_a_tokenizer_text_is_refused_with_the_way_to_give_ids(untokenized: Any) -> None:
    with pytest.raises(ModelError, match="has no tokenizer, so it cannot read text: give --token-ids FILE"):
        load_text(untokenized)


def test_without_a_tokenizer_token_ids_are_read(untokenized: Any) -> None:
    assert logits(untokenized).isfinite().all()


# What is said when it fails.


def test_a_directory_without_weights_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"{re.escape(str(copied))} has a config.json but no weights"):
        load_model(str(copied))


def test_a_directory_without_a_config_is_refused(copied: Path) -> None:
    (copied / "config.json").unlink()
    with pytest.raises(ModelError, match=rf"{re.escape(str(copied))} has no config.json: a model directory is what"):
        load_model(str(copied))


def test_a_config_that_is_not_json_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot load .*copied.*JSON"):
        load_model(str(copied))


@pytest.mark.parametrize("kept", [0, 4, 200, 20_000])
def test_weights_that_are_cut_off_are_refused(copied: Path, kept: int) -> None:
    data = (copied / "model.safetensors").read_bytes()
    assert len(data) > kept
    (copied / "model.safetensors").write_bytes(data[:kept])
    with pytest.raises(ModelError, match=r"the weights in .*copied are damaged or cut off: .*Copy them anew"):
        load_model(str(copied))


def test_an_old_weights_file_that_is_cut_off_is_refused(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    data = (copied / "pytorch_model.bin").read_bytes()
    (copied / "pytorch_model.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="copied"):
        load_model(str(copied))


def test_an_empty_old_weights_file_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="copied"):
        load_model(str(copied))


def test_an_old_weights_file_of_other_bytes_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(b"not weights " * 100)
    with pytest.raises(ModelError, match="copied"):
        load_model(str(copied))


@pytest.mark.parametrize("n_heads", ["four", 5], ids=repr)
def test_a_config_that_transformers_finds_invalid_is_refused(copied: Path, n_heads: Any) -> None:
    edit_config(copied, num_attention_heads=n_heads)
    with pytest.raises(ModelError, match=r"cannot load .*copied"):
        load_model(str(copied))


def test_a_tokenizer_that_cannot_be_read_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot load .*copied"):
        load_model(str(copied))


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    save_llama_in_shards(tmp_path)
    (tmp_path / "model-00002-of-00007.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot load .*model-00002-of-"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("missing", ["gpt_neox.layers.1.attention.query_key_value.weight", "embed_out.weight"])
def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(copied: Path, missing: str) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors[missing]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="copied"):
        load_model(str(copied))


def test_weights_of_other_sizes_than_the_config_says_are_refused(copied: Path) -> None:
    edit_config(copied, hidden_size=64)
    with pytest.raises(ModelError, match=r"cannot load .*copied"):
        load_model(str(copied))


def test_an_architecture_that_transformers_lacks_is_refused(copied: Path) -> None:
    edit_config(copied, model_type="imagined", architectures=["ImaginedForCausalLM"])
    with pytest.raises(ModelError, match=r"cannot load .*copied.*imagined"):
        load_model(str(copied))


def test_an_architecture_that_transformer_lens_lacks_is_refused(copied: Path) -> None:
    edit_config(copied, model_type="ctrl", architectures=["CTRLLMHeadModel"])
    with pytest.raises(ModelError, match=r"cannot load .*copied.*CTRLLMHeadModel"):
        load_model(str(copied))


def test_an_alias_that_is_unknown_is_refused() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'pythia-71m'\. Did you mean pythia-"):
        load_model("pythia-71m")


def test_a_hub_id_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cannot load no-such-org/no-such-model: .* Is the name right"):
        load_model("no-such-org/no-such-model")


def test_a_revision_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def boot(location: str, **options: Any) -> Any:
        raise OSError(f"asked for {location} at {options['revision']}")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", staticmethod(boot))
    with pytest.raises(ModelError, match="asked for EleutherAI/pythia-70m at step1000"):
        load_model("pythia-70m@step1000", device="cpu")


def test_a_revision_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(ModelError, match=r"cannot load no-such-org/no-such-model at revision v9: "):
        load_model("no-such-org/no-such-model@v9")
