"""The recipe of the demo model, run for a few steps on made-up text: what it writes, scores and refuses."""

import csv
import importlib.util
import json
import lzma
import math
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

Tiles: TypeAlias = list[tuple[np.ndarray, np.ndarray, int]]
TOOL = Path(__file__).parents[2] / "tools" / "train_demo_model.py"


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Iterator[None]:
    """No network, and the number of threads that the recipe sets does not outlive this file."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents of 200 sentences."""
    chooser = random.Random(0)
    people, verbs, things = (
        ["the miller", "a tall girl", "old Tom"],
        ["sold", "painted", "lost"],
        ["boats", "a red hat"],
    )
    parts = [people, verbs, things, ["near the harbour", "in winter", "before dawn"], ["and laughed.", "at last."]]
    documents = ["\n".join(" ".join(map(chooser.choice, parts)) for _ in range(200)) for _ in range(3)]
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("\n<|endoftext|>\n".join(documents) + "\n<|endoftext|>\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def checkpoint(tool: ModuleType, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "demo"
    tool.train_demo_model(text=text, out=out, held_out=text, steps=20)
    return out


def read_log(checkpoint: Path) -> list[dict[str, str]]:
    with (checkpoint / "training_log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_checkpoint_loads_in_fp32_with_four_layers_of_eight_heads(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads, model.config.hidden_size)
    assert shape == (4, 8, 192)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_weights_are_stored_in_half_precision(checkpoint: Path) -> None:
    assert {weight.dtype for weight in load_file(checkpoint / "model.safetensors").values()} == {torch.float16}


def test_config_spells_rope_theta_for_new_and_old_readers(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == config["rope_theta"] == config["rotary_emb_base"] == 500
    assert config["rope_parameters"]["partial_rotary_factor"] == config["rotary_pct"] == 0.25


def test_tokenizer_reloads_and_gives_the_text_back(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    sentence = "old Tom painted a red hat.\nÉtrange, 12 boats!"
    assert tokenizer.decode(tokenizer(sentence).input_ids) == sentence
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)


def test_folder_holds_exactly_what_it_should(checkpoint: Path) -> None:
    models = {"config.json", "generation_config.json", "model.safetensors"}
    others = {"tokenizer.json", "tokenizer_config.json", "training_log.csv"}
    assert {path.name for path in checkpoint.iterdir()} == models | others
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_log_has_the_first_and_the_last_step_with_every_loss(checkpoint: Path) -> None:
    log = read_log(checkpoint)
    assert [row["step"] for row in log] == ["1", "20"]
    losses = {"train_loss", "second_copy_of_20", "second_copy_of_255", "held_out_loss"}
    assert all(float(row[name]) > 0 for row in log for name in losses)


def test_loss_falls(checkpoint: Path) -> None:
    first, last = read_log(checkpoint)
    assert float(last["train_loss"]) < float(first["train_loss"]) - 0.3
    assert float(last["held_out_loss"]) < float(first["held_out_loss"]) - 0.3


def test_saved_model_predicts_the_text_better_than_chance(checkpoint: Path, text: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    ids = tokenizer(text.read_text(), return_tensors="pt").input_ids[:, :512]
    with torch.no_grad():
        assert model(ids, labels=ids).loss < math.log(model.config.vocab_size) - 0.3


def test_same_seed_gives_identical_weights_and_another_seed_does_not(
    tool: ModuleType, text: Path, checkpoint: Path, tmp_path: Path
) -> None:
    weights = []
    for name, seed in {"first": 3, "again": 3, "other": 4}.items():
        tool.train_demo_model(text=text, out=tmp_path / name, tokenizer=checkpoint, steps=2, seed=seed)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_reused_tokenizer_is_written_unchanged(tool: ModuleType, text: Path, checkpoint: Path, tmp_path: Path) -> None:
    tool.train_demo_model(text=text, out=tmp_path / "out", tokenizer=checkpoint, steps=1)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()


@pytest.fixture
def random_tiles(tool: ModuleType) -> Tiles:
    """Ids, labels and span length of every sequence in a batch of repeats whose first labels are masked."""
    stage = tool.Stage("repeats", 1, context=64, batch_tokens=64 * 200, repeat_share=1.0, first_rate=0.0, last_rate=0.0)
    corpus = np.arange(2, 5002)  # no token twice, so that every repetition is one the recipe made
    ids, labels = tool.draw_batch(corpus, 5002, stage, np.random.default_rng(0))
    masked_counts = (labels == tool.IGNORED_LABEL).sum(dim=1).tolist()
    lengths = [
        count - 1 - int(sequence[0] == tool.BOUNDARY_ID) for count, sequence in zip(masked_counts, ids, strict=True)
    ]
    tiles = [tile for tile in zip(ids.numpy(), labels.numpy(), lengths, strict=True) if tile[2] > 0]
    assert len(tiles) > 50, "about 45 % of 200 sequences tile a random span"
    return tiles


def test_first_copy_of_a_random_span_is_masked_in_the_labels(tool: ModuleType, random_tiles: Tiles) -> None:
    for sequence, labels, length in random_tiles:
        start = int(sequence[0] == tool.BOUNDARY_ID)
        assert (labels[: start + length + 1] == tool.IGNORED_LABEL).all()
        assert (sequence[start : start + length] == sequence[start + length : start + 2 * length]).all()


def test_every_scored_token_of_a_random_tile_is_a_copy_of_an_earlier_one(tool: ModuleType, random_tiles: Tiles) -> None:
    for sequence, labels, length in random_tiles:
        scored = np.flatnonzero(labels != tool.IGNORED_LABEL)
        assert (labels[scored] == sequence[scored]).all()
        assert (sequence[scored] == sequence[scored - length]).all()


def test_pasted_span_occurs_again_later(tool: ModuleType) -> None:
    repeated = tool.paste_repeats(np.arange(64), 10, np.random.default_rng(0))
    positions = {tuple(repeated[start : start + 10]): start for start in range(55)}
    assert any(positions[tuple(range(first, first + 10))] > first for first in range(44))


def test_second_copy_probe_scores_only_what_induction_can_predict(tool: ModuleType) -> None:
    ids, labels = tool.second_copy_probe(1024, length=20)
    assert (labels[:, :22] == tool.IGNORED_LABEL).all()
    assert torch.equal(labels[:, 22:], ids[:, 2:21])


def test_schedule_scales_to_the_steps_asked_for(tool: ModuleType) -> None:
    for steps in (1, 3, 20, 7200, 9999):
        assert sum(stage.steps for stage in tool.scale_schedule(tool.SCHEDULE, steps)) == steps
    assert tool.scale_schedule(tool.SCHEDULE, tool.FULL_STEPS) == tool.SCHEDULE


def test_compressed_text_reads_as_the_plain_one(tool: ModuleType, text: Path, tmp_path: Path) -> None:
    compressed = tmp_path / "sentences.txt.xz"
    compressed.write_bytes(lzma.compress(text.read_bytes()))
    documents = tool.read_documents(compressed)
    assert len(documents) == 3
    assert documents == tool.read_documents(text)


def test_crash_while_saving_leaves_no_checkpoint(
    tool: ModuleType, text: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        tool.train_demo_model(text=text, out=tmp_path / "out", tokenizer=checkpoint, steps=1)
    assert not (tmp_path / "out").exists()


def test_missing_text_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no text file at .*absent\.txt"):
        tool.train_demo_model(text=tmp_path / "absent.txt", out=tmp_path / "out")


def test_text_too_short_for_a_batch_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A few words.\n<|endoftext|>\nAnd a few more.\n")
    with pytest.raises(ValueError, match=r"short\.txt is too short: it has \d+ tokens, one batch needs 4096"):
        tool.train_demo_model(text=short, out=tmp_path / "out")


def test_empty_text_is_refused(tool: ModuleType, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt is too short: it has 0 tokens"):
        tool.train_demo_model(text=tmp_path / "empty.txt", out=tmp_path / "out", tokenizer=checkpoint)


def test_folder_with_content_is_refused_and_left_alone(tool: ModuleType, text: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        tool.train_demo_model(text=text, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": -5}, {"threads": 0}])
def test_less_than_one_step_or_thread_is_refused(
    tool: ModuleType, text: Path, tmp_path: Path, wrong: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="--steps and --threads must be at least 1"):
        tool.train_demo_model(text=text, out=tmp_path / "out", **wrong)


def test_folder_without_a_tokenizer_is_refused(tool: ModuleType, text: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        tool.train_demo_model(text=text, out=tmp_path / "out", tokenizer=tmp_path)


def test_tokenizer_with_other_special_tokens_is_refused(tool: ModuleType, text: Path, tmp_path: Path) -> None:
    foreign = Tokenizer(models.BPE())  # knows no special token
    foreign.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"at \[None, None\], expected them at \[0, 1\]"):
        tool.train_demo_model(text=text, out=tmp_path / "out", tokenizer=tmp_path)


def test_command_line_reports_an_error_in_one_line(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--text", str(tmp_path / "absent.txt"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [TOOL.name, *arguments])
    with pytest.raises(SystemExit, match="error: no text file at"):
        tool.main()
