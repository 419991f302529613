"""Treatments of every kind and a profile that all of them can be made from, for the tests of the benchmark."""

from functools import cache
from typing import Any

import torch
from tiny_models import VOCABULARY, tiny_neox
from torch import Tensor

from headspec.load.plain import PlainModel
from headspec.measure.systems.planned import planned
from headspec.measure.systems.system import Running, Standing
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile

N_PROMPT, N_TOKENS = 48, 80
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
FOR_ALL = (
    "keep", "zero", "mean", "window:6", "window:9+2", "window:5+0", "compress:snapkv:0.25",
    "compress:snapkv:24:latest12", "compress:snapkv:12:adakv", "compress:snapkv:24:latest8:adakv",
    "compress:expected_attention:0.3", "compress:expected_attention:20:latest8", "compress:expected_attention:16:adakv",
    "compress:streaming:16", "compress:random:0.5", "compress:random:24:latest8:adakv",
)  # fmt: skip
MIXED = {
    "L0H0": "compress:snapkv:0.25", "L0H1": "window:4+1", "L0H2": "compress:snapkv:0.25", "L0H3": "mean",
    "L1H0": "compress:expected_attention:24:latest12", "L1H1": "compress:random:16", "L1H2": "compress:streaming:12",
}  # fmt: skip


def ids(n_windows: int = 3, length: int = N_TOKENS, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCABULARY, (n_windows, length), generator=torch.Generator().manual_seed(seed))


@cache
def tiny(context: int = 128) -> PlainModel:
    """Two layers of four heads, random weights. Shared: leave it as it is."""
    return PlainModel(tiny_neox(5, context=context), "tiny")


@cache
def profile(context: int = 128) -> HeadProfile:
    """Of the tiny model, with the statistics of its queries."""
    text = ids(2, 60, seed=9)
    return probe_heads(tiny(context), text, engine="fast", n_repeats=0, query_statistics=True, progress=False)


def plan_of(wish: str | dict[str, str]) -> HeadPlan:
    """One treatment for every head, or one a head."""
    return plan_heads(profile(), dict.fromkeys(HEADS, wish) if isinstance(wish, str) else wish)


def running(plan: HeadPlan, model: Any = None) -> Running:
    return planned(model or tiny(), plan, "", "", Standing.HYPOTHETICAL).open()
