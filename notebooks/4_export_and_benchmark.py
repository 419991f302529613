# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · Export, and see what it saves
#
# A hooked model shows what a plan costs; it is not smaller and not faster. This notebook cuts the heads out of the weights: a
# Hugging Face folder that loads where headspec was never installed. Then it checks that the small model computes what the
# hooked one does, weighs its cache, and times it.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM

import headspec as hs

model = hs.load_plain("demo")
profile = hs.probe_heads(model, hs.load_text(model, "probe"), engine="fast", query_statistics=True, progress=False)
head_map = hs.classify_heads(profile)
text = hs.load_text(model, "certify", n_tokens=2048)
folder = Path(tempfile.mkdtemp()) / "pruned"

# %% [markdown]
# ## A plan, and its export
#
# Positional heads get their window. Dead heads are candidates until they are confirmed, so only the two clearest of them go.
# (The plan that `hs.search_plan` finds, as in notebook 3, is the better one; this one takes no time.)

# %%
clearest = sorted(head_map.heads("dead"), key=lambda head: -head_map[head].margin)[:2]
plan = hs.make_plan(head_map, profile) | hs.plan_heads(profile, dict.fromkeys(clearest, "mean"))
plan

# %%
hs.export_model(model, plan, folder, head_map=head_map)
pd.Series({path.name: path.stat().st_size for path in sorted(folder.iterdir())}, name="bytes").to_frame()

# %% [markdown]
# Weights, configuration, tokenizer, the plan, a model card, and the code that runs it: a few Python files that import torch
# and transformers only.
#
# ## Load it like any other model
#
# In a fresh Python process that cannot import headspec. `trust_remote_code=True` allows transformers to run the code in the
# folder.

# %%
program = """
import sys
sys.modules["headspec"] = None  # whoever imports it now gets an ImportError
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompt = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
tokens = tokenizer(prompt, return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=40, do_sample=False)[0]), end="")
"""
prompt = "The old man looked at the sea, and"
command = [sys.executable, "-c", program, str(folder), prompt]
written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
print(written)

# %% [markdown]
# ## Does it compute the same?
#
# The hooked original under the plan, and the exported model: their logits on a text, and the tokens they choose greedily.

# %%
pruned = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokens = model.tokenizer(prompt, return_tensors="pt")
with torch.no_grad(), hs.apply_plan(model, plan):
    hooked = model(text.tokens)
    continued = model.huggingface.generate(**tokens, max_new_tokens=40, do_sample=False)
with torch.no_grad():
    exported = pruned(text.tokens).logits
print(f"largest difference in {hooked.numel():,} logits: {(hooked - exported).abs().max():.1e}")
print("the fresh process wrote what the hooked model writes:", model.tokenizer.decode(continued[0]) == written)

# %% [markdown]
# ## What is left of the cache
#
# While a model writes, it keeps keys and values of everything read: the KV cache, which at long contexts and large batches is
# most of what is moved for a token. Removed heads keep none, windowed heads a ring of a few keys, whatever the length.

# %%
cache = pruned.make_cache(expected=text.tokens.shape[1])
with torch.no_grad():
    pruned(text.tokens, past_key_values=cache)
every_key = (
    2 * 4 * text.tokens.numel() * pruned.config.hidden_size * pruned.config.num_hidden_layers
)  # keys and values, 4 bytes
print(f"held: {cache.nbytes / 1e6:.1f} MB of {every_key / 1e6:.1f} MB ({cache.nbytes / every_key:.0%})")
rows = [
    {"layer": number, "heads": len(store.group.heads), "keys kept": store.group.window or "all"}
    for number, layer in enumerate(cache.layers)
    for store in layer.stores
]
pd.DataFrame(rows).set_index("layer")

# %% [markdown]
# ## Benchmark: how much faster, at what quality, against whom?
#
# `hs.benchmark` compares, in turns and on the same texts:
#
# - the original three ways: **V** as transformers runs it, **S** the same with a static cache, **P0** headspec's runtime with
#   nothing pruned (what it gains over V is engineering, not pruning);
# - the exported model;
# - published methods that treat all heads alike, at as many bytes as the exported model: StreamingLLM, SnapKV, expected
#   attention, and **random keys** as the control.
#
# `quick=True` measures one small cell of each kind; `headspec bench` in a shell does the whole grid.

# %%
report, files = hs.benchmark(
    model, hs.Lineup(pruned=(folder,)), quick=True, profile=profile, n_tokens=2048, out=folder.parent / "benchmark"
)
frame = report.to_frame()
quality = frame[frame.part == "quality"].pivot_table(index="system", columns="measure", values="value")
quality[["kv_share", "kl", "perplexity_increase", "induction_accuracy"]].sort_values("kl").round(4) + 0.0

# %% [markdown]
# *What to look at:* quality (up is worse) against bytes. The exported model and the methods hold as many bytes; what lies
# lower gets more out of them. *Hypothetical* says that nobody has certified this plan, as a search does.

# %%
hs.show.benchmark(report)

# %% [markdown]
# Speed. *What to look at:* the bars of the exported model against those of **P0**: this is the part of pruning. The demo
# model is so small that most of a token's time goes into calling its layers, not into reading keys: there is little to save,
# and more groups of heads mean more calls, so it may even be slower.

# %%
hs.show.benchmark(report, "speed")

# %% [markdown]
# The folder of the benchmark has everything as a table and as figures:

# %%
print(", ".join(sorted(file.name for file in files)))

# %% [markdown]
# ## At the shape of a real Pythia
#
# What would it bring there? The weights of pythia-70m may not be at hand, but for timing **random weights** of its shape will
# do: they take as long. They say nothing about quality, and nothing about which heads could be treated so: plan c is
# hypothetical, a quarter of the heads removed and half of them windowed.
#
# *What to look at:* a batch of 8 texts with 1,000 tokens each in the cache. Again **P0** against **plan c**; what lies
# between V and P0 is not pruning.

# %%
from headspec.measure.benchmark import Grid

grid = Grid(batches=(8,), contexts=(1000,), prompts=(1024,), n_new=12, openings=1, rounds=4, memory_batch=0)
lineup = hs.Lineup(hypothetical=("c",), only=("V", "S", "P0", "plan c"))
timed, _ = hs.benchmark(hs.load_plain("random:pythia-70m"), lineup, grid, out=folder.parent / "timing")
hs.show.benchmark(timed, "speed")

# %%
held = {system: timed.value(system, "kv_bytes") for system in ("V", "P0", "plan c")}
print("MB in the KV cache:", {system: round(found / 1e6) for system, found in held.items()})

# %% [markdown]
# ## Edit the plan and export again
#
# Files of an earlier export are replaced, nothing else.

# %%
softer = plan.without(clearest)
hs.export_model(model, softer, folder, head_map=head_map, overwrite=True)
for name, chosen in (("with removals", plan), ("windows only", softer)):
    small = hs.pruned_model(model.huggingface, chosen)  # the same in memory, without a folder
    quality = hs.measure_quality(model, small, text, n_repeats=4, n_needles=0)
    print(f"{name:14} KL {quality.kl} | perplexity {quality.perplexity_increase}")

# %% [markdown]
# **Next:** one plan for all texts, or one for each? [5_live_generation](5_live_generation.ipynb) lets every prompt decide.
