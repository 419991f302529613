"""What a run's folder says about itself: what was asked for, of which weights and texts, and what is finished."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headspec.errors import HeadspecError, RecordError
from headspec.files import write_whole
from headspec.rowlog import LogKind, check_same, read_settings
from headspec.search.budget import Budget

RUN = LogKind("headspec.Run/1", "run.json", "run")


@dataclass(frozen=True)
class Settings:
    """What a run is asked for; a folder holds one."""

    model: str
    budget: Budget = field(default_factory=lambda: Budget(max_ppl_increase=0.02))
    text: str = "probe"
    select: str = "select"
    certify: str = "certify"
    n_tokens: int = 8192
    max_evaluations: int = 80
    n_controls: int = 20
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if "-" in (self.text, self.select, self.certify):
            raise HeadspecError("a run reads its texts more than once: save standard input to a file and name that.")


class ChainLog:
    """`run.json` of a folder. Every change is on the disk at once."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.path = settings, folder / RUN.settings
        self.finished: set[str] = set()
        self.source: dict[str, str] = {}
        if self.path.exists():
            self._read(folder)

    def check_source(self, source: Mapping[str, str]) -> None:
        """Refuse to mix what is finished with what other weights, texts or versions would give.

        Args:
            source: Digests of the weights and texts, and headspec's version, by name.

        Raises:
            RecordError: They are not those of the finished stages.
        """
        changed = [name for name in source if self.finished and source[name] != self.source.get(name)]
        if changed:
            raise RecordError(
                f"{self.path.parent} holds stages of a run whose {', '.join(changed)} were others than today's under "
                "the same name: choose another folder with --out, or delete that one."
            )
        self.source = dict(source)
        self._save()

    def finish(self, name: str) -> None:
        """A stage is done."""
        self.finished.add(name)
        self._save()

    def forget(self, names: Iterable[str]) -> None:
        """These are not done, or about to be done anew."""
        self.finished.difference_update(names)
        self._save()

    def _read(self, folder: Path) -> None:
        found = read_settings(folder, RUN)
        finished, source = found.pop("finished", None), found.pop("source", None)
        if not isinstance(finished, list) or not all(isinstance(name, str) for name in finished):
            raise RecordError(f"{self.path} is damaged: it does not say what is finished. Choose another folder.")
        if not isinstance(source, dict):
            raise RecordError(f"{self.path} is damaged: it does not say what it was made from. Choose another folder.")
        check_same(asdict(self.settings), found, folder, RUN)
        self.finished, self.source = set(finished), source

    def _save(self) -> None:
        values = {"schema": RUN.schema, **asdict(self.settings), "source": self.source}
        text = json.dumps({**values, "finished": sorted(self.finished)}, indent=1) + "\n"
        write_whole(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
