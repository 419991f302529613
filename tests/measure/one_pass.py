"""The reference of a score: one forward pass over prompt and continuation, without a cache."""

from collections.abc import Callable
from typing import Any

import torch
from tiny_models import bridge_of, tiny_llama, tiny_neox
from torch import Tensor

from headspec.load.plain import PlainModel
from headspec.measure.score import Score

IDS = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))
PROMPT, CONTINUATION = IDS[:, :25], IDS[:, 25:]
MODELS: dict[str, Callable[[], Any]] = {
    "neox": tiny_neox,
    "llama": tiny_llama,
    "plain neox": lambda: PlainModel(tiny_neox(), "tiny"),
    "plain llama": lambda: PlainModel(tiny_llama(), "tiny"),
    "neox bridge": lambda: bridge_of(tiny_neox()),
    "llama bridge": lambda: bridge_of(tiny_llama()),
}


def in_one_pass(model: Any, prompt: Tensor = PROMPT, continuation: Tensor = CONTINUATION, **options: Any) -> Tensor:
    """Log-probabilities of the continuation from one forward pass, without a cache, in float64 from the logits on."""
    tokens = torch.cat([torch.atleast_2d(prompt), torch.atleast_2d(continuation)], dim=1)
    with torch.no_grad():
        output = model(tokens, **options)
    log_p = getattr(output, "logits", output).double().log_softmax(-1)
    found = log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return found[:, -continuation.shape[-1] :].float()


def close(found: Score, expected: Tensor) -> None:
    torch.testing.assert_close(found.log_probabilities, expected, rtol=0, atol=1e-4)
