"""Whether a system on another engine computes what it should: its times count only then."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.load.plain import PlainModel
from headspec.measure.cell import Cell, Row
from headspec.measure.contenders import Contender
from headspec.measure.systems.planned import planned
from headspec.measure.systems.system import Running, Standing, System
from headspec.measure.systems.transformers_default import transformers_default
from headspec.plan.workload import Workload

TOLERANCE = 1e-3
"""Largest difference of a logit at which float32 engines count as equal. They come to 1e-5 where logits are of the size
of 10; a wrong rotation or mask makes 0.1 and more."""
PROMPT, NEW, ROWS = 300, 16, 2
"""Tokens and rows on which it is looked at, cut to the model's context; longer than the runner's chunks."""

Written = tuple[Int[Tensor, "batch n_new"], Float[Tensor, "batch n_new vocabulary"]]


def logits_difference(source: PlainModel, system: System, seed: int = 0) -> float:
    """The largest difference between the logits of a system and those it should have, in one prompt and what follows.

    It writes what it finds likeliest; the reference reads the same tokens. The reference of a plan is headspec's
    runtime in the original's numbers, that of the original is transformers.
    """
    context = source.identity.context
    n_prompt, n_new = min(PROMPT, context // 2), min(NEW, context // 4)
    prompt = torch.randint(
        0, source.huggingface.config.vocab_size, (ROWS, n_prompt), generator=torch.Generator().manual_seed(seed)
    )
    reference = transformers_default(source)
    if system.plan is not None:
        reference = planned(source, system.plan, "", "", Standing.REFERENCE)
    tokens, found = greedy(system.open(), prompt, n_new)
    expected = forced(reference.open(), prompt, tokens)
    hidden = found.isnan().all(dim=(0, 1))  # CTranslate2 forbids the end of the text, and gives no logit for it
    if int(hidden.sum()) > 1:
        return float("nan")
    return float((found.float() - expected.float()).abs()[..., ~hidden].max())


@torch.no_grad()
def greedy(running: Running, prompt: Int[Tensor, "batch token"], n_new: int) -> Written:
    """What a system writes after a prompt, and the logits that each token was chosen by, NaN where it gives none."""
    if hasattr(running, "greedy"):
        return running.greedy(prompt, n_new)
    running.start(prompt.shape[1], prompt.shape[1] + n_new, len(prompt))
    logits = [running.read(prompt)]
    tokens = [logits[-1].argmax(-1)]
    while len(tokens) < n_new:
        logits.append(running.read(tokens[-1]))
        tokens.append(logits[-1].argmax(-1))
    running.forget()
    return torch.cat(tokens, dim=1).cpu(), torch.cat(logits, dim=1).cpu()


@torch.no_grad()
def forced(
    running: Running, prompt: Int[Tensor, "batch token"], tokens: Int[Tensor, "batch n_new"]
) -> Float[Tensor, "batch n_new vocabulary"]:
    """The logits before each of some tokens that follow a prompt."""
    running.start(prompt.shape[1], prompt.shape[1] + tokens.shape[1], len(prompt))
    logits = [running.read(prompt), *(running.read(token) for token in tokens[:, :-1].split(1, dim=1))]
    running.forget()
    return torch.cat(logits, dim=1).cpu()


def check_rows(cell: Cell, source: PlainModel, contender: Contender, seed: int) -> Iterator[Row]:
    """Whether a system on another engine computes what it should."""
    system = contender.make(Workload(PROMPT, NEW))
    try:
        difference = logits_difference(source, system, seed)
    except Exception as error:  # of whatever engine: the others go on
        words = " ".join(str(error).split())[:300]
        yield cell.skipped(f"{contender.name} failed: {type(error).__name__}: {words}")
        return
    yield cell.row(system, "logits_difference", difference, against="float32 on torch")


def differs(contender: Contender, rows: Sequence[Mapping[str, Any]]) -> str:
    """Why the times of a system do not count, from the rows of its check; empty if they do."""
    if not contender.engine:
        return ""
    found = [row["value"] for row in rows if row["measure"] == "logits_difference"]
    if not found:
        return next((row["note"] for row in rows), f"{contender.name} was not checked")
    if not contender.exact or (found[0] is not None and found[0] <= TOLERANCE):
        return ""
    return f"{contender.name} computes something else: its logits differ by {found[0]}, more than {TOLERANCE}"
