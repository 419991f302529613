"""Fixtures of the probe's tests: both accounts of three models, and a tiny model to try things on."""

import pytest
from accounts import MAKERS, Accounts, random_ids
from tiny_models import bridge_of, tiny_neox
from transformer_lens.model_bridge import TransformerBridge

from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="session")
def all_accounts(demo: TransformerBridge) -> dict[str, Accounts]:
    return {name: make(demo) for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def accounts(request: pytest.FixtureRequest, all_accounts: dict[str, Accounts]) -> Accounts:
    return all_accounts[request.param]


@pytest.fixture(scope="session")
def tiny() -> TransformerBridge:
    """A GPT-NeoX of 2 layers with 4 heads, context 128, no tokenizer. Shared: leave it as it is."""
    return bridge_of(tiny_neox(0))


@pytest.fixture(scope="session")
def tiny_profile(tiny: TransformerBridge) -> HeadProfile:
    return probe_heads(tiny, random_ids(3, 80), progress=False)
