"""Profiles to classify: of the demo model on its packaged texts, and of the planted model."""

import pytest
from planted import planted_model, planted_text
from transformer_lens.model_bridge import TransformerBridge

from headspec.load.text import load_text
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="session")
def demo_profiles(demo: TransformerBridge) -> dict[str, HeadProfile]:
    """Of 8192 tokens each of the packaged texts `probe` and `select`."""
    return {name: probe_heads(demo, load_text(demo, name), progress=False) for name in ("probe", "select")}


@pytest.fixture(scope="session")
def demo_profile(demo_profiles: dict[str, HeadProfile]) -> HeadProfile:
    return demo_profiles["probe"]


@pytest.fixture(scope="session")
def planted_profile() -> HeadProfile:
    return probe_heads(planted_model(), planted_text(), progress=False)
