"""Write `docs/live-evidence.md` and its figures: how often roles depend on the prompt, and what live treatment costs.

python tools/write_live_page.py     (about ten minutes on one core)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from live_prompts import prompts_of

from headspec.classify.head_map import HeadMap, HeadStatus
from headspec.load.model import load_plain
from headspec.load.text import load_text
from headspec.measure.compare import Comparison
from headspec.measure.continuation import compare_continuations
from headspec.measure.systems.live import LiveReading, ToldPolicy, live
from headspec.measure.systems.planned import planned
from headspec.measure.systems.system import Running, Standing
from headspec.plan.make import make_plan, plan_heads
from headspec.plan.treatments import Window
from headspec.probe.collect import probe_heads
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.record import LiveRecord
from headspec.search.budget import Budget
from headspec.search.search_plan import search_plan
from headspec.show.live_timeline_png import timeline_png

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
CALM, NERVOUS = AdaptivePolicy(watch_only=True), AdaptivePolicy(watch_only=True, hysteresis=0.0, dwell=1)
HEADER = """# Live evidence: do different prompts need different heads?

*Written by `python tools/write_live_page.py` (demo model, 4 × 8 heads, float32, CPU). Prompts of 256 tokens are read and 256 more follow
through the cache, one prompt at a time. The offline map is that of `headspec search demo --max-kl 0.02` (probed on `probe.txt`,
searched on `select.txt`); prompts come from `certify.txt`, which chose nothing, and from a random generator. Thresholds and settings are the
defaults. One small model: it shows how to find out, not what holds on Pythia.*

Kinds of prompts: {kinds}.

"""
READING = """## What follows

- **The offline map mostly holds for a prompt** of its own kind, and less the further a text is from what was probed. What differs are heads on the edge of
  the window cut-off, and heads that look dead or alive by what the prompt is about.
- **Within a generation roles seldom change**: with two thresholds and a dwell time about two heads in a hundred on text, without them
  about eight. Classifying again while text is written brought nothing that could be measured here; deciding once, at the end of the prompt, is enough.
- **Deciding by the prompt pays where the text is unlike the probe's**: on verse and on repeats live treatment costs less than the offline map in fewer bytes. On prose
  the offline map costs less, in more bytes: which of the two is better there, this table cannot say. Reading the prompt in full, as live does, is a part of the difference
  (third row; there the mean on the prompt also stands in for removed heads, not that on the probe's text).
- **Windows are the safe part.** Heads called dead on one prompt (with the caution of 1.5) add to the KL on prose and save bytes; a content head
  can be silent for 256 tokens and be taken for dead.
- **SnapKV on top costs far more than it saves** on this model, and breaks induction on repeats: the last queries of a first copy do not ask for what the second will.

What did not work: judging dead heads by the last 64 queries only (they call a content head dead on two prompts of three: it says the same thing all through a passage);
the offline cut-offs for dead heads without caution (KL .029 instead of .0185 on `select.txt`); looking at heads after they were windowed (their keys are gone, so what they
would look at cannot be known: roles then never come back).
"""


@dataclass(frozen=True, eq=False)
class Judged:
    """One system on the prompts of one kind."""

    kind: str
    system: str
    found: Comparison
    kv_share: float
    """Bytes at the end of the text, as a share of every head keeping every key."""
    records: tuple[LiveRecord, ...] = ()


def main() -> None:
    torch.set_num_threads(1)
    model = load_plain("demo")
    profile = probe_heads(model, load_text(model, "probe"), engine="fast")
    head_map = search_plan(model, Budget(max_kl=0.02), profile=profile).head_map
    prompts = prompts_of(model)
    plan = make_plan(head_map, profile)
    windows = plan.only(plan.heads(Window))
    systems = {
        "every head full": planned(model, plan_heads(model, {}), "P0", "", Standing.REFERENCE),
        "offline map, exported": planned(model, plan, "plan", "", Standing.HYPOTHETICAL),
        "offline map, after a full prefill": live(model, ToldPolicy(plan=plan), "told", head_map),
        "live, once": live(model, AdaptivePolicy(reclassify=0), "once", head_map),
        "live, re-classified": live(model, AdaptivePolicy(), "live", head_map),
        "offline map, windows only, after a full prefill": live(model, ToldPolicy(plan=windows), "told", head_map),
        "live, once, windows only": live(model, AdaptivePolicy(reclassify=0, dead=False), "windows", head_map),
        "live, once, without a map": live(model, AdaptivePolicy(reclassify=0), "no map"),
        "live, gathering heads under SnapKV 50 %": live(model, AdaptivePolicy(policy="snapkv"), "snapkv", head_map),
        "watched": live(model, CALM, "calm", head_map),
        "watched, without hysteresis": live(model, NERVOUS, "nervous", head_map),
    }
    judged = [
        judge(model, kind, name, system.open(), texts)
        for name, system in systems.items()
        for kind, texts in prompts.items()
    ]
    kinds = ", ".join(f"{kind} ({len(texts)})" for kind, texts in prompts.items())
    parts = [HEADER.format(kinds=kinds), agreement(judged, head_map), flips(judged), quality(judged), READING]
    (ROOT / "docs" / "live-evidence.md").write_text("".join(parts), encoding="utf-8")
    records = [record for each in judged if each.system == "live, re-classified" for record in each.records]
    timeline_png(max(records, key=lambda record: len(record.flips())), IMAGES / "timeline.png")


def judge(model: Any, kind: str, name: str, running: Running, texts: list[Any]) -> Judged:
    """Every prompt by itself, so that each is decided by itself."""
    print(f"{name}: {kind}", flush=True)
    found, shares = [], []
    for text in texts:
        held = Held(running)
        found.append(compare_continuations(model, held, text))
        shares.append(held.kv_share)
    records = tuple(running.records) if isinstance(running, LiveReading) else ()
    together = Comparison(**{field: np.concatenate([getattr(each, field) for each in found]) for field in FIELDS})
    return Judged(kind, name, together, float(np.mean(shares)), records)


FIELDS = tuple(Comparison.__dataclass_fields__)


class Held:
    """A running system whose cache is weighed before it is forgotten."""

    def __init__(self, running: Running):
        self.running, self.model, self.kv_share = running, running.model, 0.0
        self.start, self.read, self.repeat, self.kv_bytes = running.start, running.read, running.repeat, 0

    def forget(self) -> None:
        cache, config = self.running.cache, self.running.model.config  # type: ignore[attr-defined]
        full = 2 * 4 * config.hidden_size * config.num_hidden_layers * cache.get_seq_length()
        self.kv_share = cache.nbytes / full
        self.running.forget()


def agreement(judged: list[Judged], head_map: HeadMap) -> str:
    """How often the live role at the end of the prompt is that of the offline map, by kind of prompt and by head."""
    watched = [each for each in judged if each.system == "watched"]
    roles = pd.DataFrame(
        {"kind": each.kind, "head": f"L{layer}H{head}", "role": change.role}
        for each in watched
        for record in each.records
        for (layer, head), change in record.at(record.changes[0].at).items()
    )
    rejected = [str(verdict.head) for verdict in head_map if verdict.status is HeadStatus.REJECTED]
    roles = roles[~roles["head"].isin(rejected)]
    roles["offline"] = [str(head_map[head].role) for head in roles["head"]]
    roles["agrees"] = roles.role == roles.offline
    by_kind = roles.groupby("kind", sort=False).agrees.mean()
    crossed = pd.crosstab([roles.kind], [roles.offline, roles.role]).reindex(by_kind.index)
    names = ("dead", "gathering", "positional")
    lines = [
        "## Does the offline map hold for a prompt?", "",
        "Share of heads whose role at the end of the prompt is that of the offline map, and how many heads a prompt on average has in each",
        f"role. Not counted: {', '.join(rejected)}, dead by their statistics, which the search has refused to remove.", "",
        "| prompts | agreement | " + " | ".join(f"{a} → {b}" for a in names for b in names if a != b) + " |",
        "|---|---|" + "---|" * 6,
    ]  # fmt: skip
    n_prompts = {each.kind: len(each.records) for each in watched}
    for kind, share in by_kind.items():
        cells = [f"{crossed.loc[kind].get((a, b), 0) / n_prompts[kind]:.1f}" for a in names for b in names if a != b]
        lines.append(f"| {kind} | {share:.0%} | " + " | ".join(cells) + " |")
    by_head = roles.pivot_table(index="head", columns="kind", values="agrees", aggfunc="mean", sort=False)
    worst = by_head.mean(axis=1).sort_values().head(8).index
    lines += [
        "", "The heads that disagree most: offline role, and the share of prompts of each kind that agree.", "",
        "| head | offline | " + " | ".join(by_kind.index) + " |", "|---|---|" + "---|" * len(by_kind),
    ]  # fmt: skip
    for head in worst:
        cells = [f"{by_head.loc[head, kind]:.0%}" for kind in by_kind.index]
        lines.append(f"| {head} | {head_map[head].role} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n"


def flips(judged: list[Judged]) -> str:
    """How often roles change while 256 tokens follow, if nothing is done about it."""
    lines = [
        "## How often do roles change during a generation?", "",
        "Nothing is treated here, so that every head can be judged all along: changes of role in 256 tokens (three classifications after the",
        "first), per 100 heads, and the share of heads that ever change, with hysteresis and dwell as by default and without them.", "",
        "| prompts | flips per 100 heads | heads that ever change | without hysteresis and dwell | heads that ever change |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for kind in dict.fromkeys(each.kind for each in judged):
        cells = []
        for system in ("watched", "watched, without hysteresis"):
            records = next(each.records for each in judged if (each.kind, each.system) == (kind, system))
            n_heads = sum(len(record.heads()) for record in records)
            changing = sum(len({(flip.layer, flip.head) for flip in record.flips()}) for record in records)
            cells += [
                f"{100 * sum(len(record.flips()) for record in records) / n_heads:.1f}",
                f"{changing / n_heads:.1%}",
            ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n"


def quality(judged: list[Judged]) -> str:
    """KL, perplexity, induction accuracy and bytes of every system."""
    kinds = list(dict.fromkeys(each.kind for each in judged))
    lines = [
        "## What does it cost, and what does it save?", "",
        "KL to the original over the 256 tokens that follow (nats a token) / bytes of the KV cache at the end, as a share of every head",
        "keeping every key. For repeated spans also the induction accuracy: how often the next token is the most likely one.", "",
        "| | " + " | ".join(kinds) + " | induction accuracy |", "|---|" + "---|" * (len(kinds) + 1),
    ]  # fmt: skip
    for system in dict.fromkeys(each.system for each in judged if not each.system.startswith("watched")):
        mine = {each.kind: each for each in judged if each.system == system}
        cells = [f"{max(mine[kind].found.kl.mean(), 0):.4f} / {mine[kind].kv_share:.0%}" for kind in kinds]
        accuracy = f"{mine['repeats'].found.accuracy.mean():.3f}"
        lines.append(f"| {system} | " + " | ".join(cells) + f" | {accuracy} |")
    lines += ["", "Perplexity of the 256 tokens:", "", "| | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for system in dict.fromkeys(each.system for each in judged if not each.system.startswith("watched")):
        mine = {each.kind: each for each in judged if each.system == system}
        lines.append(
            f"| {system} | " + " | ".join(f"{np.exp(mine[kind].found.loss.mean()):.2f}" for kind in kinds) + " |"
        )
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    main()
