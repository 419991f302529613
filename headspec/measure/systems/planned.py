"""Any plan, carried out by headspec's runtime."""

from headspec.errors import ModelError
from headspec.export.surgery import pruned_model
from headspec.load.plain import PlainModel
from headspec.load.pruned import refuse_pruned
from headspec.measure.systems.reading import Reading
from headspec.measure.systems.system import Standing, System
from headspec.plan.plan import HeadPlan
from headspec.runtime.cache import PrunedCache


class PlannedReading(Reading):
    """Reads through the cache of a pruned model, which holds what each head needs."""

    def _make_cache(self, prompt: int, expected: int) -> PrunedCache:
        return self.model.make_cache(expected=expected, prompt=prompt)

    def _held(self) -> int:
        return self.cache.nbytes


def planned(source: PlainModel, plan: HeadPlan, name: str, label: str, standing: Standing) -> System:
    """A plan in headspec's runtime; weights that were not cut are the original's own until the model first runs.

    Raises:
        ModelError: Not a GPT-NeoX.
        RecordError: The plan is for another model.
    """
    kind = source.huggingface.config.model_type
    refuse_pruned(kind, "treated again")
    if kind != "gpt_neox":
        raise ModelError(
            f"{source.name} is a {kind} model: headspec's runtime runs GPT-NeoX only (Pythia and its like)."
        )
    plan.about.check_model(source.identity)
    return System(name, label, standing, lambda: PlannedReading(pruned_model(source.huggingface, plan)), plan)
