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
# # 5 · Live: every prompt decides for itself
#
# So far a head had one role for all texts. But a head may be needed for a list and idle in prose. **Live** means: the model
# reads the prompt in full, looks at what its heads do on *this* prompt, cuts their caches down at once, and goes on looking
# while it writes. This notebook watches that happen, on prompts of four kinds, and measures whether it pays.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import pandas as pd
import torch

import headspec as hs
from headspec.load.sources import read_text

plain = hs.load_plain("demo")
profile = hs.probe_heads(plain, hs.load_text(plain, "probe"), engine="fast", progress=False)
head_map = hs.classify_heads(profile)
model, tokenizer = hs.runtime_model("demo", head_map)  # headspec's own runtime, with what the map knows of its heads

# %% [markdown]
# The head map goes along because a prompt cannot show everything: whether a head does induction, and what it does when tokens
# repeat. Without a map no head is ever called dead.
#
# ## Prompts
#
# Three documents of the packaged `certify` text, which was used for nothing so far, and a prompt that no author would write:
# random tokens, given twice. Of each, 200 tokens are the prompt and the next 200 what really follows.

# %%
titles = {"prose": "CHAPTER I.", "list": "PAPERS FROM A SURVEYOR'S TRUNK", "verse": "THE BALLAD OF THE CHAINMAN"}
documents = [document.strip() for document in read_text("certify").split("<|endoftext|>")]
texts = {}
for kind, title in titles.items():
    [document] = [document for document in documents if document.startswith(title)]
    texts[kind] = torch.tensor(tokenizer(document, verbose=False)["input_ids"])[None, :400]
    print(f"{kind:6}", repr(tokenizer.decode(texts[kind][0, 60:110])))

span = torch.randint(5, len(tokenizer), (1, 200), generator=torch.Generator().manual_seed(0))
texts["repeats"] = torch.cat([span, span], dim=1)

# %% [markdown]
# ## One prompt, watched
#
# A policy says how often to look (`every`), how often to decide anew (`reclassify`), and much else. It is carried by the
# cache: whatever calls `generate` works.

# %%
policy = hs.AdaptivePolicy(every=16, reclassify=64)
cache = model.make_cache(policy)
prompt = texts["prose"][:, :200]
written = model.generate(prompt, past_key_values=cache, max_new_tokens=200, do_sample=False)
record = cache.record()
print(
    f"{record.n_prompt} tokens of prompt, {record.n_read} read in the end, heads classified {record.n_classifications} times"
)
print(f"bytes held at the end: {record.kv_share:.0%} of what all keys of all heads would take")

# %% [markdown]
# *What to look at:* one bar a head, from the end of the prompt on; its colour is the role, the words in it say what is done
# with the head. A change of role would be a diamond (the title counts them). Below, the bytes of the KV cache, against those
# of every head keeping every key. `generate` knows how long the text may get, so the buffers have room for it from the start
# and both lines are flat.

# %%
hs.show.timeline(record)

# %% [markdown]
# ## Four kinds of prompts
#
# To compare prompts the text must be the same with and without treatment. So now the model does not write: it reads what
# really follows, through the treated cache, token after token as if it had written it (`hs.score`).

# %%
records, rows = {}, {}
for kind, tokens in texts.items():
    prompt, rest = tokens[:, :200], tokens[:, 200:]
    cache = model.make_cache(policy)
    treated = hs.score(model, prompt, rest, cache=cache)
    whole = hs.score(model, prompt, rest, cache=model.make_cache())
    records[kind] = cache.record()
    rows[kind] = {
        **records[kind].counts(), "changes of role": len(records[kind].flips()), "bytes left": f"{records[kind].kv_share:.0%}",
        "loss, every key kept": round(whole.loss, 3), "loss, live": round(treated.loss, 3),
    }  # fmt: skip
pd.DataFrame(rows).T.fillna(0)

# %% [markdown]
# The loss is in nats a token, and one prompt of 200 tokens is little: differences in the second digit are noise. What
# `docs/live-evidence.md` measures on many prompts is the KL.
#
# ## Who is judged otherwise?
#
# The same head on four prompts. Only heads whose role is not the same everywhere, with the role of the head map beside it.

# %%
roles = pd.DataFrame(
    {
        kind: {f"L{layer}H{head}": change.role for (layer, head), change in record.at(record.n_read).items()}
        for kind, record in records.items()
    }
)
roles.insert(0, "head map", [str(head_map[head].role) for head in roles.index])
differ = roles[roles.nunique(axis=1) > 1]
print(f"{len(roles) - len(differ)} of {len(roles)} heads have one role everywhere; the others:")
differ

# %% [markdown]
# Most heads keep their role, so an offline map is no bad guess. Those that differ are mostly near a cut-off (notebook 2), or
# heads that look dead as long as a prompt does not ask for them.
#
# ## Bytes over time
#
# *What to look at:* all texts are as long; what differs is what their heads need. The lines grow more slowly than the dashed
# one, as only heads that keep every key take more.

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.8))
for kind, color in zip(records, ("#332288", "#CC6677", "#117733", "#999933"), strict=True):
    held = records[kind].held
    axes.plot(
        [moment.at for moment in held], [moment.kv_bytes / 1e6 for moment in held], color=color, marker=".", label=kind
    )
axes.plot(
    [moment.at for moment in held],
    [moment.full_bytes / 1e6 for moment in held],
    color="grey",
    ls="--",
    label="every key of every head",
)
axes.set(xlabel="tokens read", ylabel="KV cache, MB", ylim=(0, None), title="What a text needs")
axes.grid(alpha=0.2)
axes.legend()
plt.show()

# %% [markdown]
# ## More, or less, of it
#
# Windows are the safe part. Calling heads dead on the strength of one prompt saves more and risks more; compressing what the
# gathering heads keep (here SnapKV, which keeps the keys that the prompt's last queries look at) saves most and costs most.
# On the prose prompt and on the repeats:

# %%
policies = {
    "watched only": hs.AdaptivePolicy(watch_only=True),
    "windows only": hs.AdaptivePolicy(dead=False),
    "windows and dead heads": policy,
    "and SnapKV, half of the keys": hs.AdaptivePolicy(policy="snapkv", budget=0.5),
}
rows = {}
for name, chosen in policies.items():
    row = {}
    for kind in ("prose", "repeats"):
        cache = model.make_cache(chosen)
        row[f"loss, {kind}"] = round(hs.score(model, texts[kind][:, :200], texts[kind][:, 200:], cache=cache).loss, 3)
        row[f"bytes left, {kind}"] = f"{cache.record().kv_share:.0%}"
    rows[name] = row
pd.DataFrame(rows).T

# %% [markdown]
# ## The same on hooks
#
# `hs.live_generate` makes these decisions on a TransformerBridge: every head is still computed there, so it saves nothing,
# but all that TransformerLens shows can be looked at meanwhile. It decides as the runtime does, and writes the same:

# %%
bridge = hs.load_model("demo")
hooked = hs.live_generate(bridge, texts["prose"][:, :200], policy, head_map=head_map, max_new_tokens=64)
print("the same tokens as the runtime:", torch.equal(hooked.tokens[0], written[0, : hooked.tokens.shape[1]]))
print("the same decisions at the end of the prompt:", hooked.record.at(200) == record.at(200))

# %% [markdown]
# ## When not to
#
# For one kind of text, an exported plan (notebook 4) reads the prompt with fewer heads too, and a search can measure before
# what it costs. Live pays where texts differ from what was probed: `docs/live.md` and `docs/live-evidence.md` have the
# numbers.
#
# **Next:** [6_published_facts](6_published_facts.ipynb) puts the toolkit to the test on real Pythia models.
