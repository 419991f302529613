"""The quick linear layer gives what `F.linear` gives; torch's own calls of oneDNN still mean what they meant."""

import copy
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from runtime_makers import hooked, in_chunks, mixed, pruned, random_ids, same
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from headspec.runtime.linear import FastLinear
from headspec.runtime.packing import ONEDNN, PACKED_ROWS
from headspec.runtime.tricks import Tricks

ROWS = [1, 2, 16, 300]
SIZES = [(24, 72), (24, 24), (96, 24)]
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def layer(n_inputs: int = 24, n_outputs: int = 72, bias: bool = True, **tricks: bool) -> FastLinear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return FastLinear(n_inputs, n_outputs, bias, Tricks(**tricks))


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def calls(run: object, *arguments: object) -> set[str]:
    """Names of the operators that ran."""
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.no_grad():
        run(*arguments)  # type: ignore[operator]
    return {event.key for event in seen.key_averages()}


# torch's own calls, which are not part of its documented interface.


@needs_onednn
def test_torch_still_has_the_calls_of_onednn() -> None:
    assert ONEDNN
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


@needs_onednn
def test_the_calls_of_onednn_still_take_what_they_took() -> None:
    pointwise = torch.ops.mkldnn._linear_pointwise.default._schema
    assert [str(it.type) for it in pointwise.arguments] == [
        "Tensor", "Tensor", "Optional[Tensor]", "str", "List[Optional[number]]", "Optional[str]"]  # fmt: skip
    reorder = torch.ops.mkldnn._reorder_linear_weight.default._schema
    assert [str(it.type) for it in reorder.arguments] == ["Tensor", "Optional[int]"]


@needs_onednn
def test_the_call_of_onednn_is_x_times_w_plus_b_by_hand() -> None:
    x, weight, bias = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[1.0, 10.0], [3.0, 0.5], [0.0, 0.0]]), None
    found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    assert found.tolist() == [[21, 4, 0], [-10, -0.5, 0]]
    found = torch.ops.mkldnn._linear_pointwise(x, weight, torch.tensor([1.0, 2.0, 3.0]), "none", [], "")
    assert found.tolist() == [[22, 6, 3], [-9, 1.5, 3]]


@needs_onednn
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_in_the_layout_of_onednn_gives_the_same(rows: int, bias: bool) -> None:
    x, weight, b = numbers(rows, 24), numbers(72, 24), numbers(72) if bias else None
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
    same(torch.ops.mkldnn._linear_pointwise(x, packed, b, "none", [], ""), F.linear(x, weight, b), 1e-5)


# The layer.


@pytest.mark.parametrize(
    "tricks", [{}, {"onednn": False}, {"transposed": False}, {"onednn": False, "transposed": False}]
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("sizes", SIZES)
def test_it_gives_what_f_linear_gives(sizes: tuple[int, int], rows: int, bias: bool, tricks: dict[str, bool]) -> None:
    linear, x = layer(*sizes, bias, **tricks), numbers(2, rows, sizes[0])
    expected = F.linear(x, linear.weight.clone(), linear.bias)
    with torch.no_grad():
        for given in (x, x.transpose(0, 1).contiguous().transpose(0, 1), numbers(2, rows, 2 * sizes[0])[..., ::2]):
            wanted = (
                expected
                if given.shape == x.shape and torch.equal(given, x)
                else F.linear(given, linear.weight, linear.bias)
            )
            same(linear(given), wanted.detach(), 1e-5)
        same(linear(x[0, :1]), expected[0, :1].detach(), 1e-5)
        same(linear(x[0, 0]), expected[0, 0].detach(), 1e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_rows_that_lie_apart_or_across_give_the_same(rows: int) -> None:
    linear = layer()
    for x in (
        numbers(rows, 48)[:, ::2],
        numbers(24, rows).t(),
        numbers(2 * rows, 24)[::2],
        numbers(1, 24).expand(rows, -1),
    ):
        with torch.no_grad():
            same(linear(x), F.linear(x, linear.weight, linear.bias), 1e-5)


def test_no_rows_give_no_rows() -> None:
    with torch.no_grad():
        assert layer()(torch.zeros(0, 24)).shape == (0, 72)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
def test_a_part_is_that_part_of_the_whole(rows: int, bias: bool, packed: bool) -> None:
    linear, x = layer(bias=bias), numbers(rows, 24)
    expected = F.linear(x, linear.weight.clone(), linear.bias).detach()
    if packed:
        linear.pack()
    with torch.no_grad():
        for start, stop in ((0, 24), (24, 72), (5, 6), (0, 72)):
            same(linear.part(x, start, stop), expected[:, start:stop], 1e-5)
            linear(x)  # a weight that was laid out has the same parts


def test_gradients_are_those_of_nn_linear() -> None:
    linear, twin, x = layer(), nn.Linear(24, 72), numbers(5, 24)
    twin.load_state_dict(linear.state_dict())
    with torch.no_grad():
        linear(x)  # lays the weight out
    for each in (linear, twin):
        each(x).square().sum().backward()
    same(linear.weight.grad, twin.weight.grad, 1e-4)
    same(linear.bias.grad, twin.bias.grad, 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_formats_go_the_ordinary_way(dtype: torch.dtype) -> None:
    linear, x = layer().to(dtype), numbers(5, 24).to(dtype)
    with torch.no_grad():
        assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))


@needs_onednn
def test_rows_in_float32_go_through_onednn_without_gradients() -> None:
    name = "mkldnn::_linear_pointwise"
    assert name in calls(layer(), numbers(5, 24))
    assert name not in calls(layer(), numbers(1, 24))
    assert name not in calls(layer(onednn=False), numbers(5, 24))


# The weight.


def test_a_wide_weight_is_laid_out_across_and_keeps_its_values() -> None:
    linear = layer()
    before = linear.weight.detach().clone()
    with torch.no_grad():
        linear(numbers(1, 24))
    assert linear.weight.t().is_contiguous()
    assert torch.equal(linear.weight, before)


@pytest.mark.parametrize(("sizes", "tricks"), [((24, 24), {}), ((96, 24), {}), ((24, 72), {"transposed": False})])
def test_other_weights_stay_as_they_are(sizes: tuple[int, int], tricks: dict[str, bool]) -> None:
    linear = layer(*sizes, **tricks)
    with torch.no_grad():
        linear(numbers(1, sizes[0]))
    assert linear.weight.is_contiguous()


def test_a_weight_stays_as_it_is_while_gradients_are_wanted() -> None:
    linear = layer()
    linear(numbers(1, 24))
    assert linear.weight.is_contiguous()


def test_a_weight_laid_out_across_comes_back_from_a_file() -> None:
    linear, twin, x, file = layer(), FastLinear(24, 72, True, Tricks()), numbers(3, 24), io.BytesIO()
    with torch.no_grad():
        expected = linear(x)
        torch.save(linear.state_dict(), file)
        file.seek(0)
        twin.load_state_dict(torch.load(file))
        same(twin(x), expected, 1e-6)
        linear.load_state_dict(twin.state_dict())
        same(linear(x), expected, 1e-6)


def test_a_model_whose_weights_are_laid_out_can_be_saved_and_read(tmp_path: Path) -> None:
    model, tokens = pruned(), random_ids(2, 40)
    in_chunks(model, tokens, [39, 1])
    model.save_pretrained(tmp_path)
    same(in_chunks(type(model).from_pretrained(tmp_path), tokens, [39, 1]), hooked(mixed(), tokens))


# Packed.


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("laid_out", [False, True])
def test_a_packed_layer_gives_the_same(rows: int, bias: bool, laid_out: bool) -> None:
    linear, x = layer(bias=bias), numbers(rows, 24)
    expected = F.linear(x, linear.weight.clone(), linear.bias).detach()
    with torch.no_grad():
        if laid_out:
            linear(x)
        linear.pack()
        linear.pack()
        same(linear(x), expected, 1e-5)
        same(linear(x[None]), expected[None], 1e-5)


@needs_onednn
def test_a_packed_layer_has_let_go_of_its_weight() -> None:
    linear = layer()
    linear.pack()
    assert linear.weight.is_meta


@needs_onednn
def test_a_layer_in_another_number_format_is_not_packed() -> None:
    linear = layer().to(torch.bfloat16)
    linear.pack()
    assert linear.packed is None


@needs_onednn
def test_a_packed_model_gives_the_same_logits() -> None:
    model, tokens = copy.deepcopy(pruned()), random_ids(2, 60)
    model.pack_weights()
    same(in_chunks(model, tokens, [40, 1, 1, 18]), hooked(mixed(), tokens))
    with torch.no_grad():
        same(model(tokens, logits_to_keep=1).logits, hooked(mixed(), tokens)[:, -1:])


@needs_onednn
def test_a_packed_model_gives_the_same_logits_outside_no_grad() -> None:
    model, tokens = copy.deepcopy(pruned()), random_ids(2, 60)
    model.pack_weights()
    same(model(tokens).logits.detach(), hooked(mixed(), tokens))


MOVES = {
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "double": lambda model: model.double(),
    "meta": lambda model: model.to("meta"),
    "state_dict": lambda model: model.state_dict(),
}


@needs_onednn
@pytest.mark.parametrize("move", MOVES)
def test_a_packed_model_can_neither_be_moved_nor_converted(move: str) -> None:
    model = copy.deepcopy(pruned())
    model.pack_weights()
    with pytest.raises(RuntimeError, match=r"after pack_weights\(\) a model can only compute"):
        MOVES[move](model)


@needs_onednn
def test_a_packed_model_cannot_be_saved(tmp_path: Path) -> None:
    model = copy.deepcopy(pruned())
    model.pack_weights()
    with pytest.raises(RuntimeError, match=r"after pack_weights\(\) a model can only compute"):
        model.save_pretrained(tmp_path)


@needs_onednn
@pytest.mark.parametrize("move", MOVES)
def test_a_packed_model_that_refused_to_move_still_computes(move: str) -> None:
    model, tokens = copy.deepcopy(pruned()), random_ids(1, 20)
    model.pack_weights()
    with pytest.raises(RuntimeError, match="can only compute"):
        MOVES[move](model)
    same(in_chunks(model, tokens, [20]), hooked(mixed(), tokens))


@needs_onednn
def test_packing_leaves_the_model_it_came_from_as_it_is() -> None:
    model = pruned()
    model.pack_weights()
    same(in_chunks(pruned(), random_ids(1, 20), [20]), hooked(mixed(), random_ids(1, 20)))
