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
# # Explore the heads of a model
#
# What does every attention head do, and how do we know? This notebook probes the packaged demo model (a really trained
# GPT-NeoX with 4 × 8 heads), gives each head one of three roles, and looks at a few of them closely. It needs no network.
#
# To look at a real Pythia instead, write `pythia-70m` for `demo`.

# %%
# %matplotlib inline
import headspec as hs

model = hs.load_model("demo")
text = hs.load_text(model, "probe", n_tokens=4096)
text.tokens.shape  # windows × tokens

# %% [markdown]
# ## Probe
#
# The text goes through the model in segments; hooks on `hook_pattern`, `hook_z` and `hook_resid_pre` reduce what they see
# at once, so that memory stays small. The result is a `HeadProfile`: one number a head for every statistic.

# %%
profile = hs.probe_heads(model, text, progress=False)
profile.to_frame()[["head", "normalized_entropy", "max_attention", "induction_score", "output_spread"]].head(8)

# %% [markdown]
# ## Classify
#
# - **positional**: attention sits at fixed relative offsets; a small sliding window will do (the number in the cell)
# - **gathering**: attention goes where the content says; it needs the whole context
# - **dead**: what the head writes hardly changes, on text and on repeated tokens; a candidate for removal

# %%
head_map = hs.classify_heads(profile)
hs.show.head_roles(profile, head_map)

# %% [markdown]
# Every verdict comes with its reason, the numbers it rests on, and a margin: how far the deciding number lies from its
# cut-off, as a share of the cut-off.

# %%
for name in ("L1H7", "L2H3", "L1H1", "L2H0"):
    verdict = head_map[name]
    print(f"{name} {verdict.role} (margin {verdict.margin:.2f}): {verdict.reason}")

# %% [markdown]
# ## Where each head looks
#
# One row a head, grouped by role; columns are relative offsets. A previous-token head is a single bright cell at offset 1.

# %%
hs.show.position_preference(profile, head_map)

# %% [markdown]
# Every figure has an interactive twin: `hs.show.roles(head_map, profile)` (point at a head to read why it has its role),
# `hs.show.statistic(profile)`, `hs.show.offsets(profile, heads)`, `hs.show.by_position(profile, head_map)`.

# %%
hs.show.offsets(profile, ["L1H7", "L2H3", "L0H4"], head_map)

# %% [markdown]
# ## A second opinion
#
# Which heads resemble each other, if nobody sets a cut-off? k-means on standardised statistics; the number of clusters is the
# one with the largest silhouette, which is shown. The seven induction heads find each other, and so do the two previous-token
# heads. Dead heads do not: they look like others and write less.

# %%
clusters = hs.cluster_heads(profile, head_map)
print(clusters.sentence)
hs.show.head_clusters(clusters, head_map)

# %% [markdown]
# ## Patterns, with circuitsvis
#
# A previous-token head (L1H7) and an induction head (L2H3) on a sentence that repeats. Hover for the numbers, click a head
# to enlarge it. (GitHub shows no scripts: run the notebook to see this one.)

# %%
sentence = "The keeper trimmed the lamp, and the pilot saw it. The keeper trimmed the lamp, and the pilot"
hs.show.attention(model, sentence, heads=["L1H7", "L2H3"])

# %% [markdown]
# ## Why not just use entropy?
#
# The textbook says: low entropy at a fixed offset is positional, near-uniform is dead. On this model that calls **L2H0**
# dead: it looks almost uniformly and writes little on plain text. But on repeated random tokens its output moves far from
# its mean on text, and removing the head costs half a nat there.

# %%
naive = hs.classify_heads(profile, rules="naive")
print("L2H0 by the textbook:", naive["L2H0"].role, "| by headspec:", head_map["L2H0"].role)
print("deviation on repeats, relative to the residual:", round(profile.head("L2H0")["repeat_deviation"], 2))
print(f"the two maps agree on {naive.agreement(head_map):.0%} of the heads")

# %% [markdown]
# ## As the context grows

# %%
hs.show.temporal_evolution(profile, head_map)

# %% [markdown]
# ## Keep it
#
# `hs.analyze("demo")` (or `headspec analyze demo` in a shell) does all of this and leaves the figures and tables in a folder.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
profile.save(folder / "head_profile.safetensors")
head_map.save(folder / "head_classification.json")
again = hs.HeadMap.load(folder / "head_classification.json")
print("saved and loaded:", again == head_map)
