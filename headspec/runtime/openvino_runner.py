"""Runs a pruned GPT-NeoX on OpenVINO: generates text, or reads tokens one after another. Needs openvino and numpy only.

    python openvino_runner.py FOLDER --prompt "It was a" --new 40        (with tokenizers)
    python openvino_runner.py FOLDER --tokens 12,7,9 --new 40

Keys and values lie in buffers of this file's own, which the graph reads where they are; it gives back what is new of
them. Heads that see every key have a slot for every token, windowed heads a few slots in front for the first tokens and
a ring for the latest. In a stateful export the graph keeps all that itself.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = "openvino_config.json"
MODEL = "openvino_model.xml"
CHUNK = 256
"""Tokens of a prompt that are read together."""


class OpenVINODecoder:
    """A model in a folder that `headspec export --to openvino` has written.

    Args:
        folder: Where it is.
        threads: That it may use; 0: as many as OpenVINO thinks best.
        **settings: More of OpenVINO's settings, which go before those made here: all in float32, and quick single
            answers. `INFERENCE_PRECISION_HINT="bf16"`: processors that can do so compute in half precision.
            `KV_CACHE_PRECISION="u8"`: a stateful graph rounds its keys and values.
    """

    def __init__(self, folder: Path | str, threads: int = 0, **settings: Any):
        import openvino

        self.folder = Path(folder)
        if not (self.folder / CONFIG).is_file():
            raise FileNotFoundError(f"{self.folder} has no {CONFIG}: export a model there with --to openvino.")
        self.config = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        self.stateful = self.config.get("stateful", False)
        self.groups = [group for layer in self.config["layers"] for group in layer]
        exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        wanted = {"PERFORMANCE_HINT": "LATENCY", **exact, **settings}
        if threads:
            wanted["INFERENCE_NUM_THREADS"] = threads
        self._compiled = openvino.Core().compile_model(str(self.folder / MODEL), "CPU", wanted)
        self.buffers: list[np.ndarray] = []
        self._rows = np.zeros(0, np.int32)
        """Of the last step, from which each row goes on."""
        self.forget()

    def start(self, expected: int, starts: Sequence[int] = (0,)) -> None:
        """Forget everything, and make room.

        Args:
            expected: Tokens that will be read, padding included.
            starts: Of every row of the batch, how many tokens of padding are in front.
        """
        context = self.config["context"]
        if not 0 < expected <= context:
            raise ValueError(f"{expected} tokens: this model reads 1 to {context}.")
        self.forget()
        self.expected, self.starts = expected, np.asarray(starts, np.int64)
        if self.stateful:
            self._rows = np.arange(len(self.starts), dtype=np.int32)
            return
        self.buffers = [
            np.zeros((2, len(self.starts), group["n_heads"], self._slots(group), self.config["d_head"]), np.float32)
            for group in self.groups
        ]

    def _slots(self, group: dict[str, Any]) -> int:
        return group["sinks"] + max(group["windows"]) if group["windows"] else self.expected

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, for all rows together."""
        if self.stateful and self.n_past:
            return sum(state.state.byte_size for state in self._request.query_state())
        return sum(buffer.nbytes for buffer in self.buffers)

    def read(self, tokens: Any) -> np.ndarray:
        """Read more tokens, `[batch, token]`; the logits of the last one, `[batch, vocabulary]`."""
        tokens = np.asarray(tokens, np.int64)
        rows, room = len(self.starts), self.expected - self.n_past
        if tokens.ndim != 2 or len(tokens) != rows or not 0 < tokens.shape[1] <= room:
            raise ValueError(
                f"tokens of shape {tokens.shape}: start() was told of {rows} rows, and has room for {room} more tokens."
            )
        known = self.config["vocabulary"]
        if tokens.min() < 0 or tokens.max() >= known:
            raise ValueError(f"token ids from {tokens.min()} to {tokens.max()}: want 0 to {known - 1}.")
        for first in range(0, tokens.shape[1], CHUNK):
            logits = self._step(tokens[:, first : first + CHUNK])
        return logits

    def _step(self, tokens: np.ndarray) -> np.ndarray:
        n_new = tokens.shape[1]
        columns = np.arange(self.n_past, self.n_past + n_new)
        given = {
            "tokens": tokens, "positions": np.maximum(columns - self.starts[:, None], 0),
            "n_past": np.array(self.n_past, np.int64), "starts": self.starts,
        }  # fmt: skip
        if self.stateful:
            given["beam_idx"] = self._rows
            self._rows = np.arange(len(self.starts), dtype=np.int32)
        for number, (group, buffer) in enumerate(zip(self.groups, self.buffers, strict=False)):
            for name, part in zip(("keys", "values"), buffer, strict=True):
                given[f"{name}.{number}"] = self._past(part, group, n_new)
        given = {name: np.asarray(array, order="C") for name, array in given.items()}
        found = self._request.infer(given, share_inputs=True, share_outputs=True)  # both are read where they lie
        for number, (group, buffer) in enumerate(zip(self.groups, self.buffers, strict=False)):  # none, with states
            self._keep(buffer, found[f"new.{number}"], group, columns)
        self.n_past += n_new
        return found["logits"][:, -1].copy()

    def _past(self, part: np.ndarray, group: dict[str, Any], n_new: int) -> np.ndarray:
        """What the graph reads of a buffer: all of it, as it lies; while a prompt is read only what is filled."""
        return part if group["windows"] or n_new == 1 else part[:, :, : max(self.n_past, 1)]

    def _keep(self, buffer: np.ndarray, new: np.ndarray, group: dict[str, Any], columns: np.ndarray) -> None:
        """Put the new keys and values, `[key or value, batch, head, token, d_head]`, into their slots."""
        if not group["windows"]:
            buffer[:, :, :, columns] = new
            return
        sinks, n_ring = group["sinks"], buffer.shape[3] - group["sinks"]
        for row, start in enumerate(self.starts):
            here = columns[(columns >= start) & (columns < start + sinks)]
            buffer[:, row, :, here - start] = new[:, row, :, here - columns[0]]
        latest = columns[-n_ring:]
        buffer[:, :, :, sinks + latest % n_ring] = new[:, :, :, -len(latest) :]

    def forget(self) -> None:
        """Drop keys and values, and their memory."""
        self.n_past, self.expected, self.starts, self.buffers = 0, 0, np.zeros(0, np.int64), []
        self._request = self._compiled.create_infer_request()  # the old one keeps what it was given

    def repeat(self, times: int) -> None:
        """Make `times` rows of every row, side by side."""
        self._rows = np.arange(len(self.starts), dtype=np.int32).repeat(times)
        self.starts = self.starts.repeat(times)
        self.buffers = [buffer.repeat(times, axis=1) for buffer in self.buffers]

    def generate(
        self, prompts: Sequence[Sequence[int]], n_new: int = 40, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """Continue prompts of token ids, together; what is new of each, up to and with the end of the text.

        Args:
            prompts: Of any lengths.
            n_new: Tokens to write, at most.
            temperature: 0: always the likeliest token. Otherwise tokens are drawn, from the logits over this number.
            seed: Draws them.
        """
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise ValueError("want one prompt or more, of one token or more each.")
        longest, draw = max(map(len, prompts)), np.random.default_rng(seed)
        starts = [longest - len(prompt) for prompt in prompts]
        padded = np.array([[0] * start + list(prompt) for start, prompt in zip(starts, prompts, strict=True)])
        self.start(longest + n_new - 1, starts)  # the last token is not read
        found: list[list[int]] = [[] for _ in prompts]
        tokens, ends = padded, set(self.config["eos"])
        for _ in range(n_new):
            chosen = _choose(self.read(tokens), temperature, draw)
            for row, token in zip(found, chosen.tolist(), strict=True):
                if not row or row[-1] not in ends:
                    row.append(token)
            if all(row[-1] in ends for row in found):
                break
            tokens = chosen[:, None]
        return found


def _choose(logits: np.ndarray, temperature: float, draw: np.random.Generator) -> np.ndarray:
    if temperature <= 0:
        return logits.argmax(-1)
    return (logits / temperature + draw.gumbel(size=logits.shape)).argmax(-1)


def main() -> None:
    """Generate from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--prompt")
    parser.add_argument("--tokens", help="ids instead of text, comma between")
    parser.add_argument("--new", type=int, default=40)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.prompt is None) == (options.tokens is None):
        parser.error("give one of --prompt and --tokens")
    tokenizer = None
    if options.prompt is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
        ids = tokenizer.encode(options.prompt, add_special_tokens=False).ids
    else:
        ids = [int(part) for part in options.tokens.split(",")]
    decoder = OpenVINODecoder(options.folder, options.threads)
    [found] = decoder.generate([ids], options.new, options.temperature, options.seed)
    print(",".join(map(str, found)) if tokenizer is None else options.prompt + tokenizer.decode(found))


if __name__ == "__main__":
    main()
