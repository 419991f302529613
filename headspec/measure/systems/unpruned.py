"""P0: headspec's runtime with every head kept. What it gains over V and S is engineering and no pruning."""

from headspec.load.plain import PlainModel
from headspec.measure.systems.planned import planned
from headspec.measure.systems.system import Standing, System
from headspec.plan.make import plan_heads


def unpruned(source: PlainModel) -> System:
    """The original in headspec's runtime: a plan's own share of a speed-up is measured against this."""
    return planned(source, plan_heads(source, {}), "P0", "headspec's runtime, every head kept", Standing.REFERENCE)
