"""Write `docs/reference/cli.md` from the command line itself, so that the page cannot drift from the code.

python tools/write_cli_page.py
"""

import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

from headspec.cli import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"
HEADER = """# The command line

*Written by `python tools/write_cli_page.py` from `headspec/cli/`. `headspec COMMAND --help` says the same.*

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 an unexpected failure, 2 bad input (the
message says what to do), 130 interrupted.
"""


def page() -> str:
    """The whole page as Markdown."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return HEADER + "".join(section(name, command) for name, command in commands.items())


def section(name: str, command: Any) -> str:
    """One command: what it does, how it is written, its arguments and options."""
    hints = get_type_hints(command.callback)
    shown = [each for each in command.params if not each.hidden]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    words = [f"headspec {name}", *(_placeholder(each) for each in arguments)]
    words += [f"{each.opts[0]} {each.name.upper()}" for each in options if each.required]
    lines = ["", f"## headspec {name}", "", " ".join(command.help.split()), "", "```text"]
    lines += [" ".join([*words, "[OPTIONS]"]), "```", "", "| | kind | default | meaning |", "|---|---|---|---|"]
    for each in [*arguments, *options]:
        spelled = _placeholder(each) if each in arguments else " ".join((*each.opts, *each.secondary_opts))
        lines.append(f"| `{spelled}` | {kind(hints[each.name])} | {_default(each)} | {_cell(each.help)} |")
    return "\n".join(lines) + "\n"


def _placeholder(argument: Any) -> str:
    """MODEL, or [HEADS]... where any number will do."""
    word = argument.name.upper()
    return word if argument.required else f"[{word}]{'...' if argument.nargs == -1 else ''}"


def _default(parameter: Any) -> str:
    """The default as it would be typed; nothing where there is none."""
    value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    if parameter.required:
        return "required"
    if value is None or callable(value) or value == []:
        return ""
    if isinstance(value, bool):
        return ("yes" if value else "no") if parameter.secondary_opts else ""
    return f"`{value}`"


def _cell(text: str | None) -> str:
    words = " ".join((text or "").split())
    return words.replace("|", "\\|").replace("<", "&lt;")


def kind(hint: Any) -> str:
    """What kind of value an option takes, in a word."""
    return ", ".join(dict.fromkeys(_kinds(hint)))


def _kinds(hint: Any) -> Iterator[str]:
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            if part is not type(None):
                yield from _kinds(part)
    elif get_origin(hint) is list:
        yield f"{kind(get_args(hint)[0])}, repeatable"
    elif isinstance(hint, type) and issubclass(hint, Enum):
        yield " or ".join(f"`{each.value}`" for each in hint)
    else:
        yield {int: "number", float: "number", str: "text", bool: "switch", Path: "path"}[hint]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
