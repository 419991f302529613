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

# %% [markdown]
# # Export a pruned model
#
# From a head map to a smaller Hugging Face model, on the packaged demo model, without network. The exported model computes
# what the hooked one does; only the hooked one is not faster.

# %%
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import headspec as hs

model = hs.load_plain("demo")
profile = hs.probe_heads(model, hs.load_text(model, "probe"), engine="fast", progress=False)
head_map = hs.classify_heads(profile)
text = hs.load_text(model, "certify", n_tokens=2048)
folder = Path(tempfile.mkdtemp()) / "pruned"

# %% [markdown]
# ## A plan, and its export
#
# Positional heads get their window. Dead heads are candidates until they are confirmed; here the two clearest of them go.

# %%
weakest = sorted(head_map.heads("dead"), key=lambda head: -head_map[head].margin)[:2]
plan = hs.make_plan(head_map, profile) | hs.plan_heads(profile, dict.fromkeys(weakest, "mean"))
print(dict(plan.counts()))
hs.export_model(model, plan, folder, head_map=head_map)

# %% [markdown]
# ## Load it like any other model
#
# `trust_remote_code=True` runs the Python files in the folder. Where headspec is installed, `hs.register()` does without.

# %%
pruned = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
prompt = model.tokenizer("The old man looked at the sea, and", return_tensors="pt")
print(model.tokenizer.decode(pruned.generate(**prompt, max_new_tokens=40, do_sample=False)[0]))

# %% [markdown]
# Logits equal those of the hooked model:

# %%
with torch.no_grad(), hs.apply_plan(model, plan):
    hooked = model(text.tokens)
with torch.no_grad():
    exported = pruned(text.tokens).logits
print(f"largest difference: {(hooked - exported).abs().max():.1e}")

# %% [markdown]
# ## What is left of the cache

# %%
cache = pruned.make_cache(expected=text.tokens.shape[1])
with torch.no_grad():
    pruned(text.tokens, past_key_values=cache)
whole = 2 * 4 * text.tokens.numel() * pruned.config.hidden_size * pruned.config.num_hidden_layers
print(f"{cache.nbytes / 1e6:.1f} MB of {whole / 1e6:.1f} MB: {cache.nbytes / whole:.0%}")
for number, layer in enumerate(cache.layers):
    print(number, [(len(store.group.heads), "heads", store.group.window or "all", "keys") for store in layer.stores])

# %% [markdown]
# ## Edit the plan and export again
#
# Files of an earlier export are replaced, nothing else.

# %%
softer = plan.without(weakest)
hs.export_model(model, softer, folder, head_map=head_map, overwrite=True)
for name, chosen in (("with removals", plan), ("windows only", softer)):
    small = hs.pruned_model(model.huggingface, chosen)
    report = hs.measure_quality(model, small, text, n_repeats=4, n_needles=0)
    print(f"{name:14} KL {report.kl} | perplexity {report.perplexity_increase}")
