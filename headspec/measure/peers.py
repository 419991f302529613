"""Who takes part in a benchmark on other engines, or with other weights; and who cannot, and why."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headspec.errors import MissingPackageError
from headspec.load.plain import PlainModel
from headspec.measure.systems.compiled import compiled, compiled_static
from headspec.measure.systems.ctranslate2 import on_ctranslate2
from headspec.measure.systems.openvino import on_openvino
from headspec.measure.systems.reduced import with_weights
from headspec.measure.systems.system import System
from headspec.plan.treatments import Compress


@dataclass(frozen=True)
class Absent:
    """Somebody who cannot take part."""

    name: str
    why: str
    """In words, with what would help."""


def peers(source: PlainModel, own: Sequence[System]) -> Iterator[System | Absent]:
    """The original on other engines, and headspec's own models on those that can run them.

    Args:
        source: The original.
        own: Systems of headspec's runtime: P0 first, then exports and plans.
    """
    known = source.identity
    if known.device != "cpu" or known.dtype != "float32":
        yield Absent("peers", f"engines are compared in float32 on a CPU; this is {known.dtype} on {known.device}")
        return
    yield from _or_absent("S compiled", lambda: compiled_static(source))
    yield from _or_absent("CTranslate2", lambda: on_ctranslate2(source))
    if own:
        yield from _or_absent(f"{own[0].name} OpenVINO stateful", lambda: on_openvino(own[0], stateful=True))
    for system in own:
        for name, make in ((f"{system.name} compiled", compiled), (f"{system.name} OpenVINO", on_openvino)):
            if system.plan is not None and system.plan.heads(Compress):
                yield Absent(name, "compressed heads choose their keys, which no graph can do")
            else:
                yield from _or_absent(name, lambda make=make, system=system: make(system))  # type: ignore[misc]


def reduced(own: Sequence[System], kinds: Sequence[str], engines: bool) -> Iterator[System | Absent]:
    """headspec's own models with other weights; with `engines` integers on OpenVINO, too."""
    for system in own:
        for kind in kinds:
            yield with_weights(system, kind)
            if engines and kind == "int8" and not (system.plan is not None and system.plan.heads(Compress)):
                yield from _or_absent(f"{system.name} OpenVINO int8", lambda system=system: on_openvino(system, "int8"))  # type: ignore[misc]  # fmt: skip


def _or_absent(name: str, make: Callable[[], System]) -> Iterator[System | Absent]:
    try:
        yield make()
    except MissingPackageError as error:
        yield Absent(name, str(error))
