"""Running the command line in the tests' own process."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]
"""Runs `headspec` with these arguments: (exit code, standard output, standard error)."""


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Makes the function that runs it."""
    from headspec.cli import main
    from headspec.cli.app import output, progress

    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for console in (output, progress):
        monkeypatch.setattr(console, "_width", 200)

    def command(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headspec", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as done:
            return int(done.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return command


def one_line(text: str) -> str:
    """The error, which is the only line of its kind and no traceback."""
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    return errors[0]
