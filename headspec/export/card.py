"""The model card of an exported model: what was done to which head, what it costs, how to load it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headspec.heads import HeadId
from headspec.load.names import ModelName, Origin
from headspec.plan.plan import HeadPlan
from headspec.plan.size import plan_size
from headspec.plan.treatments import Compress, Keep, Remove, Window

GRAPH = """## Running

```sh
python openvino_runner.py . --prompt "It was a" --new 40
```

```python
from openvino_runner import OpenVINODecoder

decoder = OpenVINODecoder("FOLDER")
print(decoder.generate([[12, 7, 9]], n_new=40))  # token ids
```

This needs openvino and numpy (and tokenizers, for text), neither torch nor headspec. What the inputs of the graph mean
is in `openvino_config.json` and, by use, in `openvino_runner.py`."""
PYTHIA_LICENSE = "apache-2.0"
"""Of all Pythia models on the hub."""


def model_card(
    plan: HeadPlan, source: ModelName | None, twin: bool, files: list[str], graph_share: float | None = None
) -> str:  # fmt: skip
    """The text of README.md.

    Args:
        plan: What was done.
        source: Where the original comes from; None for a model that was in memory.
        twin: Whether the folder holds a dense twin.
        files: Python files that run when the model is loaded.
        graph_share: Of the original's KV bytes at the model's context, what a graph for OpenVINO holds; None for other
            exports, which hold what the plan says.
    """
    from huggingface_hub import ModelCardData

    name = plan.about.model
    data = ModelCardData(
        license=license_of(source), library_name="transformers" if graph_share is None else "openvino",
        pipeline_tag="text-generation",
        tags=["headspec", "pruned", "gpt_neox"],
        base_model=source.location if source is not None and source.origin is Origin.HUB else None,
    )  # fmt: skip
    parts = [
        f"---\n{data.to_yaml()}\n---\n\n# {name}, treated by headspec",
        _summary(plan, twin, graph_share),
        _loading(twin, files) if graph_share is None else GRAPH,
        _damage(plan, twin),
        _heads(plan, twin),
        _origin(plan, source, twin),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def license_of(source: ModelName | None) -> str:
    """The licence of the original, as far as it is known: `unknown` otherwise."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if source is None:
        return "unknown"
    if source.origin is Origin.HUB and source.location.startswith("EleutherAI/pythia"):
        return PYTHIA_LICENSE
    card = Path(source.location) / "README.md"
    if source.origin is not Origin.DIRECTORY or not card.is_file():
        return "unknown"
    try:
        return ModelCard.load(card).data.license or "unknown"
    except (ValueError, OSError, YAMLError):
        return "unknown"


def _summary(plan: HeadPlan, twin: bool, graph_share: float | None) -> str:
    removed, windowed, n_heads = len(plan.heads(Remove)), len(plan.heads(Window)), len(plan.about.heads)
    compressed = len(plan.heads(Compress))
    size = plan_size(plan)
    text = f"{removed} of {n_heads} attention heads are removed: "
    if twin:
        text += "their weights are zero, and the constants that stand in for them are in the biases. "
        if windowed or compressed:
            kinds = [f"gives a window to some ({windowed})"] * bool(windowed)
            kinds += [f"compresses the KV cache of some ({compressed})"] * bool(compressed)
            text += (
                f"The plan also {' and '.join(kinds)}; this dense twin cannot: they see every key, as in the original. "
            )
        text += "The model has its original shape and is not faster."
    else:
        text += (
            f"they are not computed and their weights are gone ({size.removed_share:.1%} of the attention weights). "
            f"Heads that see a window of keys and the first tokens, and keep no more than those: {windowed}. "
            f"{_compressed_words(compressed)}The KV cache after a prompt of {size.n_tokens} tokens is "
            f"{size.kv_share if graph_share is None else graph_share:.1%} of the original's. Nothing was trained."
        )
    if plan.about.model.startswith("random:"):
        text += "\n\n**RANDOM WEIGHTS**: good for timing and tests only."
    return text


def _compressed_words(number: int) -> str:
    return f"Heads that read a prompt with every key and then keep chosen ones: {number}. " if number else ""


def _loading(twin: bool, files: list[str]) -> str:
    trust = "" if twin else ", trust_remote_code=True"
    code = (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})\n```'
    )
    if twin:
        return f"## Loading\n\n{code}"
    return (
        f"## Loading\n\n{code}\n\nThis runs the Python files of this folder ({', '.join(files)}), which need torch and "
        "transformers (5.20 or later) only. Where headspec is installed, `headspec.register()` takes its own files "
        "instead, without `trust_remote_code`. On a CPU, `model.pack_weights()` makes batches faster.\n\n"
        'Heads that see every key here can be treated by what they do on a prompt: `cache = model.make_cache({"every": '
        "16})`, `model.generate(..., past_key_values=cache)`, `cache.record()`."
    )


def _damage(plan: HeadPlan, twin: bool) -> str:
    certificate = plan.certificate or {}
    if not isinstance(certificate.get("quality"), Mapping):
        return "## What it costs\n\nNot measured: the plan has no certificate. `headspec search` writes one."
    if twin and (plan.heads(Window) or plan.heads(Compress)):
        return (
            "## What it costs\n\nNot measured: the plan's certificate counts windows or compression, which this model "
            "has not."
        )
    quality = certificate["quality"]
    rows = [
        ("KL to the original, nats/token", _estimate(quality.get("kl"), "{:.4f}")),
        ("perplexity", _change(quality, "perplexity", "{:.2f}")),
        ("change in perplexity", _estimate(quality.get("perplexity_increase"), "{:+.2%}")),
        ("KL on repeated tokens, nats/token", _estimate(quality.get("repeats_kl"), "{:.4f}")),
        ("induction accuracy", _change(quality, "induction_accuracy", "{:.3f}")),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value)
    text = (
        f"On {quality.get('text', 'a text')}{_continued(certificate)}, with 95 % intervals; measured on the hooked "
        "original under the same plan."
    )
    random = certificate.get("random_plans") or {}
    control = ""
    if random.get("kl_median") is not None:
        control = (
            f"\n\nFor comparison, {random['n']} plans with the same treatments on random heads of the same layers have "
            f"a median KL of {random['kl_median']:.4f}."
        )
    return f"## What it costs\n\n{text}\n\n| measure | value |\n|---|---|\n{table}{control}"


def _continued(certificate: Mapping[str, Any]) -> str:
    """Which part of the text was judged, where only a part was."""
    prompt, new = certificate.get("n_tokens"), certificate.get("n_new")
    return f" ({new} tokens after prompts of {prompt})" if new else ""


def _estimate(value: Any, form: str) -> str:
    if not isinstance(value, Mapping) or value.get("value") is None:
        return ""
    ends = [form.format(value[end]) for end in ("low", "high") if value.get(end) is not None]
    return form.format(value["value"]) + (f" [{', '.join(ends)}]" if len(ends) == 2 else "")


def _change(quality: Mapping[str, Any], name: str, form: str) -> str:
    after, before = _estimate(quality.get(name), form), _estimate(quality.get(f"{name}_original"), form)
    return f"{after}, original {before}" if after and before else after


def _heads(plan: HeadPlan, twin: bool) -> str:
    rows = []
    for layer in range(plan.about.n_layers):
        heads = [HeadId(layer, head) for head in range(plan.about.n_heads)]
        removed = ", ".join(f"H{head.head} ({plan[head]})" for head in heads if isinstance(plan[head], Remove))
        limited = ", ".join(
            f"H{head.head} ({plan[head]})" for head in heads if isinstance(plan[head], Window | Compress)
        )
        kept = ", ".join(f"H{head.head}" for head in heads if isinstance(plan[head], Keep))
        rows.append(f"| {layer} | {removed} | {limited} | {kept} |")
    title = "windowed" if not plan.heads(Compress) else "windowed or compressed"
    title += " in the plan, whole here" if twin else ""
    return (
        "## Heads\n\nHeads have their numbers of the original model. The word after a removed head says what stands in "
        "for its output; `window:8` is a window of 8 keys and 4 sink keys, `window:8+0` one without sinks.\n\n"
        f"| layer | removed | {title} | as they were |\n|---|---|---|---|\n" + "\n".join(rows)
    )


def _origin(plan: HeadPlan, source: ModelName | None, twin: bool) -> str:
    text = f"## Origin\n\nOriginal: {plan.about.model}"
    if source is not None and source.origin is Origin.HUB:
        text += f" (https://huggingface.co/{source.location})"
    known = license_of(source)
    terms = "its licence is not known here" if known == "unknown" else f"licence: {known}, for these weights too"
    return f"{text}; {terms}. Plan: `plan.json`, digest {plan.digest[:16]}." + (
        "" if twin else " The Python files are headspec's, under the MIT licence."
    )
