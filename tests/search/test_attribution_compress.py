"""Forecasts of compression: those of what it changes in z, after the prompt."""

import attribution_reference as textbook
import numpy as np
import pytest
import torch
from sweep_makers import FAMILIES, ids, plain
from torch import Tensor

from headspec.measure.texts import scored_text
from headspec.plan.treatments import Compress, parse_treatment
from headspec.plan.workload import Workload
from headspec.search.attribution import attribute_heads
from headspec.search.layerwise import LayerWise

NEOX = [family for family in FAMILIES if family.startswith("neox")]
PROMPT = Workload(10, 14)
SHORT = ids(2, 24)


def changes(layers: LayerWise, tokens: Tensor, what: Compress) -> list[Tensor]:
    """Δz of every layer of one window, by `LayerWise.z`: `[token, head, d]`."""
    with torch.no_grad():
        residual, given = layers.enter(tokens[None])
        found = []
        for layer in range(len(layers.layers)):
            new, old = (layers.z(layer, residual, given, chosen, PROMPT.n_prompt) for chosen in (what, None))
            found.append((new - old)[0].double())
            residual = layers.block(layer, residual, given)
    return found


@pytest.mark.parametrize("family", NEOX)
@pytest.mark.parametrize("what", ["compress:snapkv:6:latest2", "compress:random:0.5", "compress:streaming:5"])
def test_forecasts_of_compression_are_those_of_its_change_of_z(family: str, what: str) -> None:
    model, text = plain(family), scored_text(plain(family), SHORT, PROMPT)
    found = attribute_heads(model, text, None, [what], n_samples=1, continued=True)
    layers, chosen = LayerWise(model), parse_treatment(what)
    assert isinstance(chosen, Compress)
    reference = textbook.TextbookModel(FAMILIES[family]())
    expected = []
    for tokens in SHORT:
        logits, z = reference.run(tokens, lambda _, z: z if z.requires_grad else z.detach().requires_grad_())
        loss = torch.nn.functional.cross_entropy(logits[text.first : -1], tokens[text.first + 1 :])
        slopes, deltas = torch.autograd.grad(loss, z), changes(layers, tokens, chosen)
        expected.append([(d * g).sum((0, 2)).abs().numpy() for d, g in zip(deltas, slopes, strict=True)])
    np.testing.assert_allclose(found.grid("first_order", what), np.mean(expected, axis=0), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("family", NEOX)
def test_compression_changes_nothing_of_the_prompt_and_all_that_follows(family: str) -> None:
    chosen = parse_treatment("compress:snapkv:3:latest1")
    assert isinstance(chosen, Compress)
    for delta in changes(LayerWise(plain(family)), SHORT[0], chosen):
        assert float(delta[: PROMPT.n_prompt].abs().max()) < 1e-6
        assert bool((delta[PROMPT.n_prompt :].abs().amax((1, 2)) > 1e-3).all())
