"""Whether Python in the documentation could be right, found out without running it.

It compiles, what it imports exists, names of `hs.…` exist, and calls of them use arguments that they have.
"""

import ast
import importlib
import inspect
from types import ModuleType
from typing import Any

from docs_pages import WrongPageError

ROOTS = {"hs": "headspec", "headspec": "headspec"}
"""The names under which pages use the package; each page imports it in its first block."""


def check_python(source: str) -> None:
    """Compile it, and look up what can be looked up."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise WrongPageError(f"line {error.lineno}: {error.msg}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _import(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = _import(node.module)
            for alias in node.names:
                _member(module, alias.name, node.module)
        elif isinstance(node, ast.Attribute):
            _resolve(node)
        elif isinstance(node, ast.Call):
            _check_call(node)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WrongPageError(f"import {name}: {error}") from None


def _member(owner: Any, name: str, words: str) -> Any:
    """An attribute of a module or class, or a module in a package."""
    if hasattr(owner, name):
        return getattr(owner, name)
    if isinstance(owner, ModuleType):
        try:
            return importlib.import_module(f"{owner.__name__}.{name}")
        except ImportError:
            pass
    raise WrongPageError(f"{words} has no {name!r}.")


def _resolve(node: ast.expr) -> Any:
    """What `hs.show.roles` is; None for anything that is only known when it runs."""
    if isinstance(node, ast.Name):
        return _import(ROOTS[node.id]) if node.id in ROOTS else None
    if not isinstance(node, ast.Attribute):
        return None
    owner = _resolve(node.value)
    return _member(owner, node.attr, ast.unparse(node.value)) if isinstance(owner, ModuleType | type) else None


def _check_call(node: ast.Call) -> None:
    """The arguments fit the signature, as far as they are written out."""
    function = _resolve(node.func)
    if not callable(function) or any(isinstance(argument, ast.Starred) for argument in node.args):
        return
    named = {keyword.arg: None for keyword in node.keywords if keyword.arg is not None}
    bind = inspect.signature(function).bind_partial
    try:
        bind(*[None] * len(node.args), **named)
    except TypeError as error:
        raise WrongPageError(f"{ast.unparse(node)}: {error}") from None
