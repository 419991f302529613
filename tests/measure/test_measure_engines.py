"""Systems on other engines and with other weights: they read as torch does, by the benchmark's protocol."""

import importlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, tiny_llama, tiny_neox
from torch import Tensor

from headspec.errors import HeadspecError, MissingPackageError, ModelError, RecordError
from headspec.export.export import export_model
from headspec.load.plain import PlainModel
from headspec.measure.check import TOLERANCE, greedy, logits_difference
from headspec.measure.memory import weight_bytes
from headspec.measure.systems import compiled as compiling
from headspec.measure.systems.compiled import compiled, compiled_static
from headspec.measure.systems.ctranslate2 import CTranslate2Reading, on_ctranslate2
from headspec.measure.systems.exported import exported
from headspec.measure.systems.openvino import on_openvino, openvino_folder
from headspec.measure.systems.planned import planned
from headspec.measure.systems.reduced import with_weights
from headspec.measure.systems.system import Running, Standing, System
from headspec.measure.systems.unpruned import unpruned
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan

WISH = {"L0H0": "zero", "L0H1": "window:3", "L0H2": "window:5+2"}
COLUMN = 4 * 2 * 8 * 4
"""Bytes of one column of the tiny model: heads, key and value, d_head, float32."""


@cache
def one_layer() -> PlainModel:
    """One layer of four heads. Shared: leave it as it is."""
    return PlainModel(tiny_neox(2, n_layers=1), "tiny")


def plan() -> HeadPlan:
    return plan_heads(one_layer(), WISH)


def ids(n_rows: int, n_tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCABULARY, (n_rows, n_tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def in_one_pass(tokens: Tensor) -> Tensor:
    return one_layer()(tokens)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# What they are called.


@pytest.mark.parametrize(
    ("before", "after"),
    [(Standing.REFERENCE, Standing.PEER), (Standing.CERTIFIED, Standing.PEER), (Standing.BASELINE, Standing.PEER),
     (Standing.HYPOTHETICAL, Standing.HYPOTHETICAL)],
)  # fmt: skip
def test_a_plan_elsewhere_is_a_peer_unless_nobody_has_judged_it(before: Standing, after: Standing) -> None:
    own = planned(one_layer(), plan(), "mine", "my plan", before)
    found = own.elsewhere("abacus", "on an abacus", engine="abacus")
    assert (found.name, found.label) == ("mine abacus", "my plan; on an abacus")
    assert found.standing is after
    assert (found.plan, found.engine, found.unpruned) == (own.plan, "abacus", "P0 abacus")


def test_the_whole_model_elsewhere_is_its_own_reference() -> None:
    found = unpruned(one_layer()).elsewhere("abacus", "on an abacus")
    assert found.name == found.unpruned == "P0 abacus"


def test_systems_of_torch_have_no_engine() -> None:
    assert (unpruned(one_layer()).engine, unpruned(one_layer()).exact, unpruned(one_layer()).unpruned) == ("", True, "")


@pytest.mark.parametrize(
    ("kind", "name", "exact"), [("float32", "P0 OpenVINO", True), ("int8", "P0 OpenVINO int8", False)]
)
def test_names_on_openvino(kind: str, name: str, exact: bool) -> None:
    pytest.importorskip("nncf")
    found = on_openvino(unpruned(one_layer()), kind)
    assert (found.name, found.unpruned, found.engine, found.exact) == (name, name, "OpenVINO", exact)


@pytest.mark.parametrize(("kind", "name"), [("bfloat16", "P0 bf16"), ("int8", "P0 int8")])
def test_names_of_other_weights(kind: str, name: str) -> None:
    found = with_weights(unpruned(one_layer()), kind)
    assert (found.name, found.unpruned, found.engine, found.exact) == (name, name, kind, False)


def test_names_of_compiled_systems() -> None:
    own, original = compiled(unpruned(one_layer())), compiled_static(one_layer())
    assert (own.name, own.engine, own.exact) == ("P0 compiled", "torch.compile", True)
    assert (original.name, original.standing, original.plan) == ("S compiled", Standing.PEER, None)


# OpenVINO.


@pytest.fixture(scope="module")
def whole() -> System:
    """P0 on OpenVINO. Shared."""
    pytest.importorskip("openvino")
    return on_openvino(unpruned(one_layer()))


@pytest.fixture(scope="module")
def integers() -> System:
    """A plan on OpenVINO in 8 bits. Shared."""
    pytest.importorskip("nncf")
    return on_openvino(planned(one_layer(), plan(), "mine", "my plan", Standing.CERTIFIED), "int8")


@pytest.mark.parametrize("n_last", [0, 1, 2, 6])
def test_as_many_logits_are_given_as_asked_for(whole: System, n_last: int) -> None:
    tokens, running = ids(2, 16), whole.open()
    running.start(10, 16, 2)
    running.read(tokens[:, :10])
    found = running.read(tokens[:, 10:], n_last=n_last)
    same(found, in_one_pass(tokens)[:, -(n_last or 6) :])


def test_the_whole_prompt_can_be_asked_for(whole: System) -> None:
    tokens, running = ids(2, 12), whole.open()
    running.start(12, 12, 2)
    same(running.read(tokens, n_last=0), in_one_pass(tokens))


def test_a_row_is_repeated_and_forgotten(whole: System) -> None:
    tokens, running = ids(1, 12), whole.open()
    running.start(10, 12)
    running.read(tokens[:, :10])
    assert running.kv_bytes == 12 * COLUMN
    running.repeat(3)
    assert running.kv_bytes == 3 * 12 * COLUMN
    same(running.read(tokens[:, 10:].expand(3, -1)), in_one_pass(tokens)[:, -1:].expand(3, -1, -1))
    running.forget()
    assert running.kv_bytes == 0


def test_openvino_passes_the_check(whole: System) -> None:
    assert logits_difference(one_layer(), whole) < 1e-4


def test_it_is_converted_once_however_often_it_is_opened(whole: System) -> None:
    first, second = whole.open(), whole.open()
    assert first.decoder is second.decoder  # type: ignore[attr-defined]
    assert isinstance(first, Running)


def test_integers_are_near_and_not_equal(integers: System) -> None:
    assert TOLERANCE < logits_difference(one_layer(), integers) < 1


def test_integers_weigh_about_a_byte_each(integers: System) -> None:
    whole = planned(one_layer(), plan(), "", "", Standing.PEER).open().model
    layers = sum(each.weight.numel() for each in whole.modules() if hasattr(each, "out_features"))
    assert weight_bytes(integers.open().model) == weight_bytes(whole) - 3 * layers


def test_the_original_keeps_its_weights(integers: System) -> None:
    before = tiny_neox(2, n_layers=1).state_dict()
    integers.open()
    after = one_layer().huggingface.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(("missing", "kind"), [("openvino", "float32"), ("nncf", "int8")])
def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, missing: str, kind: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingPackageError, match=rf"{missing} is not installed: pip install 'headspec\[openvino\]'"):
        on_openvino(unpruned(one_layer()), kind)


# An export for OpenVINO.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy it to change it."""
    pytest.importorskip("openvino")
    out = tmp_path_factory.mktemp("exports") / "cut"
    export_model(one_layer(), plan().certified({"kl": 0.1}), out, to="openvino")
    return out


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "cut"))


def test_an_export_is_called_like_its_folder(folder: Path) -> None:
    found = openvino_folder(folder, one_layer())
    assert (found.name, found.engine, found.exact, found.unpruned) == ("cut", "OpenVINO", True, "P0 OpenVINO")
    assert (found.standing, found.plan, found.folder) == (Standing.CERTIFIED, plan(), folder)


def test_an_export_passes_the_check(folder: Path) -> None:
    assert logits_difference(one_layer(), openvino_folder(folder, one_layer())) < 1e-4


def test_an_export_for_openvino_is_known_as_one(folder: Path) -> None:
    assert exported(folder, one_layer()).engine == "OpenVINO"


def test_an_export_without_a_certificate_is_hypothetical(copied: Path) -> None:
    plan().save(copied / "plan.json")
    assert openvino_folder(copied, one_layer()).standing is Standing.HYPOTHETICAL


def test_an_export_with_another_plan_beside_it_is_refused(copied: Path) -> None:
    plan_heads(one_layer(), {"L0H0": "zero"}).save(copied / "plan.json")
    with pytest.raises(ModelError, match=r"its plan\.json is not the one that this graph was made by. Export it anew"):
        openvino_folder(copied, one_layer())


def test_an_export_of_another_original_is_refused(folder: Path) -> None:
    with pytest.raises(RecordError, match=r"this plan was made for tiny .*, not for other"):
        openvino_folder(folder, PlainModel(tiny_neox(2, n_layers=1), "other"))


def test_an_export_wants_its_original_in_memory(folder: Path) -> None:
    with pytest.raises(ModelError, match="is an OpenVINO export: load tiny to compare it with"):
        exported(folder, "tiny")


# CTranslate2.


@pytest.fixture(scope="module")
def on_ct2() -> System:
    pytest.importorskip("ctranslate2")
    return on_ctranslate2(one_layer())


@pytest.fixture
def reading(on_ct2: System) -> Iterator[CTranslate2Reading]:
    running: Any = on_ct2.open()
    yield running
    running.forget()


def test_ctranslate2_is_a_peer_without_a_plan(on_ct2: System) -> None:
    assert (on_ct2.name, on_ct2.standing, on_ct2.plan, on_ct2.engine) == (
        "CTranslate2", Standing.PEER, None, "CTranslate2")  # fmt: skip


def test_ctranslate2_passes_the_check(on_ct2: System) -> None:
    assert logits_difference(one_layer(), on_ct2) < 1e-4


@pytest.mark.parametrize("sizes", [{"rotary_share": 1.0}, {"parallel": False}, {"n_heads": 2}])
def test_ctranslate2_runs_every_kind_of_gpt_neox(sizes: dict[str, Any]) -> None:
    pytest.importorskip("ctranslate2")
    source = PlainModel(tiny_neox(4, n_layers=1, **sizes), "tiny")
    assert logits_difference(source, on_ctranslate2(source)) < 1e-4


def test_its_greedy_text_is_that_of_transformers(reading: CTranslate2Reading) -> None:
    prompt = ids(2, 12)
    written = one_layer().huggingface.generate(
        prompt, do_sample=False, max_new_tokens=16, min_new_tokens=16, pad_token_id=0
    )
    assert greedy(reading, prompt, 16)[0].tolist() == written[:, 12:].tolist()


def test_it_reads_a_prompt_then_a_token_at_a_time(reading: CTranslate2Reading) -> None:
    reading.start(10, 16, 2)
    assert reading.read(ids(2, 10)).shape == (2, 1, 0)
    assert reading.kv_bytes == 2 * 10 * COLUMN
    for _ in range(6):
        reading.read(ids(2, 1))
    assert reading.n_read == 16
    assert reading.kv_bytes == 2 * 16 * COLUMN


def test_its_rows_are_repeated(reading: CTranslate2Reading) -> None:
    reading.start(10, 16)
    reading.read(ids(1, 10))
    reading.repeat(4)
    assert reading.read(ids(4, 1)).shape == (4, 1, 0)
    assert reading.kv_bytes == 4 * 11 * COLUMN


def test_it_is_one_step_at_a_time(reading: CTranslate2Reading) -> None:
    reading.start(10, 16, 2)
    reading.read(ids(2, 10))
    for step in range(1, 4):
        assert reading._rows == 2 * step, "a token for each row, and then it waits"
        reading.read(ids(2, 1))


REFUSED = "CTranslate2 reads a prompt, then token by token, and gives the last logits only"


def test_all_logits_of_a_prompt_are_refused(reading: CTranslate2Reading) -> None:
    reading.start(10, 16, 1)
    with pytest.raises(HeadspecError, match=REFUSED):
        reading.read(ids(1, 10), n_last=0)


@pytest.mark.parametrize(("n_tokens", "n_last"), [(2, 1), (1, 0), (2, 2)])
def test_more_than_a_token_after_the_prompt_is_refused(reading: CTranslate2Reading, n_tokens: int, n_last: int) -> None:
    reading.start(10, 16, 1)
    reading.read(ids(1, 10))
    with pytest.raises(HeadspecError, match=REFUSED):
        reading.read(ids(1, n_tokens), n_last=n_last)


def test_threads_end_when_it_forgets(reading: CTranslate2Reading) -> None:
    before = threading.active_count()
    for _ in range(3):
        reading.start(10, 16, 1)
        reading.read(ids(1, 10))
        assert threading.active_count() == before + 1
        reading.repeat(2)
        assert threading.active_count() == before + 1
    reading.forget()
    assert threading.active_count() == before
    assert reading.kv_bytes == 0


def test_it_can_read_again_after_it_forgot(reading: CTranslate2Reading) -> None:
    for _ in range(2):
        reading.start(5, 8, 1)
        reading.read(ids(1, 5))
        reading.read(ids(1, 1))
        reading.forget()
    assert (reading.n_read, reading.kv_bytes) == (0, 0)


def test_what_fails_on_its_thread_is_an_error_here(
    reading: CTranslate2Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def generate_batch(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no memory")

    monkeypatch.setattr(reading, "generator", Broken())
    reading.start(5, 8, 1)
    with pytest.raises(HeadspecError, match="CTranslate2 failed: no memory"):
        reading.read(ids(1, 5))


def test_to_repeat_nothing_is_refused_and_does_not_wait_for_ever(reading: CTranslate2Reading) -> None:
    found: list[BaseException] = []

    def work() -> None:
        try:
            reading.repeat(2)
        except HeadspecError as error:
            found.append(error)

    reading.start(5, 8, 1)
    waiting = threading.Thread(target=work, daemon=True)
    waiting.start()
    waiting.join(5)
    hung = waiting.is_alive()
    if hung:
        reading._done.release()
    assert not hung
    assert len(found) == 1


def test_without_ctranslate2_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(MissingPackageError, match=r"ctranslate2 is not installed: pip install 'headspec\[peers\]'"):
        on_ctranslate2(one_layer())


@pytest.mark.skipif(not hasattr(os, "RTLD_DEEPBIND"), reason="libraries cannot be loaded so here")
def test_ctranslate2_is_loaded_with_an_openmp_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ctranslate2")
    before, during, load = sys.getdlopenflags(), list[int](), importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: (during.append(sys.getdlopenflags()), load(name))[1])
    on_ctranslate2(one_layer())
    assert during[0] & os.RTLD_DEEPBIND
    assert sys.getdlopenflags() == before


def test_other_families_are_refused_on_ctranslate2() -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(ModelError, match="llama is no GPT-NeoX: it is not compared on CTranslate2"):
        on_ctranslate2(PlainModel(tiny_llama(), "llama"))


# torch.compile.


@pytest.mark.usefixtures("unchecked")
def test_a_compiled_plan_passes_the_check() -> None:
    own = planned(one_layer(), plan(), "mine", "my plan", Standing.CERTIFIED)
    assert logits_difference(one_layer(), compiled(own)) < 1e-4


def test_a_model_is_compiled_once_however_often_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: calls.append(function) or function)
    system = compiled(unpruned(one_layer()))
    for _ in range(2):
        running = system.open()
        running.start(4, 6)
        for tokens in (ids(1, 4), ids(1, 1)):
            running.read(tokens)
    assert len(calls) == 1


def test_of_the_original_single_tokens_only_go_through_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def compile_(function: Any, **_: Any) -> Any:
        return lambda tokens, **options: (seen.append(tokens.shape[1]), function(tokens, **options))[1]

    monkeypatch.setattr(compiling.torch, "compile", compile_)
    running, tokens = compiled_static(one_layer()).open(), ids(2, 14)
    running.start(10, 14, 2)
    found = [running.read(part) for part in tokens.split([10, 1, 1, 2], dim=1)]
    same(torch.cat(found, dim=1), in_one_pass(tokens)[:, [9, 10, 11, 13]])
    assert seen == [1, 1]


# Other weights.


def test_half_precision_is_near_and_not_equal() -> None:
    found = logits_difference(one_layer(), with_weights(unpruned(one_layer()), "bfloat16"))
    assert TOLERANCE < found < 1


def test_packed_integers_are_near_and_not_equal() -> None:
    found = logits_difference(one_layer(), with_weights(unpruned(one_layer()), "int8"))
    assert TOLERANCE < found < 1


def test_by_hand_half_precision_has_half_the_bytes() -> None:
    system = with_weights(unpruned(one_layer()), "bfloat16")
    model: Any = system.open().model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert one_layer().huggingface.dtype == torch.float32
    assert system.open().model is model, "made once"


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(HeadspecError, match="weights 'int4': choose of bfloat16, int8"):
        with_weights(unpruned(one_layer()), "int4")
