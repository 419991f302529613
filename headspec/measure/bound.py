"""The roofline: the least time that a machine can take, and so the most that pruning alone can give.

A token cannot be decoded faster than weights and keys are read, nor a prompt read faster than it is multiplied. What
this leaves out (norms, softmax, rotation, calls) makes real times longer, never shorter. A system that comes to half
of its bound is good; one beyond it was measured against rates of another moment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from headspec.errors import HeadspecError
from headspec.measure.timing import lap
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.treatments import Remove, Treatment, Window
from headspec.plan.workload import Workload

READ_BYTES = 256 * 2**20
"""Summed up to measure the bandwidth: more than caches hold."""
ROUNDS = 9


@dataclass(frozen=True)
class Rates:
    """What the machine does at its best, with the threads and the type of number that it was measured with."""

    read_bytes_s: float
    """Bytes a second from memory."""
    flops_s: float
    """Floating-point operations a second in a large matrix product; a multiplication and an addition are two."""

    def __post_init__(self) -> None:
        if not min(self.read_bytes_s, self.flops_s) > 0:
            raise HeadspecError(f"rates of {self.read_bytes_s} bytes/s and {self.flops_s} FLOP/s: want more than 0.")


def measure_rates(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Rates:
    """Measure both rates: the best of a few rounds, as anything else on the machine only makes them lower.

    On a CPU with one thread they are of CPU time, which waiting for a core does not touch. With more threads they are
    of wall time: threads share the memory, so that one thread's bandwidth times their number would be too much. On
    a GPU they are of its own time.
    """
    numbers = torch.ones(READ_BYTES // 4, device=device)
    size = 1024 if device == "cpu" else 4096
    square = torch.rand(size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    with torch.inference_mode():
        read_s, multiply_s = _best_s(numbers.sum, device), _best_s(lambda: square @ square, device)
    return Rates(READ_BYTES / read_s, 2 * size**3 / multiply_s)


def decode_bound_ms(model: nn.Module, batch: int, kv_bytes: int | float, rates: Rates) -> float:
    """Least time for one token a row: every weight is read once and used by all rows, every key is read once.

    Args:
        model: Its linear layers count, the unembedding too; an embedding is looked up, not read.
        batch: Rows.
        kv_bytes: What a token looks at, all rows together: less than a cache holds that is not full yet.
        rates: Of the machine.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    linear_s = sum(_matrix_s(weight.numel(), weight.element_size(), batch, rates) for weight in weights)
    return 1e3 * (linear_s + kv_bytes / rates.read_bytes_s)


def plan_decode_ms(
    plan: HeadPlan, d_mlp: int, vocabulary: int, batch: int, n_tokens: int, rates: Rates,
    bytes_per_number: int = 4, n_new: int = 0,
) -> float:  # fmt: skip
    """The same for a GPT-NeoX under a plan, by closed formula: no model, and quick enough for every plan of a search.

    Args:
        plan: What is done with the heads.
        d_mlp: Width of the MLP's hidden layer.
        vocabulary: Rows of the unembedding.
        batch: Rows.
        n_tokens: Tokens of the prompt, per row.
        rates: Of the machine.
        bytes_per_number: 4 for float32.
        n_new: Tokens that follow the prompt: the time is the mean of theirs. 0: keys are those after the prompt.
    """
    kv_bytes = batch * plan_size(plan, Workload(n_tokens, n_new), bytes_per_number).kv_bytes
    linear_s = _matrix_s(linear_weights(plan, d_mlp, vocabulary), bytes_per_number, batch, rates)
    return 1e3 * (linear_s + kv_bytes / rates.read_bytes_s)


def prefill_bound_ms(
    plan: HeadPlan, d_mlp: int, vocabulary: int, n_tokens: int, batch: int, rates: Rates, bytes_per_number: int = 4
) -> float:
    """Least time for a GPT-NeoX under a plan to read a prompt, for the logits of its last token.

    That is less than transformers does: of the last layer all but keys and values is needed for one token only. A head
    multiplies with the keys that its queries see, no more; compressed heads see all of them in the prompt. Arguments
    as for `plan_decode_ms`; the empty plan serves V and S.
    """
    about, last = plan.about, plan.about.n_layers - 1
    kept = [head for head in about.heads if not isinstance(plan[head], Remove)]
    ending = sum(head.layer == last for head in kept)
    projection = about.d_head * about.d_model  # of a head: query, key, value and output have one each
    mlp = 2 * d_mlp * about.d_model
    for_all = projection * (4 * (len(kept) - ending) + 2 * ending) + mlp * last
    for_one = projection * 2 * ending + mlp + vocabulary * about.d_model
    linear_s = _matrix_s(for_all, bytes_per_number, batch * n_tokens, rates)
    linear_s += _matrix_s(for_one, bytes_per_number, batch, rates)
    pairs = sum(keys_seen(plan[head], n_tokens, n_tokens if head.layer < last else 1) for head in kept)
    return 1e3 * (linear_s + 4 * about.d_head * batch * pairs / rates.flops_s)


def pruning_bound(full_ms: float, pruned_ms: float) -> float:
    """The most that pruning alone can give at the roofline: the bound of P0 over that of the plan.

    Amdahl's law: MLPs and the unembedding stay, whatever is done with the heads. A measured speed-up over P0 above
    this holds something that is not pruning, or noise.

    >>> pruning_bound(full_ms=8.0, pruned_ms=5.0)
    1.6
    """
    if not min(full_ms, pruned_ms) > 0:
        raise HeadspecError(f"bounds of {full_ms} and {pruned_ms} ms: want more than 0.")
    return full_ms / pruned_ms


def linear_weights(plan: HeadPlan, d_mlp: int, vocabulary: int) -> int:
    """Numbers in the matrices of a GPT-NeoX that are left under a plan, the unembedding's among them."""
    about = plan.about
    heads = len(about.heads) - len(plan.heads(Remove))
    return about.d_model * (4 * about.d_head * heads + 2 * d_mlp * about.n_layers + vocabulary)


def keys_seen(treatment: Treatment, n_tokens: int, n_queries: int) -> int:
    """Keys that the last `n_queries` of a prompt see under a treatment, added up.

    >>> keys_seen(Window(2, sinks=1), n_tokens=5, n_queries=5)  # 1 + 2 + 3 + 3 + 3
    12
    """
    most = treatment.window + treatment.sinks if isinstance(treatment, Window) else n_tokens

    def of_first(n: int) -> int:
        growing = min(n, most)
        return growing * (growing + 1) // 2 + (n - growing) * growing

    return of_first(n_tokens) - of_first(n_tokens - n_queries)


def _matrix_s(n_weights: int, bytes_per_number: int, rows: int, rates: Rates) -> float:
    """Seconds to read weights once, or to multiply rows with them, whichever is more."""
    return n_weights * max(bytes_per_number / rates.read_bytes_s, 2 * rows / rates.flops_s)


def _best_s(work: Callable[[], Any], device: str) -> float:
    """Seconds of the quickest of several rounds."""
    laps = [lap(work, device) for _ in range(ROUNDS)]
    one_thread = device == "cpu" and torch.get_num_threads() == 1
    return min(one.cpu_ms if one_thread else one.wall_ms for one in laps) / 1e3
