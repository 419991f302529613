"""Where things are in a Hugging Face decoder: blocks, attention, projections. The names are transformers' own."""

from dataclasses import dataclass
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from headspec.errors import ModelError
from headspec.load.pruned import refuse_pruned

OUTPUT_PROJECTIONS = ("dense", "o_proj", "out_proj")
QUERY_PROJECTIONS = ("query_key_value", "q_proj")
FINAL_NORMS = ("final_layer_norm", "norm", "ln_f")


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """One decoder layer of a Hugging Face model."""

    block: nn.Module
    attention: nn.Module
    output: nn.Linear
    query: nn.Module | None
    """The module that projects queries (GPT-NeoX: queries, keys and values, interleaved by head)."""
    d_head: int

    @property
    def w_o(self) -> Float[Tensor, "head d_head d_model"]:
        """What each head's z is multiplied with."""
        return rearrange(self.output.weight, "model (head d_head) -> head d_head model", d_head=self.d_head)

    def queries(self, projected: Float[Tensor, "batch query width"]) -> Float[Tensor, "batch query head d_head"]:
        """The queries, before rotation, in what `query` puts out."""
        fused = self.query is getattr(self.attention, "query_key_value", None)
        heads = rearrange(projected, "b q (head width) -> b q head width", width=(3 if fused else 1) * self.d_head)
        return heads[..., : self.d_head]


def attention_layers(model: Any, d_head: int) -> list[AttentionLayer]:
    """The decoder layers of a Hugging Face model, in order.

    Raises:
        ModelError: Attention that is not built the usual way.
    """
    refuse_pruned(model.config.model_type, "probed, treated or searched")
    modules = dict(model.named_modules())
    layers = []
    for path, module in modules.items():
        output = _child(module, OUTPUT_PROJECTIONS)
        if hasattr(module, "layer_idx") and isinstance(output, nn.Linear):
            block = modules[path.rpartition(".")[0]]
            layers.append(AttentionLayer(block, module, output, _child(module, QUERY_PROJECTIONS), d_head))
    if [layer.attention.layer_idx for layer in layers] != list(range(model.config.num_hidden_layers)):
        raise ModelError(
            f"the fast engine does not know its way around {type(model).__name__} (it does in GPT-NeoX, Llama and "
            'their like): use engine="hooks".'
        )
    return layers


def final_norm(model: Any) -> nn.Module:
    """The norm between the last decoder layer and the unembedding of a Hugging Face model."""
    norm = _child(model.base_model, FINAL_NORMS)
    if norm is None:
        raise ModelError(f'{type(model).__name__} has no final norm that headspec knows: use engine="hooks".')
    return norm


def attention_apart_from_mlp(model: Any) -> bool:
    """Whether attention and MLP of a layer both read the residual that enters it, so that one does not see the other.

    So it is in GPT-NeoX with a parallel residual (Pythia).
    """
    return model.config.model_type == "gpt_neox" and bool(model.config.use_parallel_residual)


def _child(module: nn.Module, names: tuple[str, ...]) -> Any:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)
