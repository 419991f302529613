"""The switches of everything that makes the pruned model fast: each can be turned off, and nothing else changes."""

from dataclasses import dataclass


@dataclass
class Tricks:
    """What the model may do to be fast. All are exact: with any of them off the outputs are the same up to rounding.

    A model's are `model.tricks`; what each is worth: docs/speed.md.
    """

    bands: bool = True
    """Windowed heads read a prompt in short blocks of queries, each against the keys that its windows reach, instead
    of masking a full square of scores. See `attention.see_window`."""

    rings: bool = True
    """Windowed heads keep `sinks + window` keys in their cache instead of every key. See `stores.RingStore`."""

    last_tokens: bool = True
    """Where only the logits of the last tokens are wanted, the last layer computes queries, attention and MLP for
    those alone. See `layers.PrunedAttention`."""

    onednn: bool = True
    """Matrix products through oneDNN on a CPU in float32, where torch would use its BLAS. See `linear.FastLinear`."""

    transposed: bool = True
    """Weights that put out more than they take in lie transposed in memory once single rows go through them: a BLAS
    reads them twice as fast so. See `linear.FastLinear`."""

    pieces: bool = True
    """Long prompts go through the MLP piece by piece, so that its wide activations never exist for all tokens. See
    `layers.PrunedMLP`."""

    @classmethod
    def none(cls) -> "Tricks":
        """Everything off: the textbook form."""
        return cls(*[False] * len(cls.__dataclass_fields__))
