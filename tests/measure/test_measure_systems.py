"""Every compared system reads as its model would in one pass, and says truly what its cache holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_llama, tiny_neox
from torch import Tensor

from headspec.errors import HeadspecError, ModelError, RecordError
from headspec.export.export import export_model
from headspec.intervene.ablate import apply_plan
from headspec.load.plain import PlainModel
from headspec.measure.systems.exported import exported
from headspec.measure.systems.planned import planned
from headspec.measure.systems.static_cache import static_cache
from headspec.measure.systems.system import Running, Standing, System
from headspec.measure.systems.transformers_default import transformers_default
from headspec.measure.systems.unpruned import unpruned
from headspec.plan.make import plan_heads
from headspec.plan.plan import HeadPlan

REFERENCES: dict[str, Callable[[PlainModel], System]] = {
    "V": transformers_default, "S": static_cache, "P0": unpruned,
}  # fmt: skip
WISH = {"L0H0": "zero", "L0H2": "window:5+2", "L1H1": "zero", "L1H3": "window:3"}
TOLERANCE = 1e-4
COLUMN = 2 * 4 * 2 * 8 * 4
"""Bytes of one column of the tiny model: layers, heads, key and value, d_head, float32."""


def plan_of(model: PlainModel) -> HeadPlan:
    return plan_heads(model, WISH)


def by_plan(model: PlainModel) -> System:
    return planned(model, plan_of(model), "mixed", "two heads gone, two windowed", Standing.HYPOTHETICAL)


def read_in(running: Running, tokens: Tensor, *chunks: int) -> Tensor:
    """Logits of every token, the first chunk being the prompt."""
    running.start(chunks[0], tokens.shape[1], len(tokens))
    return torch.cat([running.read(part, n_last=0) for part in tokens.split(list(chunks), dim=1)], dim=1)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module", params=REFERENCES)
def reference(request: pytest.FixtureRequest, tiny_plain: PlainModel) -> System:
    return REFERENCES[request.param](tiny_plain)


@pytest.fixture(scope="module", params=[*REFERENCES, "planned"])
def running(request: pytest.FixtureRequest, tiny_plain: PlainModel) -> Running:
    return (REFERENCES | {"planned": by_plan})[request.param](tiny_plain).open()


@pytest.fixture(scope="module")
def in_one_pass(tiny_plain: PlainModel, tiny_ids: Tensor) -> Tensor:
    with torch.no_grad():
        return tiny_plain(tiny_ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_plain: PlainModel) -> Path:
    """An exported model. Shared: leave it as it is."""
    out = tmp_path_factory.mktemp("exports") / "tiny-pruned"
    export_model(tiny_plain, plan_of(tiny_plain), out)
    return out


# The references.


@pytest.mark.parametrize("chunks", [(40,), (25, 15), (25, 1, 1, 1, 12), (1, 39)])
def test_a_reference_reads_as_the_original_does_in_one_pass(
    reference: System, tiny_ids: Tensor, in_one_pass: Tensor, chunks: tuple[int, ...]
) -> None:
    same(read_in(reference.open(), tiny_ids, *chunks), in_one_pass)


def test_references_are_called_v_s_and_p0(reference: System) -> None:
    assert reference.name in REFERENCES
    assert reference.standing is Standing.REFERENCE


def test_only_headspec_s_runtime_has_a_plan_and_it_keeps_every_head(tiny_plain: PlainModel) -> None:
    plans = [make(tiny_plain).plan for make in REFERENCES.values()]
    assert plans[:2] == [None, None]
    assert plans[2] is not None
    assert len(plans[2]) == 0


@pytest.mark.parametrize("make", [transformers_default, static_cache])
def test_transformers_runs_with_sdpa_whatever_the_original_is_set_to(
    make: Callable[[PlainModel], System], tiny_plain: PlainModel
) -> None:
    model: Any = make(tiny_plain).open().model
    assert model.config._attn_implementation == "sdpa"
    assert tiny_plain.huggingface.config._attn_implementation == "eager"


def test_a_model_with_sdpa_already_is_run_itself() -> None:
    model = tiny_neox()
    model.set_attn_implementation("sdpa")
    assert transformers_default(PlainModel(model, "tiny")).open().model is model


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_shares_the_original_s_weights(name: str, tiny_plain: PlainModel) -> None:
    mine: Any = REFERENCES[name](tiny_plain).open().model
    theirs = tiny_plain.huggingface.gpt_neox.layers[0].mlp.dense_h_to_4h.weight
    assert mine.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.data_ptr() == theirs.data_ptr()


@pytest.mark.parametrize("make", [transformers_default, static_cache])
def test_transformers_reads_other_families_too(make: Callable[[PlainModel], System], tiny_ids: Tensor) -> None:
    model = PlainModel(tiny_llama(), "llama")
    with torch.no_grad():
        expected = model(tiny_ids)
    running = make(model).open()
    same(read_in(running, tiny_ids, 25, 1, 14), expected)
    columns = 2 * 2 * 2 * 8 * 4  # layers, key-value heads, key and value, d_head, float32
    assert running.kv_bytes == 3 * 40 * columns


# Plans.


@pytest.mark.parametrize("chunks", [(40,), (25, 1, 14)])
def test_a_plan_reads_as_the_hooked_model_does(
    tiny_plain: PlainModel, tiny_ids: Tensor, chunks: tuple[int, ...]
) -> None:
    with torch.no_grad(), apply_plan(tiny_plain, plan_of(tiny_plain)):
        expected = tiny_plain(tiny_ids)
    same(read_in(by_plan(tiny_plain).open(), tiny_ids, *chunks), expected)


def test_every_opening_makes_a_model_of_its_own(tiny_plain: PlainModel) -> None:
    system = by_plan(tiny_plain)
    assert system.open().model is not system.open().model


def test_a_plan_for_another_model_is_refused(tiny_plain: PlainModel) -> None:
    plan = plan_of(tiny_plain).renamed("another")
    with pytest.raises(RecordError, match=r"made for another .* not for tiny"):
        planned(tiny_plain, plan, "a", "b", Standing.CONTROL)


def test_the_runtime_does_not_run_other_families() -> None:
    with pytest.raises(ModelError, match="llama is a llama model: headspec's runtime runs GPT-NeoX only"):
        unpruned(PlainModel(tiny_llama(), "llama"))


@pytest.mark.parametrize("name", REFERENCES)
def test_a_pruned_model_is_no_reference(name: str, tiny_plain: PlainModel) -> None:
    pruned = PlainModel(by_plan(tiny_plain).open().model, "tiny")
    with pytest.raises(ModelError, match="exported, pruned one, which cannot be"):
        REFERENCES[name](pruned).open()


# What all share.


def test_logits_are_those_of_the_last_tokens(running: Running, tiny_ids: Tensor) -> None:
    expected = read_in(running, tiny_ids, 25, 15)
    running.start(25, 40, 3)
    same(running.read(tiny_ids[:, :25]), expected[:, 24:25])
    same(running.read(tiny_ids[:, 25:], n_last=4), expected[:, 36:])


def test_starting_again_forgets(running: Running, tiny_ids: Tensor) -> None:
    expected = read_in(running, tiny_ids, 30, 10)
    read_in(running, tiny_ids.flip(1), 20, 20)
    same(read_in(running, tiny_ids, 30, 10), expected)


def test_repeated_rows_lie_side_by_side(running: Running, tiny_ids: Tensor) -> None:
    two, later = tiny_ids[:2], torch.arange(6 * 9).view(6, 9)
    running.start(20, 29, 6)
    running.read(two[:, :20].repeat_interleave(3, dim=0))
    expected = running.read(later, n_last=0)
    running.start(20, 29, 2)
    running.read(two[:, :20])
    running.repeat(3)
    same(running.read(later[:, :1]), expected[:, :1])
    same(running.read(later[:, 1:], n_last=0), expected[:, 1:])


def test_positions_are_given_for_every_row(running: Running, tiny_ids: Tensor) -> None:
    seen: list[Any] = []
    handle = running.model.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["position_ids"].tolist()), with_kwargs=True
    )
    running.start(2, 5, 3)
    for part in tiny_ids[:, :5].split([2, 1, 2], dim=1):
        running.read(part)
    handle.remove()
    assert seen == [[[0, 1]] * 3, [[2]] * 3, [[3, 4]] * 3]


def test_no_gradients_are_kept(running: Running, tiny_ids: Tensor) -> None:
    assert not read_in(running, tiny_ids, 40).requires_grad


def test_without_a_cache_no_bytes_are_held(running: Running, tiny_ids: Tensor) -> None:
    read_in(running, tiny_ids, 40)
    running.forget()
    assert running.kv_bytes == 0


@pytest.mark.parametrize(("name", "columns"), [("V", 30), ("S", 40), ("P0", 40)])
def test_a_reference_holds_the_columns_it_has_read_or_expects(
    name: str, columns: int, tiny_plain: PlainModel, tiny_ids: Tensor
) -> None:
    running = REFERENCES[name](tiny_plain).open()
    running.start(30, 40, 3)
    running.read(tiny_ids[:, :30])
    assert running.kv_bytes == 3 * columns * COLUMN


def test_a_plan_holds_what_its_heads_keep(tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    running = by_plan(tiny_plain).open()
    read_in(running, tiny_ids, 30, 10)
    whole, windows = 2 + 2, (5 + 2) + (3 + 4)
    assert running.kv_bytes == 3 * (whole * 40 + windows) * COLUMN / 8


def test_repeating_multiplies_the_bytes(running: Running, tiny_ids: Tensor) -> None:
    running.start(30, 40, 3)
    running.read(tiny_ids[:, :30])
    before = running.kv_bytes
    running.repeat(4)
    assert running.kv_bytes == 4 * before > 0


def test_reading_wants_a_start(running: Running, tiny_ids: Tensor) -> None:
    running.forget()
    with pytest.raises(HeadspecError, match=r"no cache to read through: call start\(prompt, expected, batch\) first"):
        running.read(tiny_ids)


def test_more_tokens_than_expected_are_refused(running: Running, tiny_ids: Tensor) -> None:
    running.start(10, 12, 3)
    running.read(tiny_ids[:, :10])
    with pytest.raises(HeadspecError, match=r"3 rows of 3 tokens: .* told of 3 rows .* and 12 tokens, 10 of which"):
        running.read(tiny_ids[:, 10:13])


def test_another_number_of_rows_is_refused(running: Running, tiny_ids: Tensor) -> None:
    running.start(10, 40, 2)
    with pytest.raises(HeadspecError, match=r"3 rows of 10 tokens: .* told of 2 rows"):
        running.read(tiny_ids[:, :10])


def test_nothing_read_cannot_be_repeated(running: Running) -> None:
    running.start(10, 40)
    with pytest.raises(HeadspecError, match="nothing to repeat: read a prompt first"):
        running.repeat(2)


@pytest.mark.parametrize("told", [(0, 5, 1), (6, 5, 1), (5, 129, 1), (5, 6, 0)])
def test_a_cache_that_cannot_be_is_refused(running: Running, told: tuple[int, int, int]) -> None:
    with pytest.raises(HeadspecError, match=r"want 1 or more rows, .* at most the model's context of 128\."):
        running.start(*told)


# Exported models.


def test_an_exported_model_reads_as_its_plan_does(folder: Path, tiny_plain: PlainModel, tiny_ids: Tensor) -> None:
    system = exported(folder, tiny_plain)
    assert system.plan == plan_of(tiny_plain)
    same(read_in(system.open(), tiny_ids, 25, 1, 14), read_in(by_plan(tiny_plain).open(), tiny_ids, 25, 1, 14))


def test_an_exported_model_is_called_like_its_folder(folder: Path) -> None:
    assert exported(folder, "tiny").name == "tiny-pruned"


def test_an_uncertified_export_is_hypothetical(folder: Path) -> None:
    assert exported(folder, "tiny").standing is Standing.HYPOTHETICAL


def test_an_export_of_a_certified_plan_is_certified(tmp_path: Path, tiny_plain: PlainModel) -> None:
    export_model(tiny_plain, plan_of(tiny_plain).certified({"kl": 0.01}), tmp_path / "out")
    assert exported(tmp_path / "out", tiny_plain).standing is Standing.CERTIFIED


def test_an_export_is_loaded_in_the_original_s_type(folder: Path) -> None:
    original = PlainModel(tiny_neox().to(torch.bfloat16), "tiny")
    model: Any = exported(folder, original).open().model
    assert model.dtype == torch.bfloat16


def test_an_export_can_be_loaded_in_another_type(folder: Path, tiny_plain: PlainModel) -> None:
    model: Any = exported(folder, tiny_plain, dtype="float16").open().model
    assert model.dtype == torch.float16


def test_an_export_of_another_original_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(ModelError, match="was made from tiny, not from pythia-70m: compare it with tiny"):
        exported(folder, "pythia-70m")


def test_an_export_of_an_original_of_another_shape_is_refused(folder: Path) -> None:
    with pytest.raises(RecordError, match=r"made for tiny \(2 × 4 heads of 8\), not for tiny \(2 × 8 of 4\)"):
        exported(folder, PlainModel(tiny_neox(n_heads=8), "tiny"))


def test_an_export_with_another_plan_beside_it_is_refused(folder: Path, tmp_path: Path, tiny_plain: PlainModel) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    plan_heads(tiny_plain, {"L0H0": "zero"}).save(tmp_path / "plan.json")
    with pytest.raises(ModelError, match=r"plan\.json is not the one that this model was made by"):
        exported(tmp_path, tiny_plain)


def test_an_export_without_its_plan_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(RecordError, match="no plan at"):
        exported(tmp_path, "tiny")


def test_a_dense_twin_is_refused(tmp_path: Path, tiny_plain: PlainModel) -> None:
    export_model(tiny_plain, plan_heads(tiny_plain, {"L0H0": "zero"}), tmp_path / "twin", to="dense-twin")
    with pytest.raises(ModelError, match="holds a gpt_neox model and no pruned one"):
        exported(tmp_path / "twin", tiny_plain)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such directory\. Give one that export_model has written"):
        exported(tmp_path / "nowhere", "tiny")
