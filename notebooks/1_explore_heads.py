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
# # 1 · What does every head do?
#
# A language model has dozens to thousands of attention heads. This notebook takes a small model apart and asks of each head:
# where does it look, what does it write, and what role does that give it?
#
# The model is the packaged demo model, a really trained GPT-NeoX (Pythia's architecture) of 4 × 8 heads; it needs no network.
# For a real Pythia write `pythia-70m` for `demo`: everything below follows.
#
# The notebooks, in order: **1 explore heads** · 2 choose thresholds · 3 ablate and sweep · 4 export and benchmark · 5 live
# generation · 6 published facts.

# %%
import headspec as hs

model = hs.load_model("demo")  # a TransformerBridge: hook it and cache activations as you are used to
text = hs.load_text(model, "probe", n_tokens=4096)
print(
    f"{model.cfg.n_layers} layers of {model.cfg.n_heads} heads; {len(text.tokens)} windows of {text.tokens.shape[1]} tokens"
)

# %% [markdown]
# ## Probe
#
# The text goes through the model once. Hooks on `hook_pattern` (where a head looks), `hook_z` (what it gathers there) and
# `hook_resid_pre` (what it writes into) reduce what they see at once to a few numbers a head, so that memory stays small.

# %%
profile = hs.probe_heads(model, text, progress=False)
profile

# %% [markdown]
# Everything is there as a table, one row a head. What each column means, its unit and when it misleads: `docs/statistics.md`,
# or `headspec.probe.catalogue.STATISTICS` in Python.

# %%
table = profile.to_frame().set_index("head")
table[["normalized_entropy", "max_attention", "previous_token_score", "induction_score", "output_spread"]].head(
    8
).round(3)

# %% [markdown]
# Three heads to follow through the notebook, chosen by what they do best:

# %%
previous = table.previous_token_score.idxmax()
copier = table.induction_score.idxmax()
broad = table.normalized_entropy.idxmax()
print(f"{previous} looks at the token before ({table.previous_token_score[previous]:.2f} of its attention)")
print(
    f"{copier} looks at what followed the same token earlier ({table.induction_score[copier]:.2f}): an induction head"
)
print(
    f"{broad} spreads its attention most evenly (normalised entropy {table.normalized_entropy[broad]:.2f} of at most 1)"
)

# %% [markdown]
# ## Roles
#
# Every head gets exactly one:
#
# - **positional**: it looks at a few fixed distances back, whatever the text says; a small sliding window of keys will do;
# - **gathering**: it looks where the content tells it to; it needs the whole context;
# - **dead**: what it writes hardly changes, on text and on repeated tokens. A *candidate* for removal, until that is tried.
#
# *What to look at:* blue heads sit together in some layers. The number in a cell is the window a positional head needs, in
# keys; the letters are traits (p previous-token, i induction). Point at a head to read why it has its role.

# %%
head_map = hs.classify_heads(profile)
hs.show.roles(head_map, profile)

# %% [markdown]
# ## Why?
#
# Every verdict comes with its reason, the numbers it rests on (`.evidence`), and a **margin**: how far the deciding number
# lies from its cut-off, as a share of the cut-off. (*The sinks* are the first four tokens of a text: heads that have nothing
# to look at often rest there.) Of the three heads:

# %%
for head in (previous, copier, broad):
    verdict = head_map[head]
    print(f"{head} is {verdict.role} (margin {verdict.margin:.2f}): {verdict.reason}")

# %% [markdown]
# And the four heads that lie nearest to an edge. A margin below about 0.05 is a warning that another text may turn the role.
# A large one is no promise: it says how far the deciding number is from its cut-off, not how much that number varies with the
# text (notebook 2 tries that).

# %%
for verdict in sorted(head_map, key=lambda verdict: verdict.margin)[:4]:
    print(f"{verdict.head} {verdict.role}, margin {verdict.margin:.3f}: {verdict.reason}")

# %% [markdown]
# ## One number as colour
#
# Normalised entropy: 0 looks at a single key, 1 at all keys alike. It is the number most people look at first.
#
# *What to look at:* the darkest cells are positional heads and the lightest are dead or gathering, so entropy and role have
# to do with each other. They are not the same: light cells have different roles. Notebook 2 measures what follows from that.

# %%
hs.show.statistic(profile, "normalized_entropy", head_map)

# %% [markdown]
# Without a name the figure has a menu of all statistics: `hs.show.statistic(profile)`.
#
# ## Where each head looks
#
# One row a head, grouped by role; columns are distances back from the query, in tokens.
#
# *What to look at:* positional heads are bright near the left edge, and previous-token heads are one bright cell at 1. The
# rows of the others reach over the whole width.

# %%
hs.show.offsets(profile, head_map=head_map)

# %% [markdown]
# The three heads alone, on logarithmic axes.
#
# *What to look at:* one peak, against lines that fall slowly, as a head does that looks everywhere (few queries see far
# back). The induction head's line says little: where it looks depends on the text. Its pattern says more.

# %%
hs.show.offsets(profile, [previous, copier, broad], head_map)

# %% [markdown]
# ## Patterns
#
# The same three heads on a sentence that begins a second time. Rows are queries, columns are keys.
#
# *What to look at:* the previous-token head draws a line just below the diagonal. The induction head draws a second line,
# half the square further down, where the sentence repeats: it looks at what came next the first time. In Jupyter this is
# circuitsvis, which tells the numbers to whoever points at them; on GitHub it is a picture.

# %%
sentence = "The keeper trimmed the lamp, and the pilot saw it. The keeper trimmed the lamp, and the pilot"
hs.show.attention(model, sentence, heads=[previous, copier, broad])

# %% [markdown]
# ## As the context grows
#
# Averages hide how a head changes with its position in the text. A line is the median of the heads of one role, the band
# their middle half.
#
# *What to look at:* the largest attention (in Jupyter choose it in the menu). It falls for gathering heads as there is more
# to look at, and hardly for positional ones, whose keys are always as near.

# %%
hs.show.by_position(profile, head_map)

# %% [markdown]
# ## A second opinion
#
# Which heads resemble each other if nobody sets a cut-off? k-means on standardised statistics; the number of clusters is the
# one with the largest silhouette.
#
# *What to look at:* colours are clusters, shapes are roles; where a cluster holds one shape only, the two agree. The legend
# says what sets a cluster apart: the induction heads have found each other, and so have the previous-token heads.

# %%
clusters = hs.cluster_heads(profile, head_map)
print(clusters.sentence)
hs.show.clusters(clusters, head_map)

# %% [markdown]
# ## Is it training, or does any transformer look like this?
#
# The same architecture with fresh random weights, on the same text. How much does knowing *which head it is* tell about
# *where it looks*? In bits; 0 means that all heads look alike.

# %%
from headspec.classify.specialisation import head_diversity
from headspec.load.model import reinitialised

twin = hs.probe_heads(reinitialised(model), text, progress=False)
for name, found in (("trained", profile), ("untrained", twin)):
    print(
        f"{name:9} {head_diversity(found).offset_information:.3f} bits, largest induction score {found['induction_score'].max():.3f}"
    )

# %% [markdown]
# ## Keep it
#
# `hs.analyze("demo")`, or `headspec analyze demo` in a shell, does all of this in one go and leaves figures, tables and
# records in a folder. By hand:

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
profile.save(folder / "head_profile.safetensors")
head_map.save(folder / "head_classification.json")
again = hs.HeadMap.load(folder / "head_classification.json")
print("saved, loaded, the same:", again == head_map)

# %% [markdown]
# **Next:** the roles rest on cut-offs. [2_choose_thresholds](2_choose_thresholds.ipynb) asks whether they are good ones, by
# ablating every head.
