"""The Pythia models: their hub names, training checkpoints and shapes (Biderman et al. 2023, table 1).

Plain data: no torch, so that `headspec models` answers at once.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PythiaShape:
    """The sizes of one Pythia model; the rest is the same for all."""

    n_layers: int
    d_model: int
    n_heads: int
    d_vocab: int = 50304
    deduped: bool = True
    """Whether a `-deduped` twin is on the hub."""

    @property
    def n_parameters(self) -> int:
        """All weights, both embeddings and the layer norms included."""
        layer = 12 * self.d_model**2 + 13 * self.d_model
        return self.n_layers * layer + 2 * self.d_vocab * self.d_model + 2 * self.d_model

    def config(self) -> dict[str, Any]:
        """Keyword arguments for `transformers.GPTNeoXConfig`."""
        return {
            "vocab_size": self.d_vocab,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "intermediate_size": 4 * self.d_model,
            "max_position_embeddings": CONTEXT,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            "bos_token_id": 0,
            "eos_token_id": 0,
        }


CONTEXT = 2048
SHAPES: dict[str, PythiaShape] = {
    "pythia-14m": PythiaShape(6, 128, 4, deduped=False),
    "pythia-31m": PythiaShape(6, 256, 8, deduped=False),
    "pythia-70m": PythiaShape(6, 512, 8),
    "pythia-160m": PythiaShape(12, 768, 12),
    "pythia-410m": PythiaShape(24, 1024, 16),
    "pythia-1b": PythiaShape(16, 2048, 8),
    "pythia-1.4b": PythiaShape(24, 2048, 16),
    "pythia-2.8b": PythiaShape(32, 2560, 32),
    "pythia-6.9b": PythiaShape(32, 4096, 32, d_vocab=50432),
    "pythia-12b": PythiaShape(36, 5120, 40, d_vocab=50688),
}
ALIASES = tuple(SHAPES) + tuple(f"{name}-deduped" for name, shape in SHAPES.items() if shape.deduped)
STEPS = frozenset({0, *(2**k for k in range(10)), *range(1000, 143001, 1000)})
"""Training steps whose checkpoints are on the hub, as revisions `step0`, `step1`, `step2`, …, `step143000`."""
