"""The numbers that tell what a head does, for the offline probe and for live generation alike.

Plain torch: activations in, numbers out. No model, no cut-offs. Shapes: `pattern` is
`[batch, head, query, key]` (post-softmax attention), `positions` is `[query]` (absolute positions
of the queries; key 0 is position 0), `z` is `[batch, query, head, d_head]`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_entropy(pattern: Tensor) -> Tensor:
    """Shannon entropy of each query's attention, in nats: `[batch, head, query]`.

    Between 0 (all on one key) and log(number of visible keys). Low entropy alone says little: a head that
    rests on an attention sink has the lowest of all.
    """
    # log(0) × 0 counts as 0; clamp, log and product take a third of the time of torch.xlogy.
    logs = pattern.clamp(min=torch.finfo(pattern.dtype).tiny).log()
    return -torch.einsum("...k,...k->...", pattern, logs)


def sink_mass(pattern: Tensor, n_sinks: int) -> Tensor:
    """Attention on the first `n_sinks` keys, in [0, 1]: `[batch, head, query]` (Xiao et al. 2023)."""
    return pattern[..., :n_sinks].sum(-1)


def near_mass(pattern: Tensor, positions: Tensor, n_offsets: int, first_key: int = 0) -> Tensor:
    """Attention at each relative offset 0 … n_offsets−1, in [0, 1]: `[batch, head, query, offset]`.

    Offset 0 is the query's own key, offset 1 the key before it. Keys before `first_key` count as 0: with
    `first_key=n_sinks`, window mass and sink mass add up without counting a key twice.
    """
    keys = positions[:, None] - torch.arange(n_offsets, device=pattern.device)
    index = keys.clamp(min=0).expand(*pattern.shape[:2], -1, -1)
    return pattern.gather(-1, index) * (keys >= first_key)


def window_masses(
    pattern: Tensor, first: int, start: int, windows: Sequence[int], n_sinks: int
) -> tuple[Tensor, Tensor]:
    """Attention inside each window without the sinks, `[batch, head, query, window]`, and on the sinks, `[…, query]`.

    Args:
        pattern: `[batch, head, query, key]`.
        first: Which key is the first query's own.
        start: The first real key, behind the padding; the sinks are the first real ones.
        windows: Rising numbers of keys, the query's own included.
        n_sinks: Their number.
    """
    pattern = pattern[..., start:]
    positions = torch.arange(pattern.shape[2], device=pattern.device) + (first - start)
    near = near_mass(pattern, positions, windows[-1], first_key=n_sinks).cumsum(-1)
    return near[..., [window - 1 for window in windows]], sink_mass(pattern, n_sinks)


def output_energy(z: Tensor, gram: Tensor) -> Tensor:
    """Squared norm of what each head writes, ‖z W_O‖², without forming it: `[batch, query, head]`.

    `gram` is W_O W_Oᵀ per head, `[head, d_head, d_head]`, so that no d_model vector a head is needed.
    """
    return torch.einsum("bqhd,hde,bqhe->bqh", z, gram, z)
