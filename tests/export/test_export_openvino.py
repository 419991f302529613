"""An OpenVINO export: its graph computes what the pruned model does, its runner needs neither torch nor headspec."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from export_makers import MIXED, hooked, logits_of, plan_of, random_ids, same
from tiny_models import CONTEXT, VOCABULARY, save_neox_hub_layout, tiny_neox
from torch import Tensor

from headspec.errors import HeadspecError, MissingPackageError, ModelError
from headspec.export.export import export_model
from headspec.export.folder import MANIFEST
from headspec.export.openvino import check_openvino, graph_kv_share
from headspec.export.surgery import pruned_model
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.runtime import openvino_runner
from headspec.runtime.openvino_runner import CONFIG, MODEL, OpenVINODecoder
from headspec.runtime.table import table_bytes

pytest.importorskip("openvino", reason="openvino is not installed")
pytest.importorskip("nncf", reason="nncf is not installed")

ODD = {"L0H0": "window:3+0", "L0H1": "window:6+0", "L0H2": "window:9+2", "L0H3": "window:120+2",
       "L1H0": "mean", "L1H1": "zero", "L1H2": "mean", "L1H3": "random"}  # fmt: skip
"""A layer of windows only, the widest beyond every text here, without sinks and with; then a layer without heads."""
ALONE = {"L0H0": "mean", "L0H2": "window:5+2"}
"""For one layer."""
BIN = Path(MODEL).with_suffix(".bin").name
RUNNER = Path(openvino_runner.__file__).name
FILES = {MODEL, BIN, CONFIG, RUNNER, "plan.json", "plan.safetensors", "README.md", MANIFEST}
INTEGERS = 0.05
"""Of the spread of the logits, how far those of rounded weights may be on the average."""


class Made(NamedTuple):
    """An export, and what it was made from. Shared: leave it as it is."""

    folder: Path
    files: list[str]
    source: PlainModel
    plan: HeadPlan

    @property
    def model(self) -> Any:
        """The pruned model in torch."""
        return pruned_model(self.source.huggingface, self.plan)

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / CONFIG).read_text())


class Ready:
    """An export and its runner."""

    def __init__(self, made: Made):
        self.made, self.model = made, made.model

    @cached_property
    def decoder(self) -> OpenVINODecoder:
        return OpenVINODecoder(self.made.folder, 1)

    def read(self, tokens: Tensor, *chunks: int, starts: Sequence[int] | None = None) -> Tensor:
        """The logits after each chunk, `[batch, chunk, vocabulary]`."""
        self.decoder.start(tokens.shape[1], [0] * len(tokens) if starts is None else starts)
        found = [self.decoder.read(part.numpy()) for part in tokens.split(list(chunks), dim=1)]
        return torch.from_numpy(np.stack(found, axis=1))

    def greedy(self, prompt: Tensor, n_new: int) -> list[list[int]]:
        """Of torch's pruned model, row by row."""
        rows = (self.model.generate(row[None], do_sample=False, max_new_tokens=n_new, pad_token_id=0) for row in prompt)
        return [row[0, prompt.shape[1] :].tolist() for row in rows]


def exported(source: PlainModel, wish: dict[str, str], out: Path, **more: Any) -> Made:
    plan = plan_of(source, wish)
    return Made(out, export_model(source, plan, out, to="openvino", **more), source, plan)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of a folder with a tokenizer."""
    place = tmp_path_factory.mktemp("openvino")
    source = load_plain(str(save_neox_hub_layout(place / "source")), device="cpu")
    return exported(source, MIXED, place / "out")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return exported(PlainModel(tiny_neox(3), "tiny"), ODD, tmp_path_factory.mktemp("openvino") / "odd")


@pytest.fixture(scope="module")
def alone() -> PlainModel:
    """One layer."""
    return PlainModel(tiny_neox(1, n_layers=1), "tiny")


@pytest.fixture(scope="module")
def integers(alone: PlainModel, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return Ready(exported(alone, ALONE, tmp_path_factory.mktemp("openvino") / "int8", weights="int8"))


@pytest.fixture(scope="module")
def tabled(alone: PlainModel, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """Written over an earlier export."""
    out = tmp_path_factory.mktemp("openvino") / "table"
    export_model(alone, plan_of(alone, ALONE), out)
    return Ready(exported(alone, ALONE, out, table=True, overwrite=True))


@pytest.fixture(scope="module")
def run(mixed: Made) -> Ready:
    return Ready(mixed)


@pytest.fixture(scope="module")
def states(mixed: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The graph keeps keys and values itself."""
    return exported(mixed.source, MIXED, tmp_path_factory.mktemp("openvino") / "states", stateful=True)


@pytest.fixture(scope="module", params=["mixed", "odd", "states"])
def either(request: pytest.FixtureRequest) -> Ready:
    return Ready(request.getfixturevalue(request.param))


def in_process(*arguments: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


# Logits.


def test_by_hand_layers_and_their_groups_are_in_the_configuration(mixed: Made, odd: Made) -> None:
    full, near, far = ({"n_heads": 1, "windows": windows, "sinks": sinks} for windows, sinks in
                       (([], 0), ([3], 4), ([5], 2)))  # fmt: skip
    assert mixed.config["layers"] == [[full, near, far], [full | {"n_heads": 2}]]
    assert odd.config["layers"] == [
        [{"n_heads": 2, "windows": [3, 6], "sinks": 0}, {"n_heads": 2, "windows": [9, 120], "sinks": 2}],
        [],
    ]


@pytest.mark.parametrize(
    "chunks", [(40,), (1,) * 40, (25, 1, 1, 1, 12), (1, 39), (3, 4, 5, 28)], ids=lambda chunks: str(chunks[:4])
)
def test_the_graph_gives_the_logits_of_the_pruned_model(either: Ready, chunks: tuple[int, ...]) -> None:
    tokens = random_ids()
    ends = np.cumsum(chunks) - 1
    same(either.read(tokens, *chunks), logits_of(either.model, tokens)[:, ends])


def test_the_graph_gives_the_logits_of_the_hooked_original(either: Ready) -> None:
    tokens, made = random_ids(), either.made
    same(either.read(tokens, 40)[:, 0], hooked(made.source, made.plan, tokens)[:, -1])


def test_long_prompts_are_read_in_chunks(either: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runner, "CHUNK", 8)
    seen: list[int] = []
    step = OpenVINODecoder._step
    monkeypatch.setattr(OpenVINODecoder, "_step", lambda self, new: (seen.append(new.shape[1]), step(self, new))[1])
    tokens = random_ids(1, 44)
    same(either.read(tokens, 42, 2), logits_of(either.model, tokens)[:, [41, 43]])
    assert seen == [8, 8, 8, 8, 8, 2, 2]


def test_a_text_as_long_as_the_context_is_read(either: Ready) -> None:
    tokens = random_ids(1, CONTEXT)
    same(either.read(tokens, CONTEXT - 1, 1)[:, 1], logits_of(either.model, tokens)[:, -1])


def test_rows_with_padding_in_front_read_as_they_do_alone(either: Ready) -> None:
    tokens, starts = random_ids(4, 30), [0, 1, 7, 29]
    together = either.read(tokens, 20, 6, 1, 1, 1, 1, starts=starts)
    for row, start in enumerate(starts[:3]):
        same(together[row, 1:], logits_of(either.model, tokens[row : row + 1, start:])[0, 25 - start :])
    same(together[3, -1], logits_of(either.model, tokens[3:, 29:])[0, 0])


def test_repeated_rows_go_on_each_for_itself(either: Ready) -> None:
    prompt, more = random_ids(2, 20), random_ids(6, 5, seed=1)
    either.decoder.start(25, [0, 0])
    either.decoder.read(prompt.numpy())
    either.decoder.repeat(3)
    found = [torch.from_numpy(either.decoder.read(more[:, :2].numpy()))]
    found += [torch.from_numpy(either.decoder.read(token.numpy())) for token in more[:, 2:].split(1, dim=1)]
    expected = logits_of(either.model, torch.cat((prompt.repeat_interleave(3, dim=0), more), dim=1))
    same(torch.stack(found, dim=1), expected[:, 21:])


def test_a_text_after_another_is_read_as_the_first_was(either: Ready) -> None:
    tokens = random_ids(1, 30)
    first = either.read(tokens, 20, 10)
    either.read(random_ids(3, 30, seed=7), 30)
    assert torch.equal(either.read(tokens, 20, 10), first)


# Bytes.


def test_by_hand_buffers_hold_what_each_group_needs(run: Ready) -> None:
    column = 2 * 8 * 4  # key and value, d_head, float32
    run.decoder.start(20)
    assert run.decoder.nbytes == (20 + (3 + 4) + (5 + 2) + 2 * 20) * column
    run.decoder.start(2, [0, 0, 0])
    assert run.decoder.nbytes == 3 * (2 + (3 + 4) + (5 + 2) + 2 * 2) * column, "rings are as wide as the graph wants"


def test_bytes_are_those_of_the_buffers_also_when_rows_are_repeated(run: Ready) -> None:
    run.read(random_ids(2, 10), 10)
    before = run.decoder.nbytes
    assert before == sum(buffer.nbytes for buffer in run.decoder.buffers)
    run.decoder.repeat(3)
    assert run.decoder.nbytes == 3 * before
    run.decoder.forget()
    assert run.decoder.nbytes == 0


def test_the_share_of_the_full_cache_that_is_claimed_is_held(either: Ready) -> None:
    made = either.made
    either.read(random_ids(1, 50), 50)
    full = len(made.plan.about.heads) * 50 * 2 * made.plan.about.d_head * 4
    assert graph_kv_share(made.folder, made.plan, 50) == pytest.approx(either.decoder.nbytes / full)
    claimed = graph_kv_share(made.folder, made.plan, made.plan.about.context)
    assert f"is {claimed:.1%} of the original's" in (made.folder / "README.md").read_text()


def test_a_stateful_graph_holds_what_was_read_and_its_rings(states: Made) -> None:
    ready = Ready(states)
    ready.read(random_ids(3, 10), 10)
    assert not ready.decoder.buffers
    assert ready.decoder.nbytes == 3 * (10 + (3 + 4) + (5 + 2) + 2 * 10) * 2 * 8 * 4
    ready.decoder.forget()
    assert ready.decoder.nbytes == 0


# Text.


def test_greedy_text_is_that_of_the_pruned_model(either: Ready) -> None:
    prompt = random_ids(3, 12, seed=4)
    assert [either.decoder.generate([row], 30)[0] for row in prompt.tolist()] == either.greedy(prompt, 30)


def test_prompts_of_any_lengths_are_continued_together_as_they_are_alone(either: Ready) -> None:
    prompts = [row[:length] for row, length in zip(random_ids(4, 20).tolist(), (20, 1, 13, 6), strict=True)]
    assert either.decoder.generate(prompts, 20) == [either.decoder.generate([each], 20)[0] for each in prompts]


def test_a_row_ends_at_the_end_of_its_text_and_others_go_on(run: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = random_ids(2, 12, seed=4).tolist()
    first, second = run.decoder.generate(prompts, 12)
    end = next(token for token in first[:8] if token not in second)
    monkeypatch.setitem(run.decoder.config, "eos", [end])
    assert run.decoder.generate(prompts, 12) == [first[: first.index(end) + 1], second]
    assert run.decoder.generate(prompts[:1], 12) == [first[: first.index(end) + 1]]


def test_drawn_text_is_the_same_for_the_same_seed_only(run: Ready) -> None:
    prompts = random_ids(2, 12).tolist()
    first, again, other = (run.decoder.generate(prompts, 12, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first[0] != run.decoder.generate(prompts, 12)[0]


def test_by_hand_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    logits = np.log(np.tile([0.5, 0.3, 0.2], (20_000, 1)))
    drawn = openvino_runner._choose(logits, 1.0, np.random.default_rng(0))
    assert np.bincount(drawn) / len(drawn) == pytest.approx([0.5, 0.3, 0.2], abs=0.015)
    squared = openvino_runner._choose(logits, 0.5, np.random.default_rng(0))
    assert np.bincount(squared) / len(squared) == pytest.approx(np.array([25, 9, 4]) / 38, abs=0.015)


# The runner, where there is no torch and no headspec.


def test_the_runner_continues_token_ids_without_torch_and_headspec(run: Ready) -> None:
    folder = run.made.folder
    code = (
        "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
        "; known = {name.split('.')[0] for name in sys.modules}; print(*sorted(known & {'torch', 'headspec', "
        "'transformers', 'openvino'}))"
    )
    done = in_process("-c", code, folder / RUNNER, folder, "--tokens", "5,6,7", "--new", "5", "--threads", "1")
    assert done.returncode == 0, done.stderr
    tokens, imported = done.stdout.splitlines()
    assert [int(token) for token in tokens.split(",")] == run.decoder.generate([[5, 6, 7]], 5)[0]
    assert imported == "openvino"


def test_the_runner_continues_text_beside_its_own_file(run: Ready) -> None:
    done = in_process(run.made.folder / RUNNER, "--prompt", "It was a", "--new", "6", "--threads", "1")
    assert done.returncode == 0, done.stderr
    tokenizer = run.made.source.tokenizer
    ids = tokenizer("It was a", add_special_tokens=False)["input_ids"]
    written = tokenizer.decode(run.decoder.generate([ids], 6)[0], skip_special_tokens=True)
    assert done.stdout.removesuffix("\n") == "It was a" + written


@pytest.mark.parametrize("more", [(), ("--prompt", "a", "--tokens", "1")])
def test_the_runner_wants_text_or_ids(mixed: Made, more: tuple[str, ...]) -> None:
    done = in_process(mixed.folder / RUNNER, mixed.folder, *more)
    assert done.returncode == 2
    assert "give one of --prompt and --tokens" in done.stderr


# The folder.


def test_it_has_graph_runner_tokenizer_plan_and_card(mixed: Made) -> None:
    names = {path.name for path in mixed.folder.iterdir()}
    assert names == FILES | {"tokenizer.json", "tokenizer_config.json"}
    assert sorted(mixed.files) == sorted(names)
    assert sorted(json.loads((mixed.folder / MANIFEST).read_text())["files"]) == sorted(names)


def test_the_configuration_says_what_the_runner_must_know(mixed: Made) -> None:
    wanted = {"schema": "headspec.OpenVINO/1", "weights": "float32", "context": CONTEXT, "vocabulary": VOCABULARY,
              "d_head": 8, "eos": [0]}  # fmt: skip
    assert {name: mixed.config[name] for name in wanted} == wanted


def test_the_configuration_names_the_original_and_the_plan(mixed: Made) -> None:
    origin = mixed.config["origin"]
    assert (origin["model"], origin["plan"], origin["table"]) == (mixed.plan.about.model, mixed.plan.digest, False)


def test_the_plan_is_the_one_given(mixed: Made) -> None:
    assert HeadPlan.load(mixed.folder / "plan.json") == mixed.plan


def test_the_runner_is_headspec_s_own_file(mixed: Made) -> None:
    assert (mixed.folder / RUNNER).read_bytes() == Path(openvino_runner.__file__).read_bytes()


def test_the_card_says_how_this_folder_is_used(mixed: Made) -> None:
    card = (mixed.folder / "README.md").read_text()
    assert RUNNER in card
    assert "openvino" in card.lower().replace(RUNNER, "")
    assert "AutoModelForCausalLM" not in card, "transformers cannot load it"
    assert "need torch" not in card


def test_the_original_is_not_changed(odd: Made) -> None:
    tokens = random_ids()
    assert torch.equal(logits_of(odd.source.huggingface, tokens), logits_of(tiny_neox(3), tokens))


# Integers, and a table.


def test_integers_give_nearly_the_same_logits(integers: Ready) -> None:
    tokens = random_ids(4, 20)
    found, expected = integers.read(tokens, 19, 1)[:, 1], logits_of(integers.model, tokens)[:, -1]
    assert 0 < (found - expected).abs().mean() < INTEGERS * expected.std()


def test_integers_take_little_more_than_a_byte_each(integers: Ready) -> None:
    made = integers.made
    n_weights = sum(parameter.numel() for parameter in integers.model.parameters())
    assert n_weights < (made.folder / BIN).stat().st_size < 1.5 * n_weights
    assert made.config["weights"] == "int8"


def test_a_table_gives_the_same_logits(tabled: Ready) -> None:
    tokens = random_ids()
    same(tabled.read(tokens, 20, 1, 19), logits_of(tabled.model, tokens)[:, [19, 20, 39]])


def test_a_table_costs_its_bytes_in_place_of_what_it_stands_for(tabled: Ready) -> None:
    model, layer = tabled.model, tabled.model.gpt_neox.layers[0]
    gone = (model.gpt_neox.embed_in, layer.mlp, layer.attention.qkv, layer.input_layernorm,
            layer.post_attention_layernorm)  # fmt: skip
    left = sum(each.numel() for each in model.parameters()) - sum(
        each.numel() for module in gone for each in module.parameters()
    )
    size = (tabled.made.folder / BIN).stat().st_size
    assert size == pytest.approx(table_bytes(model.config) + 4 * left, abs=500)
    assert tabled.made.config["origin"]["table"] is True


def test_an_earlier_export_is_replaced_as_a_whole(tabled: Ready) -> None:
    assert {path.name for path in tabled.made.folder.iterdir()} == FILES


# Refused.


@pytest.fixture
def nothing_written(tmp_path: Path) -> Any:
    """A folder that must not be there afterwards, nor anything beside it."""
    yield tmp_path / "o"
    assert list(tmp_path.iterdir()) == []


def test_compressed_heads_are_refused(alone: PlainModel, nothing_written: Path) -> None:
    plan = plan_of(alone, {"L0H1": "compress:snapkv:0.5"})
    with pytest.raises(HeadspecError, match=r"cannot go to OpenVINO: 1 of its heads are compressed"):
        export_model(alone, plan, nothing_written, to="openvino")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float16, torch.bfloat16])
def test_half_precision_is_refused(alone: PlainModel, nothing_written: Path, dtype: Any) -> None:
    with pytest.raises(HeadspecError, match=r"an OpenVINO export starts from float32, and this is .*float16"):
        export_model(alone, plan_of(alone, ALONE), nothing_written, to="openvino", dtype=dtype)


def test_a_model_in_half_precision_is_refused(nothing_written: Path) -> None:
    model = PlainModel(tiny_neox(n_layers=1).half(), "tiny")
    with pytest.raises(HeadspecError, match="float32"):
        export_model(model, plan_of(model, {"L0H0": "zero"}), nothing_written, to="openvino")


def test_unknown_weights_are_refused(alone: PlainModel, nothing_written: Path) -> None:
    with pytest.raises(HeadspecError, match="weights='int4': an OpenVINO export has float32 or int8 weights"):
        export_model(alone, plan_of(alone, ALONE), nothing_written, to="openvino", weights="int4")


@pytest.mark.parametrize("more", [{"weights": "int8"}, {"table": True}])
@pytest.mark.parametrize("to", ["hf", "dense-twin"])
@pytest.mark.filterwarnings("ignore:a dense twin")
def test_weights_and_tables_are_refused_elsewhere(
    alone: PlainModel, nothing_written: Path, to: str, more: dict[str, Any]
) -> None:
    with pytest.raises(HeadspecError, match="to='openvino'"):
        export_model(alone, plan_of(alone, ALONE), nothing_written, to=to, **more)


def test_a_table_needs_a_parallel_residual(nothing_written: Path) -> None:
    model = PlainModel(tiny_neox(n_layers=1, parallel=False), "tiny")
    with pytest.raises(HeadspecError, match="no table for this model"):
        export_model(model, plan_of(model, ALONE), nothing_written, to="openvino", table=True)


@pytest.mark.parametrize(("missing", "weights"), [("openvino", "float32"), ("openvino", "int8"), ("nncf", "int8")])
def test_a_missing_package_names_the_extra_before_anything_is_written(
    alone: PlainModel, nothing_written: Path, monkeypatch: pytest.MonkeyPatch, missing: str, weights: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingPackageError, match=rf"{missing} is not installed: pip install 'headspec\[openvino\]'"):
        export_model(alone, plan_of(alone, ALONE), nothing_written, to="openvino", weights=weights)


def test_float32_needs_no_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    check_openvino()


def test_an_earlier_export_is_refused_without_overwrite(alone: PlainModel, mixed: Made) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in mixed.folder.iterdir()}
    with pytest.raises(HeadspecError, match="is not empty: choose another folder, or --overwrite"):
        export_model(alone, plan_of(alone, ALONE), mixed.folder, to="openvino")
    assert {path.name: path.stat().st_mtime_ns for path in mixed.folder.iterdir()} == before


def test_headspec_does_not_take_it_for_a_model_of_transformers(mixed: Made) -> None:
    with pytest.raises(ModelError, match=r"config\.json|OpenVINO"):
        load_plain(str(mixed.folder), device="cpu")


def test_a_plan_that_leaves_no_head_at_all_is_exported(tmp_path: Path) -> None:
    source = PlainModel(tiny_neox(n_layers=1, n_heads=2), "tiny")
    bare = Ready(exported(source, {"L0H0": "mean", "L0H1": "zero"}, tmp_path / "o"))
    tokens = random_ids(2, 5)
    same(bare.read(tokens, 4, 1), logits_of(bare.model, tokens)[:, 3:])


@pytest.mark.parametrize("expected", [0, CONTEXT + 1])
def test_more_tokens_than_the_context_are_refused(run: Ready, expected: int) -> None:
    with pytest.raises(ValueError, match=f"{expected} tokens: this model reads 1 to {CONTEXT}"):
        run.decoder.start(expected)


def test_a_prompt_without_room_for_what_is_new_is_refused(run: Ready) -> None:
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens: this model reads"):
        run.decoder.generate([[1] * (CONTEXT - 8)], 10)


@pytest.mark.parametrize("shape", [(1, 2), (3, 2), (2, 7), (2, 0), (2,)])
def test_tokens_that_start_was_not_told_of_are_refused(run: Ready, shape: tuple[int, ...]) -> None:
    run.decoder.start(10, [0, 0])
    run.decoder.read(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"start\(\) was told of 2 rows, and has room for 6 more tokens"):
        run.decoder.read(np.ones(shape))


def test_reading_without_a_start_is_refused(run: Ready) -> None:
    run.decoder.forget()
    with pytest.raises(ValueError, match=r"start\(\) was told of 0 rows, and has room for 0 more tokens"):
        run.decoder.read(np.ones((1, 1)))


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_empty_prompts_are_refused(run: Ready, prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="want one prompt or more, of one token or more each"):
        run.decoder.generate(prompts)


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"has no {CONFIG}: export a model there with --to openvino"):
            OpenVINODecoder(folder)
