"""Does an exported model compute what its plan says? Needs torch, transformers and safetensors; no headspec.

    python tools/verify_export.py ORIGINAL EXPORTED [--tokens 400] [--new 100]

ORIGINAL is the folder or hub id of the original GPT-NeoX. The reference is that model with transformers' eager
attention, in which every windowed head gets a mask of its own and every removed head's output is overwritten by its
constant. Compared are the logits of random tokens, and greedy decoding token for token; the latter not where the plan
compresses heads, as that starts after a prompt. Exit code 1 if they differ, 2 if the exported weights are not float32,
and so rounded.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original")
    parser.add_argument("exported", type=Path)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--new", type=int, default=100)
    options = parser.parse_args()
    config = json.loads((options.exported / "config.json").read_text(encoding="utf-8"))
    if config.get("dtype") != "float32":
        print(f"the weights are {config.get('dtype')}, rounded: export in float32 to verify a plan")
        sys.exit(2)
    reference = AutoModelForCausalLM.from_pretrained(options.original, dtype=torch.float32, attn_implementation="eager")
    exported = AutoModelForCausalLM.from_pretrained(options.exported, dtype=torch.float32, trust_remote_code=True)
    treat(reference.eval(), options.exported, windows=config["model_type"] != "gpt_neox")  # a dense twin holds none
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, reference.config.vocab_size, (2, options.tokens), generator=generator)
    difference = (exported(tokens).logits - reference(tokens, use_cache=False).logits).abs().max().item()
    print(f"logits of {tokens.numel()} random tokens: largest difference {difference:.1e}")
    within = difference <= TOLERANCE  # not a number is not
    if any(group.get("policy") for layer in config.get("head_groups") or () for group in layer):
        print("greedy decoding: not compared, as the plan compresses heads after a prompt")
        sys.exit(not within)
    prompt = tokens[:1, :50]
    settings = {"max_new_tokens": options.new, "min_new_tokens": options.new, "do_sample": False}
    mine, theirs = exported.generate(prompt, **settings), reference.generate(prompt, use_cache=False, **settings)
    same = int((mine == theirs)[0, 50:].sum())
    print(f"greedy decoding: {same} of {options.new} tokens equal")
    sys.exit(not within or same < options.new)


def treat(model: Any, folder: Path, windows: bool) -> None:
    """Make the original follow the plan in `folder`."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["treatments"]
    fills = load_file(folder / "plan.safetensors")
    for name, what in plan.items():
        if what in ("zero", "mean", "random") and name not in fills:
            print(f"plan.json removes {name}, but plan.safetensors has no constant for it")
            sys.exit(1)
    for number, layer in enumerate(model.gpt_neox.layers):
        mine = {name.partition("H")[2]: what for name, what in plan.items() if name.startswith(f"L{number}H")}
        removed = [head for head, what in mine.items() if what in ("zero", "mean", "random")]
        constants = {int(head): fills[f"L{number}H{head}"] for head in removed}
        sized = {int(head): sizes(what) for head, what in mine.items() if windows and what.startswith("window:")}
        layer.attention.dense.register_forward_pre_hook(overwriting(constants, layer.attention.head_size))
        layer.attention.register_forward_pre_hook(masking(sized, model.config.num_attention_heads), with_kwargs=True)


def sizes(treatment: str) -> tuple[int, int]:
    """Window and sinks of `window:8` (4 sinks) or `window:8+0`."""
    window, plus, sinks = treatment.removeprefix("window:").partition("+")
    return int(window), int(sinks) if plus else 4


def overwriting(constants: dict[int, torch.Tensor], d_head: int) -> Callable[..., Any]:
    def hook(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        z = inputs[0].clone()
        for head, constant in constants.items():
            z[..., head * d_head : (head + 1) * d_head] = constant
        return (z,)

    return hook


def masking(windows: dict[int, tuple[int, int]], n_heads: int) -> Callable[..., Any]:
    def hook(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        n_tokens = inputs[0].shape[1]
        query, key = torch.arange(n_tokens)[:, None], torch.arange(n_tokens)
        seen = (key <= query).repeat(n_heads, 1, 1)
        for head, (window, sinks) in windows.items():
            seen[head] &= (query - key < window) | (key < sinks)
        mask = torch.zeros(1, n_heads, n_tokens, n_tokens).masked_fill(~seen, torch.finfo(torch.float32).min)
        return inputs, {**keywords, "attention_mask": mask}

    return hook


if __name__ == "__main__":
    main()
