"""Heads treated live, by an AdaptivePolicy, in headspec's runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, cat

from headspec.classify.head_map import HeadMap
from headspec.errors import HeadspecError
from headspec.export.surgery import head_groups, pruned_model
from headspec.load.plain import PlainModel
from headspec.measure.systems.planned import PlannedReading, planned
from headspec.measure.systems.system import Standing, System
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Remove
from headspec.runtime.adaptive import AdaptivePolicy, Verdict
from headspec.runtime.cache import PrunedCache
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM
from headspec.runtime.record import LiveRecord


@dataclass(frozen=True)
class ToldPolicy(AdaptivePolicy):
    """Does at the end of the prompt what a plan says, whatever the heads do: to compare decisions, or to time them.

    Heads are removed only where the model knows that they may be (see `live`), and their mean on the prompt stands in
    for them, whatever the plan fills in.
    """

    plan: HeadPlan | None = None
    reclassify: int = 0

    def treatments(
        self, layer: int, n_read: int, verdicts: Sequence[Verdict], now: Sequence[HeadGroup | None]
    ) -> list[HeadGroup | None]:
        """What the plan says of the heads of this layer; None for those that it removes."""
        assert self.plan is not None
        told: list[HeadGroup | None] = [None] * len(now)
        for group in head_groups(self.plan, layer):
            for head in group.heads:
                told[head] = group._replace(heads=())
        return told

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain values, with the digest of the plan in its place."""
        settings = {field.name: getattr(self, field.name) for field in fields(AdaptivePolicy)}
        return {**settings, "thresholds": None, "plan": None if self.plan is None else self.plan.digest}


class LiveReading(PlannedReading):
    """Reads what follows the prompt token by token, as heads are looked at between tokens."""

    def __init__(self, model: PrunedGPTNeoXForCausalLM, policy: AdaptivePolicy):
        super().__init__(model)
        self.policy = policy
        self.records: list[LiveRecord] = []
        """Of every text that was read."""

    def _make_cache(self, prompt: int, expected: int) -> PrunedCache:
        return self.model.make_cache(self.policy, expected=expected, prompt=prompt)

    def read(self, tokens: Int[Tensor, "batch token"], n_last: int = 1) -> Float[Tensor, "batch n_last vocabulary"]:
        """Read tokens through the cache, the prompt at once; the logits of the last `n_last` of them, 0: of all."""
        if not self.n_read:
            return super().read(tokens, n_last)
        logits = cat([super(LiveReading, self).read(token) for token in tokens.split(1, dim=1)], dim=1)
        return logits[:, -n_last:]

    def forget(self) -> None:
        """Drop the cache and its memory, and keep what has happened."""
        if self.cache is not None and self.n_read:
            self.records.append(self.cache.record())
        super().forget()


def live(source: PlainModel, policy: AdaptivePolicy, name: str, head_map: HeadMap | None = None) -> System:
    """The original, its heads treated live; with a head map some of them may be called dead.

    Raises:
        ModelError: Not a GPT-NeoX.
        RecordError: The map is of another model.
        HeadspecError: A plan that removes heads, without a map.
    """
    keep_all = plan_heads(source, {})
    system = planned(source, keep_all, name, f"live treatment of {source.name}", Standing.HYPOTHETICAL)
    if isinstance(policy, ToldPolicy) and policy.plan is not None and policy.plan.heads(Remove) and head_map is None:
        raise HeadspecError("the plan removes heads, which live treatment does with a head map only: give one.")
    if head_map is not None:
        head_map.about.check_model(source.name, keep_all.about.n_layers, keep_all.about.n_heads)

    def open_live() -> LiveReading:
        return LiveReading(pruned_model(source.huggingface, keep_all, {"model": source.name}, head_map), policy)

    return System(system.name, system.label, system.standing, open_live, keep_all)
