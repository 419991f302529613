"""The HeadPlan: one treatment a head, with everything needed to carry it out.

A record: `plan.json`, which can be read and edited by hand, and beside it `plan.safetensors` with the vectors that
stand in for removed heads. No torch.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headspec.errors import HeadspecError, RecordError
from headspec.files import write_whole
from headspec.heads import HeadId
from headspec.plan.about import PlanAbout
from headspec.plan.treatments import KEEP, Compress, Fill, Keep, Remove, Treatment, Window, parse_treatment

SCHEMA = "headspec.HeadPlan/1"
QUERIES = ".queries"
"""What the name of a head's query statistics ends with in the file of vectors."""


@dataclass(frozen=True, eq=False)
class HeadPlan:
    """A treatment per head: `plan["L3H7"]`. Heads that are not mentioned are kept.

    Plans combine: `first | second` takes the treatments of `second` where both have one; `only`, `without` and
    `difference` do what they say.
    """

    about: PlanAbout
    treatments: Mapping[HeadId, Treatment]
    """The treated heads, in order; none of them is `keep`."""
    fills: Mapping[HeadId, np.ndarray] = field(default_factory=dict)
    """`[d_head]` float32 of every removed head: what takes the place of its z."""
    certificate: Mapping[str, Any] | None = None
    """What the plan was measured to cost, as plain numbers; None until it has been judged."""
    queries: Mapping[HeadId, np.ndarray] = field(default_factory=dict)
    """`[1 + d_head, d_head]` float32 of every head under expected attention: mean, then covariance, of its queries
    before rotation, from a probe."""

    def __post_init__(self) -> None:
        treated = {head: what for head, what in sorted(self.treatments.items()) if not isinstance(what, Keep)}
        self.about.check_heads(self.treatments)
        removed = [head for head, what in treated.items() if isinstance(what, Remove)]
        missing = [str(head) for head in removed if head not in self.fills]
        if missing:
            raise HeadspecError(
                f"no fill vector for removed heads {', '.join(missing)}: make the plan with plan_heads."
            )
        fills = {head: np.array(self.fills[head], np.float32) for head in removed}  # copies: nobody else changes them
        for head, fill in fills.items():
            if fill.shape != (self.about.d_head,) or not np.isfinite(fill).all():
                raise HeadspecError(f"the fill vector of {head} must be {self.about.d_head} finite numbers.")
            if treated[head] == Remove(Fill.ZERO) and fill.any():
                raise HeadspecError(f"{head} is to be replaced by zero, but its fill vector is not zero.")
        queries = self._checked_queries(treated)
        for head, what in treated.items():
            if isinstance(what, Window) and max(what.window, what.sinks) > self.about.context:
                raise HeadspecError(f"{head}: {what} is beyond the model's context of {self.about.context} keys.")
        object.__setattr__(self, "treatments", MappingProxyType(treated))
        object.__setattr__(self, "fills", MappingProxyType(fills))
        object.__setattr__(self, "queries", MappingProxyType(queries))

    def _checked_queries(self, treated: Mapping[HeadId, Treatment]) -> dict[HeadId, np.ndarray]:
        """The query statistics of the heads that need them, copied."""
        heads = [head for head, what in treated.items() if isinstance(what, Compress) and what.needs_queries]
        missing = [str(head) for head in heads if head not in self.queries]
        if missing:
            raise HeadspecError(
                f"no query statistics for {', '.join(missing)} under expected attention: make the plan with plan_heads."
            )
        queries = {head: np.array(self.queries[head], np.float32) for head in heads}
        for head, facts in queries.items():
            if facts.shape != (1 + self.about.d_head, self.about.d_head) or not np.isfinite(facts).all():
                raise HeadspecError(f"the query statistics of {head} must be {1 + self.about.d_head} rows of finite "
                                    f"numbers, {self.about.d_head} each.")  # fmt: skip
        return queries

    def __getitem__(self, head: HeadId | str) -> Treatment:
        head = HeadId.parse(head)
        self.about.check_heads([head])
        return self.treatments.get(head, KEEP)

    def __len__(self) -> int:
        """How many heads are treated."""
        return len(self.treatments)

    def __eq__(self, other: object) -> bool:
        """Same model, same treatments, same fill vectors; certificates do not count."""
        if not isinstance(other, HeadPlan):
            return NotImplemented
        same = self.about.same_model(other.about) and dict(self.treatments) == dict(other.treatments)
        return same and all(
            np.array_equal(vector, theirs[head])
            for mine, theirs in ((self.fills, other.fills), (self.queries, other.queries))
            for head, vector in mine.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Plans can be copied and sent to other processes."""
        return type(self), (
            self.about, dict(self.treatments), dict(self.fills), self.certificate, dict(self.queries),
        )  # fmt: skip

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts().items()))
        judged = "certified" if self.certificate else "no certificate"
        return f"HeadPlan({self.about.model}: {counts}; {judged})"

    def _repr_html_(self) -> str:
        from headspec.plan.plan_html import plan_html

        return plan_html(self)

    def __or__(self, other: "HeadPlan") -> "HeadPlan":
        """Both plans together; where both treat a head, the right one counts."""
        self._check_same_model(other)
        fills, queries = {**self.fills, **other.fills}, {**self.queries, **other.queries}
        return HeadPlan(self.about, {**self.treatments, **other.treatments}, fills, queries=queries)

    def only(self, heads: Iterable[HeadId | str]) -> "HeadPlan":
        """The plan for these heads; all others are kept."""
        wanted = {HeadId.parse(head) for head in heads}
        self.about.check_heads(wanted)
        kept = {head: what for head, what in self.treatments.items() if head in wanted}
        return HeadPlan(self.about, kept, self.fills, queries=self.queries)

    def without(self, heads: Iterable[HeadId | str]) -> "HeadPlan":
        """The plan with these heads kept."""
        spared = {HeadId.parse(head) for head in heads}
        self.about.check_heads(spared)
        return self.only(set(self.treatments) - spared)

    def difference(self, other: "HeadPlan") -> dict[HeadId, tuple[Treatment, Treatment]]:
        """The heads that are treated differently: `{head: (here, there)}`."""
        self._check_same_model(other)
        heads = sorted(set(self.treatments) | set(other.treatments))
        return {head: (self[head], other[head]) for head in heads if self[head] != other[head]}

    def heads(self, kind: type) -> list[HeadId]:
        """The heads under one kind of treatment: `plan.heads(Remove)`."""
        return [head for head in self.about.heads if isinstance(self[head], kind)]

    def fills_in(self, layer: int) -> dict[int, np.ndarray]:
        """Fill vectors of the heads removed from one layer, by number of the head."""
        return {head.head: fill for head, fill in self.fills.items() if head.layer == layer}

    def windows_in(self, layer: int) -> dict[int, Window]:
        """Windows of the heads of one layer, by number of the head."""
        return {
            head.head: what for head, what in self.treatments.items()
            if head.layer == layer and isinstance(what, Window)
        }  # fmt: skip

    def counts(self) -> Counter[str]:
        """How many heads get each treatment, by its short text."""
        return Counter(str(self[head]) for head in self.about.heads)

    def renamed(self, model: str) -> "HeadPlan":
        """The same plan for the same weights under another name."""
        return replace(self, about=replace(self.about, model=model))

    def certified(self, certificate: Mapping[str, Any]) -> "HeadPlan":
        """The same plan with what it was measured to cost."""
        return replace(self, certificate=dict(certificate))

    @property
    def digest(self) -> str:
        """SHA-256 of the treatments, fill vectors and query statistics: two plans with one digest do the same."""
        treated = [f"{head}={what}".encode() for head, what in self.treatments.items()]
        vectors = [vector.tobytes() for vector in (*self.fills.values(), *self.queries.values())]
        return hashlib.sha256(b" ".join([*treated, *vectors])).hexdigest()

    def save(self, path: Path | str) -> Path:
        """Write `path` (`….json`) and, beside it, fill vectors and query statistics as `….safetensors`."""
        path = _json_path(path)
        vectors = save({str(head): fill for head, fill in self.fills.items()} | {
            f"{head}{QUERIES}": facts for head, facts in self.queries.items()})  # fmt: skip
        values = {
            "schema": SCHEMA, "about": self.about.to_dict(),
            "treatments": {str(head): str(what) for head, what in self.treatments.items()},
            "fills": hashlib.sha256(vectors).hexdigest(),
            "certificate": None if self.certificate is None else dict(self.certificate), "certified": self.digest,
        }  # fmt: skip
        try:
            text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise HeadspecError(f"the certificate must be plain, finite values for JSON: {error}.") from error
        write_whole(path.with_suffix(".safetensors"), lambda temporary: temporary.write_bytes(vectors))
        return write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path | str) -> "HeadPlan":
        """Read a saved plan; a damaged or foreign file is a RecordError.

        One whose treatments were edited by hand has lost its certificate: nobody has judged it.
        """
        path = _json_path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
            if values.get("schema") != SCHEMA:
                raise RecordError(f"not a {SCHEMA} but {values.get('schema', 'something else')}.")
            pairs = [(HeadId.parse(head), parse_treatment(what)) for head, what in values["treatments"].items()]
            treatments = dict(_no_duplicates(pairs))
            vectors = path.with_suffix(".safetensors").read_bytes()
            if hashlib.sha256(vectors).hexdigest() != values["fills"]:
                raise RecordError(f"{path.with_suffix('.safetensors').name} beside it belongs to another plan.")
            found = load(vectors)
            fills = {HeadId.parse(name): vector for name, vector in found.items() if not name.endswith(QUERIES)}
            queries = {HeadId.parse(name.removesuffix(QUERIES)): facts for name, facts in found.items()
                       if name.endswith(QUERIES)}  # fmt: skip
            plan = cls(PlanAbout(**values["about"]), treatments, fills, values["certificate"], queries)
            edited = values.get("certified", plan.digest) != plan.digest
            return replace(plan, certificate=None) if edited else plan
        except FileNotFoundError as error:
            raise RecordError(f"no plan at {error.filename}: `headspec search MODEL` writes one.") from error
        except HeadspecError as error:
            raise RecordError(f"{path}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}). Make the plan again.") from error

    def _check_same_model(self, other: "HeadPlan") -> None:
        if not self.about.same_model(other.about):
            raise RecordError(f"one plan is for {self.about.model}, the other for {other.about.model}.")


def _json_path(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise HeadspecError(f"{path}: a plan is saved as NAME.json (its vectors go into NAME.safetensors beside it).")
    return path


def _no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    twice = sorted(str(name) for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    if twice:
        raise RecordError(f"{', '.join(twice)} stands there twice.")
    return dict(pairs)
