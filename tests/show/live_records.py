"""Records of live generation, made by hand and at random, that figures are drawn from."""

from typing import Any

import numpy as np

from headspec.runtime.record import Change, Held, LiveRecord

SETTINGS = {"first_query": 16, "observed": 64, "policy": "", "watch_only": False}


def live_record(*changes: Change, **fields: Any) -> LiveRecord:
    """2 layers of 2 heads, a prompt of 100 tokens, 50 more."""
    policy = SETTINGS | fields.pop("policy", {})
    held = (Held(100, 40_000, 100_000), Held(125, 45_000, 125_000), Held(150, 50_000, 150_000))
    known: dict[str, Any] = {
        "model": "demo", "n_layers": 2, "n_heads": 2, "n_rows": 1, "n_prompt": 100, "n_read": 150,
        "n_classifications": 3, "held": held,
    }  # fmt: skip
    return LiveRecord(**known | fields, policy=policy, changes=changes)


def by_hand(**fields: Any) -> LiveRecord:
    """One head that stays, one that flips, one that dies later, and one that the checkpoint treats itself."""
    return live_record(
        Change(100, 0, 0, "gathering", 0, "keep"),
        Change(100, 0, 1, "positional", 8, "window:8"),
        Change(100, 1, 1, "gathering", 0, "compress:snapkv:0.5"),
        Change(120, 0, 1, "gathering", 0, "window:8"),
        Change(140, 1, 1, "dead", 0, "mean"),
        **fields,
    )


def short(**fields: Any) -> LiveRecord:
    """A text too short for a classification."""
    known = {"n_prompt": 5, "n_read": 12, "n_classifications": 0, "held": (Held(5, 640, 500), Held(12, 1280, 1200))}
    return live_record(**known | fields)


def many(n_layers: int, n_heads: int, seed: int = 0, **fields: Any) -> LiveRecord:
    """Heads that change at random: as many as a large model has."""
    random, n_prompt, n_new, every = np.random.default_rng(seed), 512, 1024, 64
    changes: list[Change] = []
    for layer in range(n_layers):
        for head in range(n_heads):
            role = str(random.choice(["gathering", "positional", "dead"], p=[0.5, 0.4, 0.1]))
            for at in range(n_prompt, n_prompt + n_new, every):
                if at > n_prompt and (role == "dead" or random.random() > 0.08):
                    continue
                if at > n_prompt:
                    role = "positional" if role == "gathering" else str(random.choice(["gathering", "dead"]))
                window = int(random.choice([3, 8, 16, 64])) if role == "positional" else 0
                treatment = {"gathering": "compress:snapkv:0.5", "positional": f"window:{window}", "dead": "mean"}[role]
                changes.append(Change(at, layer, head, role, window, treatment))
    full = n_layers * n_heads * 64 * 8
    held = tuple(
        Held(at, int(full * (200 + 0.4 * (at - n_prompt))), full * at) for at in range(n_prompt, n_prompt + n_new, 16)
    )
    changes.sort(key=lambda change: change.at)
    return live_record(
        *changes, model="random:pythia-2.8b", n_layers=n_layers, n_heads=n_heads, n_prompt=n_prompt,
        n_read=n_prompt + n_new - 1, held=held, n_classifications=n_new // every, **fields,
    )  # fmt: skip
