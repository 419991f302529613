"""Fixtures of the probe's tests: both accounts of three models, and a tiny model to try things on."""

from itertools import product

import pytest
from accounts import MAKERS, Accounts, random_ids
from tiny_models import bridge_of, tiny_neox
from transformer_lens.model_bridge import TransformerBridge
from unfinished import N_LAYERS

from headspec.probe.collect import ENGINES, probe_heads
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="session")
def all_accounts(demo: TransformerBridge) -> dict[str, dict[str, Accounts]]:
    """By model, then by engine."""
    return {name: make(demo) for name, make in MAKERS.items()}


@pytest.fixture(params=product(MAKERS, ENGINES), ids="-".join)
def accounts(request: pytest.FixtureRequest, all_accounts: dict[str, dict[str, Accounts]]) -> Accounts:
    model, engine = request.param
    return all_accounts[model][engine]


@pytest.fixture(scope="session")
def tiny() -> TransformerBridge:
    """A GPT-NeoX of 2 layers with 4 heads, context 128, no tokenizer. Shared: leave it as it is."""
    return bridge_of(tiny_neox(0))


@pytest.fixture(scope="session")
def tiny_profile(tiny: TransformerBridge) -> HeadProfile:
    return probe_heads(tiny, random_ids(3, 80), progress=False)


@pytest.fixture(scope="session")
def deep() -> TransformerBridge:
    """The model that is probed in `unfinished`. Shared: leave it as it is."""
    return bridge_of(tiny_neox(0, n_layers=N_LAYERS))
