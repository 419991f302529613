"""The ray engine of a sweep: the cases are cut into shares, and Ray's workers run the fast engine on each.

Retrying is safe, because a share is a pure function of model, cases and texts: nothing is drawn, written or remembered
in a worker, and no row of a share is handed on before all of them are there.
"""

import copy
import logging
import os
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headspec.errors import HeadspecError, ModelError
from headspec.load.identity import Identity
from headspec.load.plain import PlainModel
from headspec.measure.compare import Comparison
from headspec.measure.texts import ScoredText
from headspec.search.cases import Case
from headspec.search.fast import measure_fast

PASSES_A_SHARE = 16
"""Work of a share, in forward passes over the texts. What every share computes anew (the original and its read-out, the
layers before its first case) costs 1 to 3 of them; what is lost with a worker is one share."""
RETRIES = 3
"""How often a share is given to another worker after the one before has died."""
CONNECTING_S = 10

Measured = list[tuple[int, list[Comparison]]]
"""What came of a share: the number of each case in it, and its measures on every text."""
Packed = tuple[PlainModel, list[np.ndarray], Sequence[ScoredText]]


def measure_on_ray(
    model: PlainModel,
    cases: Sequence[Case],
    texts: Sequence[ScoredText],
    *,
    address: str | None = None,
    n_workers: int | None = None,
) -> Iterator[tuple[Case, list[Comparison]]]:
    """Measure cases on texts, shared among Ray's workers; yields those of a share as soon as it is done.

    A Ray that is running in this process is used and left running; otherwise one is started, and ended with the sweep.

    Args:
        model: On the CPU. It goes out once; the workers of a machine share one copy of its weights.
        cases: What to measure.
        texts: What to measure it on.
        address: A cluster, as for `ray.init` (`auto`, `host:6379`, `ray://host:10001`), that has headspec installed; by
            default what the environment variable RAY_ADDRESS says, or else this machine alone.
        n_workers: How many shares run at once, as far as there are CPUs; by default one a CPU. Each gets its part of
            the CPUs, as torch threads, and needs memory for its own activations.

    Raises:
        HeadspecError: No Ray, or none at that address; or workers died 4 times over one share.
        ModelError: As in the fast engine, or for a model that cannot be pickled.
    """
    if n_workers is not None and n_workers < 1:
        raise HeadspecError(f"n_workers {n_workers}: want 1 or more.")
    if model.identity.device != "cpu":
        raise HeadspecError(
            f"Ray's workers compute on CPUs, and {model.name} is on {model.identity.device}: load it with "
            'device="cpu", or use engine="fast".'
        )
    with _connected(address) as ray:
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        n_workers = n_workers or max(1, sum(nodes))
        n_cpus = cpus_each(nodes, n_workers)
        # Ray would retry without end what its memory monitor has killed, so it is we who count.
        task = ray.remote(_measure_share).options(num_cpus=n_cpus, max_retries=0)
        packed = _send(ray, model, texts)
        shares = cut_into_shares(cases, model.identity, n_workers)
        for share, measured in _as_finished(ray, shares, lambda share: task.remote(packed, share, n_cpus), n_workers):
            yield from ((share[number], comparisons) for number, comparisons in measured)


def cut_into_shares(cases: Sequence[Case], identity: Identity, n_workers: int) -> list[list[Case]]:
    """Cases in shares of about the same work, as many for each worker.

    In the order of their first layer: a share of late cases starts late in the model, and cases of one layer, which
    are measured together, stay together.
    """
    readout = identity.d_vocab / (12 * identity.d_model)  # in blocks, which have about 12 d_model² weights
    ordered = sorted(cases, key=lambda case: case.first_layer)
    work = np.array([identity.n_layers - case.first_layer - case.in_one_layer + readout for case in ordered])
    shares_each = work.sum() / (PASSES_A_SHARE * (identity.n_layers + readout) * n_workers)
    n_shares = n_workers * max(1, round(shares_each))
    numbers = (work.cumsum() - work / 2) / work.sum() * n_shares  # of the share in which the middle of a case falls
    shares = [[case for case, at in zip(ordered, numbers, strict=True) if int(at) == n] for n in range(n_shares)]
    return [share for share in shares if share]


def cpus_each(nodes: Sequence[int], n_workers: int) -> int:
    """The most CPUs a share can have if so many shares are to run at once on machines with so many CPUs each.

    >>> cpus_each([8, 8], 2), cpus_each([8, 8], 3), cpus_each([2], 5)
    (8, 4, 1)
    """
    fitting = (n for n in range(max(nodes, default=1), 0, -1) if sum(node // n for node in nodes) >= n_workers)
    return next(fitting, 1)


def _as_finished(
    ray: Any, shares: list[list[Case]], start: Callable[[list[Case]], Any], n_workers: int
) -> Iterator[tuple[list[Case], Measured]]:
    """Keep so many shares running, and yield each as it is finished."""
    waiting = deque((share, 0) for share in shares)
    running: dict[Any, tuple[list[Case], int]] = {}

    def fill() -> None:
        while waiting and len(running) < n_workers:
            share, deaths = waiting.popleft()
            running[start(share)] = share, deaths

    try:
        fill()
        while running:
            ready = ray.wait(list(running))[0][0]
            share, deaths = running.pop(ready)
            try:
                measured = ray.get(ready)
            except ray.exceptions.RayTaskError as error:  # no worker has died: it would happen again
                raise _cause(ray, error) from error
            except ray.exceptions.RayError as error:
                measured = []
                waiting.append((share, _died(share, deaths + 1, error)))
            fill()  # before the caller takes its time over the rows
            yield share, measured
    finally:
        for left in running:  # or a Ray of the user's would go on with them
            ray.cancel(left, force=True)


def _cause(ray: Any, error: Any) -> Exception:
    """What went wrong in a worker, as it was raised there."""
    if not isinstance(error.cause, ray.exceptions.RayError):
        return error.cause
    return HeadspecError(
        f"Ray's workers cannot read what is sent to them ({str(error.cause).splitlines()[0]}): every machine of the "
        "cluster needs the headspec that is installed here."
    )


def _died(share: list[Case], deaths: int, error: Exception) -> int:
    """Another death over a share: how many there have been, unless it is one too many."""
    if deaths <= RETRIES:
        return deaths
    named = ", ".join(case.label for case in share[:3]) + (f" and {len(share) - 3} more" if len(share) > 3 else "")
    raise HeadspecError(
        f"Ray's workers died {deaths} times over {named} ({type(error).__name__}: {str(error).splitlines()[0]}). Is "
        "there too little memory? Give a smaller n_workers; a sweep with out= goes on where it was."
    ) from error


def _measure_share(packed: Packed, share: list[Case], n_cpus: int) -> Measured:
    """What a worker does. Sends no plans back, only numbers of cases."""
    torch.set_num_threads(n_cpus)  # by default each worker would take all the CPUs of the machine
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # and nobody writes to it
    numbers = {id(case): number for number, case in enumerate(share)}
    return [(numbers[id(case)], measured) for case, measured in measure_fast(_unpack(packed), share, packed[2])]


def _send(ray: Any, model: PlainModel, texts: Sequence[ScoredText]) -> Any:
    """Put the model where the workers find it; without a tokenizer, which they do not need."""
    try:
        return ray.put(_pack(model, texts))
    except TypeError as error:  # what Ray says itself runs to pages
        raise ModelError(
            f'{model.name} cannot be sent to Ray\'s workers ({error.__cause__ or error}): use engine="fast".'
        ) from None


def _pack(model: PlainModel, texts: Sequence[ScoredText]) -> Packed:
    """The model without weights, and these as numpy arrays, which Ray's workers map into memory without a copy."""
    weights = _weights(model.huggingface)
    empty: dict[int, Any] = {id(weight): nn.Parameter(weight.to("meta"), requires_grad=False) for weight in weights}
    arrays = [weight.detach().contiguous().flatten().view(torch.uint8).numpy() for weight in weights]
    emptied = copy.deepcopy(model.huggingface, empty)
    for module in emptied.modules():  # transformers' recorders of hidden states cannot be sent; it makes new ones
        module.__dict__.pop("_output_capturing_hooks_installed", None)
        for number, hook in [*module._forward_hooks.items()]:
            if getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
                del module._forward_hooks[number]
    return PlainModel(emptied, model.name), arrays, texts


def _unpack(packed: Packed) -> PlainModel:
    model, arrays, _ = packed
    for weight, array in zip(_weights(model.huggingface), arrays, strict=True):
        found = torch.from_numpy(array).view(weight.dtype).view(weight.shape)
        torch.utils.swap_tensors(weight, nn.Parameter(found, requires_grad=False))
    return model


def _weights(module: Any) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray: as it is running in this process, or else started or joined here and left at the end."""
    try:
        import ray
    except ImportError as error:
        raise HeadspecError("engine=\"ray\" needs Ray, which is not installed: pip install 'headspec[ray]'") from error
    if ray.is_initialized():
        if address is not None:
            raise HeadspecError(f"Ray is running in this process: leave address={address!r} out, or ray.shutdown() it.")
        yield ray
        return
    try:
        _start(ray, address or os.environ.get("RAY_ADDRESS") or "local")
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, address: str) -> None:
    """Start Ray on this machine (`local`) or join a cluster; says little and opens no dashboard."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host:  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECTING_S).close()
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise HeadspecError(
            f"no Ray at {address!r} ({error}): is it running there (`ray start --head`), and does it want a token "
            "(RAY_AUTH_MODE=token)? Leave address and RAY_ADDRESS out to use this machine alone."
        ) from error
