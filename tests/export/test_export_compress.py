"""Exported models with compressed heads: they compute the same when saved, loaded anew and without headspec."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_makers import GREEDY, in_fresh_process, loads_registered, random_ids, same
from safetensors.torch import load_file
from tiny_models import tiny_neox

from headspec.export.export import export_model
from headspec.export.surgery import pruned_model
from headspec.heads import HeadId
from headspec.load.plain import PlainModel
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import parse_treatment

WISH = {
    "L0H0": "compress:snapkv:0.25", "L0H1": "compress:expected_attention:12:latest4", "L0H3": "window:5",
    "L1H0": "compress:expected_attention:0.3:adakv", "L1H1": "compress:streaming:9",
    "L1H2": "compress:random:0.5", "L1H3": "compress:expected_attention:0.3:adakv",
}  # fmt: skip
ATTENTION = "gpt_neox.layers.{}.attention"
TOKENS = random_ids(2, 40)
EXACT = 1e-6


def source() -> PlainModel:
    return PlainModel(tiny_neox(8), "tiny")


def facts_of(head: HeadId) -> np.ndarray:
    drawn = np.random.default_rng((head.layer, head.head)).standard_normal((31, 8)).astype(np.float32)
    return np.concatenate([drawn[:1], np.cov(drawn[1:].T).astype(np.float32)])


def plan_of(model: PlainModel, wish: dict[str, str]) -> HeadPlan:
    chosen = {HeadId.parse(name): parse_treatment(what) for name, what in wish.items()}
    return HeadPlan(about_of(model), chosen, queries={head: facts_of(head) for head in chosen})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, place = source(), tmp_path_factory.mktemp("compressed") / "export"
    export_model(model, plan_of(model, WISH), place)
    return place


@torch.no_grad()
def continued(model: Any) -> torch.Tensor:
    """Logits of what follows a prompt."""
    cache = model.make_cache()
    model(TOKENS[:, :25], past_key_values=cache)
    return torch.cat([model(part, past_key_values=cache).logits for part in TOKENS[:, 25:].split([1, 14], 1)], 1)


def in_memory() -> Any:
    model = source()
    return pruned_model(model.huggingface, plan_of(model, WISH))


def test_a_loaded_export_continues_as_the_model_in_memory(folder: Path) -> None:
    same(continued(loads_registered(folder)), continued(in_memory()), EXACT)


def test_what_is_saved_again_continues_the_same(folder: Path, tmp_path: Path) -> None:
    loads_registered(folder).save_pretrained(tmp_path)
    same(continued(loads_registered(tmp_path)), continued(in_memory()), EXACT)


def test_without_headspec_it_writes_the_same_tokens(folder: Path, tmp_path: Path) -> None:
    job = {"folder": folder, "tokens": TOKENS.tolist(), "greedy": GREEDY, "options": {"trust_remote_code": True}}
    (found,) = in_fresh_process([job], tmp_path)
    assert "error" not in found, found["error"]
    assert found["module"].startswith("transformers_modules.")
    model = in_memory()
    same(found["logits"], model(TOKENS).logits.detach(), EXACT)
    assert found["greedy"] == model.generate(TOKENS, **GREEDY).tolist()


def test_the_checkpoint_holds_the_statistics_of_queries_in_the_order_of_the_weights(folder: Path) -> None:
    found = load_file(folder / "model.safetensors")
    facts = np.stack([facts_of(HeadId(1, 0)), facts_of(HeadId(1, 3))])
    np.testing.assert_array_equal(found[f"{ATTENTION.format(1)}.query_mean"].numpy(), facts[:, 0])
    np.testing.assert_array_equal(found[f"{ATTENTION.format(1)}.query_covariance"].numpy(), facts[:, 1:])


def test_the_checkpoint_holds_what_the_output_projection_does_to_lengths(folder: Path) -> None:
    gram = load_file(folder / "model.safetensors")[f"{ATTENTION.format(0)}.output_gram"]
    w_o = source().huggingface.gpt_neox.layers[0].attention.dense.weight.detach()[:, 8:16]
    value = torch.randn(8)
    torch.testing.assert_close((value @ gram[0] @ value).sqrt(), (w_o @ value).norm())


def test_other_policies_add_nothing_to_the_checkpoint(tmp_path: Path) -> None:
    model = source()
    export_model(model, plan_of(model, {"L0H0": "compress:snapkv:0.25"}), tmp_path / "export")
    assert not [name for name in load_file(tmp_path / "export" / "model.safetensors") if "query_" in name]


def test_a_checkpoint_without_the_statistics_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{ATTENTION.format(1)}.query_mean"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"disagree \(missing: gpt_neox.layers.1.attention.query_mean\)"):
        loads_registered(tmp_path)


def test_half_precision_writes_a_model_that_continues_nearly_the_same(tmp_path: Path) -> None:
    model = source()
    export_model(model, plan_of(model, WISH), tmp_path / "half", dtype="float16")
    found = continued(loads_registered(tmp_path / "half", dtype="float16"))
    assert found.dtype == torch.float16
    assert (found.float() - continued(in_memory())).abs().median() < 0.02


def test_a_dense_twin_warns_that_its_heads_see_every_key(tmp_path: Path) -> None:
    model = source()
    with pytest.warns(UserWarning, match="the 1 windowed and 6 compressed heads see every key"):
        export_model(model, plan_of(model, WISH), tmp_path / "twin", to="dense-twin")


def test_a_plan_without_compressed_heads_has_no_statistics(tmp_path: Path) -> None:
    model = source()
    found = pruned_model(model.huggingface, plan_of(model, {"L0H3": "window:5"}))
    assert not [name for name, _ in found.named_buffers() if "query" in name or "gram" in name]
