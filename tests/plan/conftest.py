"""The made-up profile that the tests of plans share."""

import pytest
from plan_makers import made_up_profile

from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="session")
def profile() -> HeadProfile:
    """Shared: leave it as it is."""
    return made_up_profile()


@pytest.fixture
def mixed(profile: HeadProfile) -> HeadPlan:
    """One head under each kind of treatment."""
    return plan_heads(
        profile,
        {"L1H0": "window:8+0", "L0H3": "mean", "L0H1": "zero", "L1H2": "random", "L1H3": "compress:snapkv:0.5"},
        seed=3,
    )
