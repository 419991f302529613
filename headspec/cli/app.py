"""What all commands share: the application, where words go, how errors become exit codes.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 an unexpected failure, 2 bad
input (the message says what to do), 130 interrupted.
"""

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console

from headspec.errors import HeadspecError

app = typer.Typer(
    name="headspec", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Find out what every attention head of a model does, and what treating it costs.",
)  # fmt: skip
output, progress = Console(), Console(stderr=True)


def option(text: str) -> Any:
    """An option with its help text."""
    return typer.Option(help=text)


Debug = Annotated[bool, option("Show tracebacks.")]  # read by `main`, which is where errors are caught
ModelArgument = Annotated[
    str, typer.Argument(help="demo, pythia-70m, NAME@step1000, a hub id, a directory, random:NAME.")
]


def quieten_libraries() -> None:
    """No chatter and no bars from transformers; warnings as one yellow line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.disable_progress_bar()
    quieten_warnings()


def quieten_warnings() -> None:
    """Warnings as one yellow line."""
    warnings.showwarning = lambda message, *_, **__: progress.print(f"warning: {message}", style="yellow", markup=False)


def say(message: str) -> None:
    """A line about what is being done."""
    progress.print(message, style="dim", highlight=False, markup=False)


def say_files(folder: Any, names: Any) -> None:
    """Where the results are."""
    output.print(f"Files: {folder}/", highlight=False, markup=False, soft_wrap=True)
    for name in names:
        output.print(f"  {name}", highlight=False, markup=False)


def main() -> None:
    """Run the command line; turn errors into one line and an exit code."""
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
        if code:  # typer turns an interrupt into 130
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        fail("interrupted; finished files and rows are whole: the same command goes on (analyze: with --resume).", 130)
    except HeadspecError as error:
        if debug:
            raise
        fail(str(error), 2)
    except Exception as error:
        code = getattr(error, "exit_code", None)  # typer's own: a usage error, or --help
        if isinstance(code, int):
            getattr(error, "show", lambda: None)()
            sys.exit(code)
        if debug:
            raise
        fail(f"{type(error).__name__}: {error} (--debug shows where)", 1)


def fail(message: str, code: int) -> None:
    """End with a message and an exit code."""
    progress.print(f"error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code)
