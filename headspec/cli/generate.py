"""`headspec generate`: go on with a prompt, with heads as they are or watched and treated live."""

import json
import unicodedata
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from headspec.cli.app import Debug, ModelArgument, app, option, output, quieten_libraries, say, say_files
from headspec.cli.shared import Device, Dtype, warn_of_random_weights
from headspec.errors import HeadspecError
from headspec.files import writable_folder, write_whole
from headspec.heads import HeadRole

if TYPE_CHECKING:
    from headspec.generation.text import Generation
    from headspec.runtime.record import LiveRecord

LIVE_ONLY = ("head_map", "every", "reclassify", "policy", "budget", "latest", "no_dead", "watch_only", "settings")
"""Options that say something of live treatment only."""


class Compression(StrEnum):
    """How keys of gathering heads are compressed, as AdaptivePolicy has it; here without importing torch."""

    SNAPKV = "snapkv"
    STREAMING = "streaming"
    RANDOM = "random"


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[str, option("The text to go on with; - reads standard input.")],
    live: Annotated[
        bool, typer.Option("--live", help="Watch, classify and treat heads while text is written.")
    ] = False,
    max_new_tokens: Annotated[int, option("Most tokens to write.")] = 128,
    temperature: Annotated[float, option("0: always the likeliest token; more: draw.")] = 0.0,
    top_p: Annotated[float, option("Draw from the likeliest tokens that have this probability together.")] = 1.0,
    head_map: Annotated[
        Path | None, option("Results of `headspec analyze` (or a head map): without it no head is called dead.")
    ] = None,
    every: Annotated[int | None, option("Tokens between two looks at a head; 16 by default.")] = None,
    reclassify: Annotated[
        int | None, option("Tokens between two classifications, a multiple of --every; 64; 0: at the prompt only.")
    ] = None,
    policy: Annotated[Compression | None, option("Compress the KV cache of gathering heads.")] = None,
    budget: Annotated[str | None, option("Keys they keep: a share like 50% (the default) or a number.")] = None,
    latest: Annotated[int | None, option("Of a number of keys, those that are always the latest.")] = None,
    no_dead: Annotated[bool, typer.Option("--no-dead", help="Call no head dead.")] = False,
    watch_only: Annotated[bool, typer.Option("--watch-only", help="Classify heads, and treat none.")] = False,
    settings: Annotated[Path | None, option("JSON file with any fields of AdaptivePolicy; options go first.")] = None,
    out: Annotated[Path | None, option("Folder for the text, and with --live the record and its timeline.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Annotated[int, option("Of drawing tokens, and of random weights.")] = 0,
    debug: Debug = False,
) -> None:
    """Let MODEL (a GPT-NeoX or an exported folder) go on with a prompt; with --live, treat heads while it does."""
    from headspec.load.names import resolve

    options = {name: value for name, value in locals().items() if name in LIVE_ONLY}
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    _check_live(given, live)
    wanted = _settings(given) if live else None
    resolve(model)
    text = _prompt(prompt)
    folder = None if out is None else writable_folder(out)
    quieten_libraries()
    from headspec.generation.model import origin_of, runtime_model
    from headspec.generation.text import generate_text, policy_of, sampling

    sampling(max_new_tokens, temperature, top_p)  # wrong settings are found before the model is loaded
    treated = None if wanted is None else policy_of(wanted)
    say(f"loading {model}")
    loaded, tokenizer = runtime_model(model, head_map, device=device, dtype=dtype, seed=seed)
    if treated is not None and treated.dead and not loaded.config.head_facts:
        say("no head is called dead: what a head map knows is missing (--head-map, or export the model with it)")
    found = generate_text(loaded, tokenizer, text, treated, max_new_tokens=max_new_tokens, temperature=temperature,
                          top_p=top_p, seed=seed)  # fmt: skip
    _print(found)
    warn_of_random_weights(origin_of(loaded))
    if folder is not None:
        say_files(folder, _save(found, folder))


def _check_live(given: dict[str, Any], live: bool) -> None:
    if live or not given:
        return
    names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    raise HeadspecError(f"{names}: this is about live treatment: add --live, or leave it out.")


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of an AdaptivePolicy: those of the file, then those of the options."""
    known = _read_settings(given["settings"]) if "settings" in given else {}
    options = {name: value for name, value in given.items() if name not in ("head_map", "settings")}
    if options.pop("no_dead", False):
        options["dead"] = False
    if "budget" in options:
        options["budget"] = _budget(options["budget"])
    wanted = {**known, **{name: str(value) if name == "policy" else value for name, value in options.items()}}
    if not wanted.get("policy") and {"budget", "latest"} & set(options):
        raise HeadspecError(f"--budget and --latest need a --policy: choose {', '.join(Compression)}.")
    return wanted


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadspecError(f"cannot read --settings {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise HeadspecError(f"--settings {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise HeadspecError(f'--settings {path}: want an object like {{"every": 16, "sinks": 4}}.')
    return values


def _budget(text: str) -> float | int:
    """A share (50% or 0.5) or a number of keys.

    >>> _budget("50%"), _budget("64")
    (0.5, 64)
    """
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise HeadspecError(f"--budget {text!r}: write a share like 50%, or a number of keys.") from None


def _prompt(text: str) -> str:
    """The prompt; what comes from standard input without the line's end that `echo` and editors add."""
    if text == "-":
        from headspec.load.sources import read_text

        text = read_text("-").removesuffix("\n")
    if not text:
        raise HeadspecError("the prompt is empty: give some text to go on with.")
    return text


def _print(found: "Generation") -> None:
    """The text, the new part highlighted; the table of the heads; the times."""
    parts = (_printable(found.prompt), "dim"), (_printable(found.continuation), "bold")
    output.print(Text.assemble(*parts), soft_wrap=True)
    if found.record is not None:
        _print_record(found.record)
    later = ""
    if found.token_ms is not None:
        later = f"; then {found.token_ms:.3g} ms a token (median), {found.tokens_per_second:.3g} tokens/s"
    output.print(
        f"{found.n_prompt} tokens of prompt, first new token after {found.first_ms:.3g} ms{later}; "
        f"{len(found.seconds)} new tokens. By the clock, from prompt or token to token, in one run: no benchmark.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _print_record(record: "LiveRecord") -> None:
    from headspec.show.live_segments import bytes_words, why_nothing

    if why := why_nothing(record):
        output.print(why, style="yellow", highlight=False, soft_wrap=True)
        return
    first = record.changes[0].at
    before, after = record.at(first).values(), record.counts()
    table = Table("heads", f"at {first} tokens", f"in the end ({record.n_read})", title="Live treatment")
    for role in HeadRole:
        table.add_row(str(role), str(sum(change.role == role for change in before)), str(after[role]))
    table.add_section()
    moments = [next((moment for moment in record.held if moment.at == first), None), record.held[-1]]
    for name, words in (
        ("KV cache holds", lambda moment: bytes_words(moment.kv_bytes)),
        ("with every key it would", lambda moment: bytes_words(moment.full_bytes)),
        ("saved", lambda moment: f"{1 - moment.kv_bytes / moment.full_bytes:.1%}"),
    ):
        table.add_row(name, *("" if moment is None else words(moment) for moment in moments))
    table.add_section()
    table.add_row("changes of role", "", str(len(record.flips())))
    table.add_row("heads × tokens not computed", "", f"{record.skipped:,}")
    output.print(table)
    if record.policy["watch_only"]:
        output.print("Watched only: no head was treated.", style="yellow")


def _printable(text: str) -> str:
    """Without what would steer the terminal."""
    return "".join("�" if unicodedata.category(each) == "Cc" and each not in "\n\t" else each for each in text)


def _save(found: "Generation", folder: Path) -> list[str]:
    """The text, and of live treatment the record and its timeline."""
    text = found.prompt + found.continuation
    write_whole(folder / "text.txt", lambda path: path.write_text(text, encoding="utf-8", newline=""))
    if found.record is None:
        return ["text.txt"]
    from headspec.show.live_timeline import timeline
    from headspec.show.live_timeline_png import timeline_png
    from headspec.show.page import save_page

    write_whole(folder / "live.json", found.record.save)
    timeline_png(found.record, folder / "timeline.png")
    save_page(timeline(found.record), folder / "timeline.html")
    return ["text.txt", "live.json", "timeline.png", "timeline.html"]
