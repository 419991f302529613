"""How much damage or size a plan may have. Compares numbers; measures nothing."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from headspec.errors import HeadspecError
from headspec.search.point import Point


@dataclass(frozen=True)
class Budget:
    """Limits for a plan; those of damage must hold at the bad end of the 95 % interval.

    With limits of damage only, the search saves as much as they allow; with `max_kv_share`, it does as little damage
    as that size allows.
    """

    max_kl: float | None = None
    """KL(original ‖ treated) on text, nats a token."""
    max_ppl_increase: float | None = None
    """Relative increase of the perplexity: 0.02 is 2 %."""
    max_kv_share: float | None = None
    """KV bytes left at the model's context, as a share of the original's, in (0, 1]."""
    min_induction_kept: float = 0.9
    """Induction accuracy on repeated random tokens, as a share of the original's, in [0, 1]. Judged wherever damage
    is limited and the original can do it. Text alone does not show when induction is lost."""

    def __post_init__(self) -> None:
        limits = {field.name: getattr(self, field.name) for field in fields(self)}
        if all(limits[name] is None for name in ("max_kl", "max_ppl_increase", "max_kv_share")):
            raise HeadspecError("a budget needs a limit: max_kl, max_ppl_increase or max_kv_share.")
        for name, limit in limits.items():
            if limit is not None and name in ("max_kv_share", "min_induction_kept") and limit > 1:
                raise HeadspecError(f"{name} is a share in [0, 1], got {limit}.")
            if limit is not None and not 0 <= limit < math.inf:
                raise HeadspecError(f"{name} is a limit of 0 or more, got {limit}.")

    @property
    def limits_damage(self) -> bool:
        """Whether any damage is limited."""
        return self.max_kl is not None or self.max_ppl_increase is not None

    def broken(self, point: Point) -> list[str]:
        """The limits that a measured plan breaks, in words; none if it is within the budget."""
        words = [*self.damage_broken(point)]
        if self.max_kv_share is not None and point.kv_share > self.max_kv_share:
            words.append(f"KV share {point.kv_share:.3f} > {self.max_kv_share:g}")
        return words

    def damage_broken(self, point: Point) -> list[str]:
        """The limits of damage that a measured plan breaks."""
        if not self.limits_damage:
            return []
        words = []
        for name, limit, found in (
            ("KL", self.max_kl, point.kl.high),
            ("perplexity increase", self.max_ppl_increase, point.perplexity_increase.high),
        ):
            if limit is not None and not found <= limit:
                words.append(f"{name} up to {found:.4g} > {limit:g}")
        kept = point.induction_kept
        if kept is not None and not kept.low >= self.min_induction_kept:
            words.append(f"induction kept down to {kept.low:.3f} < {self.min_induction_kept:g}")
        return words

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
