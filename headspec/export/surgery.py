"""Cutting heads out of the weights of a GPT-NeoX, layer by layer. Reads a model, never changes it."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from headspec.classify.head_map import HeadMap
from headspec.classify.live_facts import head_facts
from headspec.export.names import huggingface_name
from headspec.heads import HeadId
from headspec.load.pruned import register
from headspec.plan.plan import HeadPlan
from headspec.plan.treatments import Allocation, Compress, Remove, Treatment, Window
from headspec.runtime.configuration import HeadGroup, PrunedGPTNeoXConfig
from headspec.runtime.modeling import PrunedGPTNeoXForCausalLM


def head_groups(plan: HeadPlan, layer: int) -> list[HeadGroup]:
    """The heads that are left of a layer: those that keep every key first, then compressed ones, then by window."""
    found: dict[Treatment, list[int]] = {}
    for head in range(plan.about.n_heads):
        treatment = plan[HeadId(layer, head)]
        if not isinstance(treatment, Remove):
            found.setdefault(treatment, []).append(head)
    groups = [_alike(treatment)._replace(heads=tuple(heads)) for treatment, heads in found.items()]
    return sorted(groups, key=lambda group: (group[1:], str(group.budget)))


def _alike(treatment: Treatment) -> HeadGroup:
    """A group without heads: what the cache of a head under this treatment does."""
    if isinstance(treatment, Window):
        return HeadGroup((), treatment.window, treatment.sinks)
    if isinstance(treatment, Compress):
        shared = treatment.allocation is Allocation.ADAKV
        return HeadGroup((), 0, 0, treatment.policy, treatment.budget, shared, treatment.latest)
    return HeadGroup(())


def pruned_config(
    config: Any, plan: HeadPlan, origin: dict[str, Any], head_map: HeadMap | None = None
) -> PrunedGPTNeoXConfig:
    """The configuration of the pruned model."""
    groups = [[group.to_dict() for group in head_groups(plan, layer)] for layer in range(plan.about.n_layers)]
    own = {"model_type", "architectures", "auto_map", "transformers_version", "_name_or_path"}
    kept = {name: value for name, value in config.to_dict().items() if name not in own}
    facts = None if head_map is None else head_facts(head_map)
    return PrunedGPTNeoXConfig(**kept, head_groups=groups, head_facts=facts, headspec=origin)


def pruned_model(
    source: Any, plan: HeadPlan, origin: dict[str, Any] | None = None, head_map: HeadMap | None = None
) -> PrunedGPTNeoXForCausalLM:
    """The pruned model in memory, sharing with `source` what was not cut.

    On a CPU some of that is laid out anew, and no longer shared, once the model runs (docs/speed.md, `transposed`).

    Args:
        source: A GPTNeoXForCausalLM.
        plan: What to do with its heads.
        origin: Kept in the configuration as `headspec`.
        head_map: Lets live generation call heads dead that it does not protect; without one it calls none dead.
    """
    register()  # so that save_pretrained writes the code, too
    config = pruned_config(source.config, plan, origin or {}, head_map)
    with torch.device("meta"):
        model = PrunedGPTNeoXForCausalLM(config)
    state = {name: tensor.detach() for name, tensor in pruned_tensors(source, plan)}
    model.load_state_dict(state, strict=True, assign=True)
    model.gpt_neox.rotary_emb = type(model.gpt_neox.rotary_emb)(config).to(source.device)  # its buffers are in no state
    model.tie_weights()
    model.generation_config = copy.deepcopy(source.generation_config)
    return model.eval()


def pruned_tensors(source: Any, plan: HeadPlan) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in the pruned model; what is not attention is the source's own."""
    state = source.state_dict()
    cut = {
        f"{huggingface_name(part, layer)}.{kind}"
        for part in ("attn.qkv", "attn.o")
        for layer in range(plan.about.n_layers)
        for kind in ("weight", "bias")
    }
    yield from ((name, tensor) for name, tensor in state.items() if name not in cut)
    for layer in range(plan.about.n_layers):
        yield from _pruned_attention(state, plan, layer)


def _pruned_attention(state: dict[str, Tensor], plan: HeadPlan, layer: int) -> Iterator[tuple[str, Tensor]]:
    qkv, dense = huggingface_name("attn.qkv", layer), huggingface_name("attn.o", layer)
    attention = dense.rpartition(".")[0]
    order = [head for group in head_groups(plan, layer) for head in group.heads]
    bias = folded_bias(state[f"{dense}.weight"], state.get(f"{dense}.bias"), plan, layer)
    if not order:
        yield f"{attention}.bias", bias
        return
    for kind in ("weight", "bias"):
        if (rows := state.get(f"{qkv}.{kind}")) is not None:
            yield f"{attention}.qkv.{kind}", _rows_of(rows, order, plan.about.d_head)
    columns = rearrange(state[f"{dense}.weight"], "model (head d) -> model head d", d=plan.about.d_head)
    yield f"{attention}.dense.weight", rearrange(columns[:, order], "model head d -> model (head d)").contiguous()
    yield f"{attention}.dense.bias", bias
    yield from ((f"{attention}.{name}", tensor.to(bias)) for name, tensor in _query_facts(plan, layer, columns).items())


def _query_facts(plan: HeadPlan, layer: int, w_o: Float[Tensor, "model head d"]) -> dict[str, Tensor]:
    """What expected attention needs to know, of the heads under it in the order in which they lie in the weights."""
    heads = [head for group in head_groups(plan, layer) if group.policy == "expected_attention" for head in group.heads]
    if not heads:
        return {}
    facts = torch.stack([torch.from_numpy(plan.queries[HeadId(layer, head)]) for head in heads])
    gram = einsum(w_o[:, heads].float(), w_o[:, heads].float(), "model head d, model head e -> head d e")
    return {"query_mean": facts[:, 0].clone(), "query_covariance": facts[:, 1:].clone(), "output_gram": gram}


def _rows_of(rows: Tensor, order: list[int], d_head: int) -> Tensor:
    """Rows `[head, (q, k, v), d_head]` of the heads in `order`, as `[(q, k, v), head, d_head]`."""
    by_head = rearrange(rows, "(head kind d) ... -> head kind d ...", kind=3, d=d_head)
    return rearrange(by_head[order], "head kind d ... -> (kind head d) ...").contiguous()


def folded_bias(
    weight: Float[Tensor, "model width"], bias: Float[Tensor, " model"] | None, plan: HeadPlan, layer: int
) -> Float[Tensor, " model"]:
    """The bias of the output projection with what the removed heads write: b + Σ W_O c, c their fill vectors."""
    folded = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.cpu().double()
    heads = rearrange(weight, "model (head d) -> head d model", d=plan.about.d_head)
    for head, fill in plan.fills_in(layer).items():
        folded = folded + einsum(torch.as_tensor(fill).double(), heads[head].cpu().double(), "d, d model -> model")
    return folded.to(weight)
