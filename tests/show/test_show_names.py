"""The names of `headspec.show`: each is there, and no file of the room hides one."""

import pkgutil
import subprocess
import sys

import pytest

from headspec import show

WANTED = ("roles", "statistic", "offsets", "attention", "sweep", "pareto", "benchmark", "timeline")
"""What a notebook calls."""


def test_what_a_notebook_calls_is_there() -> None:
    assert set(WANTED) <= set(show.__all__)


def test_no_module_has_the_name_of_a_function() -> None:
    modules = {module.name for module in pkgutil.iter_modules(show.__path__)}
    assert not modules & set(show.__all__)


def test_every_name_is_callable_after_every_module_was_imported() -> None:
    code = """
import importlib, pkgutil, sys
from headspec import show
for module in pkgutil.walk_packages(show.__path__, "headspec.show."):
    importlib.import_module(module.name)
sys.exit(", ".join(name for name in show.__all__ if not callable(getattr(show, name))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_error_that_lists_the_others() -> None:
    with pytest.raises(AttributeError, match=r"headspec.show has no 'heads': there are .*roles"):
        _ = show.heads
