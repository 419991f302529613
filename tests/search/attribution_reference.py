"""What gradients say of a head, by the textbook: float64, the whole Hugging Face model, one window after another."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

D_HEAD = 8


class TextbookModel:
    """A tiny model in float64 whose z can be read, replaced and differentiated."""

    def __init__(self, model: Any) -> None:
        self.model = model.double().eval()
        inner = getattr(model, "gpt_neox", None) or model.model
        neox = hasattr(model, "gpt_neox")
        self.attentions = [layer.attention if neox else layer.self_attn for layer in inner.layers]
        self.blocks = list(inner.layers)
        self.outputs = [each.dense if neox else each.o_proj for each in self.attentions]
        self.values = [each.query_key_value if neox else each.v_proj for each in self.attentions]
        self.neox = neox

    def w_o(self, layer: int) -> Tensor:
        return rearrange(self.outputs[layer].weight, "model (head d) -> head d model", d=D_HEAD)

    def run(self, tokens: Tensor, change: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits of one window, and z of every layer (`[token, head, d]`) after `change`."""
        found: dict[int, Tensor] = {}

        def replace(layer: int) -> Any:
            def hook(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
                found[layer] = change(layer, rearrange(inputs[0][0], "token (head d) -> token head d", d=D_HEAD))
                return (rearrange(found[layer], "token head d -> 1 token (head d)"),)

            return hook

        handles = [output.register_forward_pre_hook(replace(layer)) for layer, output in enumerate(self.outputs)]
        try:
            logits = self.model(tokens[None], use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        return logits, [found[layer] for layer in range(len(self.outputs))]

    def seen(self, tokens: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Patterns `[head, query, key]`, values `[key, head, d]` and residuals `[token, model]` of every layer."""
        values: dict[int, Tensor] = {}
        residuals: dict[int, Tensor] = {}
        handles = [
            module.register_forward_hook(lambda _, __, out, layer=layer: values.update({layer: out[0]}))
            for layer, module in enumerate(self.values)
        ] + [
            block.register_forward_pre_hook(lambda _, inputs, layer=layer: residuals.update({layer: inputs[0][0]}))
            for layer, block in enumerate(self.blocks)
        ]
        try:
            with torch.no_grad():
                patterns = self.model(tokens[None], output_attentions=True, use_cache=False).attentions
        finally:
            for handle in handles:
                handle.remove()
        n_layers, n_heads = len(self.values), patterns[0].shape[1]
        return [patterns[layer][0] for layer in range(n_layers)], [
            self._values(values[layer], n_heads) for layer in range(n_layers)
        ], [residuals[layer] for layer in range(n_layers)]  # fmt: skip

    def _values(self, projected: Tensor, n_heads: int) -> Tensor:
        if self.neox:
            return projected.view(len(projected), n_heads, 3 * D_HEAD)[..., 2 * D_HEAD :]
        grouped = projected.view(len(projected), -1, D_HEAD)
        return grouped.repeat_interleave(n_heads // grouped.shape[1], dim=1)


def windowed_z(pattern: Tensor, values: Tensor, window: int, sinks: int) -> Tensor:
    """z `[token, head, d]` where attention outside the window and the sinks is taken away and the rest scaled up."""
    places = range(pattern.shape[-1])
    seen = [[key <= query and (query - key < window or key < sinks) for key in places] for query in places]
    kept = torch.tensor(seen, dtype=pattern.dtype)
    inside = pattern * kept
    return torch.einsum("hqk,khd->qhd", inside / inside.sum(-1, keepdim=True), values)


def changes(model: TextbookModel, tokens: Tensor, what: str, mean_z: np.ndarray) -> list[Tensor]:
    """Δz of a treatment, `[token, head, d]` a layer."""
    patterns, values, _ = model.seen(tokens)
    found = []
    for layer, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
        z = torch.einsum("hqk,khd->qhd", pattern, value)
        if what == "zero":
            new = torch.zeros_like(z)
        elif what == "mean":
            new = torch.from_numpy(mean_z[layer]).double().expand_as(z)
        else:
            size, _, sinks = what.removeprefix("window:").partition("+")
            new = windowed_z(pattern, value, int(size), int(sinks or 4))
        found.append(new - z)
    return found


def first_order(model: TextbookModel, windows: Tensor, first: int, what: str, mean_z: np.ndarray) -> np.ndarray:
    """`[layer, head]`: mean over windows of |Σ Δzᵀ ∂L/∂z|, by autograd, L the mean loss of the queries that count."""
    found = []
    for tokens in windows:
        logits, z = model.run(tokens, lambda _, z: z.detach().requires_grad_() if not z.requires_grad else z)
        loss = torch.nn.functional.cross_entropy(logits[first:-1], tokens[first + 1 :])
        gradients = torch.autograd.grad(loss, z)
        delta = changes(model, tokens, what, mean_z)
        rows = [(d * g).sum((0, 2)).abs().detach().numpy() for d, g in zip(delta, gradients, strict=True)]
        found.append(np.array(rows))
    return np.mean(found, axis=0)


def fisher(model: TextbookModel, windows: Tensor, first: int, what: str, mean_z: np.ndarray) -> np.ndarray:
    """`[layer, head]`: ½ Σ_queries Var_p(∂ logits along Δz) a query, the exact value of the Fisher form."""
    small, found = 1e-4, []
    with torch.no_grad():
        for tokens in windows:
            p = model.run(tokens, lambda _, z: z)[0][first:-1].softmax(-1)
            delta = changes(model, tokens, what, mean_z)
            grid = np.zeros((len(delta), delta[0].shape[1]))
            for layer, head in np.ndindex(*grid.shape):
                step = torch.zeros_like(delta[layer])
                step[:, head] = small * delta[layer][:, head]
                up, down = (
                    model.run(tokens, lambda at, z, s=sign * step, here=layer: z + s if at == here else z)[0]
                    for sign in (1, -1)
                )
                slope = ((up - down) / (2 * small))[first:-1]
                variance = (p * slope**2).sum(-1) - (p * slope).sum(-1) ** 2
                grid[layer, head] = 0.5 * float(variance.mean())
            found.append(grid)
    return np.mean(found, axis=0)


def output_error(model: TextbookModel, windows: Tensor, first: int, what: str, mean_z: np.ndarray) -> np.ndarray:
    """`[layer, head]`: root mean square of ‖Δz W_O‖ / ‖residual‖ from query `first` on."""
    squares = []
    for tokens in windows:
        _, _, residuals = model.seen(tokens)
        delta = changes(model, tokens, what, mean_z)
        written = [torch.einsum("thd,hdm->thm", d, model.w_o(layer)) for layer, d in enumerate(delta)]
        ratios = [(w.norm(dim=-1) / r.norm(dim=-1)[:, None]) for w, r in zip(written, residuals, strict=True)]
        squares.append(np.array([(ratio[first:] ** 2).mean(0).detach().numpy() for ratio in ratios]))
    return np.sqrt(np.mean(squares, axis=0))
