"""Sweeps whose cases are shared among Ray's workers: the same table, whoever is killed on the way."""

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Event, Lock
from typing import Any

import psutil
import pytest
import ray
import torch
from tiny_models import tiny_llama, tiny_neox
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel

from headspec.errors import HeadspecError, ModelError
from headspec.load.plain import PlainModel, as_plain
from headspec.load.text import TokenWindows, load_text
from headspec.measure.texts import ScoredText, scored_text
from headspec.plan.make import plan_heads
from headspec.rowlog import LOG, read_rows
from headspec.search import distributed
from headspec.search import sweep as sweep_module
from headspec.search.cases import Case
from headspec.search.distributed import cut_into_shares, measure_on_ray
from headspec.search.sweep import sweep
from headspec.search.table import SWEEP, SweepTable

HEADS = ("L0H1", "L1H0", "L1H3", "L2H2", "L3H5", "L3H6")
WORKING = "ray::_measure_share"
"""What Ray calls a process that is measuring a share."""


def cases_for(model: Any, heads: Sequence[str] = HEADS, treatments: Sequence[str] = ("zero", "window:8")) -> list[Case]:
    """Heads alone, and all of them together; not in the order of the layers."""
    alone = [Case("single", f"{h}={what}", plan_heads(model, {h: what})) for what in treatments for h in heads]
    return [Case("curve", "all", plan_heads(model, dict.fromkeys(heads, treatments[-1]))), *reversed(alone)]


def run(model: Any, cases: list[Case], text: Any, **options: Any) -> SweepTable:
    return sweep(model, cases, text, n_repeats=1, progress=False, **options)


def assert_same(found: SweepTable, expected: SweepTable) -> None:
    assert [row["key"] for row in found.rows] == [row["key"] for row in expected.rows]
    for row, wanted in zip(found.rows, expected.rows, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def workers() -> list[psutil.Process]:
    """The processes that are measuring a share, on the Ray of this process."""
    working = []
    for process in psutil.Process().children(recursive=True):
        try:
            working += [process] if process.cmdline()[:1] == [WORKING] else []
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return working


def wait_for_workers(wanted: int) -> list[psutil.Process]:
    """Wait until so many shares are being measured at once."""
    deadline = time.monotonic() + 100
    while len(found := workers()) < wanted:
        assert time.monotonic() < deadline, f"there never were {wanted} at work"
        time.sleep(0.02)
    return found


def kill_one_of_two() -> int:
    """Wait until two shares are being measured, and kill the process of one of them. Answers its id."""
    victim = wait_for_workers(2)[0]
    victim.kill()
    return victim.pid


def kill_all(rows: Path, enough: Event) -> int:
    """Once there are rows, kill whoever measures a share, until it is enough. Answers how many died."""
    while not rows.exists() and not enough.is_set():
        time.sleep(0.02)
    killed = set()
    while not enough.is_set():
        for process in workers():
            process.kill()
            killed.add(process.pid)
        time.sleep(0.02)
    return len(killed)


@pytest.fixture(scope="module")
def plain(demo: TransformerBridge) -> PlainModel:
    return as_plain(demo)


@pytest.fixture(scope="module")
def text(plain: PlainModel) -> TokenWindows:
    return load_text(plain, "select", n_tokens=1024, window=256)


@pytest.fixture(scope="module")
def cases(plain: PlainModel) -> list[Case]:
    return cases_for(plain)


@pytest.fixture(scope="module")
def expected(plain: PlainModel, cases: list[Case], text: TokenWindows) -> SweepTable:
    return run(plain, cases, text)


@pytest.fixture(scope="module", autouse=True)
def _ray_ends_with_the_module() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def users_ray() -> str:
    """A Ray of two CPUs that the user has started, one for all tests that want it. Answers its address."""
    if not ray.is_initialized():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two or three cases a share."""
    monkeypatch.setattr(distributed, "PASSES_A_SHARE", 1)


def test_shares_hold_every_case_once_in_the_order_of_the_layers(plain: PlainModel, cases: list[Case]) -> None:
    shares = cut_into_shares(cases, plain.identity, 2)
    assert list(chain(*shares)) == sorted(cases, key=lambda case: case.first_layer)


def test_shares_are_of_about_the_same_work_and_as_many_for_each_worker(plain: PlainModel) -> None:
    heads = [str(head) for head in plan_heads(plain, {}).about.heads]
    shares = cut_into_shares(
        cases_for(plain, heads, ["zero", *(f"window:{size}" for size in range(1, 20))]), plain.identity, 4
    )
    n_layers, readout = plain.identity.n_layers, plain.identity.d_vocab / (12 * plain.identity.d_model)
    work = [sum(n_layers - case.first_layer - case.in_one_layer + readout for case in share) for share in shares]
    assert len(shares) % 4 == 0
    assert max(work) - min(work) <= 2 * n_layers
    assert work[0] == pytest.approx(distributed.PASSES_A_SHARE * (n_layers + readout), rel=0.3)


def test_there_are_no_more_shares_than_cases(plain: PlainModel, cases: list[Case]) -> None:
    assert [
        len(share) for share in cut_into_shares(cases_for(plain, ["L2H1", "L2H5"], ["zero"])[1:], plain.identity, 8)
    ] == [1, 1]


@pytest.mark.usefixtures("users_ray", "small_shares")
def test_the_table_is_that_of_the_fast_engine(
    demo: TransformerBridge, cases: list[Case], text: TokenWindows, expected: SweepTable
) -> None:
    assert_same(run(demo, cases, text, engine="ray", n_workers=2), expected)


@pytest.mark.usefixtures("users_ray")
def test_tied_weights_of_half_precision_arrive(text: TokenWindows) -> None:
    llama = tiny_llama().to(torch.bfloat16)
    llama.set_attn_implementation("sdpa")
    llama.lm_head.weight = llama.model.embed_tokens.weight
    model = PlainModel(llama, "tied")
    cases = cases_for(model, ["L0H0", "L1H2"])
    ids = torch.arange(100)
    assert_same(run(model, cases, ids, engine="ray"), run(model, cases, ids))


@pytest.mark.usefixtures("users_ray", "small_shares")
def test_rows_come_with_the_very_cases_that_were_given(
    plain: PlainModel, cases: list[Case], text: TokenWindows
) -> None:
    came = [case for case, _ in measure_on_ray(plain, cases, [scored_text(plain, text)], n_workers=2)]
    assert {id(case) for case in came} == {id(case) for case in cases}
    assert len(came) == len(cases)


@pytest.mark.usefixtures("users_ray", "small_shares")
def test_a_worker_that_is_killed_is_made_up_for(
    plain: PlainModel, cases: list[Case], text: TokenWindows, expected: SweepTable
) -> None:
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_one_of_two)
        table = run(plain, cases, text, engine="ray", n_workers=2)
    assert not psutil.pid_exists(killed.result(timeout=0))
    assert_same(table, expected)


@pytest.mark.usefixtures("users_ray", "small_shares")
def test_a_share_over_which_workers_die_again_and_again_ends_the_sweep_but_not_what_is_finished(
    plain: PlainModel, cases: list[Case], text: TokenWindows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "RETRIES", 1)
    enough = Event()
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_all, tmp_path / LOG, enough)
        try:
            with pytest.raises(HeadspecError, match=r"died 2 times over (all|L\dH\d=).*smaller n_workers"):
                run(plain, cases, text, engine="ray", n_workers=2, out=tmp_path)
        finally:
            enough.set()
    assert killed.result(timeout=0) >= 2
    assert 0 < len(read_rows(tmp_path, SWEEP)) < len(cases)


@pytest.mark.usefixtures("small_shares")
def test_a_sweep_whose_own_process_is_killed_goes_on_without_measuring_a_row_twice(
    plain: PlainModel, cases: list[Case], text: TokenWindows, expected: SweepTable, tmp_path: Path, users_ray: str
) -> None:
    script = f"""
import ray, sys
from headspec.load.model import load_plain
from headspec.search import distributed
from headspec.search.sweep import sweep

distributed.PASSES_A_SHARE = 1
cases, text = ray.cloudpickle.load(sys.stdin.buffer)
sweep(load_plain("demo", device="cpu"), cases, text, n_repeats=1, progress=False, out={str(tmp_path)!r},
      engine="ray", n_workers=2, address={users_ray!r})
"""
    log = tmp_path / LOG
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as other:
        assert other.stdin is not None
        other.stdin.write(ray.cloudpickle.dumps((cases, text)))
        other.stdin.close()
        while not (log.exists() and "\n" in log.read_text()) and other.poll() is None:
            time.sleep(0.01)
        other.kill()
    before = log.read_text().rpartition("\n")[0]
    assert 0 < len(before.splitlines()) < len(cases)
    assert_same(run(plain, cases, text, engine="ray", n_workers=2, out=tmp_path), expected)
    after = log.read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == len(cases)


@pytest.mark.usefixtures("users_ray")
def test_what_a_worker_refuses_reaches_the_caller_as_it_is() -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=300, bos_token_id=0, eos_token_id=0)
    model = PlainModel(GPT2LMHeadModel(config).eval(), "gpt2")
    with pytest.raises(ModelError, match="does not know its way around GPT2LMHeadModel") as caught:
        run(model, cases_for(model, ["L0H0", "L1H1"]), torch.arange(40), engine="ray")
    assert caught.type is ModelError


class OnlyHere:
    """Something in a model that can be read in this process only."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnlyHere":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("a_module_that_only_this_machine_has",)


@pytest.mark.usefixtures("users_ray")
@pytest.mark.parametrize(
    ("unsendable", "message"),
    [
        (Lock(), r"cannot be sent to Ray's workers \(.*lock.*\): use engine=\"fast\""),
        (OnlyHere(), "cannot read what is sent to them .*a_module_that_only_this_machine_has.*every machine"),
    ],
    ids=["no_pickle", "no_such_module"],
)
def test_a_model_that_does_not_reach_the_workers_is_refused(unsendable: Any, message: str) -> None:
    model = PlainModel(tiny_neox(), "tiny")
    model.huggingface.unsendable = unsendable
    with pytest.raises(HeadspecError, match=message):
        run(model, cases_for(model, ["L0H0"]), torch.arange(40), engine="ray")


@pytest.mark.usefixtures("users_ray", "small_shares")
def test_a_users_ray_is_left_running_but_not_at_work_when_nobody_wants_more(
    plain: PlainModel, cases: list[Case], text: TokenWindows
) -> None:
    longer = ScoredText(text.tokens.repeat(8, 1), 0, "longer")  # seconds a share: it does not end by itself
    measuring = measure_on_ray(plain, cases, [longer], n_workers=2)
    next(measuring)
    working = wait_for_workers(1)
    measuring.close()  # type: ignore[attr-defined]
    assert ray.is_initialized()
    assert psutil.wait_procs(working, timeout=20)[1] == []


@pytest.mark.usefixtures("users_ray")
def test_an_address_beside_a_running_ray_is_refused(plain: PlainModel, cases: list[Case], text: TokenWindows) -> None:
    with pytest.raises(HeadspecError, match="Ray is running in this process: leave address="):
        run(plain, cases, text, engine="ray", address="auto")
    assert ray.is_initialized()


@pytest.mark.usefixtures("no_ray", "small_shares")
def test_ray_is_ended_when_the_sweep_is_interrupted(
    plain: PlainModel, cases: list[Case], text: TokenWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "make_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(plain, cases, text, engine="ray", n_workers=2)
    assert not ray.is_initialized()
    assert workers() == []


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto", "nonsense", "here:now"])
def test_an_address_without_a_ray_is_refused(
    plain: PlainModel, cases: list[Case], text: TokenWindows, address: str
) -> None:
    with pytest.raises(HeadspecError, match=f"no Ray at '{address}' .*`ray start --head`"):
        run(plain, cases, text, engine="ray", address=address)
    assert not ray.is_initialized()


def test_without_ray_one_is_told_how_to_install_it(
    plain: PlainModel, cases: list[Case], text: TokenWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HeadspecError, match=r"pip install 'headspec\[ray\]'"):
        run(plain, cases, text, engine="ray")


def test_no_workers_are_refused(plain: PlainModel, cases: list[Case], text: TokenWindows) -> None:
    with pytest.raises(HeadspecError, match="n_workers 0: want 1 or more"):
        run(plain, cases, text, engine="ray", n_workers=0)


def test_a_model_that_is_not_on_the_cpu_is_refused(cases: list[Case]) -> None:
    with pytest.raises(HeadspecError, match='on meta: load it with device="cpu"'):
        next(measure_on_ray(PlainModel(tiny_llama().to("meta"), "elsewhere"), [], []))
