"""Models and texts that the tests of measure share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from one_pass import MODELS
from tiny_models import tiny_neox
from transformer_lens.model_bridge import TransformerBridge

from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import TokenWindows, load_text
from headspec.measure.quality import QualityReport, measure_plan
from headspec.plan.make import plan_heads


@pytest.fixture(scope="session")
def plain_demo() -> PlainModel:
    """The packaged model without a bridge. Shared: leave it as it is."""
    return load_plain("demo", device="cpu")


@pytest.fixture(scope="session")
def certify(demo: TransformerBridge) -> TokenWindows:
    """Text that the plan under test was not made from."""
    return load_text(demo, "certify", n_tokens=2560, window=256, seed=1)


@pytest.fixture(scope="session")
def tiny_plain() -> PlainModel:
    """Two layers of four heads, random weights, no tokenizer. Shared: leave it as it is."""
    return PlainModel(tiny_neox(), "tiny")


@pytest.fixture(scope="session")
def tiny_ids() -> torch.Tensor:
    """Three windows of 40 tokens that the tiny model knows."""
    return torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def measure(tiny_plain: PlainModel, tiny_ids: torch.Tensor) -> Callable[..., QualityReport]:
    """Measures the tiny model without one of its heads."""

    def run(tokens: Any = tiny_ids, **options: Any) -> QualityReport:
        return measure_plan(tiny_plain, plan_heads(tiny_plain, {"L0H1": "zero"}), tokens, **options)

    return run


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    """One of everything that can be scored."""
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def neox() -> Any:
    """A tiny Hugging Face model."""
    return tiny_neox()
