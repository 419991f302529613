"""A GPT-NeoX of one layer whose six heads do what their names say, by their weights alone.

The bias of queries and keys turned by the rotary embedding makes attention a function of the offset; a flag in the
embedding of token 0 makes a sink; the rest follows the content of the tokens.
"""

import torch
from tiny_models import bridge_of, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

HEADS = ("previous-token", "constant", "silent", "uniform", "sink", "content")
D_HEAD, D_MODEL, CONTEXT, VOCABULARY = 16, 96, 256, 200
ROTARY, FLAG, FIRST_CONTENT = 8, 8, 9
"""Dimensions of a head: the first 8 turn with the position, number 8 carries the flag, the others the content."""
ROTARY_BASE = 10000.0
SINK_TOKEN = 0
GAIN = {"previous-token": 1.0, "constant": 1.0, "silent": 0.0, "uniform": 5.0, "sink": 40.0, "content": 3.0}
"""Size of W_O. Means of many values are small, so the heads that average need more to be alive."""


class Planter:
    """Fills the weights of one layer, head by head."""

    def __init__(self, seed: int, gain: dict[str, float]) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.weight = torch.zeros(len(HEADS), 3, D_HEAD, D_MODEL)
        self.bias = torch.zeros(len(HEADS), 3, D_HEAD)
        self.w_o = torch.stack([gain[name] * self.normal(D_HEAD, D_MODEL) / D_HEAD**0.5 for name in HEADS])

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def attend_one_back(self, head: int, strength: float = 60) -> None:
        """Scores of Σ cos((offset − 1) θ): largest at offset 1, whatever the tokens are."""
        half = ROTARY // 2
        angle = ROTARY_BASE ** -(torch.arange(half) / half)
        self.bias[head, 0, :half] = strength * D_HEAD**0.5
        self.bias[head, 1, :half], self.bias[head, 1, half:ROTARY] = angle.cos(), angle.sin()

    def attend_to_sink(self, head: int, score: float) -> None:
        """A score of about `score` for keys that carry the flag, about 0 for the others."""
        flagged = D_MODEL**0.5
        self.weight[head, 1, FLAG, 0] = 1
        self.bias[head, 0, FLAG] = score * D_HEAD**0.5 / flagged

    def attend_by_content(self, head: int, strength: float) -> None:
        """Scores that depend on both tokens, of a standard deviation of about `strength`."""
        n_content = D_HEAD - FIRST_CONTENT
        scale = (strength * D_HEAD**0.5 / n_content**0.5) ** 0.5 / D_MODEL**0.5
        self.weight[head, :2, FIRST_CONTENT:, 1:] = scale * self.normal(2, n_content, D_MODEL - 1)

    def carry_content(self, head: int) -> None:
        """Values of about 1 that depend on the token; the sink token, a flag and nothing else, has none."""
        weight = self.normal(D_HEAD, D_MODEL - 1) / D_MODEL**0.5
        self.weight[head, 2, :, 1:] = weight - weight.mean(-1, keepdim=True)


def planted_model(seed: int = 0, **gain: float) -> TransformerBridge:
    """A bridge whose heads are `HEADS`, in this order; `gain` replaces what GAIN says about some of them."""
    hf = tiny_neox(
        seed, n_layers=1, n_heads=len(HEADS), d_model=D_MODEL, context=CONTEXT, vocabulary=VOCABULARY,
        rotary_share=ROTARY / D_HEAD,
    )  # fmt: skip
    plant = Planter(seed, GAIN | gain)
    plant.attend_one_back(HEADS.index("previous-token"))
    plant.attend_to_sink(HEADS.index("constant"), score=20)
    plant.bias[HEADS.index("constant"), 2] = plant.normal(D_HEAD)
    plant.attend_by_content(HEADS.index("silent"), strength=1)
    plant.attend_to_sink(HEADS.index("sink"), score=9)
    plant.attend_by_content(HEADS.index("sink"), strength=1)
    plant.attend_by_content(HEADS.index("content"), strength=3)
    for name in ("previous-token", "silent", "uniform", "sink", "content"):
        plant.carry_content(HEADS.index(name))
    embedding = plant.normal(VOCABULARY, D_MODEL)
    embedding[:, 0] = 0
    embedding[SINK_TOKEN] = 30 * torch.eye(D_MODEL)[0]
    attention = hf.gpt_neox.layers[0].attention
    with torch.no_grad():
        hf.gpt_neox.embed_in.weight.copy_(embedding)
        attention.query_key_value.weight.copy_(plant.weight.flatten(0, 2))
        attention.query_key_value.bias.copy_(plant.bias.flatten())
        attention.dense.weight.copy_(plant.w_o.flatten(0, 1).T)
    return bridge_of(hf)


def planted_text(n_windows: int = 3, seed: int = 0) -> Tensor:
    """Random tokens behind the sink token, `[window, token]`."""
    tokens = torch.randint(1, VOCABULARY, (n_windows, CONTEXT), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = SINK_TOKEN
    return tokens
