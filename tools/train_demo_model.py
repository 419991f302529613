"""Train the small GPT-NeoX of headspec's demos and tests, in one run of about an hour on one CPU core.

Its 4 layers of 8 heads specialise: some look at the previous token, some do induction, some do almost nothing. To get
there on a small budget, part of the training sequences hold repeated spans, and one schedule (`SCHEDULE`) leads from
short sequences over a burst of repeats, in which induction sharpens, to the full context. Texts are UTF-8, plain or as
.xz, with a line `<|endoftext|>` between documents. Same seed, threads and machine: same weights.
"""

import csv
import lzma
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

TokenIds: TypeAlias = NDArray[np.int64]
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # ids and labels, both [sequence, position]
LogRow: TypeAlias = dict[str, float | str]

SPECIAL_TOKENS = ["<|endoftext|>", "<|padding|>"]  # as in Pythia: ids 0 and 1, ordinary tokens follow
BOUNDARY_ID = 0
CONTEXT = 512
IGNORED_LABEL = -100  # what the loss of transformers skips


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one kind of batch; within it the learning rate moves along half a cosine."""

    name: str
    steps: int
    context: int  # tokens a sequence
    batch_tokens: int
    repeat_share: float  # share of the sequences that hold repeated spans, in [0, 1]
    first_rate: float
    last_rate: float

    def rate(self, step: int) -> float:
        return self.last_rate + (self.first_rate - self.last_rate) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


# Previous-token heads come first: induction builds on them. It starts at the end of the short context and is sharp two
# minutes later, once nearly all sequences repeat, though only over 128 tokens: the main stages carry it to all of 512.
SCHEDULE = (
    Stage("warm-up", 80, 128, 1024, repeat_share=0.35, first_rate=2e-5, last_rate=1.5e-3),
    Stage("short context", 1920, 128, 1024, repeat_share=0.35, first_rate=1.5e-3, last_rate=1.45e-3),
    Stage("induction burst", 700, 128, 1024, repeat_share=0.92, first_rate=1.45e-3, last_rate=1.4e-3),
    Stage("main, fast", 2000, CONTEXT, 1024, repeat_share=0.35, first_rate=1.3e-3, last_rate=1.05e-3),
    Stage("main", 1900, CONTEXT, 2048, repeat_share=0.25, first_rate=1.05e-3, last_rate=2.5e-4),
    Stage("main, settling", 600, CONTEXT, 4096, repeat_share=0.18, first_rate=2.5e-4, last_rate=5e-5),
)
FULL_STEPS = sum(stage.steps for stage in SCHEDULE)


def scale_schedule(schedule: Sequence[Stage], steps: int) -> tuple[Stage, ...]:
    """The schedule stretched or shrunk to `steps` steps in total; stages left without a step are dropped."""
    ends = np.cumsum([stage.steps for stage in schedule])
    scaled = np.diff(np.rint(ends * steps / ends[-1]).astype(int), prepend=0)
    return tuple(replace(stage, steps=int(count)) for stage, count in zip(schedule, scaled, strict=True) if count > 0)


def read_documents(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no text file at {path}: expected UTF-8 text, plain or compressed as .xz.")
    raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    documents = re.split(rf"^{re.escape(SPECIAL_TOKENS[0])}\r?$", raw.decode("utf-8"), flags=re.MULTILINE)
    return [document.strip() for document in documents if document.strip()]


def train_tokenizer(documents: Sequence[str], vocabulary: int = 1024) -> Tokenizer:
    """Byte-level BPE on the start of each document: enough, and no long novel outweighs the rest."""
    trained = ByteLevelBPETokenizer(unicode_normalizer="nfc")
    starts = (document[:120_000] for document in documents)
    trained.train_from_iterator(starts, vocabulary, special_tokens=SPECIAL_TOKENS, show_progress=False)
    return Tokenizer.from_str(trained.to_str())


def load_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if (found := [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]) != [0, 1]:
        raise ValueError(f"the tokenizer in {folder} has {SPECIAL_TOKENS} at {found}, expected them at [0, 1].")
    return tokenizer


def encode(documents: Sequence[str], tokenizer: Tokenizer, least: int, path: Path) -> TokenIds:
    """All documents in one row of token ids, a boundary before each; `least` is what a batch needs of it."""
    rows = [np.array([BOUNDARY_ID, *tokenizer.encode(piece, add_special_tokens=False).ids]) for piece in documents]
    tokens = np.concatenate([np.empty(0, np.int64), *rows])
    if len(tokens) < least:
        raise ValueError(f"{path} is too short: it has {len(tokens)} tokens, one batch needs {least}. Give more text.")
    return tokens


def draw_span(text: TokenIds, length: int, rng: np.random.Generator) -> TokenIds:
    start = rng.integers(len(text) - length + 1)
    return text[start : start + length]


def paste_repeats(ids: TokenIds, length: int, rng: np.random.Generator) -> TokenIds:
    """The ids with one of their spans pasted one to three times over what follows it."""
    start = rng.integers(len(ids) - 2 * length)
    repeated, span = ids.copy(), ids[start : start + length]
    for place in rng.integers(start + length, len(ids) - length + 1, size=rng.integers(1, 4)):
        repeated[place : place + length] = span
    return repeated


def draw_sequence(text: TokenIds, vocabulary: int, stage: Stage, rng: np.random.Generator) -> tuple[TokenIds, int]:
    """One sequence of `stage.context` tokens, and how many of its first tokens are not to be scored.

    Of the sequences with repeats, 45 % tile a random span (of tokens as frequent as in the text; in some, all equally
    likely), 30 % tile a span of real text, and 25 % are real text with a span pasted again. The first copy of a random
    span is not scored, nor the token after it: they cannot be predicted, and a model punished for them seems to learn
    to notice randomness and flatten its output, instead of learning to copy.
    """
    if rng.random() >= stage.repeat_share:
        return draw_span(text, stage.context, rng), 0
    kind = rng.random()
    length = int(8 * (stage.context / 20) ** rng.random())  # 8 to context / 2.5, short and long in equal measure
    if kind < 0.45:
        span = rng.integers(len(SPECIAL_TOKENS), vocabulary, length) if kind < 0.10 else rng.choice(text, length)
        return np.resize(span, stage.context), length + 1
    if kind < 0.75:
        return np.resize(draw_span(text, length, rng), stage.context), 0
    return paste_repeats(draw_span(text, stage.context, rng), length, rng), 0


def draw_batch(text: TokenIds, vocabulary: int, stage: Stage, rng: np.random.Generator) -> Batch:
    ids = np.empty((stage.batch_tokens // stage.context, stage.context), dtype=np.int64)
    labels = ids.copy()
    for row in range(len(ids)):
        sequence, unscored = draw_sequence(text, vocabulary, stage, rng)
        if rng.random() < 0.85:  # the rest starts mid-document, so that the model copes with windows cut anywhere
            sequence = np.concatenate([[BOUNDARY_ID], sequence[:-1]])
            unscored += unscored > 0  # the first copy has moved one place to the right
        ids[row] = labels[row] = sequence
        labels[row, :unscored] = IGNORED_LABEL
    return torch.from_numpy(ids), torch.from_numpy(labels)


def make_config(vocabulary: int) -> GPTNeoXConfig:
    """Pythia's architecture, small, with a rope theta of 500 instead of 10 000.

    A quarter of a head's 24 dimensions rotate: three frequencies. At theta 10 000 they are 1, 0.046 and 0.002 radians a
    token: offsets 1 and 7 differ by nearly a full turn of the first and by almost nothing in the others, so heads can
    hardly tell them apart. At theta 500 they are 1, 0.126 and 0.016, which separates them.
    """
    theta, rotary_share = 500.0, 0.25
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=4 * 192,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": rotary_share},
        bos_token_id=BOUNDARY_ID,
        eos_token_id=BOUNDARY_ID,
        pad_token_id=SPECIAL_TOKENS.index("<|padding|>"),
    )
    # Readers that do not know `rope_parameters` look for these keys, and without them silently assume 10 000.
    config.rotary_pct, config.rotary_emb_base, config.rope_theta = rotary_share, theta, theta
    return config


@torch.no_grad()
def make_model(config: GPTNeoXConfig, seed: int) -> GPTNeoXForCausalLM:
    """A fresh model, initialised as Pythia is except where it helps heads to find positions early."""
    model, generator = GPTNeoXForCausalLM(config), torch.Generator().manual_seed(seed)
    width, heads = config.hidden_size, config.num_attention_heads
    rotary_size = 2 * len(model.gpt_neox.rotary_emb.inv_freq)
    for name, weight in model.named_parameters():
        if name.endswith("query_key_value.bias"):
            # A liking for an offset whatever the token is a query bias times a key bias: a saddle if both start at 0.
            weight.view(heads, 3, -1)[:, :2, :rotary_size].normal_(std=1.5, generator=generator)
        elif weight.dim() == 2:
            writes_stream = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
            std = 2 / (config.num_hidden_layers * math.sqrt(width)) if writes_stream else math.sqrt(2 / (5 * width))
            weight.normal_(std=0.2 if "embed_in" in name else std, generator=generator)
    return model


def make_optimiser(model: GPTNeoXForCausalLM, stages: Sequence[Stage]) -> tuple[torch.optim.AdamW, LambdaLR]:
    """One AdamW for the whole schedule: only matrices decay; embeddings, each seen rarely, learn four times faster."""
    embedding = model.gpt_neox.embed_in.weight
    matrices = [weight for weight in model.parameters() if weight.dim() == 2 and weight is not embedding]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    optimiser = torch.optim.AdamW(matrices, lr=1.0, betas=(0.9, 0.97), weight_decay=0.3, fused=True)
    optimiser.add_param_group({"params": vectors, "weight_decay": 0.0})
    optimiser.add_param_group({"params": [embedding], "weight_decay": 0.0, "lr": 4.0})  # times the rate of the schedule
    rates = [stage.rate(step) for stage in stages for step in range(stage.steps)]
    return optimiser, LambdaLR(optimiser, lambda step: rates[min(step, len(rates) - 1)])


def held_out_probe(tokens: TokenIds, windows: int = 16) -> Batch:
    """Windows at the full context, spread evenly over a text that is not trained on."""
    starts = np.linspace(0, len(tokens) - CONTEXT, windows).astype(int)
    ids = torch.from_numpy(np.stack([tokens[start : start + CONTEXT] for start in starts]))
    ids[:, 0] = BOUNDARY_ID
    return ids, ids


def second_copy_probe(vocabulary: int, length: int, sequences: int = 16) -> Batch:
    """Random tokens twice; scored is what induction can predict, the second copy from its second token on."""
    span = np.random.default_rng(length).integers(len(SPECIAL_TOKENS), vocabulary, (sequences, length))
    ids = torch.from_numpy(np.concatenate([np.full((sequences, 1), BOUNDARY_ID), span, span], axis=1))
    return ids, ids.index_fill(1, torch.arange(length + 2), IGNORED_LABEL)


def train(
    model: GPTNeoXForCausalLM, stages: Sequence[Stage], text: TokenIds, probes: Mapping[str, Batch], seed: int
) -> Iterator[LogRow]:
    """Train in place; after the first step, every 250 steps and the last one yield a row for the log."""
    optimiser, scheduler = make_optimiser(model, stages)
    stage_of_step = [stage for stage in stages for _ in range(stage.steps)]
    rng, tokens, losses = np.random.default_rng(seed), 0, list[float]()
    for step, stage in enumerate(track(stage_of_step, "training"), start=1):
        ids, labels = draw_batch(text, model.config.vocab_size, stage, rng)
        loss = model(ids, labels=labels, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        scheduler.step()
        tokens += stage.batch_tokens
        losses.append(loss.item())
        if step % 250 == 0 or step in (1, len(stage_of_step)):
            mean_loss = round(float(np.mean(losses)), 4)
            row: LogRow = {"step": step, "stage": stage.name, "tokens": tokens, "train_loss": mean_loss}
            with torch.no_grad():
                for name, (ids, labels) in probes.items():
                    row[name] = round(model(ids, labels=labels, use_cache=False).loss.item(), 4)
            yield row
            losses.clear()


def save(folder: Path, model: GPTNeoXForCausalLM, tokenizer: Tokenizer, log: Sequence[LogRow]) -> None:
    """Write everything beside `folder`, then rename, so that a crash leaves no half-written checkpoint."""
    partial = folder.with_name(folder.name + ".partial")
    model.generation_config.use_cache = True  # training does without, readers of the checkpoint should not
    # Halves on disk, while the config keeps the model's float32: readers that follow it compute in full precision.
    model.save_pretrained(partial, state_dict={name: weight.half() for name, weight in model.state_dict().items()})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), SPECIAL_TOKENS[0]) | {"pad_token": SPECIAL_TOKENS[1]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT, **names).save_pretrained(partial)
    with (partial / "training_log.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([log[0].keys(), *(row.values() for row in log)])
    if folder.exists():
        folder.rmdir()  # checked to be empty; not every system renames onto a folder
    partial.rename(folder)


def train_demo_model(
    text: Annotated[Path, typer.Option(help="Training text, .txt or .txt.xz.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint; must be new or empty.")],
    held_out: Annotated[Path | None, typer.Option(help="Text to measure the loss on.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a tokenizer to reuse.")] = None,
    steps: Annotated[int, typer.Option(help="Scale the whole schedule to this many steps.")] = FULL_STEPS,
    seed: Annotated[int, typer.Option(help="Of initial weights and of batches.")] = 0,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
) -> None:
    """Train the demo model on a text and save it as a Hugging Face checkpoint."""
    if steps < 1 or threads < 1:
        raise ValueError(f"--steps and --threads must be at least 1, got {steps} and {threads}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder: give a new --out, or remove it first.")
    torch.set_num_threads(threads)
    stages = scale_schedule(SCHEDULE, steps)
    documents = read_documents(text)
    vocabulary = load_tokenizer(tokenizer) if tokenizer else train_tokenizer(documents)
    tokens = encode(documents, vocabulary, max(stage.batch_tokens for stage in stages), text)
    size = vocabulary.get_vocab_size()
    probes = {f"second_copy_of_{length}": second_copy_probe(size, length) for length in (20, CONTEXT // 2 - 1)}
    if held_out:
        probes["held_out_loss"] = held_out_probe(encode(read_documents(held_out), vocabulary, CONTEXT, held_out))
    model, log = make_model(make_config(size), seed), list[LogRow]()
    for row in train(model, stages, tokens, probes, seed):
        print(row, flush=True)
        log.append(row)
    save(out.resolve(), model, vocabulary, log)


def main() -> None:
    try:
        typer.run(train_demo_model)
    except (OSError, ValueError) as problem:
        raise SystemExit(f"error: {problem}") from None


if __name__ == "__main__":
    main()
