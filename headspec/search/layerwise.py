"""A text on its way through a model, layer by layer, so that a head can be treated where the text is.

What lies before a treated layer is computed once for all heads of that layer. Works on Hugging Face models as they
are (`PlainModel`); the blocks are called with the very arguments the model gives them.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from headspec.errors import ModelError
from headspec.intervene.compress import CompressedHeads, rotary_frequencies
from headspec.intervene.plain import causal_mask, compressing_mask, head_masks, plan_on_plain
from headspec.load.layout import attention_apart_from_mlp, attention_layers, final_norm
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Compress, Window

Residual = Float[Tensor, "window token d_model"]
Z = Float[Tensor, "window token head d_head"]


class _Reached(Exception):  # noqa: N818 (no error: it ends a forward pass where no more of it is wanted)
    """A forward pass has come to where it was meant to end."""


class LayerWise:
    """Runs a plain model block by block; `prompt` is everywhere that of `apply_plan`."""

    def __init__(self, model: PlainModel) -> None:
        self.model, identity = model, model.identity
        self.n_heads, self.d_head, self.device = identity.n_heads, identity.d_head, identity.device
        self.layers = attention_layers(model.huggingface, identity.d_head)
        self.norm = final_norm(model.huggingface)
        self.unembedding = model.huggingface.get_output_embeddings()
        self.apart = attention_apart_from_mlp(model.huggingface)

    def enter(self, tokens: Int[Tensor, "window token"]) -> tuple[Residual, dict[str, Any]]:
        """The residual that enters the first block, and what else the blocks are given for one window."""
        residual, _ = self._first_block_input(tokens)
        return residual, self._first_block_input(tokens[:1])[1]

    def block(self, layer: int, residual: Residual, given: dict[str, Any]) -> Residual:
        """The residual after a block."""
        found = self.layers[layer].block(residual, **given)
        return found[0] if isinstance(found, tuple) else found

    def z(
        self, layer: int, residual: Residual, given: dict[str, Any], what: Window | Compress | None = None,
        prompt: int = 0, queries: Mapping[int, np.ndarray] | None = None,
    ) -> Z:  # fmt: skip
        """What each head of a layer mixes; with `what`, as if all of them were treated so.

        Args:
            layer: Number of the block.
            residual: What enters it.
            given: From `enter`.
            what: A window; or a compression, as of a plan that compresses all heads of the layer (they share their
                budget, if it is shared).
            prompt: Columns after which compressed heads choose.
            queries: As `HeadPlan.queries`, by number of the head, where the policy needs them.
        """
        if isinstance(what, Window):
            mask = given.get("attention_mask")
            mask = causal_mask(residual.shape[1], residual.device) if mask is None else mask
            windows = dict.fromkeys(range(self.n_heads), what)
            given = {**given, "attention_mask": head_masks(mask, windows, self.n_heads)}
        caught: list[Tensor] = []

        def catch(module: Any, inputs: tuple[Tensor]) -> None:
            caught.append(inputs[0])
            raise _Reached

        with ExitStack() as undo:
            if isinstance(what, Compress):
                hide = compressing_mask(self._all_compressed(layer, what, prompt, queries or {}), self.n_heads)
                undo.callback(self.layers[layer].attention.register_forward_pre_hook(hide, with_kwargs=True).remove)
            undo.enter_context(_until(self.layers[layer].output, catch))
            self.layers[layer].block(residual, **given)
        return rearrange(caught[0], "window token (head d) -> window token head d", d=self.d_head)

    def _all_compressed(
        self, layer: int, what: Compress, prompt: int, queries: Mapping[int, np.ndarray]
    ) -> CompressedHeads:
        treatments, w_o = dict.fromkeys(range(self.n_heads), what), self.layers[layer].w_o
        return CompressedHeads(layer, treatments, queries, w_o, rotary_frequencies(self.model), prompt)

    def block_with_z(self, layer: int, residual: Residual, given: dict[str, Any], z: Z) -> Residual:
        """The residual after a block whose heads mix `z`."""
        flat = rearrange(z, "window token head d -> window token (head d)")
        handle = self.layers[layer].output.register_forward_pre_hook(lambda module, inputs: (flat,))
        try:
            return self.block(layer, residual, given)
        finally:
            handle.remove()

    def write(self, layer: int, z: Float[Tensor, "... d_head"], head: int) -> Float[Tensor, "... d_model"]:
        """What a head writes into the residual stream for a z."""
        return einsum(z, self.layers[layer].w_o[head], "... d, d model -> ... model")

    def on(self, layer: int, residual: Residual, given: dict[str, Any]) -> Float[Tensor, "window token d_model"]:
        """From before block `layer` to the hidden state that is unembedded."""
        for later in range(layer, len(self.layers)):
            residual = self.block(later, residual, given)
        return self.norm(residual)

    def on_with(
        self, plan: HeadPlan, layer: int, residual: Residual, given: dict[str, Any], prompt: int = 0
    ) -> Residual:
        """The same under a plan that treats no head before block `layer`."""
        with plan_on_plain(self.model, plan, prompt):
            return self.on(layer, residual, given)

    def check(self, tokens: Int[Tensor, "window token"]) -> None:
        """Refuse models that do something between their blocks which is not seen here."""
        residual, given = self.enter(tokens)
        found, expected = self.unembedding(self.on(0, residual, given)), self.model(tokens.to(self.device))
        if not bool((found - expected).abs().max() <= 1e-4 * expected.abs().max()):
            raise ModelError(
                f'{self.model.name} run layer by layer gives other logits than in one piece: use engine="hooks".'
            )

    def _first_block_input(self, tokens: Int[Tensor, "window token"]) -> tuple[Residual, dict[str, Any]]:
        caught: list[Any] = []

        def catch(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            caught.append((inputs, keywords))
            raise _Reached

        with _until(self.layers[0].block, catch, with_kwargs=True):
            self.model(tokens.to(self.device))
        inputs, keywords = caught[0]
        rest = dict(keywords)
        residual = inputs[0] if inputs else rest.pop("hidden_states")
        return residual, rest


@contextmanager
def _until(module: Any, catch: Callable[..., None], **options: Any) -> Any:
    """End the forward pass inside where it reaches `module`."""
    handle = module.register_forward_pre_hook(catch, **options)
    try:
        yield
    except _Reached:
        pass
    finally:
        handle.remove()
