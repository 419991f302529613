"""Models, profiles, texts and cases for the tests of sweeps. The models are shared: leave them as they are."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tiny_models import VOCABULARY, bridge_of, tiny_llama, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from headspec.load.identity import identify
from headspec.load.plain import PlainModel
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.probe.about import ProbeAbout
from headspec.probe.catalogue import BY_POSITION, BY_WINDOW, GRIDS
from headspec.probe.profile import HeadProfile
from headspec.search.cases import Case
from headspec.search.table import SweepTable

Wish = dict[str, str]
"""Treatments by head, as one writes them."""

FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "neox-parallel": lambda: tiny_neox(3),
    "neox-sequential": lambda: tiny_neox(4, parallel=False),
    "llama-grouped": lambda: tiny_llama(5),
}
MEASURED = ("loss", "loss_increase", "kl", "top1_agreement", "repeats_loss_increase", "repeats_kl",
            "induction_accuracy")  # fmt: skip
"""The columns that a model has to be run for."""
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
"""Of the tiny models."""


def ids(n_windows: int, window: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (n_windows, window), generator=torch.Generator().manual_seed(seed))


def new_plain(family: str = "neox-parallel", name: str = "planted") -> PlainModel:
    """As `load_plain` makes one; yours to change."""
    model = FAMILIES[family]()
    model.set_attn_implementation("sdpa")
    return PlainModel(model, name)


@lru_cache
def plain(family: str = "neox-parallel") -> PlainModel:
    return new_plain(family)


@lru_cache
def bridge(family: str = "neox-parallel") -> TransformerBridge:
    """The same weights."""
    return bridge_of(FAMILIES[family]())


def profile_of(model: Any, seed: int = 0) -> HeadProfile:
    """Random means and lengths of z, and zeros elsewhere: all that plans take from a profile."""
    it = identify(model)
    about = ProbeAbout(
        model=it.name, n_layers=it.n_layers, n_heads=it.n_heads, d_head=it.d_head, d_model=it.d_model,
        context=it.context, layers=tuple(range(it.n_layers)), text="numbers", text_digest="abc", n_windows=1, window=32,
        segment=32,
    )  # fmt: skip
    draw, shape = np.random.default_rng(seed), (it.n_layers, it.n_heads)
    return HeadProfile(
        about=about,
        grids={name: np.zeros(shape, np.float32) for name in GRIDS},
        by_position={name: np.zeros((1, *shape), np.float32) for name in BY_POSITION},
        by_window={name: np.zeros((1, *shape), np.float32) for name in BY_WINDOW},
        position_edges=np.array([0]),
        queries_per_position=np.array([32]),
        offset_edges=np.arange(32),
        offset_mass=np.zeros((*shape, 32), np.float32),
        max_attention_position=np.zeros((*shape, 32), np.float32),
        max_attention_histogram=np.zeros((*shape, 20), np.float32),
        near_mass=np.zeros((1, *shape, 64), np.float32),
        mean_z=(0.3 * draw.standard_normal((*shape, it.d_head))).astype(np.float32),
        z_norm=draw.uniform(0.5, 2, shape).astype(np.float32),
    )


def plan_of(model: Any, wish: Wish) -> HeadPlan:
    return plan_heads(profile_of(model), wish)


def cases_of(model: Any, wishes: Iterable[Wish]) -> list[Case]:
    """A case a wish, numbered."""
    profile = profile_of(model)
    return [Case("wish", f"{number}", plan_heads(profile, wish)) for number, wish in enumerate(wishes)]


def difference(some: SweepTable, others: SweepTable, columns: Sequence[str] = MEASURED) -> float:
    """The largest difference between the numbers of two tables with the same cases in the same order."""
    assert [row["key"] for row in some.rows] == [row["key"] for row in others.rows]
    return float(np.abs(numbers(some, columns) - numbers(others, columns)).max())


def numbers(table: SweepTable, columns: Sequence[str] = MEASURED) -> np.ndarray:
    """`[case, column]`; NaN if there is none."""
    return np.array([[np.nan if row[name] is None else row[name] for name in columns] for row in table.rows], float)
