"""StreamingLLM (Xiao et al. 2023): every head keeps the first keys and the latest, whatever it does.

Keys stay rotated by where they stood in the text; the paper counts positions anew inside the cache, which only matters
for texts beyond the model's context.
"""

from headspec.measure.systems.baseline import Baseline, bounded
from headspec.plan.treatments import SINKS, Window
from headspec.plan.workload import Workload


def _windows(keys: int, workload: Workload) -> list[str]:
    """The prompt, too, is read through the window."""
    budget = bounded(keys, workload)
    sinks = min(SINKS, budget - 1)
    return [str(Window(budget - sinks, sinks))]


def _after_the_prompt(keys: int, workload: Workload) -> list[str]:
    """The prompt is read with every key, what is not kept dropped afterwards."""
    return [f"compress:streaming:{bounded(keys, workload)}"]


STREAMING_LLM = Baseline("StreamingLLM", "every head sees the first keys and the latest", _windows)
STREAMING_LLM_DENSE = Baseline(
    "StreamingLLM dense", "every head reads the prompt whole, then keeps the first keys and the latest",
    _after_the_prompt,
)  # fmt: skip
