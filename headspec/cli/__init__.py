"""The command line: parse, call, save, print. No maths."""

from headspec.cli import ablate, analyze, export, search, sweep
from headspec.cli.app import app, main

__all__ = ["ablate", "analyze", "app", "export", "main", "search", "sweep"]
