"""Plans for any model, what a plan should give, and loading in a process that has no headspec."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import VOCABULARY
from torch import Tensor

from headspec.heads import HeadId
from headspec.intervene.ablate import apply_plan
from headspec.load.plain import PlainModel
from headspec.plan.make import about_of
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Fill, Remove, Treatment, parse_treatment

TOLERANCE = 1e-4
"""Logits in float32 may differ by so much."""
NEW = 24
"""Tokens decoded greedily."""
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}
MIXED = {"L0H0": "mean", "L0H2": "window:5+2", "L0H3": "window:3", "L1H1": "zero", "L1H3": "random"}
"""For models of 2 layers with 4 heads: every fill, and two windows before a head that sees everything."""
FRESH = Path(__file__).with_name("fresh_process.py")


def plan_of(model: Any, wish: dict[str, str] | None = None, seed: int = 0) -> HeadPlan:
    """A plan of treatments in short text; fills but `zero` are random vectors of their own, far from zero."""
    about = about_of(model)
    wish = MIXED if wish is None else wish
    chosen: dict[HeadId, Treatment] = {HeadId.parse(name): parse_treatment(what) for name, what in wish.items()}
    fills = {}
    for head, what in chosen.items():
        if isinstance(what, Remove):
            drawn = np.random.default_rng((seed, head.layer, head.head)).standard_normal(about.d_head)
            fills[head] = (np.zeros_like(drawn) if what.fill is Fill.ZERO else drawn).astype(np.float32)
    return HeadPlan(about, chosen, fills)


def random_ids(n_rows: int = 2, n_tokens: int = 40, seed: int = 0, vocabulary: int = VOCABULARY) -> Tensor:
    return torch.randint(2, vocabulary, (n_rows, n_tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def hooked(model: PlainModel, plan: HeadPlan, tokens: Tensor) -> Tensor:
    """The reference: logits of transformers' own model under the hooks of `apply_plan`."""
    with apply_plan(model, plan):
        return model(tokens)


@torch.no_grad()
def hooked_greedy(model: PlainModel, plan: HeadPlan, tokens: Tensor) -> list[list[int]]:
    with apply_plan(model, plan):
        return model.huggingface.generate(tokens, **GREEDY).tolist()


@torch.no_grad()
def logits_of(model: Any, tokens: Tensor) -> Tensor:
    return model(tokens).logits


def same(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def loads_registered(folder: Path, **options: Any) -> Any:
    """The exported model, loaded in this process with headspec's own code."""
    from transformers import AutoModelForCausalLM

    import headspec

    headspec.register()
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def in_fresh_process(jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Let a process that cannot import headspec do the jobs; `folder` takes what it writes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, str(FRESH), str(folder)], cwd=folder, capture_output=True, text=True, check=False,
        env={**surroundings, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text())
    for number, result in enumerate(results):
        if "error" not in result:
            result["logits"] = torch.load(folder / f"{number}.pt")
    return results
