"""The original on CTranslate2, a C++ engine for transformers, in float32."""

import copy
import importlib
import os
import sys
import tempfile
from functools import cache
from threading import Semaphore, Thread
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import HeadspecError, MissingPackageError, ModelError
from headspec.load.plain import PlainModel
from headspec.measure.systems.system import Standing, System
from headspec.measure.systems.transformers_default import with_sdpa

ENGINE = "CTranslate2"
MOST = 2**20
"""Tokens that it is told to write; it is stopped before."""


class CTranslate2Reading:
    """Writes with CTranslate2, one token at each `read`: for timing.

    It only generates: it chooses the next token itself (the likeliest), whatever `read` is given, which makes no
    difference to its times; and it gives logits only of a text that is finished, see `greedy`. A thread runs ahead to
    the end of each token, and waits there.
    """

    def __init__(self, model: Any, generator: Any):
        self.model, self.generator = model, generator
        self.n_read, self.expected, self.prompt = 0, 0, list[list[str]]()
        self._clear()

    @property
    def kv_bytes(self) -> int:
        """What its cache must hold, by formula: it does not tell."""
        config = self.model.config
        return 8 * config.num_hidden_layers * config.hidden_size * self.n_read * len(self.prompt)

    def start(self, prompt: int, expected: int, batch: int = 1) -> None:
        """Forget everything."""
        self.forget()
        context = self.model.config.max_position_embeddings
        if not 0 < prompt <= expected <= context:
            raise HeadspecError(f"prompt={prompt}, expected={expected}: want at most the model's context of {context}.")
        self.expected = expected

    def greedy(
        self, prompt: Int[Tensor, "batch token"], n_new: int
    ) -> tuple[Int[Tensor, "batch n_new"], Float[Tensor, "batch n_new vocabulary"]]:
        """The likeliest continuation of a prompt, and the logits that each of its tokens was chosen by."""
        found = self.generator.generate_batch(
            _named(prompt), max_length=n_new, min_length=n_new, include_prompt_in_result=False, sampling_topk=1,
            return_logits_vocab=True,
        )  # fmt: skip
        tokens = torch.tensor([each.sequences_ids[0] for each in found])
        return tokens, torch.stack([torch.stack([_tensor(step) for step in each.logits[0]]) for each in found])

    def read(self, tokens: Int[Tensor, "batch token"], n_last: int = 1) -> Float[Tensor, "batch 1 0"]:
        """The prompt at first, then single tokens; no logits."""
        if n_last != 1 or (self.n_read and tokens.shape[1] != 1):
            raise HeadspecError("CTranslate2 reads a prompt, then token by token, and gives the last logits only.")
        if not self.n_read:
            self.prompt = _named(tokens)
            self._begin()
        else:
            self._go.release()
        self._wait()
        self.n_read += tokens.shape[1]
        return torch.empty(len(self.prompt), 1, 0)

    def repeat(self, times: int) -> None:
        """Read the prompt again, in so many rows: it cannot copy a cache."""
        if not self.prompt or self.n_read > len(self.prompt[0]):
            raise HeadspecError("there is nothing to repeat: read a prompt first, and nothing after it.")
        prompt, n_read = [row for row in self.prompt for _ in range(times)], self.n_read
        self.forget()
        self.prompt, self.n_read = prompt, n_read
        self._begin()
        self._wait()

    def forget(self) -> None:
        """End the text under way."""
        if self._thread is not None:
            self._stop = True
            self._go.release()
            self._thread.join()
        self._clear()

    def _clear(self) -> None:
        self._thread: Thread | None = None
        self._error: Exception | None = None
        self._stop = False
        self._go, self._done = Semaphore(0), Semaphore(0)
        self.prompt, self.n_read, self._rows = [], 0, 0

    def _begin(self) -> None:
        self._thread = Thread(target=self._generate, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self._done.acquire()
        if self._error is not None:
            raise HeadspecError(f"CTranslate2 failed: {self._error}") from self._error

    def _generate(self) -> None:
        try:
            self.generator.generate_batch(
                self.prompt, max_length=MOST, min_length=MOST, include_prompt_in_result=False, sampling_topk=1,
                callback=self._on_token,
            )  # fmt: skip
        except Exception as error:
            self._error = error
        finally:
            self._done.release()

    def _on_token(self, step: Any) -> bool:
        """Called for every row of a step; answers whether to stop."""
        self._rows += 1
        if self._rows % len(self.prompt) == 0:
            self._done.release()
            self._go.acquire()
        return self._stop


def _named(tokens: Int[Tensor, "batch token"]) -> list[list[str]]:
    return [[str(token) for token in row] for row in tokens.tolist()]


def _tensor(numbers: Any) -> Float[Tensor, " vocabulary"]:
    found = torch.from_numpy(np.array(numbers, np.float32)).flatten()
    return found.masked_fill(found == torch.finfo(torch.float32).min, torch.nan)  # the end, which was forbidden


def on_ctranslate2(source: PlainModel) -> System:
    """The original on CTranslate2; converted once, however often it is opened.

    Raises:
        MissingPackageError: It is not installed.
        ModelError: Not a GPT-NeoX.
    """
    ctranslate2 = _imported()
    if source.huggingface.config.model_type != "gpt_neox":
        raise ModelError(f"{source.name} is no GPT-NeoX: it is not compared on CTranslate2.")

    @cache
    def made() -> tuple[Any, Any]:
        model = with_sdpa(source)
        with tempfile.TemporaryDirectory() as folder:
            spec = _specification(model)
            spec.save(folder)
            generator = ctranslate2.Generator(
                folder, device="cpu", inter_threads=1, intra_threads=torch.get_num_threads(), compute_type="float32"
            )
        return model, generator

    label = (
        f"the original on CTranslate2 {ctranslate2.__version__}, float32; it also chooses each token, and calls back "
        "to be timed"
    )
    return System("CTranslate2", label, Standing.PEER, lambda: CTranslate2Reading(*made()), engine=ENGINE)


def _imported() -> Any:
    """The package, with an OpenMP of its own.

    Otherwise it takes that of torch, and both are slower with several threads (docs/benchmark.md): probably as libgomp
    lets threads sleep, instead of waiting at work, where it counts more of them than cores.
    """
    before = sys.getdlopenflags() if hasattr(sys, "getdlopenflags") else None
    try:
        if before is not None:
            sys.setdlopenflags(before | getattr(os, "RTLD_DEEPBIND", 0))
        return importlib.import_module("ctranslate2")
    except ImportError as error:
        raise MissingPackageError("ctranslate2 is not installed: pip install 'headspec[peers]'.") from error
    finally:
        if before is not None:
            sys.setdlopenflags(before)


def _specification(model: Any) -> Any:
    """The model in CTranslate2's own terms, through its loader; tokens are called by their numbers.

    The loader was written for transformers 4: `embed_out` and `rotary_pct` have other names now, and it leaves out the
    base of the rotation.
    """
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    twin = copy.copy(model)
    twin.config = copy.deepcopy(model.config)
    rope = model.config.rope_parameters
    twin.config.rotary_pct = rope.get("partial_rotary_factor", 1.0)
    object.__setattr__(twin, "embed_out", model.lm_head)
    with torch.no_grad():
        spec = _MODEL_LOADERS["GPTNeoXConfig"].get_model_spec(twin)
    for layer in spec.decoder.layer:
        layer.self_attention.rotary_base = np.dtype("float32").type(rope["rope_theta"])
    names = [str(token) for token in range(model.config.vocab_size)]
    spec.register_vocabulary(names)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = names[0]
    spec.validate()
    spec.optimize(quantization=None)
    return spec
