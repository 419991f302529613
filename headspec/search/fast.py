"""The fast engine of a sweep: what cases have in common is computed once.

1. Everything before a treated layer: texts go through the model layer by layer, and the cases of a layer start there.
2. The treated layer itself: in a model with a parallel residual a head's change is Δz W_O on top of the original.
3. Windows: one attention pass a window size gives the z of all heads of the layer.
4. The read-out: one pass over the logits (see `headspec.measure.readout`).
5. Several single-layer cases run as one batch where the text is short.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from headspec.load.plain import PlainModel
from headspec.measure.compare import Comparison, joined
from headspec.measure.readout import Readout
from headspec.measure.texts import ScoredText
from headspec.plan.treatments import Remove, Window
from headspec.search.cases import Case
from headspec.search.layerwise import LayerWise, Residual, Z

TOKENS_AT_ONCE = 2048
"""Tokens that go through the model together: enough for efficient matrix products, bounded in memory."""


class Stream:
    """One text on its way through the model, with what the cases of the present layer share.

    With `continued`, what comes before the first scored token is the prompt, after which compressed heads choose their
    keys; without, they drop nothing.
    """

    def __init__(self, layers: LayerWise, text: ScoredText, continued: bool = False) -> None:
        self.layers, self.text, self.layer = layers, text, 0
        self.prompt = text.n_prompt if continued else 0
        self.rows = max(1, TOKENS_AT_ONCE // text.tokens.shape[1])
        entered = [layers.enter(piece) for piece in text.tokens.split(self.rows)]
        self.residual, self.given = torch.cat([residual for residual, _ in entered]), entered[0][1]
        hidden = torch.cat([layers.on(0, piece, self.given) for piece in self.residual.split(self.rows)])
        self.readout = Readout(layers.unembedding, text, hidden)
        self._after: Residual | None = None
        self._z: dict[Window | None, Z] = {}

    def advance(self) -> None:
        """Go to the next layer."""
        self.residual, self.layer, self._after, self._z = self.after, self.layer + 1, None, {}

    @property
    def after(self) -> Residual:
        """The residual after the present layer, untreated."""
        if self._after is None:
            pieces = self.residual.split(self.rows)
            self._after = torch.cat([self.layers.block(self.layer, piece, self.given) for piece in pieces])
        return self._after

    def z(self, window: Window | None = None) -> Z:
        """z of all heads of the present layer, untreated or all under one window."""
        if window not in self._z:
            pieces = self.residual.split(self.rows)
            self._z[window] = torch.cat([self.layers.z(self.layer, piece, self.given, window) for piece in pieces])
        return self._z[window]

    def measure_together(self, cases: Sequence[Case]) -> list[Comparison]:
        """Measure cases that treat heads of the present layer only, as one batch."""
        parts = []
        at_once = max(1, self.rows // len(cases))
        for start in range(0, len(self.residual), at_once):
            windows = slice(start, start + at_once)
            treated = torch.cat([self._treated(case, windows) for case in cases])
            hidden = self.layers.on(self.layer + 1, treated, self.given)
            stacked = rearrange(hidden, "(case window) token model -> case window token model", case=len(cases))
            parts.append(self.readout.compare(stacked, windows))
        measured = joined(parts)
        return [Comparison(*(values[row] for values in vars(measured).values())) for row in range(len(cases))]

    def measure_alone(self, case: Case) -> Comparison:
        """Measure a case that treats heads of the present layer and of later ones."""
        parts = []
        for start in range(0, len(self.residual), self.rows):
            windows = slice(start, start + self.rows)
            hidden = self.layers.on_with(case.plan, self.layer, self.residual[windows], self.given, self.prompt)
            parts.append(self.readout.compare(hidden, windows))
        return joined(parts)

    def _treated(self, case: Case, windows: slice) -> Residual:
        """The residual after the present layer, with the heads of one case treated."""
        changed = {head.head: self._changed(case, head, windows) for head in case.plan.treatments}
        if self.layers.apart:
            before, residual = self.z()[windows], self.after[windows]
            for head, z in changed.items():
                residual = residual + self.layers.write(self.layer, z - before[:, :, head], head)
            return residual
        z = self.z()[windows].clone()
        for head, values in changed.items():
            z[:, :, head] = values
        return self.layers.block_with_z(self.layer, self.residual[windows], self.given, z)

    def _changed(self, case: Case, head: Any, windows: slice) -> Float[Tensor, "window token d_head"]:
        what = case.plan[head]
        if isinstance(what, Remove):
            fill = torch.from_numpy(case.plan.fills[head]).to(self.residual)
            return fill.expand(*self.residual[windows].shape[:2], -1)
        assert isinstance(what, Window)
        return self.z(what)[windows][:, :, head.head]


def check_layer_by_layer(model: PlainModel, texts: Sequence[ScoredText]) -> LayerWise:
    """Refuse models that cannot be run layer by layer, on a window of each text."""
    layers = LayerWise(model)
    with torch.no_grad():
        for text in texts:
            layers.check(text.tokens[:1])
    return layers


def measure_fast(
    model: PlainModel, cases: Sequence[Case], texts: Sequence[ScoredText]
) -> Iterator[tuple[Case, list[Comparison]]]:
    """Measure cases on texts, layer by layer; yields each as soon as it is done. See `check_layer_by_layer`."""
    layers = LayerWise(model)
    with torch.no_grad():
        streams = [Stream(layers, text) for text in texts]
        for layer in range(len(layers.layers)):
            here = [case for case in cases if case.first_layer == layer]
            yield from _measure_layer(here, streams)
            if any(case.first_layer > layer for case in cases):
                for stream in streams:
                    stream.advance()
            else:
                return


def _measure_layer(cases: list[Case], streams: list[Stream]) -> Iterator[tuple[Case, list[Comparison]]]:
    inside = [case for case in cases if case.in_one_layer]
    longest = max(stream.text.tokens.numel() for stream in streams)
    together = max(1, TOKENS_AT_ONCE // longest)
    for start in range(0, len(inside), together):
        some = inside[start : start + together]
        measured = [stream.measure_together(some) for stream in streams]
        yield from ((case, [of[row] for of in measured]) for row, case in enumerate(some))
    for case in cases:
        if not case.in_one_layer:
            yield case, [stream.measure_alone(case) for stream in streams]
