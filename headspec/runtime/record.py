"""What happened to the heads while a text was generated: a record. Plain values, no torch.

`cache.record()` gives it during or after the generation.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_origin

SCHEMA = "headspec.LiveRecord/1"
DEAD = "mean"
"""The treatment of a head that is not computed any more: its mean stands in for it."""


class Change(NamedTuple):
    """A head's role or treatment from some token on."""

    at: int
    """Columns read when it was decided."""
    layer: int
    head: int
    """Its number in the original layer."""
    role: str
    """What the head is taken for: `gathering`, `positional` or `dead`."""
    window: int
    """Keys that a positional head needs; 0 otherwise."""
    treatment: str
    """What is done with it, in the words of plans: `keep`, `mean` (dead), `window:8`, `compress:snapkv:0.5`. May lag
    behind the role where keys are gone, and always does with `watch_only`."""


class Held(NamedTuple):
    """Bytes of the KV cache at some moment."""

    at: int
    """Columns read."""
    kv_bytes: int
    """What all buffers hold, full or not."""
    full_bytes: int
    """What they would hold if every head of the checkpoint kept every key, with the same room for what is still to come
    (on hooks neither has any)."""


@dataclass(frozen=True)
class LiveRecord:
    """One generation: roles and treatments of every watched head over time, bytes over time."""

    model: str
    n_layers: int
    n_heads: int
    """Of a layer of the original model."""
    n_rows: int
    n_prompt: int
    """Columns of the prompt, padding included."""
    n_read: int
    """Columns read in the end; the last generated token is not read."""
    policy: dict[str, Any]
    """Settings of the AdaptivePolicy."""
    n_classifications: int
    """How often heads were classified."""
    changes: tuple[Change, ...]
    """In order; the first one of every watched head is at the end of the prompt, or a little later if that is short."""
    held: tuple[Held, ...]
    """At the end of the prompt, at every look, and now."""

    def __repr__(self) -> str:
        return (
            f"LiveRecord({self.model}: {self.n_read} tokens read, {self.n_prompt} of them the prompt; "
            f"{len(self.heads())} heads watched, {len(self.changes)} changes)"
        )

    def heads(self) -> list[tuple[int, int]]:
        """(layer, head) of every head that was watched; the others are treated by the checkpoint itself."""
        return sorted({(change.layer, change.head) for change in self.changes})

    def at(self, column: int) -> dict[tuple[int, int], Change]:
        """The latest change of every head by the time so many columns were read."""
        return {(change.layer, change.head): change for change in self.changes if change.at <= column}

    def flips(self) -> list[Change]:
        """Changes of role after the first classification."""
        roles: dict[tuple[int, int], str] = {}
        found = []
        for change in self.changes:
            if roles.setdefault((change.layer, change.head), change.role) != change.role:
                found.append(change)
            roles[change.layer, change.head] = change.role
        return found

    def counts(self) -> Counter[str]:
        """How many heads have each role in the end."""
        return Counter(change.role for change in self.at(self.n_read).values())

    @property
    def skipped(self) -> int:
        """How often a head was not computed for a token: summed over dead heads and tokens, for each row."""
        since: dict[tuple[int, int], int] = {}
        for change in self.changes:
            if change.treatment == DEAD and change.at <= self.n_read:
                since.setdefault((change.layer, change.head), change.at)
        return sum(self.n_read - at for at in since.values())

    @property
    def kv_share(self) -> float:
        """Bytes held in the end, as a share of those of every head keeping all keys."""
        last = self.held[-1]
        return last.kv_bytes / last.full_bytes if last.full_bytes else 0.0

    def save(self, path: Path | str) -> Path:
        """Write it as JSON, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.unfinished")
        temporary.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        return temporary.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> "LiveRecord":
        """Read a saved record; a ValueError if the file is not one."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("schema") != SCHEMA:
                raise ValueError("it has another schema")
            changes = tuple(Change(*_typed(Change, change)) for change in values.pop("changes"))
            held = tuple(Held(*_typed(Held, moment)) for moment in values.pop("held"))
            return _checked(cls(changes=changes, held=held, **values))
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a {SCHEMA} or is damaged ({error}).") from error


class LiveLog:
    """Collects what becomes a LiveRecord."""

    def __init__(self, model: str, n_layers: int, n_heads: int, policy: dict[str, Any]):
        self.about: dict[str, Any] = {"model": model, "n_layers": n_layers, "n_heads": n_heads, "policy": policy}
        self.forget()

    def forget(self) -> None:
        """A new text begins."""
        self.n_rows = self.n_prompt = self.n_classifications = 0
        self.changes: list[Change] = []
        self.held: list[Held] = []
        self._last: dict[tuple[int, int], Change] = {}

    def take_back(self, n_read: int) -> None:
        """Columns after so many are taken back."""
        self.held = [moment for moment in self.held if moment.at <= n_read]

    def note(self, change: Change) -> None:
        """A head's role and treatment as they are now; kept if they have changed."""
        place = (change.layer, change.head)
        before = self._last.get(place)
        if before is None or before[3:] != change[3:]:
            self.changes.append(change)
            self._last[place] = change

    def record(self, now: Held) -> LiveRecord:
        """What was collected up to now."""
        held = self.held if self.held and self.held[-1].at == now.at else [*self.held, now]
        return LiveRecord(
            **self.about, n_rows=self.n_rows, n_prompt=self.n_prompt, n_read=now.at, changes=tuple(self.changes),
            n_classifications=self.n_classifications, held=tuple(held),
        )  # fmt: skip


def _checked(record: LiveRecord) -> LiveRecord:
    """The record, if its fields are of the right types."""
    for name, want in LiveRecord.__annotations__.items():
        kind: Any = get_origin(want) or want
        if not isinstance(value := getattr(record, name), kind):
            raise TypeError(f"{name}={value!r}")
    if not record.held:
        raise ValueError("it says nothing of bytes held")
    return record


def _typed(kind: type, values: Sequence[Any]) -> Sequence[Any]:
    """A row as it was saved, if its values are of the right types."""
    wanted = list(kind.__annotations__.values())
    if len(values) != len(wanted) or not all(
        isinstance(value, want) for value, want in zip(values, wanted, strict=True)
    ):
        raise TypeError(f"{list(values)} is no {kind.__name__}")
    return values
