"""Made-up texts and token ids for the tests of load."""

from typing import Any

import numpy as np
import torch
from tiny_models import VOCABULARY
from torch import Tensor

from headspec.load.text import (
    tokenize,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def letters(model: Any, length: int) -> list[int]:
    return tokenize(model, (ALPHABET * (length // 26 + 1))[:length]).tolist()


def ids(*shape: int) -> Tensor:
    return torch.arange(int(np.prod(shape))).view(*shape) % VOCABULARY
