"""Where a model runs, and the check of that place against the CPU. No device but the CPU is needed."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from headspec.errors import ModelError
from headspec.load.device import choose_device, same_logits, settle_on_mps


class StandIn:
    """A model whose logits depend on where it is; it keeps a diary of where that was, and of what it read."""

    def __init__(self, elsewhere: float) -> None:
        self.elsewhere = elsewhere
        self.places = ["cpu"]
        self.read: list[Tensor] = []

    def to(self, place: str) -> "StandIn":
        self.places.append(place)
        return self

    def __call__(self, tokens: Tensor) -> Tensor:
        self.read.append(tokens)
        logits = torch.arange(float(tokens.numel())).view(*tokens.shape, 1) / 31
        return logits if self.places[-1] == "cpu" else logits + self.elsewhere


def settled(elsewhere: float) -> StandIn:
    """The stand-in after `settle_on_mps`, with `cpu:0` in the place of mps: it is there everywhere."""
    return settle_on_mps(StandIn(elsewhere), range(272), device="cpu:0")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says which devices are there."""

    def set_devices(cuda: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return set_devices


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_cuda_else_mps_else_the_cpu(here: Any, cuda: bool, mps: bool, chosen: str) -> None:
    here(cuda=cuda, mps=mps)
    assert choose_device("auto") == chosen


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken(here: Any, device: str) -> None:
    here(cuda=True, mps=True)
    assert choose_device(device) == device


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused(here: Any, device: str) -> None:
    here()
    with pytest.raises(ModelError, match=f"device '{device}' is not available here: choose --device auto"):
        choose_device(device)


@pytest.mark.parametrize("device", ["gpu", "", "CUDA", "tpu:0", "auto:1"])
def test_what_is_no_device_is_refused_with_the_devices(device: str) -> None:
    with pytest.raises(ModelError, match=rf"device '{device}': choose one of auto, cuda, mps, cpu \(or cuda:1\)"):
        choose_device(device)


def test_logits_a_hundredth_of_the_largest_apart_are_the_same() -> None:
    assert same_logits(torch.tensor([-200.0, 1.0]), torch.tensor([-200.0, 2.9]))


def test_logits_further_apart_are_not_the_same() -> None:
    assert not same_logits(torch.tensor([-200.0, 1.0]), torch.tensor([-200.0, 3.1]))


def test_logits_that_are_not_numbers_are_not_the_same() -> None:
    assert not same_logits(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")]))


def test_a_model_whose_logits_stay_the_same_is_settled_there() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settled(elsewhere=1e-4).places[-1] == "cpu:0"


@pytest.mark.filterwarnings("ignore:.*gives other logits")
@pytest.mark.parametrize("elsewhere", [0.1, float("nan")])
def test_a_model_whose_logits_change_is_brought_back_to_the_cpu(elsewhere: float) -> None:
    assert settled(elsewhere).places == ["cpu", "cpu:0", "cpu"]


def test_going_back_to_the_cpu_is_told_with_the_difference() -> None:
    with pytest.warns(UserWarning, match=r"gives other logits than the CPU \(largest difference 0\.1\): going on"):
        settled(elsewhere=0.1)


def test_both_places_read_the_same_32_ordinary_tokens() -> None:
    on_cpu, elsewhere = settled(elsewhere=0.0).read
    assert on_cpu.tolist() == elsewhere.tolist() == [[number * 272 // 32 for number in range(32)]]


def test_a_vocabulary_of_fewer_than_32_tokens_will_do() -> None:
    model = settle_on_mps(StandIn(0.0), [5, 6, 7], device="cpu:0")
    assert set(model.read[0].flatten().tolist()) == {5, 6, 7}
