"""A table of the first layer gives what the layer computes, and is used only where that is so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compression_reference import EXACT, compressed
from live_makers import ANYTHING, N_PROMPT, QUICK, Script, live, reference, scripted
from runtime_makers import GREEDY, hooked, in_chunks, left_padded, mixed, plan_of, pruned, random_ids, same
from tiny_models import VOCABULARY, tiny_neox
from torch import Tensor, nn

from headspec.export.surgery import pruned_model
from headspec.load.plain import PlainModel
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.table import first_layer_table, table_bytes, table_width

TOKENS = random_ids(2, 70)
NO_FIRST = {f"L0H{head}": "mean" for head in range(4)}
PLANS: dict[str, dict[str, str]] = {
    "all heads": {}, "windows": {"L0H0": "window:3+2", "L0H2": "window:8"}, "some gone": {"L0H1": "mean"},
    "none left": NO_FIRST, "one left": {f"L0H{head}": "zero" for head in range(3)},
}  # fmt: skip


def tabulated(model: Any) -> Any:
    model.tabulate_first_layer()
    return model


def one_layer() -> Any:
    source = PlainModel(tiny_neox(n_layers=1), "one layer")
    return pruned_model(source.huggingface, HeadPlan(about_of(source), {}, {}))


def first_qkv_calls(model: Any, run: Any) -> int:
    """How often the projection of the first layer was computed in full."""
    calls: list[int] = []
    qkv = model.gpt_neox.layers[0].attention.qkv
    original = type(qkv).forward

    class Counting(type(qkv)):  # not a hook, nor a forward of its own: those turn the table off
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return original(self, x)

        def part(self, x: Tensor, start: int, stop: int) -> Tensor:
            calls.append(1)
            return super().part(x, start, stop)

    qkv.__class__ = Counting
    run()
    return len(calls)


def spoilt(model: Any) -> Any:
    """A model whose table is wrong, so that logits tell whether it was used."""
    tabulated(model).gpt_neox.layers[0].table.zero_()
    return model


# What it holds.


def test_a_row_is_queries_keys_values_and_the_residual_of_its_token() -> None:
    model = pruned()
    layer, hidden = model.gpt_neox.layers[0], model.gpt_neox.embed_in.weight[5:6]
    with torch.no_grad():
        found = first_layer_table(model.gpt_neox)[5]
        qkv = nn.functional.linear(layer.input_layernorm(hidden), layer.attention.qkv.weight, layer.attention.qkv.bias)
        residual = hidden + layer.mlp(layer.post_attention_layernorm(hidden)[None])[0]
    same(found, torch.cat((qkv, residual), dim=-1)[0], EXACT)


@pytest.mark.parametrize(("wish", "width"), [({}, 3 * 32 + 32), ({"L0H0": "zero"}, 3 * 24 + 32), (NO_FIRST, 32)])
def test_the_bytes_are_those_of_a_row_for_every_token(wish: dict[str, str], width: int) -> None:
    model = tabulated(pruned(plan_of(wish)))
    table = model.gpt_neox.layers[0].table
    assert table_width(model.config) == width
    assert table_bytes(model.config) == VOCABULARY * width * 4 == table.untyped_storage().nbytes()


def test_a_vocabulary_of_more_rows_than_are_computed_together_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pruned()
    expected = first_layer_table(model.gpt_neox)
    monkeypatch.setattr("headspec.runtime.table.ROWS", 100)
    same(first_layer_table(model.gpt_neox), expected, 1e-6)


# The same logits.


@pytest.mark.parametrize("chunks", [[70], [1] * 70, [30, 1, 1, 38]])
@pytest.mark.parametrize("name", PLANS)
def test_logits_are_those_without_a_table(name: str, chunks: list[int]) -> None:
    plan = plan_of(PLANS[name])
    same(in_chunks(tabulated(pruned(plan)), TOKENS, chunks), hooked(plan, TOKENS))


@pytest.mark.parametrize("n_last", [0, 1, 3])
def test_logits_without_a_cache_are_those_without_a_table(n_last: int) -> None:
    with torch.no_grad():
        found = tabulated(pruned())(TOKENS, use_cache=False, logits_to_keep=n_last).logits
    same(found, hooked(mixed(), TOKENS)[:, -n_last:])


@pytest.mark.parametrize("chunks", [[50], [45, 1, 4]])
def test_padded_logits_are_those_without_a_table(chunks: list[int]) -> None:
    tokens, mask = left_padded(TOKENS, [50, 9])
    found = in_chunks(tabulated(pruned()), tokens, chunks, mask)
    same(found[1, -9:], hooked(mixed(), TOKENS[1:, :9])[0])


@pytest.mark.parametrize("n_last", [0, 1])
def test_the_only_layer_may_have_a_table(n_last: int) -> None:
    with torch.no_grad():
        expected = one_layer()(TOKENS, use_cache=False, logits_to_keep=n_last).logits
        same(tabulated(one_layer())(TOKENS, logits_to_keep=n_last).logits, expected, EXACT)
    same(in_chunks(tabulated(one_layer()), TOKENS, [1] * 70)[:, -1], expected[:, -1], EXACT)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_tokens_are_those_without_a_table(options: dict[str, Any]) -> None:
    options = {**GREEDY, "max_new_tokens": 18, **options}
    expected = pruned().generate(TOKENS, **options)
    assert torch.equal(tabulated(pruned()).generate(TOKENS, **options), expected)


def test_hidden_states_are_those_without_a_table() -> None:
    with torch.no_grad():
        found, expected = (
            model(TOKENS, output_hidden_states=True).hidden_states for model in (tabulated(pruned()), pruned())
        )
    for both in zip(found, expected, strict=True):
        same(*both, EXACT)


def test_compressed_heads_give_the_logits_that_they_give_without_a_table() -> None:
    text = "compress:snapkv:0.5"
    expected = in_chunks(compressed(text), TOKENS, [40, *[1] * 30])
    same(in_chunks(tabulated(compressed(text)), TOKENS, [40, *[1] * 30]), expected, EXACT)


SCRIPTS: dict[str, Script] = {
    "some die": {N_PROMPT: {"L0H0": "mean", "L0H2": "mean", "L0H1": "window:4", "L1H0": "mean"}},
    "later": {N_PROMPT: {"L0H1": "window:4"}, 48: {"L0H1": "mean", "L0H3": "mean"}},
    "all die": {N_PROMPT: {f"L0H{head}": "mean" for head in range(4)}},
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_heads_of_the_first_layer_that_die_give_the_logits_of_the_reference(name: str) -> None:
    model = tabulated(live())
    cache = model.make_cache(scripted(SCRIPTS[name]))
    found = in_chunks(model, TOKENS, [N_PROMPT, *[1] * 10, 5, *[1] * 15], cache=cache)
    same(found, torch.stack(reference(SCRIPTS[name], list(TOKENS))), EXACT)


def test_a_live_policy_decides_the_same_with_a_table() -> None:
    changes = []
    for model in (live(), tabulated(live())):
        cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=ANYTHING))
        in_chunks(model, TOKENS, [N_PROMPT, *[1] * 30], cache=cache)
        changes.append(cache.record().changes)
    assert changes[0] == changes[1]


# When it is used.


def test_the_projection_is_not_computed_any_more() -> None:
    for model, expected in ((pruned(), 2), (tabulated(pruned()), 0)):
        assert first_qkv_calls(model, lambda model=model: in_chunks(model, TOKENS, [60, 10])) == expected


def test_the_mlp_is_not_computed_any_more() -> None:
    seen: list[int] = []
    model = tabulated(pruned())
    model.gpt_neox.layers[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    in_chunks(model, TOKENS, [60, 10])
    assert seen == []


def test_embeddings_instead_of_tokens_go_without() -> None:
    model = spoilt(pruned())
    with torch.no_grad():
        found = model(inputs_embeds=model.get_input_embeddings()(TOKENS)).logits
    same(found, hooked(mixed(), TOKENS))


def test_gradients_go_without_and_are_those_of_a_model_without() -> None:
    model, plain = spoilt(pruned()), pruned()
    for each in (model, plain):
        for weight in each.parameters():
            weight.requires_grad_(True)
        each(TOKENS, labels=TOKENS).loss.backward()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        same(found.grad, expected.grad, 1e-6)


def test_a_model_in_training_goes_without_also_where_no_gradients_are_wanted() -> None:
    with torch.no_grad():
        same(spoilt(pruned()).train()(TOKENS).logits, hooked(mixed(), TOKENS))


def test_a_hooked_projection_is_called() -> None:
    model, plain = tabulated(pruned()), pruned()
    for each in (model, plain):
        each.gpt_neox.layers[0].attention.qkv.register_forward_hook(lambda module, given, out: 2 * out)
    same(in_chunks(model, TOKENS, [60, 1, 9]), in_chunks(plain, TOKENS, [60, 1, 9]), EXACT)


def test_another_projection_in_its_place_is_called() -> None:
    model, plain = tabulated(pruned()), pruned()
    for each in (model, plain):
        attention = each.gpt_neox.layers[0].attention
        attention.qkv = nn.Sequential(attention.qkv, nn.Hardtanh())
    same(in_chunks(model, TOKENS, [60, 1, 9]), in_chunks(plain, TOKENS, [60, 1, 9]), EXACT)


# The table and the model.


def test_a_table_is_made_anew_for_other_weights() -> None:
    model, other = tabulated(pruned()), pruned()
    for each in (model, other):
        weight = each.gpt_neox.layers[0].mlp.dense_h_to_4h.bias
        each.gpt_neox.layers[0].mlp.dense_h_to_4h.bias = nn.Parameter(weight.detach() + 1)
    same(in_chunks(tabulated(model), TOKENS, [70]), in_chunks(other, TOKENS, [70]), EXACT)


def test_a_table_is_not_saved(tmp_path: Path) -> None:
    model = tabulated(pruned())
    assert not any("table" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.gpt_neox.layers[0].table is None
    same(in_chunks(again, TOKENS, [70]), hooked(mixed(), TOKENS))


def test_a_table_follows_the_number_format_of_its_model() -> None:
    model = tabulated(pruned()).to(torch.bfloat16)
    assert model.gpt_neox.layers[0].table.dtype == torch.bfloat16
    found, expected = (in_chunks(each, TOKENS, [60, 1, 9]) for each in (model, pruned().to(torch.bfloat16)))
    assert found.dtype == torch.bfloat16
    same(found, expected, 0.25)  # numbers of 8 bits, at logits of up to 5


@pytest.mark.parametrize("packed_first", [True, False])
def test_packed_weights_may_have_a_table(packed_first: bool) -> None:
    model = pruned()
    steps = [model.pack_weights, model.tabulate_first_layer]
    for step in steps if packed_first else reversed(steps):
        step()
    same(in_chunks(model, TOKENS, [60, 1, 9]), hooked(mixed(), TOKENS))


def test_a_residual_that_is_not_parallel_is_refused() -> None:
    with pytest.raises(ValueError, match="no table for this model: its MLPs come after attention"):
        pruned(kind="sequential").tabulate_first_layer()
