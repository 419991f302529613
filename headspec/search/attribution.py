"""Which heads matter, from gradients: one forward pass and a few backward passes a batch rank all heads.

For any treatment of a head, Δz is what it changes in the head's z. First order: Δzᵀ ∂L/∂z (Michel et al. 2019 with
Δz = −z). Second order, for the KL to the original, whose gradient is exactly 0 at the original: the Fisher form
½ E[(Δzᵀ ∂ log p(y)/∂z)²] with y drawn from the model. Cheap, and estimates: check extremes by exact ablation.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from headspec.errors import HeadspecError, ModelError
from headspec.load.identity import identify
from headspec.load.plain import as_plain
from headspec.measure.texts import ScoredText, scored_text
from headspec.plan.make import about_of, fill_vector, query_facts
from headspec.plan.treatments import Compress, Fill, Remove, Treatment, Window, parse_treatment
from headspec.probe.profile import HeadProfile
from headspec.search.importance import HeadImportance
from headspec.search.layerwise import LayerWise, Residual, Z

TREATMENTS = ("zero", "mean", "window:3", "window:4", "window:8", "window:16", "window:32", "window:64")
QUERIES_AT_ONCE = 256


def attribute_heads(
    model: Any,
    tokens: Any,
    profile: HeadProfile | None = None,
    treatments: Sequence[str | Treatment] = TREATMENTS,
    *,
    n_samples: int = 4,
    seed: int = 0,
    continued: bool = False,
) -> HeadImportance:
    """Rank all heads for removal and for windows, without a pass per head.

    Costs one forward pass, 1 + `n_samples` backward passes, and one attention pass a window size. Nothing in the
    model is changed, parameters get no gradients.

    Args:
        model: A PlainModel or TransformerBridge.
        tokens: Text, token ids, TokenWindows or a ScoredText. Each window is one sample of the expectations.
        profile: Gives the fill vectors of `mean` and `random`, and the query statistics of expected attention.
        treatments: What to predict the effect of.
        n_samples: Draws of the model's own predictions a window, for the Fisher form.
        seed: Draws them.
        continued: Whether what comes before the first scored token is a prompt, after which compressed heads choose
            their keys; needed for compression.

    Raises:
        HeadspecError: A treatment without its profile, or compression of a text that is not continued.
        ModelError: Compression of another model than a GPT-NeoX.
    """
    if n_samples < 1:
        raise HeadspecError(f"n_samples={n_samples}: want 1 or more.")
    plain = as_plain(model)
    text = tokens if isinstance(tokens, ScoredText) else scored_text(plain, tokens)
    chosen = [parse_treatment(treatment) for treatment in treatments]
    prompt = text.n_prompt if continued else 0
    changes = _Changes(LayerWise(plain), chosen, profile, prompt)
    generator = torch.Generator(identify(plain).device).manual_seed(seed)
    parts = [_of_window(changes, text, window, n_samples, generator) for window in range(len(text.tokens))]
    errors = np.sqrt(np.mean([part[2] for part in parts], axis=0))
    return HeadImportance(
        model=plain.name, text=text.name, text_digest=text.digest, treatments=tuple(map(str, chosen)),
        n_queries=text.targets.shape[1], first_order=np.abs([part[0] for part in parts]).mean(0), output_error=errors,
        samples=np.concatenate([part[1] for part in parts]),
    )  # fmt: skip


class _Changes:
    """Δz of every treatment in every layer."""

    def __init__(
        self, layers: LayerWise, treatments: list[Treatment], profile: HeadProfile | None, prompt: int
    ) -> None:
        self.layers, self.treatments, self.prompt = layers, treatments, prompt
        about = about_of(layers.model if profile is None else profile, profile)
        if profile is not None:
            about.check_model(layers.model.identity)
        heads = [[head for head in about.heads if head.layer == layer] for layer in range(about.n_layers)]
        self.fills: dict[Treatment, Float[Tensor, "layer head d_head"]] = {}
        for what in treatments:
            if isinstance(what, Remove):
                fills = [[fill_vector(head, Fill(what.fill), about, profile) for head in row] for row in heads]
                self.fills[what] = torch.from_numpy(np.array(fills)).to(layers.device)
            elif isinstance(what, Compress):
                _check_compression(what, layers, prompt)
        needed = any(isinstance(what, Compress) and what.needs_queries for what in treatments)
        self.queries = [{head.head: query_facts(head, profile) for head in row} for row in heads] if needed else None

    def at(self, layer: int, residual: Residual, given: dict[str, Any], z: Z) -> Float[Tensor, "change token head d"]:
        """Δz at one layer of one window of text."""
        changed = [self._new(what, layer, residual, given) - z for what in self.treatments]
        return torch.cat([change.expand_as(z) for change in changed])

    def _new(self, what: Treatment, layer: int, residual: Residual, given: dict[str, Any]) -> Tensor:
        """z under a treatment, or the constant that takes its place."""
        if isinstance(what, Remove):
            return self.fills[what][layer]
        assert isinstance(what, Window | Compress)
        queries = None if self.queries is None else self.queries[layer]
        return self.layers.z(layer, residual, given, what, self.prompt, queries)


def _check_compression(what: Compress, layers: LayerWise, prompt: int) -> None:
    kind = layers.model.huggingface.config.model_type
    if kind != "gpt_neox":
        raise ModelError(
            f"{what}: headspec compresses heads of GPT-NeoX models (Pythia) only, not of {layers.model.name} ({kind}). "
            "Removing heads and windows work."
        )
    if not prompt:
        raise HeadspecError(f"{what}: only what follows a prompt suffers from it: give a continued text.")


def _of_window(
    changes: _Changes, text: ScoredText, window: int, n_samples: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First order `[treatment, layer, head]`, samples `[sample, …]` and mean squared output error of one window."""
    layers = changes.layers
    with torch.enable_grad():
        hidden, residuals, z, given = _forward(layers, text, window)
        with torch.no_grad():
            slopes = _slopes(layers.unembedding, hidden, text, window, n_samples, generator)
        gradients = [torch.autograd.grad(hidden, z, slope, retain_graph=True) for slope in slopes]
    first, second, errors = [], [], []
    with torch.no_grad():
        for layer, residual in enumerate(residuals):
            own = rearrange(z[layer].detach(), "1 token (head d) -> 1 token head d", d=layers.d_head)
            change = changes.at(layer, residual, given, own)
            at_layer = torch.cat([gradient[layer] for gradient in gradients])
            slope = rearrange(at_layer, "slope token (head d) -> slope token head d", d=layers.d_head)
            effects = einsum(change, slope, "change token head d, slope token head d -> slope change head")
            first.append(effects[0] / text.targets.shape[1])
            second.append(effects[1:])
            errors.append(_output_error(layers, layer, change[:, text.first :], residual[0, text.first :]))
    return (
        torch.stack(first, dim=1).cpu().double().numpy(),
        torch.stack(second, dim=2).cpu().double().numpy(),
        torch.stack(errors, dim=1).cpu().double().numpy(),
    )


def _forward(
    layers: LayerWise, text: ScoredText, window: int
) -> tuple[Float[Tensor, "1 token d_model"], list[Residual], list[Tensor], dict[str, Any]]:
    """Hidden state, the residual before and z in every layer, of one window, with the graph that joins them."""
    residual, given = layers.enter(text.tokens[window : window + 1])
    residuals: list[Residual] = []
    z: list[Tensor] = []

    def keep(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        z.append(inputs[0] if inputs[0].requires_grad else inputs[0].requires_grad_())
        return (z[-1],)

    with ExitStack() as undo:
        for each in layers.layers:
            undo.callback(each.output.register_forward_pre_hook(keep).remove)
        for layer in range(len(layers.layers)):
            residuals.append(residual.detach())
            residual = layers.block(layer, residual, given)
    return layers.norm(residual), residuals, z, given


def _slopes(
    unembedding: Any,
    hidden: Float[Tensor, "1 token d_model"],
    text: ScoredText,
    window: int,
    n_samples: int,
    generator: torch.Generator,
) -> list[Float[Tensor, "1 token d_model"]]:
    """∂/∂hidden of the summed loss, and of Σ log p(y) for each draw of y: p W_U − W_U[target], W_U[y] − p W_U."""
    counted = hidden[0, text.first : -1]
    weight, expected, drawn = unembedding.weight, [], []
    for rows in counted.split(QUERIES_AT_ONCE):
        p = unembedding(rows).float().softmax(-1)
        expected.append(p.to(weight.dtype) @ weight)
        drawn.append(torch.multinomial(p, n_samples, replacement=True, generator=generator))
    mean = torch.cat(expected)
    slopes = [mean - weight[text.targets[window].to(weight.device)]]
    slopes += [weight[y] - mean for y in torch.cat(drawn).T]
    return [torch.nn.functional.pad(slope, (0, 0, text.first, 1))[None] for slope in slopes]


def _output_error(
    layers: LayerWise, layer: int, change: Float[Tensor, "change token head d"], residual: Float[Tensor, "token model"]
) -> Float[Tensor, "change head"]:
    """Mean of ‖Δz W_O‖² / ‖residual‖² over the queries that count."""
    w_o = layers.layers[layer].w_o
    gram = einsum(w_o, w_o, "head d model, head e model -> head d e")
    energy = einsum(change, gram, change, "c token head d, head d e, c token head e -> c token head")
    return (energy / residual.square().sum(-1)[:, None]).mean(1)
