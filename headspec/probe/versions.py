"""Which versions computed a record. Reads package metadata only; imports none of the packages."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("headspec", "torch", "transformers", "transformer-lens", "numpy")


def versions() -> tuple[tuple[str, str], ...]:
    """(name, version) of Python and of each package that shapes the numbers."""
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return tuple(found)
