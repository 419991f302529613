"""What a treatment does, in words a newcomer understands: for figures and tables. No torch."""

from headspec.errors import HeadspecError
from headspec.plan.treatments import Compress, Fill, Remove, Treatment, Window, parse_treatment

FILLS = {
    Fill.ZERO: "not computed; zero takes the place of its output",
    Fill.MEAN: "not computed; its mean over the probe text takes the place of its output",
    Fill.RANDOM: "not computed; a random vector takes the place of its output",
}
POLICIES = {
    "snapkv": "to which the prompt's last queries attend most (SnapKV)",
    "expected_attention": "to which queries like those of the probe would attend most (expected attention)",
    "streaming": "that come first and last (StreamingLLM)",
    "random": "drawn by lot (a control)",
}


def treatment_words(treatment: Treatment | str) -> str:
    """What happens to a head.

    >>> treatment_words("window:8")
    'sees its last 8 keys and the first 4 tokens (sinks)'
    """
    what = parse_treatment(treatment)
    match what:
        case Remove():
            return FILLS[Fill(what.fill)]
        case Window():
            sinks = f" and the first {_count(what.sinks, 'token')} (sinks)" if what.sinks else ""
            return f"sees its last {_count(what.window, 'key')}{sinks}"
        case Compress():
            kept = f"{what.budget:.0%} of the prompt's keys" if what.is_share else _count(int(what.budget), "key")
            latest = f", always the latest {what.latest} among them" if what.latest else ""
            shared = "; the layer's heads share the room (Ada-KV)" if what.allocation == "adakv" else ""
            return f"after the prompt keeps {kept} {POLICIES[what.policy]}{latest}{shared}"
        case _:
            return "left as it is"


def several_words(texts: str) -> str:
    """The same for what a row of a sweep holds: short texts with blanks between; one that is none stays as it is."""
    return "; ".join(f"{text}: {_known(text)}" if _known(text) else text for text in texts.split())


def _known(text: str) -> str:
    try:
        return treatment_words(text)
    except HeadspecError:
        return ""


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"
