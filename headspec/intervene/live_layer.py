"""The heads of one layer of a hooked model, treated while a text is generated: what its hooks look at and change.

The counterpart of the runtime's `live.py`; evidence, verdicts and policies are the runtime's own. Here every key is
kept, and hidden by masks; a text has no padding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from headspec.errors import ModelError
from headspec.intervene.compress import Chosen
from headspec.intervene.hooks import Hook, Scores, Z, filling, windowing
from headspec.intervene.masks import HIDDEN
from headspec.plan.treatments import Window
from headspec.runtime.adaptive import FULL, AdaptivePolicy, Judge, describe, may_change
from headspec.runtime.configuration import HeadGroup
from headspec.runtime.evidence import Evidence, KnownHeads
from headspec.runtime.policies import POLICIES, Prompt
from headspec.runtime.record import Change, LiveLog
from headspec.runtime.sampled import SampledOutputs, sampled_columns
from headspec.runtime.selection import choose_keys

WATCHED = ("hook_q", "hook_cos", "hook_sin")


class LiveLayer:
    """One layer, while one text (or batch) is read and written through its hooks.

    Args:
        layer: Its number.
        policy: What is decided.
        known: What a probe knows of the heads.
        log: Where changes are noted.
        w_o: Gives `[head, d_head, d_model]`.
        past: The DynamicCache through which the text goes.
        frequencies: Of the rotation, radians a column, `[rotary dims / 2]`; None where heads cannot be compressed.
    """

    def __init__(
        self, layer: int, policy: AdaptivePolicy, known: KnownHeads, log: LiveLog,
        w_o: Callable[[], Float[Tensor, "head d_head d_model"]], past: Any,
        frequencies: Float[Tensor, " pair"] | None = None,
    ) -> None:  # fmt: skip
        n_heads = len(known.may_die)
        self.layer, self.policy, self.log, self.w_o, self.past = layer, policy, log, w_o, past
        self.frequencies = frequencies
        self.now: list[HeadGroup | None] = [FULL] * n_heads
        """What is done with each head; None: it is dead."""
        self.judge = Judge(policy, n_heads)
        self.evidence = Evidence(policy.cut_offs(), policy.sinks, policy.first_query, known)
        self.n_past = self.n_total = self.n_prompt = 0
        """Columns read before this step and after it, and those of the prompt."""
        self.settled = 0
        """Columns read when heads were first classified; 0 before."""
        self.chosen: dict[int, tuple[Chosen, int]] = {}
        """What compressed heads keep, and their places in it."""
        self._dropping: list[Hook] = []
        self._hiding: list[Hook] = []
        self._filling: Hook | None = None
        self._outputs: SampledOutputs | None = None
        self._seen: dict[str, Tensor] = {}
        self._queries: Tensor | None = None

    def hooks(self) -> list[tuple[str, Hook]]:
        """By name, in the order in which they come."""
        bodies: dict[str, Hook] = {"hook_resid_pre": self._enter}
        if self.frequencies is not None:
            bodies |= {f"attn.{name}": self._catching(name) for name in WATCHED}
        bodies |= {
            "attn.hook_attn_scores": self._hide, "attn.hook_pattern": self._look, "attn.hook_z": self._leave,
        }  # fmt: skip
        return [(f"blocks.{self.layer}.{name}", body) for name, body in bodies.items()]

    def keys_held(self, n_read: int, n_rows: int) -> int:
        """Keys that the heads have to keep by their treatments, of all heads and rows."""
        return sum(self._held_by(head, n_read, n_rows) for head in range(len(self.now)))

    def _held_by(self, head: int, n_read: int, n_rows: int) -> int:
        treatment = self.now[head]
        if treatment is None:
            return 0
        if head not in self.chosen:
            return n_rows * min(n_read, treatment.window + treatment.sinks if treatment.window else n_read)
        (kept, ring, first), place = self.chosen[head]
        follow = n_read - first[:, place]
        return int(kept[:, place].sum() + torch.where(ring[:, place] > 0, follow.minimum(ring[:, place]), follow).sum())

    def _enter(self, residual: Float[Tensor, "batch column d_model"], hook: Any = None) -> Tensor:
        self._seen["norms"] = residual.detach().norm(dim=-1)
        return residual

    def _catching(self, name: str) -> Hook:
        def catch(found: Tensor, hook: Any = None) -> Tensor:
            self._seen[name] = found.detach()
            return found

        return catch

    def _hide(self, scores: Scores, hook: Any = None) -> Tensor:
        """Hide what windows and compression have dropped."""
        if self.frequencies is not None:
            self._remember_queries()
        for narrow in self._hiding:
            scores = narrow(scores)
        return scores

    def _remember_queries(self) -> None:
        """The last rotated queries, as many as the compression of gathering heads may want."""
        queries = rearrange(self._seen["hook_q"], "batch token head d -> batch head token d")
        queries = apply_rotary_pos_emb(queries, queries, self._seen["hook_cos"], self._seen["hook_sin"])[0]
        waiting = self.policy.policy and FULL in self.now and not self.policy.watch_only
        if waiting and self._queries is not None:
            queries = torch.cat((self._queries, queries), dim=2)
        n_wanted = POLICIES[self.policy.policy].observed if waiting else 0
        n_wanted = max(n_wanted, 1 if self.settled else self.policy.observed)
        self._queries = queries[:, :, -n_wanted:].clone()  # not a view of all that was read

    def _look(self, pattern: Scores, hook: Any = None) -> Tensor:
        """Keep the attention of the last queries until it is known what the heads write."""
        self.n_total = pattern.shape[3]
        self.n_past = self.n_total - pattern.shape[2]
        self._seen["pattern"] = pattern[:, :, -self.policy.observed :].detach()
        return pattern

    def _leave(self, z: Z, hook: Any = None) -> Tensor:
        """Fill in for dead heads; take in what was seen; decide, if it is time to, what later tokens find."""
        if self._filling is not None:
            z = self._filling(z)
        if self.settled:
            self._go_on(z.detach())
        else:
            self._read(z.detach())
        self._seen.clear()
        return z

    def _read(self, z: Z) -> None:
        """Take in the columns that are in the observation window; classify when there were enough."""
        self.n_prompt = self.n_prompt or self.n_total
        if self._outputs is None:
            self.evidence.begin(len(z), z, lambda: self.w_o().detach())
            self._outputs = SampledOutputs(len(z))
        first = max(self.n_past, self.n_prompt - self.policy.observed)
        n_queries = self.n_total - first
        self.evidence.look(self._seen["pattern"][:, :, -n_queries:], first, 0, slice(0, len(z)))
        columns = sampled_columns(self.policy.first_query, self.n_past, self.n_total, self.n_prompt)
        places = [column - self.n_past for column in columns]
        for row, written in enumerate(z):
            self._outputs.add(row, written[places], self._seen["norms"][row, places])
        if self.n_total >= max(self.n_prompt, self.policy.first_query + self.policy.observed):
            self.settled = self.n_total
            self._outputs.settle(self.evidence)
            self._decide()

    def _go_on(self, z: Z) -> None:
        if not self.policy.reclassify or not self._due(self.policy.every):
            return
        whole = [head for head, is_whole in enumerate(self._whole()) if is_whole]
        alive = [head for head, treatment in enumerate(self.now) if treatment is not None]
        if whole:
            self.evidence.look(self._seen["pattern"][:, whole, -1:], self.n_total - 1, 0, slice(None), whole)
        if alive:
            self.evidence.watch(z[:, -1:, alive], self._seen["norms"][:, -1:], alive)
        if self._due(self.policy.reclassify):
            self._decide()

    def _due(self, every: int) -> bool:
        """Whether a multiple of so many tokens after the first classification is reached in this step."""
        return (self.n_total - self.settled) // every > (self.n_past - self.settled) // every

    def _whole(self) -> list[bool]:
        """Which heads have every key of the text still: their masks hide nothing, so their attention is what it was."""
        return [
            treatment is not None and (treatment == FULL or 0 < self.n_total <= treatment.window)
            for treatment in self.now
        ]

    def _decide(self) -> None:
        """Classify the heads, and carry out what follows and can still be done."""
        verdicts = self.judge.judge(self.evidence.margins(self.policy.least), self._whole())
        self.evidence.fade(self.policy.memory)
        wanted = self.policy.treatments(self.layer, self.n_total, verdicts, list(self.now))
        may_die = self.evidence.known.may_die.tolist()
        new = [self._allowed(*each) for each in zip(self.now, wanted, may_die, strict=True)]
        if new != self.now:
            self._treat(new)
        for head, verdict in enumerate(verdicts):
            text = describe(self.now[head])
            self.log.note(Change(self.n_total, self.layer, head, verdict.role, verdict.window, text))
        self.log.n_classifications = self.judge.times

    def _allowed(self, now: HeadGroup | None, wanted: HeadGroup | None, may_die: bool) -> HeadGroup | None:
        """What is wanted, if it can be done."""
        dies = may_die and self.evidence.constant is not None
        possible = may_change(now, wanted, self.n_total) and (wanted is not None or dies)
        return wanted if possible else now

    def _treat(self, new: Sequence[HeadGroup | None]) -> None:
        """From the next tokens on heads are under these treatments."""
        compressed: dict[HeadGroup, list[int]] = {}
        for head, treatment in enumerate(new):
            if treatment is not None and treatment.policy and treatment != self.now[head]:
                compressed.setdefault(treatment, []).append(head)
        for treatment, heads in compressed.items():
            chosen = self._choose(treatment._replace(heads=tuple(heads)))
            self.chosen |= {head: (chosen, place) for place, head in enumerate(heads)}
            self._dropping.append(dropping(heads, chosen))
        self.now = list(new)
        windows = {head: Window(what.window, what.sinks) for head, what in enumerate(new) if what and what.window}
        self._hiding = [*self._dropping, windowing(windows)] if windows else list(self._dropping)
        self._fill([head for head, treatment in enumerate(new) if treatment is None])

    def _fill(self, dead: Sequence[int]) -> None:
        """The mean of what dead heads made of the prompt stands in for them."""
        if dead:
            assert self.evidence.constant is not None
            constants = self.evidence.constant.cpu().numpy()
            self._filling = filling({head: constants[head] for head in dead})

    def _choose(self, group: HeadGroup) -> Chosen:
        """The keys that heads keep of the text read so far, one row at a time."""
        if self.frequencies is None or self._queries is None:
            raise ModelError(
                f"{describe(group)} for heads of layer {self.layer}: on hooks headspec compresses heads of GPT-NeoX "
                "models (Pythia) only. Windows and dead heads work."
            )
        heads, states = list(group.heads), self.past.layers[self.layer]
        now = (self._seen["hook_cos"][0, -1], self._seen["hook_sin"][0, -1])
        choices = [
            choose_keys(group, Prompt(keys, values, queries, now, self.frequencies), None, seed=self.layer)
            for keys, values, queries in zip(
                states.keys[:, heads], states.values[:, heads], self._queries[:, heads], strict=True
            )
        ]
        rings, in_rings = (
            torch.tensor(part, device=states.keys.device)[:, None].expand(-1, len(heads))
            for part in zip(*(choice[1:] for choice in choices), strict=True)
        )
        return Chosen(torch.stack([choice.kept for choice in choices]), rings, self.n_total - in_rings)


def dropping(heads: Sequence[int], chosen: Chosen) -> Hook:
    """A hook for `hook_attn_scores` that hides from heads the keys that they have dropped."""

    def narrow(scores: Scores, hook: Any = None) -> Scores:
        n_queries, n_keys = scores.shape[2:]
        dropped = chosen.drops(n_keys - n_queries, n_keys)
        narrowed, lowest = scores.clone(), torch.finfo(scores.dtype).min
        narrowed[:, heads] = scores[:, heads].masked_fill(dropped, HIDDEN * lowest)
        return narrowed

    return narrow
