"""What makes the model faster at a price, and so is asked for: packed weights, a table of the first layer, a graph."""

from typing import Any

import torch

from .compiled import CompiledDecoding
from .functional import layout_of
from .linear import FastLinear
from .packing import PACKINGS
from .table import first_layer_table


class Faster:
    """Methods of PrunedGPTNeoXForCausalLM; each says what it costs. docs/engines.md has what it brings."""

    gpt_neox: Any
    modules: Any
    compiled: CompiledDecoding | None = None
    """After `compile_decoding`."""

    def pack_weights(self, kind: str = "float32") -> None:
        """Lay all weights out so that they are read faster; on a CPU, for a model in float32.

        The weights as they were are gone, so that the model can then neither be saved nor copied, moved, converted or
        trained.

        Args:
            kind: `float32`: as oneDNN wants them, quicker for 2 to 64 rows (batch × tokens), and not for one; exact, in
                no more memory (but for a tied unembedding). `int8`: integers of 8 bits with a scale for each output, in
                a quarter of the memory, and quicker but in very small models. Inputs are rounded too, as they come,
                with one scale for all rows of a call, so that rows of a batch change each other a little. What that
                does to the model's quality, `headspec bench --weights int8` measures.

        Raises:
            ValueError: An unknown kind, or `int8` where torch cannot compute with it or the model is not in float32 on
                a CPU. `float32` does nothing there.
        """
        if kind not in PACKINGS:
            raise ValueError(f"pack_weights({kind!r}): want one of {', '.join(PACKINGS)}.")
        layers = [module for module in self.modules() if isinstance(module, FastLinear)]
        unfit = [one for one in layers if one.weight.dtype != torch.float32 or one.weight.device.type != "cpu"]
        if kind == "int8" and (unfit or not PACKINGS[kind].possible):
            raise ValueError(
                "pack_weights('int8') wants a model in float32 on a CPU, not packed before, and a torch with quantised "
                "layers (torch.backends.quantized.engine)."
            )
        self.check_not_compiled()
        for layer in layers:
            layer.pack(kind)

    def tabulate_first_layer(self) -> None:
        """Compute all that the first layer does before attention once for every token, and look it up from now on.

        Costs the memory that `table.table_bytes(config)` says (pythia-70m with every head: 412 MB beside weights of
        282 MB). The table belongs to the weights as they are now: call this again after changing them. It is not saved
        with the model, and not used in training or with `inputs_embeds`. Hooks on what it stands in for (norms and MLP
        of the first layer) do not run.

        Raises:
            ValueError: A residual that is not parallel.
        """
        self.check_not_compiled()
        self.gpt_neox.layers[0].table = first_layer_table(self.gpt_neox)

    def compile_decoding(self, **options: Any) -> None:
        """Let torch.compile make one graph of decoding a token; `generate` uses it by itself.

        The first token after a prompt takes as long as compiling does (a minute for pythia-70m on one core), and so
        does the first with another batch size or cache size; positions do not matter. Reading prompts and whatever else
        the graph does not serve (compressed or live heads, gradients, hidden states) runs as before. Needs a C++
        compiler.

        Args:
            **options: Of torch.compile, such as `mode="max-autotune"`.

        Raises:
            ValueError: Compressed heads, or packed weights.
        """
        self.check_not_compiled()
        if any(isinstance(module, FastLinear) and module.packing is not None for module in self.modules()):
            raise ValueError("packed weights cannot be compiled: load the model anew, and choose one of the two.")
        layout_of(self.gpt_neox.config)  # refuses compressed heads
        self.compiled = CompiledDecoding(self, options)

    def check_not_compiled(self) -> None:
        """Refuse what would change a model that a graph was made of."""
        if self.compiled is not None:
            raise ValueError("decoding is compiled already, for the model as it was: do this first.")
