"""Heads that are treated while a text is generated: the store of those that the checkpoint lets see every key.

It reads the prompt in full, looks at it, and lets each head go on in a store of its own kind (`stores.py`,
`compressed.py`). What is decided: `adaptive.py`; on what grounds: `evidence.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .adaptive import FULL, AdaptivePolicy, Judge, describe, may_change
from .attention import all_mask, attention, see_all
from .configuration import HeadGroup
from .evidence import Evidence, KnownHeads
from .looking import look_back
from .parts import Part, Parts
from .policies import POLICIES
from .record import Change, LiveLog
from .sampled import SampledOutputs, sampled_columns
from .step import Step
from .stores import TAKE_BACK, FullStore, Store, Watched


class LiveStore(Store):
    """The heads of a layer that see every key in the checkpoint, while each is treated by what it does.

    Args:
        group: Of the checkpoint.
        expected: Columns that will be read; 0 if unknown.
        prompt: Columns of the prompt; 0: those of the first call. Where the policy wants to see more, heads are first
            classified when as much was generated.
        policy: What is decided.
        known: What a probe knows of these heads.
        make_store: Makes an empty store for heads under one treatment.
        layer: Number of the layer.
        log: Where changes are noted.
    """

    def __init__(
        self, group: HeadGroup, expected: int, context: int, prompt: int, policy: AdaptivePolicy, known: KnownHeads,
        make_store: Callable[[HeadGroup], Store], layer: int, log: LiveLog,
    ):  # fmt: skip
        super().__init__(group)
        self.expected, self.context, self.told, self.layer = expected, context, prompt, layer
        self.policy, self.known, self.make_store, self.log = policy, known, make_store, log
        self._may_die = bool(known.may_die.any())
        self._begin()

    def _begin(self) -> None:
        n_heads, self.prompt = len(self.group.heads), self.told
        self.whole = FullStore(self.group, self.expected, self.context)
        self.parts = Parts(self.group.heads, self.make_store)
        self.now: list[HeadGroup | None] = [FULL] * n_heads
        """What is done with each head; None: it is dead."""
        self.alive = list(range(n_heads))
        self.judge = Judge(self.policy, n_heads)
        self.evidence = Evidence(self.policy.cut_offs(), self.policy.sinks, self.policy.first_query, self.known)
        self.settled = 0
        """Columns read when heads were first classified; 0 before. Until then every key is kept."""
        self._outputs: SampledOutputs | None = None
        """Of the prompt, while it is read."""
        self._queries: Tensor | None = None
        self._n_shown = self._n_read = 0
        """Queries that came last; columns read with those before them."""
        self._seen: Watched | None = None
        self._all: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, whether full or not."""
        return self.whole.nbytes + sum(part.store.nbytes for part in self.parts)

    def watched(self) -> int:
        """Until heads are classified the observation window, or all queries, if what heads write matters; then the
        latest, and what compression has to see."""
        if not self.settled and self._may_die:
            return self.context
        return self._n_kept()

    def _n_kept(self) -> int:
        return max(1 if self.settled else self.policy.observed, self._for_policy())

    def watch(self, queries: Tensor, seen: Watched) -> None:
        """Remember the last queries, and what comes with them."""
        self._seen, self._all, n_kept = seen, queries, self._n_kept()
        queries = queries[:, :, max(queries.shape[2] - n_kept, 0) :]
        self._n_shown, before = queries.shape[2], self._queries if self._for_policy() else None
        n_kept += TAKE_BACK if self.parts.recording and self._for_policy() else 0
        known = queries if before is None else torch.cat((before, queries), dim=2)
        self._queries = known[:, :, max(known.shape[2] - n_kept, 0) :].detach().clone()  # not a view of all that came

    def _for_policy(self) -> int:
        """Last queries that the compression of gathering heads needs, as long as some can still be compressed."""
        n_left = self._n_read - (TAKE_BACK if self.parts.recording else 0)
        can = [what == FULL or what.window > n_left for what in self.now if what is not None]
        waiting = self.policy.policy and any(can)
        return POLICIES[self.policy.policy].observed if waiting and not self.policy.watch_only else 0

    def attend(self, query: Tensor, kv: Tensor, step: Step, dropout: float = 0.0) -> Tensor:
        """Keep the new keys and values, and attend: in full while the prompt is read, by treatment later."""
        self._forget_taken_back(self._n_read - step.n_past)
        seen = self._go_on(query, kv, step, dropout) if self.settled else self._read(query, kv, step, dropout)
        self._seen, self._all, self._n_read = None, None, step.n_total  # lets go of the residual
        return seen

    def _forget_taken_back(self, number: int) -> None:
        """Drop the queries of so many columns before those that come now."""
        if number > 0 and self._queries is not None and self._queries.shape[2] > self._n_shown:
            before, new = self._queries.tensor_split([self._queries.shape[2] - self._n_shown], dim=2)
            self._queries = torch.cat((before[:, :, : max(before.shape[2] - number, 0)], new), dim=2)

    def _read(self, query: Tensor, kv: Tensor, step: Step, dropout: float) -> Tensor:
        self.prompt = self.prompt or step.n_total
        enough = 0 if self.parts.recording else self.policy.first_query + self.policy.observed  # no end that may go
        complete = step.n_total >= max(self.prompt, enough)
        if step.real is not None and not bool(
            step.real[[start < step.n_total for start in step.starts() or []], -1].all()
        ):
            raise ValueError("heads are looked at from the end of the prompt: pad on the left.")
        n_last = query.shape[2]
        if self._may_die:
            assert self._all is not None
            query = self._all  # of all new columns, also where only the last ones are wanted
        if complete and not step.n_past:  # the prompt in one piece: no need to store what is not kept
            seen, whole = see_all(query, kv, step, dropout), kv
        else:
            seen = self.whole.attend(query, kv, step, dropout)
            held = self.whole.everything(step.n_total)
            assert held is not None
            whole = held
        with torch.no_grad():
            self._begin_looking(whole)
            assert self._queries is not None
            end = max(self.prompt, step.n_total)  # a long piece may follow a short prompt
            look_back(self.evidence, self._queries, whole.detach(), end - self.policy.observed, step)
            if self._may_die:
                self._sample_outputs(seen.detach(), step)
            if complete:
                self._settle(whole.detach(), step)
        return seen[:, :, -n_last:]

    def _begin_looking(self, kv: Tensor) -> None:
        assert self._seen is not None
        if self._outputs is None:
            self.evidence.begin(kv.shape[1], kv, self._seen.w_o)
            self._outputs = SampledOutputs(kv.shape[1])

    def _sample_outputs(self, z: Tensor, step: Step) -> None:
        """Keep what the heads write for some of the new columns."""
        assert self._seen is not None
        assert self._outputs is not None
        starts = step.starts() or [0] * len(z)
        for row, start in enumerate(starts):
            columns = sampled_columns(start + self.policy.first_query, step.n_past, step.n_total, self.prompt)
            places = [column - step.n_past for column in columns]
            norms = self._seen.residual[row, places].detach().norm(dim=-1)
            self._outputs.add(row, z[row, :, places].transpose(0, 1), norms)

    def _settle(self, kv: Tensor, step: Step) -> None:
        """Enough was seen: classify, and cut the caches down."""
        self.settled = step.n_total
        assert self._outputs is not None
        if self._may_die:
            self._outputs.settle(self.evidence)
        self._outputs = None
        borrowed = self.whole.buffer is None  # the keys lie in what the layer has just computed: all must move
        if borrowed:
            self.whole.buffer = kv
        self.parts.begin(FULL, self.whole)
        self.whole = FullStore(self.group, self.expected, self.context)
        self._decide(step, all_move=borrowed)

    def _go_on(self, query: Tensor, kv: Tensor, step: Step, dropout: float) -> Tensor:
        looking = bool(self.policy.reclassify) and self._due(self.policy.every, step)
        seen = [self._attend_part(part, query, kv, step, dropout, looking) for part in self.parts]
        z = self.parts.in_order(seen)
        if looking:
            with torch.no_grad():
                self._look_at_outputs(z)
                if self._due(self.policy.reclassify, step):
                    self._decide(step)
        return z

    def _due(self, every: int, step: Step) -> bool:
        """Whether a multiple of so many tokens after the first classification is reached in this step."""
        return (step.n_total - self.settled) // every > (step.n_past - self.settled) // every

    def _attend_part(self, part: Part, query: Tensor, kv: Tensor, step: Step, dropout: float, looking: bool) -> Tensor:
        """What the heads of a part see, and a look at it if that is due and every key is there."""
        mine, own = (query, kv) if part.places is None else (query[:, part.places], kv[:, :, part.places])
        if not looking:
            return part.store.attend(mine, own, step, dropout)
        if isinstance(part.store, FullStore) and step.n_new == 1 and not dropout:
            z, pattern = part.store.attend_openly(mine, own, step)
        else:
            z = part.store.attend(mine, own, step, dropout)
            everything = part.store.everything(step.n_total)
            if everything is None:
                return z
            pattern = attention(mine[:, :, -1:], everything[0], step.once(("all", 1), lambda: all_mask(step, 1)))
        self._look_at_pattern(pattern.detach(), part.heads, step)
        return z

    def _look_at_pattern(self, pattern: Tensor, heads: list[int], step: Step) -> None:
        starts, own = step.starts(), step.n_total - 1
        if starts is None:
            self.evidence.look(pattern, own, 0, slice(None), heads)
            return
        for row, start in enumerate(starts):
            if start <= own:
                self.evidence.look(pattern[row : row + 1], own, start, slice(row, row + 1), heads)

    def _look_at_outputs(self, z: Tensor) -> None:
        assert self._seen is not None
        norms = self._seen.residual[:, -1:].detach().norm(dim=-1)
        self.evidence.watch(z[:, :, -1:].transpose(1, 2), norms, self.alive)

    def _decide(self, step: Step, all_move: bool = False) -> None:
        """Classify the heads, and carry out what follows and can still be done."""
        whole = self.parts.has_everything(step.n_total)
        verdicts = self.judge.judge(self.evidence.margins(self.policy.least), whole)
        self.evidence.fade(self.policy.memory)
        wanted = self.policy.treatments(self.layer, step.n_total, verdicts, list(self.now))
        may_die = self.known.may_die.tolist()
        new = [self._allowed(*each, step) for each in zip(self.now, wanted, may_die, strict=True)]
        if moving := [head for head in self.alive if all_move or new[head] != self.now[head]]:
            self.parts.move(new, moving, step, self._show)
            self._go_on_with(new)
        for head, verdict in enumerate(verdicts):
            number, text = self.group.heads[head], describe(self.now[head])
            self.log.note(Change(step.n_total, self.layer, number, verdict.role, verdict.window, text))
        self.log.n_classifications = self.judge.times

    def _allowed(
        self, now: HeadGroup | None, wanted: HeadGroup | None, may_die: bool, step: Step
    ) -> HeadGroup | None:  # fmt: skip
        """What is wanted, if it can be done; keys are not chosen of columns that may be taken back."""
        dies = may_die and self.evidence.constant is not None
        possible = may_change(now, wanted, step.n_total) and (wanted is not None or dies)
        open_end = self.parts.recording and step.n_past >= self.prompt and step.n_new > 1
        return now if not possible or (open_end and wanted is not None and wanted.policy) else wanted

    def _show(self, store: Store, heads: list[int]) -> None:
        """Let the store of some heads watch their last queries."""
        if n_watched := store.watched():
            assert self._queries is not None
            assert self._seen is not None
            store.watch(self._queries[:, [self.alive.index(head) for head in heads], -n_watched:], self._seen)

    def _go_on_with(self, new: list[HeadGroup | None]) -> None:
        """Forget what was remembered of heads that have died."""
        assert self._queries is not None
        stay = [place for place, head in enumerate(self.alive) if new[head] is not None]
        self.now, self.alive, self._queries = new, self.parts.alive, self._queries[:, stay]

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or select rows of the batch."""
        for store in self._stores():
            store.change_rows(change)
        self.evidence.change_rows(change)
        if self._outputs is not None:
            self._outputs.change_rows(change)
        self._queries = None if self._queries is None else change(self._queries)

    def check_crop(self, n_before: int, n_after: int) -> None:
        """Whether the columns from `n_after` on can be taken back: not those of a prompt that was looked at."""
        if n_after < (self.settled or (0 if self._outputs is None else n_before)):
            raise RuntimeError(
                f"cannot take back {n_before - n_after} tokens: they are among those by which heads are classified."
            )
        for store in self._stores():
            store.check_crop(n_before, n_after)

    def record_past(self, length: int) -> None:
        """From now on keep what `crop` may take back."""
        self.parts.recording = True
        for store in self._stores():
            store.record_past(length)

    def reset(self) -> None:
        """Forget everything."""
        recording = self.parts.recording
        self._begin()
        self.parts.recording = recording

    def _stores(self) -> list[Store]:
        return [self.whole, *(part.store for part in self.parts)]
