"""The examples in headspec's docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import headspec

MODULES = [
    module.name for module in pkgutil.walk_packages(headspec.__path__, "headspec.") if "__main__" not in module.name
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
