"""Made-up sweeps with numbers that can be followed by eye."""

from collections.abc import Iterable
from typing import Any

from headspec.search.table import SweepTable

SETTINGS = {
    "model": "made-up", "n_layers": 2, "n_heads": 3, "dtype": "float32", "text": "numbers", "text_digest": "abc",
    "n_windows": 4, "window": 64, "repeats": "random tokens twice (2 × 31)", "repeats_digest": "def",
}  # fmt: skip
Row = dict[str, Any]


def case(kind: str, label: str, heads: str, treatment: str, kl: float, **more: Any) -> Row:
    n_heads = len(heads.split())
    numbers = {
        "loss": 3.0 + kl, "loss_increase": kl, "perplexity_increase": kl, "kl": kl, "kl_se": kl / 10,
        "top1_agreement": 1 - kl, "repeats_loss_increase": 2 * kl, "repeats_kl": 2 * kl,
        "induction_accuracy": 0.9 - kl, "kv_share": 1 - n_heads / 6, "removed_share": n_heads / 6,
    }  # fmt: skip
    return {"kind": kind, "case": label, "heads": heads, "n_heads": n_heads, "layer": None, "treatment": treatment,
            **numbers, "key": label} | more  # fmt: skip


def single(head: str, treatment: str, kl: float, **more: Any) -> Row:
    return case("single", f"{head}={treatment}", head, treatment, kl, **more)


def singles(treatment: str, start: float = 0.001, n_layers: int = 2, n_heads: int = 3) -> list[Row]:
    """Head number i (counted layer by layer) has a KL of `start` × (1 + i)."""
    places = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    return [single(f"L{layer}H{head}", treatment, start * (1 + place)) for place, (layer, head) in enumerate(places)]


def curve(treatment: str = "mean", name: str = "spread", controls: int = 0) -> list[Row]:
    """1, 2 and 4 heads with a KL of .01, .02 and .04, in another order; random plans are three times as bad."""
    heads = ["L0H0", "L0H1", "L0H2", "L1H0"]
    rows = []
    for size in (4, 1, 2):
        label, names = f"{treatment} by {name}, {size} heads", " ".join(heads[:size])
        rows.append(case("curve", label, names, treatment, size / 100))
        rows += [case("control", f"{label}, random {number}", names, treatment, 3 * size / 100)
                 for number in range(controls)]  # fmt: skip
    return rows


def grid(controls: int = 0) -> list[Row]:
    """Two plans of several treatments."""
    rows = []
    for number, heads in enumerate(("L0H0 L1H1", "L0H0 L1H1 L1H2")):
        label = f"{number}: dead_spread=0.{number} fill=mean sinks=4"
        rows.append(case("grid", label, heads, "mean window:8", 0.05))
        rows += [case("control", f"{label}, random {place}", heads, "mean window:8", 0.5) for place in range(controls)]
    return rows


def table(rows: Iterable[Row], **settings: Any) -> SweepTable:
    return SweepTable(SETTINGS | settings, tuple(rows))


def everything() -> SweepTable:
    return table([*singles("mean"), *singles("window:8", 0.1), *curve(controls=2), *grid(controls=1)])
