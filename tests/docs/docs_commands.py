"""Whether a command in the documentation could be run, found out without running it.

`headspec …` is parsed by the real command line; of scripts the file and the options must exist, of `pip install` the
extras; anything else must be a program that is known here.
"""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from docs_pages import ROOT, WrongPageError
from docs_python import check_python

import headspec.cli

FREE = {"cd", "echo", "export", "source", "mkdir", "cat", "ls", "cp", "zcat", "ray", "scp"}
"""Programs whose arguments are not checked."""
COMMAND_LINE = typer.main.get_command(headspec.cli.app)


def commands(block: str) -> Iterator[list[str]]:
    """The words of each simple command: lines are joined where they go on, and cut at `&&`, `;` and `|`."""
    for line in _whole_lines(block):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words: list[str] = []
        tokens = iter(lexer)
        for token in tokens:
            if set(token) <= set("<>"):
                next(tokens, None)  # where words are redirected to
            elif set(token) <= set(";&|"):
                yield words
                words = []
            else:
                words.append(token)
        yield words


def _whole_lines(block: str) -> Iterator[str]:
    """Lines with what they go on with: after a backslash, and inside quotes."""
    held = ""
    for line in block.splitlines():
        held += line
        if held.endswith("\\"):
            held = held[:-1]
            continue
        try:
            if shlex.split(held, comments=True):
                yield held
        except ValueError:  # a quote is open
            held += "\n"
            continue
        held = ""
    if held.strip():
        raise WrongPageError(f"a quote or a line is not finished: {held!r}")


def typed(console: str) -> str:
    """What is typed in a `console` block: the lines after `$ `."""
    return "\n".join(line[2:] for line in console.splitlines() if line.startswith("$ "))


def installs(block: str) -> bool:
    """Whether a block makes environments or installs packages, which no test does."""
    return any(Path(words[0]).name == "pip" or "venv" in words for words in commands(block) if words)


def check_shell(block: str, folder: Path = ROOT) -> None:
    """Every command of a block; scripts are looked for in the repository and in the page's folder."""
    for words in commands(block):
        check_command(words, folder)


def check_command(words: list[str], folder: Path = ROOT) -> None:
    """One command, given as words."""
    while words and re.fullmatch(r"\w+=.*", words[0]):  # VARIABLE=value before a command
        words = words[1:]
    if not words:
        return
    program, arguments = Path(words[0]).name, words[1:]
    if program in FREE:
        return
    if program not in (*CHECKS, "python", "python3"):
        raise WrongPageError(f"{program!r} is not a program that tests/docs/docs_commands.py knows: {words}")
    if program in ("python", "python3"):
        check_python_program(arguments, folder)
    else:
        CHECKS[program](arguments)


def check_headspec(arguments: list[str]) -> None:
    """The command and its options exist, nothing is missing, and the values are of the right kind."""
    if arguments[-1:] == ["--help"] and arguments[0] in ("--help", *COMMAND_LINE.commands):  # type: ignore[attr-defined]
        return
    try:
        context = COMMAND_LINE.make_context("headspec", list(arguments))
        name, found, rest = COMMAND_LINE.resolve_command(context, list(arguments))  # type: ignore[attr-defined]
        found.make_context(name, rest, parent=context)
    except Exception as error:
        said = error.format_message() if hasattr(error, "format_message") else error
        raise WrongPageError(f"headspec {shlex.join(arguments)}: {said}") from None


def check_python_program(arguments: list[str], folder: Path) -> None:
    """`python -c CODE`, `python -m MODULE` or `python FILE OPTIONS`."""
    match arguments:
        case ["-c", code, *_]:
            check_python(code)
        case ["-m", module, *_]:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                raise WrongPageError(f"python -m {module}: there is no such module.")
        case [script, *options]:
            check_script(script, options, folder)
        case []:
            raise WrongPageError("python without a script.")


def check_script(script: str, options: list[str], folder: Path) -> None:
    """The script is there, and knows these options."""
    path = folder / script if (folder / script).is_file() else ROOT / script
    if not path.is_file():
        raise WrongPageError(f"python {script}: there is no such file in the repository.")
    text = path.read_text(encoding="utf-8")
    for option in options:
        name = option.partition("=")[0]
        if name.startswith("--") and f'"{name}"' not in text and name[2:].replace("-", "_") not in text:
            raise WrongPageError(f"python {script}: the script has no option {name}.")


def check_bash(arguments: list[str]) -> None:
    """`bash FILE`."""
    if not arguments or not (ROOT / arguments[0]).is_file():
        raise WrongPageError(f"bash {shlex.join(arguments)}: there is no such file in the repository.")


def check_pip(arguments: list[str]) -> None:
    """`pip install`: what is installed from here has the extras that are named, and constraints exist."""
    if arguments[:1] != ["install"]:
        raise WrongPageError(f"pip {shlex.join(arguments)}: only `pip install` is known.")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for argument in arguments[1:]:
        for extra in re.findall(r"^(?:\.|headspec)\[([\w,]+)\]", argument):
            if unknown := set(extra.split(",")) - set(extras):
                raise WrongPageError(f"pip install {argument}: pyproject.toml has no extra {', '.join(unknown)}.")
    if "-c" in arguments and not (ROOT / arguments[arguments.index("-c") + 1]).is_file():
        raise WrongPageError(f"pip {shlex.join(arguments)}: there is no such constraints file.")


def check_mkdocs(arguments: list[str]) -> None:
    """`mkdocs build --strict` or `mkdocs serve`."""
    if arguments[:1] not in (["build"], ["serve"]) or not set(arguments[1:]) <= {"--strict"}:
        raise WrongPageError(f"mkdocs {shlex.join(arguments)}: only `build --strict` and `serve` are known.")


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "headspec": check_headspec,
    "pip": check_pip,
    "bash": check_bash,
    "mkdocs": check_mkdocs,
}
