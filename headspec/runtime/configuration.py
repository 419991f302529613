"""The configuration of a pruned GPT-NeoX: which heads each layer still has, and what each of them remembers."""

from dataclasses import field
from typing import Any, NamedTuple

from transformers import GPTNeoXConfig

from .policies import POLICIES


class HeadGroup(NamedTuple):
    """Neighbouring heads of a pruned layer whose cache works alike."""

    heads: tuple[int, ...]
    """Their numbers in the original layer, in the order in which they lie in the weights."""
    window: int = 0
    """Keys each query sees, its own included; 0 for all of them."""
    sinks: int = 0
    """First real tokens of each row that stay visible beside the window."""
    policy: str = ""
    """How keys are chosen after the prompt (see `policies.py`); empty for heads whose keys are not compressed."""
    budget: float | int = 0
    """Keys that a compressed head keeps: a number, or (a float) a share of those of the prompt."""
    shared: bool = False
    """Whether the heads of the group have their budget together (AdaKV), so that some keep more than others."""
    latest: int = 0
    """Of the budget, the part that is always the latest keys; 0: what follows the prompt all stays."""

    @classmethod
    def from_dict(cls, values: dict) -> "HeadGroup":
        """As in config.json, where only what is not default stands."""
        return cls(**{**values, "heads": tuple(values["heads"])})

    def to_dict(self) -> dict:
        """For config.json."""
        defaults = self._field_defaults
        set_here = {name: value for name, value in self._asdict().items() if value != defaults.get(name)}
        return {**set_here, "heads": list(self.heads)}


class PrunedGPTNeoXConfig(GPTNeoXConfig):
    """A GPTNeoXConfig with the head groups of every layer.

    `num_attention_heads` is the number of heads a layer had: `hidden_size / num_attention_heads` is d_head.
    """

    model_type = "headspec_gpt_neox"
    __no_type_check__ = True  # to runtime type checkers, as `__init__` takes more than the fields

    head_groups: list | None = None
    """One list a layer of `{"heads": [0, 3], "window": 8, "sinks": 4}`, without window for heads that see all keys.
    A head in no group was removed. None: every layer keeps all its heads."""
    head_facts: dict | None = None
    """What a probe knows of the heads, for live generation; a list a layer under each name: `induction` and
    `repeat_deviation` by number of the head in the original layer (null if unknown), and the numbers of those
    `protected`, which may not be called dead. None: without a head map, none may."""
    headspec: dict = field(default_factory=dict)
    """Where the model comes from: original model, plan digest, version. Nothing is computed from it."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check_head_groups()
        self._check_head_facts()

    def groups(self, layer: int) -> list[HeadGroup]:
        """The head groups of one layer, in the order in which they lie in the weights."""
        if self.head_groups is None:
            return [HeadGroup(tuple(range(self.num_attention_heads)))]
        return [HeadGroup.from_dict(group) for group in self.head_groups[layer]]

    def _check_head_facts(self) -> None:
        """Refuse facts of other heads than there are."""
        if not self.head_facts:
            return
        n_layers, n_heads = self.num_hidden_layers, self.num_attention_heads
        try:
            grids = [[list(row) for row in self.head_facts[name]] for name in ("induction", "repeat_deviation")]
            protected = [list(row) for row in self.head_facts["protected"]]
        except (TypeError, KeyError):
            grids, protected = [], []
        shapes = [[len(row) for row in grid] for grid in grids]
        numbers = all(
            value is None or isinstance(value, int | float) for grid in grids for row in grid for value in row
        )
        heads = all(type(head) is int and 0 <= head < n_heads for row in protected for head in row)
        if shapes != [[n_heads] * n_layers] * 2 or not numbers or len(protected) != n_layers or not heads:
            raise ValueError(
                f"head_facts do not fit this checkpoint: want induction and repeat_deviation of {n_heads} heads in "
                f"each of {n_layers} layers, numbers or null, and a list of protected heads for each layer."
            )

    def _check_head_groups(self) -> None:
        """Refuse head groups that no pruned model has, as after editing by hand."""
        if self.head_groups is None:
            return
        try:
            layers = [self.groups(layer) for layer in range(len(self.head_groups))]
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                'head_groups is damaged: want one list a layer of {"heads": [0, 3], "window": 8, "sinks": 4}.'
            ) from error
        if len(layers) != self.num_hidden_layers:
            raise ValueError(
                f"head_groups has {len(layers)} layers, the model {self.num_hidden_layers}: config.json does not fit "
                "this checkpoint."
            )
        for layer, groups in enumerate(layers):
            heads = [head for group in groups for head in group.heads]
            if len(set(heads)) != len(heads) or not set(heads) <= set(range(self.num_attention_heads)):
                raise ValueError(
                    f"head_groups of layer {layer} name heads {heads}: want each at most once, from 0 to "
                    f"{self.num_attention_heads - 1}."
                )
            for group in groups:
                if wrong := what_is_wrong(group):
                    raise ValueError(f"head_groups of layer {layer}: {group._asdict()} {wrong}.")


def what_is_wrong(group: HeadGroup) -> str:
    """What no group of a pruned model is like, in words; empty if nothing is wrong."""
    sizes = (group.window, group.sinks, group.latest)
    if not group.heads or any(not isinstance(size, int) or size < 0 for size in sizes):
        return "needs heads, a window of 1 or more keys (0 for none) and 0 or more sinks"
    if not group.policy:
        return "needs a policy for budget, shared and latest" if group.budget or group.shared or group.latest else ""
    if group.policy not in tuple(POLICIES):
        return f"has a policy this model does not know: want one of {', '.join(POLICIES)}"
    if group.window or group.sinks:
        return "needs either a window with sinks, or a policy"
    share = isinstance(group.budget, float) and 0 < group.budget <= 1
    number = isinstance(group.budget, int) and not isinstance(group.budget, bool) and group.budget >= 1
    if not share and not number:
        return "needs a budget: a share of the keys like 0.5, or a number of keys"
    if not isinstance(group.shared, bool) or (group.latest and not (number and group.latest < group.budget)):
        return "needs shared to be true or false, and latest to be less than a budget in keys"
    if group.policy == "streaming" and (share or group.shared or group.latest):
        return "needs a number of keys as budget, without shared and latest, as streaming keeps the latest anyway"
    return ""
