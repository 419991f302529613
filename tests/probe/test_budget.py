"""Whether a probe fits into memory is known before anything is loaded, and so is what would fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import BloomConfig

from headspec.errors import ModelError
from headspec.load.config import count_parameters, read_config
from headspec.load.names import resolve
from headspec.load.pythia import SHAPES
from headspec.probe import budget
from headspec.probe.budget import Choices, Sizes, check_before_loading, check_memory, memory_needed

SMALL = Sizes(
    n_parameters=1000, n_layers=2, n_heads=4, n_kv_heads=4, d_model=8, d_head=2, d_mlp=32, fused=True
)  # fmt: skip
CHOICES = Choices(window=64, segment=16)


def set_free(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    monkeypatch.setattr(budget, "available_bytes", lambda device: int(n_bytes))


def test_weights_are_parameters_times_width() -> None:
    assert memory_needed(SMALL, CHOICES)["weights"] == 4000
    assert memory_needed(SMALL, replace(CHOICES, dtype="bfloat16"))["weights"] == 2000


def test_a_bridge_holds_q_k_and_v_twice() -> None:
    copies = "the bridge's copies of q, k and v"
    assert memory_needed(SMALL, CHOICES)[copies] == 3 * 8 * 8 * 2 * 4
    assert copies not in memory_needed(SMALL, replace(CHOICES, engine="fast"))
    assert copies not in memory_needed(replace(SMALL, fused=False), CHOICES)


def test_the_cache_holds_keys_and_values_of_every_window_of_a_batch() -> None:
    assert memory_needed(SMALL, replace(CHOICES, batch_size=3))["KV cache"] == 2 * 2 * 4 * 2 * 64 * 3 * 4


def test_the_fast_engine_and_a_single_segment_need_no_cache() -> None:
    assert "KV cache" not in memory_needed(SMALL, replace(CHOICES, engine="fast"))
    assert "KV cache" not in memory_needed(SMALL, replace(CHOICES, segment=64))


def test_controls_load_the_model_a_second_time() -> None:
    needed = memory_needed(SMALL, replace(CHOICES, engine="fast", controls=True))
    assert needed["an untrained twin (controls)"] == needed["weights"]


@pytest.mark.parametrize("name", ["pythia-70m", "pythia-2.8b", "pythia-12b"])
def test_parameters_are_counted_without_memory(name: str) -> None:
    assert count_parameters(read_config(resolve(f"random:{name}"))) == SHAPES[name].n_parameters


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, sum(memory_needed(SMALL, CHOICES).values()))
    check_memory("small", SMALL, CHOICES, "cpu")


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, sum(memory_needed(SMALL, CHOICES).values()) - 1)
    with pytest.raises(ModelError, match=r"^small needs .* weights \+ .* KV cache .* would fit: --engine fast \("):
        check_memory("small", SMALL, CHOICES, "cpu")


def test_a_pythia_is_too_large_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 12e9)
    with pytest.raises(ModelError, match=r"random:pythia-2.8b needs about .*11.1 GB weights.*--dtype bfloat16"):
        check_before_loading("random:pythia-2.8b", "hooks", {}, n_tokens=2048)
    check_before_loading("random:pythia-2.8b", "fast", {"dtype": "bfloat16"}, n_tokens=2048)


def test_where_nothing_fits_the_largest_pythia_that_would_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 1e9)
    with pytest.raises(ModelError, match=r"largest Pythia that would fit is pythia-410m with --engine fast --dtype bf"):
        check_before_loading("random:pythia-2.8b", "hooks", {}, n_tokens=2048)


def test_a_directory_is_measured_by_its_configuration(monkeypatch: pytest.MonkeyPatch, neox_folder: Path) -> None:
    set_free(monkeypatch, 1000)
    with pytest.raises(ModelError, match=r"needs about .* weights"):
        check_before_loading(str(neox_folder), "hooks", {}, n_tokens=2048)


def test_a_model_that_names_no_context_is_measured_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    BloomConfig(hidden_size=32, n_head=4, n_layer=2, vocab_size=100).save_pretrained(tmp_path)
    set_free(monkeypatch, 1e9)
    check_before_loading(str(tmp_path), "hooks", {}, n_tokens=2048)


def test_a_device_map_may_put_weights_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 0)
    check_before_loading("random:pythia-2.8b", "hooks", {"device_map": "auto"}, n_tokens=2048)
