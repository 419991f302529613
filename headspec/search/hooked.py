"""The hooks engine of a sweep: one whole forward pass a case, through `apply_plan`.

For bridges with hooks or edited weights of their own (all of which is in force), and to check the fast engine with.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from headspec.intervene.ablate import apply_plan
from headspec.load.memory import available_bytes
from headspec.measure.compare import Comparison, compare, logits_of
from headspec.measure.texts import ScoredText
from headspec.search.cases import Case


def measure_hooked(
    model: Any, cases: Sequence[Case], texts: Sequence[ScoredText]
) -> Iterator[tuple[Case, list[Comparison]]]:
    """Measure cases on texts; yields each as soon as it is done."""
    original = _Remembered(model)
    for case in cases:

        def treated(tokens: Tensor, case: Case = case) -> Any:
            with apply_plan(model, case.plan):
                return logits_of(model, tokens)

        yield case, [compare(original, treated, text) for text in texts]


class _Remembered:
    """A model that keeps its logits of every window it has seen, while there is room for them."""

    def __init__(self, model: Any) -> None:
        self.model, self.kept = model, dict[bytes, Tensor]()

    def __call__(self, tokens: Tensor) -> Tensor:
        key = tokens.cpu().numpy().tobytes()
        logits = self.kept[key] if key in self.kept else logits_of(self.model, tokens)
        if key not in self.kept and 8 * logits.nbytes < available_bytes(str(logits.device)):
            self.kept[key] = logits
        return logits
