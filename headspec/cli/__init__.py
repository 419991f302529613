"""The command line: parse, call, save, print. No maths."""

from headspec.cli import ablate, analyze, bench, export, generate, report, run, search, sweep
from headspec.cli.app import app, main

__all__ = ["ablate", "analyze", "app", "bench", "export", "generate", "main", "report", "run", "search", "sweep"]
