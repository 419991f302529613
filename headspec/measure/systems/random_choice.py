"""Keys chosen at random for every head: the control that every policy should beat."""

from headspec.measure.systems.baseline import Baseline, compressed
from headspec.measure.systems.system import Standing

RANDOM_CHOICE = Baseline(
    "random keys", "every head keeps the sinks, the latest keys and others at random", compressed("random"),
    Standing.CONTROL,
)  # fmt: skip
