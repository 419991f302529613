"""What the name of a model means: an alias, a hub id, a directory, the packaged model or random weights.

Resolves and checks names; loads nothing and imports no torch.
"""

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from headspec.errors import ModelError
from headspec.load.pythia import ALIASES, SHAPES, STEPS

DEMO_FOLDER = Path(__file__).parent / "demo"


class Origin(StrEnum):
    """Where weights come from."""

    DIRECTORY = "directory"
    HUB = "hub"
    RANDOM = "random"


@dataclass(frozen=True)
class ModelName:
    """A resolved name."""

    name: str
    """As records and folders call it."""
    origin: Origin
    location: str
    """A directory, a hub id, or for random weights the name of a Pythia shape."""
    revision: str | None = None

    @property
    def folder(self) -> str:
        """A short name for results folders: `70m`, `2.8b`, `70m-step1000`, `random-160m`, `demo`.

        >>> resolve("pythia-70m@step1000").folder
        '70m-step1000'
        """
        return folder_name(self.name)


def folder_name(model: str) -> str:
    """The part of a results folder's name that says which model it is about.

    >>> folder_name("random:pythia-160m")
    'random-160m'
    """
    name = model.removeprefix("random:")
    if name and Path(name).expanduser().is_dir():
        short = Path(name).expanduser().resolve().name
    else:
        base, _, revision = name.partition("@")
        short = "-".join(part for part in (base.rsplit("/", 1)[-1], revision) if part)
    short = re.sub(r"[^\w.]+", "-", short.replace("pythia-", "")).strip("-")
    return f"random-{short}" if model.startswith("random:") else short


def resolve(name: str, revision: str | None = None) -> ModelName:
    """Say where the weights of `name` are.

    `demo`; `pythia-70m`, `pythia-70m-deduped`; a training step `pythia-70m@step1000`; `random:pythia-2.8b`; any local
    directory; any hub id, with `@revision`.
    """
    text = str(name)
    local = _local(text)
    if local is not None:
        if revision:
            raise ModelError(f"{text} is not on the hub, so it has no revision {revision!r}: leave it out.")
        return local
    base, _, at = text.partition("@")
    if at and revision and at != revision:
        raise ModelError(f"{text} names revision {at}, and revision={revision!r} another: give one.")
    return _remote(text, base, at or revision)


def _local(text: str) -> ModelName | None:
    """What needs no hub: the packaged model, random weights, a directory."""
    if text == "demo":
        return ModelName("demo", Origin.DIRECTORY, str(DEMO_FOLDER))
    if text.startswith("random:"):
        return _random(text)
    if text and Path(text).expanduser().is_dir():
        return ModelName(text, Origin.DIRECTORY, str(Path(text).expanduser()))
    if text.startswith((".", "/", "~")):
        raise ModelError(f"{text}: no such directory. A model directory holds config.json and the weights.")
    return None


def _random(text: str) -> ModelName:
    shape = text.removeprefix("random:").removesuffix("-deduped")
    if shape not in SHAPES:
        hint = _did_you_mean(shape, list(SHAPES))
        raise ModelError(f"{text}: random weights come in the shapes {', '.join(SHAPES)}.{hint}")
    return ModelName(f"random:{shape}", Origin.RANDOM, shape)


def _remote(text: str, base: str, revision: str | None) -> ModelName:
    short = base.removeprefix("EleutherAI/")
    if short in ALIASES:
        _check_step(short, revision)
        return ModelName(f"{short}@{revision}" if revision else short, Origin.HUB, f"EleutherAI/{short}", revision)
    looks_like_alias = "/" not in base and (short.startswith("pythia") or difflib.get_close_matches(base, ["demo"]))
    if looks_like_alias or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        hint = _did_you_mean(short, [*ALIASES, "demo"])
        raise ModelError(f"unknown model {text!r}.{hint} `headspec models` lists the names.")
    return ModelName(f"{base}@{revision}" if revision else base, Origin.HUB, base, revision)


def _check_step(alias: str, revision: str | None) -> None:
    step = re.fullmatch(r"step(\d+)", revision or "")
    if step and int(step[1]) not in STEPS:
        nearest = min(STEPS, key=lambda known: abs(known - int(step[1])))
        raise ModelError(f"{alias} has no checkpoint {revision}: nearest is {alias}@step{nearest}.")


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""
