"""Whether Python in the documentation could be right, found out without running it.

It compiles, what it imports exists, names of `hs.…` exist, and calls of them use arguments that they have.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from docs_pages import WrongPageError

ROOTS = {"hs": "headspec", "headspec": "headspec"}
"""The names under which pages use the package; each page imports it in its first block."""
FORWARDS = {
    "headspec.search.sweep.sweep": "headspec.search.distributed.measure_on_ray",
    "headspec.pipeline.analyze": "headspec.probe.collect.probe_heads",
}
"""Where functions with `**options` pass them on: what they take is what that function has after its `*`."""


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
    if unknown := _unknown(function, named):
        raise WrongPageError(f"{ast.unparse(node)}: no argument {', '.join(unknown)} here, nor where it is passed on.")


def _unknown(function: Callable[..., Any], named: Iterable[str]) -> list[str]:
    """Names that only `**options` would take, and that no function behind it has."""
    if not takes_any_name(function):
        return []
    known = set(inspect.signature(function).parameters)
    target = FORWARDS.get(f"{function.__module__}.{function.__qualname__}")
    if target is not None:
        module, _, name = target.rpartition(".")
        known |= keyword_only(_member(_import(module), name, module))
    return [name for name in named if name not in known]


def takes_any_name(function: Callable[..., Any]) -> bool:
    """Whether it has `**options`, so that its own signature refuses no name."""
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())


def keyword_only(function: Callable[..., Any]) -> set[str]:
    """The arguments after its `*`."""
    return {name for name, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY}
