"""Where the model runs, and whether that place can be trusted."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headspec.errors import ModelError

DEVICES = ("auto", "cuda", "mps", "cpu")
TOLERATED = 1e-2
"""Largest logit difference between devices, relative to the largest logit. Float32 kernels differ by about 1e-5."""


def choose_device(device: str) -> str:
    """`auto` becomes cuda, mps or cpu, in this order; a device that is not there is an error."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind not in DEVICES or kind == "auto":
        raise ModelError(f"device {device!r}: choose one of {', '.join(DEVICES)} (or cuda:1).")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not available[kind]:
        raise ModelError(f"device {device!r} is not available here: choose --device auto.")
    return device


def settle_on_mps(model: Any, vocabulary: Sequence[int], device: str = "mps") -> Any:
    """Move `model` to `device`; back to the CPU, with a warning, if its logits change (MPS has been silently wrong)."""
    tokens = torch.tensor([[vocabulary[i * len(vocabulary) // 32] for i in range(32)]])
    with torch.no_grad():
        expected = model(tokens)
        model.to(device)
        found = model(tokens.to(device)).to("cpu")
    if same_logits(expected, found):
        return model
    warnings.warn(
        f"{device} gives other logits than the CPU (largest difference {(found - expected).abs().max():.3g}): "
        "going on with the CPU.",
        stacklevel=3,
    )
    return model.to("cpu")


def same_logits(expected: Tensor, found: Tensor, tolerated: float = TOLERATED) -> bool:
    """Whether two computations agree: differences small beside the logits, and nothing NaN."""
    return bool((found - expected).abs().max() <= tolerated * expected.abs().max())
