"""What several tests of the runtime need to be set up."""

import sys
from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """Without runtime type checks, which torch.compile cannot trace, and which know nothing of a graph's stand-ins."""
    kinds = {
        kind
        for name, module in list(sys.modules.items())
        if name.startswith("headspec.runtime.")
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__.startswith("headspec.runtime.")
    }
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:
            for name, method in list(vars(kind).items()):
                if "jaxtyping" in getattr(getattr(method, "__code__", None), "co_filename", ""):
                    patch.setattr(kind, name, method.__wrapped__)
        yield
    jaxtyping.config.update("jaxtyping_disable", False)
