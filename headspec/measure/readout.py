"""Loss, KL and top-1 of many variants of one text, from the hidden states that are unembedded.

Two shortcuts, both exact. With p the original's distribution and W_U the unembedding, the cross term of KL(p ‖ q) is
Σ p·logit_q = (p W_U)·h_q: p W_U is one vector a query, so a variant costs one pass over its logits (for log Z and the
most likely token) and no distribution of the original has to be kept. And logits are made a few queries at a time.
"""

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from headspec.measure.compare import Comparison
from headspec.measure.texts import ScoredText

QUERIES_AT_ONCE = 512


class Readout:
    """Compares hidden states of a text with those of the original model, which it is made from."""

    def __init__(self, unembedding: Any, text: ScoredText, hidden: Float[Tensor, "window token d_model"]) -> None:
        self.unembedding, self.text = unembedding, text
        self.targets = text.targets.to(hidden.device)
        self.hidden = self._counted(hidden)
        self.log_z, top, expected = self._originals(self.hidden)
        self.expected, self.top = expected, top

    def compare(self, hidden: Float[Tensor, "... window token d_model"], windows: slice) -> Comparison:
        """Measures of variants, `[..., window]` each, for the windows of the text that they hold."""
        h = self._counted(hidden)
        log_z, top = self._pass(h)
        loss = log_z - self._logit(h, self.targets[windows])
        cross = self._dot(self.expected[windows], self.hidden[windows] - h)
        kl = cross - self.log_z[windows] + log_z
        before = self.log_z[windows] - self._logit(self.hidden[windows], self.targets[windows])
        right_before, right = self.top[windows] == self.targets[windows], top == self.targets[windows]
        per_query = (before, loss, kl, top == self.top[windows], right_before, right)
        means = torch.broadcast_tensors(*(measure.double().mean(-1).cpu() for measure in per_query))
        return Comparison(*(mean.numpy() for mean in means))

    def _counted(self, hidden: Tensor) -> Tensor:
        return hidden[..., self.text.first : -1, :]

    def _pass(self, hidden: Float[Tensor, "... d_model"]) -> tuple[Tensor, Tensor]:
        """log Z and the most likely token of every query."""
        log_z, tops = [], []
        for rows in hidden.reshape(-1, hidden.shape[-1]).split(QUERIES_AT_ONCE):
            logits = self.unembedding(rows).float()
            largest, top = logits.max(-1)
            log_z.append(logits.sub_(largest[:, None]).exp_().sum(-1).double().log() + largest)
            tops.append(top)
        shape = hidden.shape[:-1]
        return torch.cat(log_z).view(shape), torch.cat(tops).view(shape)

    def _originals(self, hidden: Float[Tensor, "window query d_model"]) -> tuple[Tensor, Tensor, Tensor]:
        """log Z, the most likely token, and p W_U of every query of the original."""
        log_z, tops = self._pass(hidden)
        expected = []
        flat, normalisers = hidden.reshape(-1, hidden.shape[-1]), log_z.reshape(-1, 1)
        for rows, z in zip(flat.split(QUERIES_AT_ONCE), normalisers.split(QUERIES_AT_ONCE), strict=True):
            p = (self.unembedding(rows).float() - z.float()).exp()
            expected.append((p / p.sum(-1, keepdim=True)) @ self.unembedding.weight.float())
        return log_z, tops, torch.cat(expected).view(hidden.shape)

    def _logit(self, hidden: Tensor, targets: Int[Tensor, "window query"]) -> Tensor:
        logit = self._dot(hidden, self.unembedding.weight[targets])
        bias = getattr(self.unembedding, "bias", None)
        return logit if bias is None else logit + bias[targets]

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Scalar product in float64: the KL is a small difference of large numbers."""
        return einsum(a.double(), b.double(), "... d, ... d -> ...")
