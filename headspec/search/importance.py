"""HeadImportance: what gradients say every treatment of every head costs. A record of numpy arrays; no torch."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headspec.errors import HeadspecError
from headspec.heads import HeadId
from headspec.plan.plan import HeadPlan

MEASURES = ("fisher", "first_order", "michel", "output_error")


@dataclass(frozen=True, eq=False)
class HeadImportance:
    """Predicted effects, `[treatment, layer, head]`; from `attribute_heads`."""

    model: str
    text: str
    text_digest: str
    treatments: tuple[str, ...]
    """Short texts, in the order of the first axis."""
    n_queries: int
    """Predictions that count in one window."""
    first_order: np.ndarray
    """Mean over windows of |Δzᵀ ∂L/∂z| summed over positions, nats a token; for `zero` Michel et al.'s importance.
    For the loss, whose single-head changes are small and of either sign: a ranking, not a forecast."""
    output_error: np.ndarray
    """Root mean square of ‖Δz W_O‖ / ‖residual entering the layer‖. Needs no gradient. For `zero` the size of the
    head's output, for `mean` its spread, for a window what the window gets wrong."""
    samples: np.ndarray
    """`[sample, treatment, layer, head]`: Δzᵀ ∂ log p(y)/∂z for drawn continuations y, whose products forecast joint
    effects."""

    @cached_property
    def fisher(self) -> np.ndarray:
        """½ E[(Δzᵀ ∂ log p(y)/∂z)²] a token: the KL to the original to second order, nats a token.

        Good for small effects; too small where a treatment moves the model far.
        """
        return 0.5 * np.square(self.samples).mean(0) / self.n_queries

    @cached_property
    def michel(self) -> np.ndarray:
        """`first_order` divided by the layer's L2 norm, as Michel et al. do: heads compare within a layer only."""
        norm = np.linalg.norm(self.first_order, axis=-1, keepdims=True)
        return self.first_order / np.where(norm > 0, norm, 1)

    def grid(self, measure: str, treatment: str) -> np.ndarray:
        """`[layer, head]` of one measure (`fisher`, `first_order`, `michel`, `output_error`) and treatment."""
        if measure not in MEASURES:
            raise HeadspecError(f"measure {measure!r}: choose one of {', '.join(MEASURES)}.")
        return np.asarray(getattr(self, measure)[self.index(treatment)])

    def ranking(self, treatment: str, measure: str = "fisher") -> list[HeadId]:
        """All heads, the one whose treatment costs least in front."""
        grid = self.grid(measure, treatment)
        order = np.argsort(grid, axis=None, kind="stable")
        return [HeadId(int(flat) // grid.shape[1], int(flat) % grid.shape[1]) for flat in order]

    def forecast(self, plan: HeadPlan) -> float:
        """The KL of a whole plan to second order, nats a token: ½ E[(Σ over heads of Δzᵀ ∂ log p(y)/∂z)²].

        Unlike a sum of single effects it knows which heads do the same thing. Heads whose treatment was not
        attributed are an error.
        """
        total = np.zeros(len(self.samples))
        for head, what in plan.treatments.items():
            total += self.samples[:, self.index(str(what)), head.layer, head.head]
        return float(0.5 * np.square(total).mean() / self.n_queries)

    def to_frame(self) -> Any:
        """Tidy: one row a head and treatment, one column a measure."""
        import pandas

        _, n_layers, n_heads = self.first_order.shape
        heads = [HeadId(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        rows = {
            "head": [str(head) for _ in self.treatments for head in heads],
            "layer": [head.layer for _ in self.treatments for head in heads],
            "treatment": [what for what in self.treatments for _ in heads],
        }
        return pandas.DataFrame(rows | {measure: getattr(self, measure).ravel() for measure in MEASURES})

    def index(self, treatment: str) -> int:
        """The place of a treatment on the first axis."""
        if str(treatment) not in self.treatments:
            raise HeadspecError(f"{treatment} was not attributed: there are {', '.join(self.treatments)}.")
        return self.treatments.index(str(treatment))
