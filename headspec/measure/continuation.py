"""What a treatment costs while text is continued: a prompt is read, then what follows through the KV cache it left.

Nothing is masked: windows are rings, compressed heads have dropped their keys, as in generation.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.load.text import as_windows
from headspec.measure.compare import Comparison, compare_logits, joined, logits_of
from headspec.measure.quality import QualityReport, quality_report
from headspec.measure.systems.system import Running
from headspec.measure.texts import ScoredText
from headspec.plan.workload import Workload

WINDOWS_AT_ONCE = 4


def measure_continuation(
    original: Any,
    running: Running | Callable[[Workload], Running],
    tokens: Any,
    workload: Workload,
    *,
    n_repeats: int = 8,
    n_needles: int = 16,
    seed: int = 0,
    step: Callable[[], object] = lambda: None,
    keep: Callable[[str, Workload, Comparison], object] = lambda kind, workload, found: None,
) -> QualityReport:
    """Compare a running system with the original on the tokens that follow a prompt.

    Of repeated random tokens the first copy is the prompt; of needles all up to the key at the end, so that policies
    which look at the end of the prompt know what is asked for.

    Args:
        original: A PlainModel.
        running: What is compared with it; or what makes it for a workload, where budgets depend on that: text, repeats
            and needles have each their own.
        tokens: Text, token ids or TokenWindows. Intervals want ten windows or more.
        workload: Prompt and continuation of the text; no longer than its windows.
        n_repeats, n_needles, seed, step: As for `measure_quality`.
        keep: Called with the kind of each text (`text`, `repeats`, `needles`), its workload, and what was found there,
            window by window.

    Raises:
        TextError: Windows that are too short.
    """
    windows = as_windows(tokens, original)

    def find(kind: str, text: ScoredText) -> Comparison:
        here = Workload(text.n_prompt, text.tokens.shape[1] - text.n_prompt)
        found = compare_continuations(original, running(here) if callable(running) else running, text, step)
        keep(kind, here, found)
        return found

    return quality_report(original, windows, find, n_repeats, n_needles, seed, workload)


def compare_continuations(
    original: Any, running: Running, text: ScoredText, step: Callable[[], object] = lambda: None
) -> Comparison:
    """The queries of a text that count, as the original and as the running system answer them."""
    parts = []
    for windows in text.tokens.split(WINDOWS_AT_ONCE):
        with torch.no_grad():
            before = logits_of(original, windows)[:, text.first : -1]
            after = read_through(running, windows[:, :-1], text.n_prompt)
        parts.append(compare_logits(before, after, windows[:, text.first + 1 :]))
        step()
    return joined(parts)


def read_through(
    running: Running, tokens: Int[Tensor, "window token"], n_prompt: int
) -> Float[Tensor, "window query vocabulary"]:
    """Logits of the last token of the prompt and of every token after it, read through the cache."""
    batch, length = tokens.shape
    running.start(n_prompt, length, batch)
    logits = [running.read(tokens[:, :n_prompt])]
    if n_prompt < length:
        logits.append(running.read(tokens[:, n_prompt:], n_last=0))
    running.forget()
    return torch.cat(logits, dim=1)
