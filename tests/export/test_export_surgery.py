"""Cutting heads out of weights: by numbers worked out by hand, and against the hooked original."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from export_makers import GREEDY, MIXED, hooked, hooked_greedy, logits_of, plan_of, random_ids, same
from tiny_models import tiny_neox
from torch import Tensor

from headspec.export.names import huggingface_name
from headspec.export.surgery import folded_bias, head_groups, pruned_model
from headspec.heads import HeadId
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.runtime.configuration import HeadGroup

ATTENTION = "gpt_neox.layers.0.attention"


def numbered() -> PlainModel:
    """A layer with 2 heads of 2: row r of query_key_value is all r, the elements of dense are 0 … 15."""
    model = tiny_neox(n_layers=1, n_heads=2, d_model=4, rotary_share=1.0, vocabulary=8)
    attention = model.gpt_neox.layers[0].attention
    with torch.no_grad():
        attention.query_key_value.weight.copy_(torch.arange(12.0)[:, None].expand(12, 4))
        attention.query_key_value.bias.copy_(torch.arange(12.0) * 10)
        attention.dense.weight.copy_(torch.arange(16.0).reshape(4, 4))
        attention.dense.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return PlainModel(model, "numbered")


def with_fills(model: PlainModel, **fills: list[float]) -> HeadPlan:
    plan = plan_of(model, dict.fromkeys(fills, "mean"))
    return HeadPlan(
        plan.about, plan.treatments, {HeadId.parse(name): np.array(fill, np.float32) for name, fill in fills.items()}
    )


def cut(model: PlainModel, plan: HeadPlan) -> dict[str, Tensor]:
    return pruned_model(model.huggingface, plan).state_dict()


def variant(kind: str) -> PlainModel:
    """A tiny GPT-NeoX of one of several kinds."""
    if kind in ("no attention bias", "tied"):
        config = tiny_neox().config
        config.attention_bias = kind != "no attention bias"
        config.tie_word_embeddings = kind == "tied"
        from transformers import GPTNeoXForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return PlainModel(GPTNeoXForCausalLM(config).eval(), kind)
    shape = {"sequential": {"parallel": False}, "whole rotary": {"rotary_share": 1.0}, "usual": {}}[kind]
    return PlainModel(tiny_neox(1, **shape), kind)


KINDS = ("usual", "sequential", "whole rotary", "no attention bias", "tied")


def test_of_a_removed_head_no_row_is_left() -> None:
    model = numbered()
    found = cut(model, plan_of(model, {"L0H0": "zero"}))
    assert found[f"{ATTENTION}.qkv.weight"][:, 0].tolist() == [6, 7, 8, 9, 10, 11]
    assert found[f"{ATTENTION}.qkv.bias"].tolist() == [60, 70, 80, 90, 100, 110]


def test_of_a_removed_head_no_column_is_left() -> None:
    model = numbered()
    found = cut(model, plan_of(model, {"L0H0": "zero"}))
    assert found[f"{ATTENTION}.dense.weight"].tolist() == [[2, 3], [6, 7], [10, 11], [14, 15]]
    found = cut(model, plan_of(model, {"L0H1": "zero"}))
    assert found[f"{ATTENTION}.dense.weight"].tolist() == [[0, 1], [4, 5], [8, 9], [12, 13]]


def test_kept_rows_are_all_queries_then_all_keys_then_all_values() -> None:
    model = numbered()
    found = cut(model, plan_of(model, {}))
    assert found[f"{ATTENTION}.qkv.weight"][:, 0].tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]


def test_heads_that_see_everything_come_before_windowed_ones() -> None:
    model = numbered()
    found = cut(model, plan_of(model, {"L0H0": "window:3"}))
    assert found[f"{ATTENTION}.qkv.weight"][:, 0].tolist() == [6, 7, 0, 1, 8, 9, 2, 3, 10, 11, 4, 5]
    assert found[f"{ATTENTION}.qkv.bias"].tolist() == [60, 70, 0, 10, 80, 90, 20, 30, 100, 110, 40, 50]
    assert found[f"{ATTENTION}.dense.weight"][1].tolist() == [6, 7, 4, 5]


def test_the_bias_takes_up_what_a_removed_head_writes() -> None:
    model = numbered()
    found = cut(model, with_fills(model, L0H0=[1, -2]))
    assert found[f"{ATTENTION}.dense.bias"].tolist() == [-1, -4, -7, -10]  # b + column 0 − 2 · column 1


def test_a_layer_without_heads_keeps_one_bias() -> None:
    model = numbered()
    found = cut(model, with_fills(model, L0H0=[1, -2], L0H1=[0.5, 0]))
    assert {name for name in found if name.startswith(ATTENTION)} == {f"{ATTENTION}.bias"}
    assert found[f"{ATTENTION}.bias"].tolist() == [0, -1, -2, -3]  # and half of column 2: 1, 3, 5, 7


def test_a_fill_of_zero_leaves_the_bias_as_it_was() -> None:
    model = numbered()
    assert cut(model, plan_of(model, {"L0H0": "zero"}))[f"{ATTENTION}.dense.bias"].tolist() == [1, 2, 3, 4]


def test_without_a_bias_the_fills_alone_are_folded() -> None:
    model = numbered()
    weight = model.huggingface.gpt_neox.layers[0].attention.dense.weight
    assert folded_bias(weight, None, with_fills(model, L0H0=[1, -2]), 0).tolist() == [-2, -6, -10, -14]


def test_groups_are_sorted_by_window_then_sinks_and_heads_by_number() -> None:
    plan = plan_of(
        PlainModel(tiny_neox(n_layers=1, n_heads=8), "m"),
        {"L0H0": "window:8", "L0H1": "window:3+9", "L0H2": "zero", "L0H4": "window:8+0", "L0H6": "window:8",
         "L0H7": "window:3"},
    )  # fmt: skip
    assert head_groups(plan, 0) == [
        HeadGroup((3, 5)), HeadGroup((7,), 3, 4), HeadGroup((1,), 3, 9), HeadGroup((4,), 8, 0), HeadGroup((0, 6), 8, 4),
    ]  # fmt: skip


def test_a_layer_without_heads_has_no_groups() -> None:
    model = numbered()
    assert head_groups(plan_of(model, {"L0H0": "zero", "L0H1": "zero"}), 0) == []


@pytest.mark.parametrize(("component", "name"), [("attn.qkv", "query_key_value"), ("attn.o", "dense")])
def test_components_have_the_names_of_transformers(component: str, name: str) -> None:
    assert huggingface_name(component, 7) == f"gpt_neox.layers.7.attention.{name}"


def state_bytes(model: Any) -> bytes:
    written = io.BytesIO()
    torch.save(model.state_dict(), written)
    return written.getvalue()


@pytest.mark.parametrize(
    "wish", [MIXED, {}, {f"L1H{head}": "mean" for head in range(4)}], ids=["mixed", "kept", "bare"]
)
def test_the_source_is_not_changed(wish: dict[str, str]) -> None:
    model = variant("usual")
    before, config = state_bytes(model.huggingface), model.huggingface.config.to_dict()
    pruned_model(model.huggingface, plan_of(model, wish))
    assert state_bytes(model.huggingface) == before
    assert model.huggingface.config.to_dict() == config
    assert all(parameter.requires_grad for parameter in model.huggingface.parameters())


def test_what_is_not_attention_is_shared_with_the_source() -> None:
    model = variant("usual")
    mine, theirs = pruned_model(model.huggingface, plan_of(model)).state_dict(), model.huggingface.state_dict()
    shared = {name for name in mine if "attention." not in name}
    assert len(shared) == 3 + 1 + 2 * 8
    assert all(mine[name].data_ptr() == theirs[name].data_ptr() for name in shared)


def test_what_was_cut_shares_nothing_with_the_source() -> None:
    model = variant("usual")
    pruned = pruned_model(model.huggingface, plan_of(model))
    before = state_bytes(model.huggingface)
    with torch.no_grad():
        for name, tensor in pruned.named_parameters():
            if "attention." in name:
                tensor.zero_()
    assert state_bytes(model.huggingface) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bare", [False, True], ids=["mixed", "layer without heads"])
def test_logits_are_those_of_the_hooked_model(kind: str, bare: bool) -> None:
    model = variant(kind)
    plan = plan_of(model, {**MIXED, **{f"L0H{head}": "mean" for head in range(4 if bare else 0)}})
    tokens = random_ids()
    same(logits_of(pruned_model(model.huggingface, plan), tokens), hooked(model, plan, tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_the_hooked_model(kind: str) -> None:
    model = variant(kind)
    plan, tokens = plan_of(model), random_ids(1, 20)
    assert pruned_model(model.huggingface, plan).generate(tokens, **GREEDY).tolist() == hooked_greedy(
        model, plan, tokens
    )


def test_tied_embeddings_stay_tied() -> None:
    model = variant("tied")
    pruned = pruned_model(model.huggingface, plan_of(model))
    assert pruned.lm_head.weight is pruned.gpt_neox.embed_in.weight
    assert pruned.lm_head.weight.data_ptr() == model.huggingface.gpt_neox.embed_in.weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_the_source_is_kept(dtype: torch.dtype) -> None:
    model = variant("usual")
    model.huggingface.to(dtype)
    pruned = pruned_model(model.huggingface, plan_of(model))
    assert {tensor.dtype for tensor in pruned.state_dict().values()} == {dtype}
    found, tokens = logits_of(pruned, random_ids()), random_ids()
    same(found.float(), hooked(model, plan_of(model), tokens).float(), 0.35 if dtype is torch.bfloat16 else 0.05)


def test_a_bias_of_half_precision_is_folded_in_double_precision_and_rounded_once() -> None:
    model = variant("usual")
    model.huggingface.to(torch.bfloat16)
    plan = plan_of(model, {"L0H0": "mean", "L0H1": "mean", "L0H2": "mean"})
    dense = model.huggingface.gpt_neox.layers[0].attention.dense
    exact = dense.bias.double()
    for head, fill in plan.fills_in(0).items():
        exact = exact + dense.weight[:, head * 8 : head * 8 + 8].double() @ torch.tensor(fill).double()
    assert torch.equal(cut(model, plan)[f"{ATTENTION}.dense.bias"], exact.bfloat16())


def test_the_pruned_model_is_in_evaluation_mode_and_has_no_tensor_on_meta() -> None:
    model = variant("usual")
    model.huggingface.train()
    pruned = pruned_model(model.huggingface, plan_of(model))
    assert not pruned.training
    assert model.huggingface.training
    assert {tensor.device.type for tensor in (*pruned.parameters(), *pruned.buffers())} == {"cpu"}


def test_the_generation_config_of_the_source_is_taken_along() -> None:
    model = variant("usual")
    model.huggingface.generation_config.repetition_penalty = 1.3
    assert pruned_model(model.huggingface, plan_of(model)).generation_config.repetition_penalty == 1.3


def test_the_origin_is_kept_in_the_configuration() -> None:
    model = variant("usual")
    assert pruned_model(model.huggingface, plan_of(model), {"model": "m"}).config.headspec == {"model": "m"}
