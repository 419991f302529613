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
# # 3 · Ablate, sweep, search
#
# What does it cost to take a head away, or to let it see a few keys only? This notebook does it by hand, on one head; then to
# every head; then lets a search find the plan that saves most within a budget of damage.
#
# A treated live model still computes every head: it shows what a plan **costs**. What it **saves** is notebook 4.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import pandas as pd
import torch

import headspec as hs

model = hs.load_model("demo")  # a TransformerBridge, for the hooks
profile = hs.probe_heads(model, hs.load_text(model, "probe"), engine="fast", progress=False)
head_map = hs.classify_heads(profile)
text = hs.load_text(model, "select", n_tokens=2048)

numbers = profile.to_frame().set_index("head")
first, second = numbers.previous_token_score.nlargest(2).index
copier = numbers.induction_score.idxmax()
print(f"previous-token heads {first} and {second}; an induction head {copier}")

# %% [markdown]
# ## A plan by hand
#
# A plan says what happens to which head; all others are kept. `mean` removes a head (the mean of its z takes its place),
# `window:3` leaves it its last 3 keys and the first 4.

# %%
plan = hs.plan_heads(profile, {first: "mean", second: "window:3"})
plan

# %% [markdown]
# ## Carry it out, and undo it
#
# Inside `with` the plan is in force, for everything the model does: forward passes, KV cache, `generate()`. After it, also
# after an error, the model is as before.

# %%
tokens = text.tokens[:1]
with torch.no_grad():
    before = model(tokens)
    with hs.apply_plan(model, plan):
        treated = model(tokens)
    after = model(tokens)
print("inside, the logits move by up to", f"{(treated - before).abs().max():.1f}")
print("afterwards they are the same again:", torch.equal(before, after))

# %% [markdown]
# The hooks are ordinary TransformerLens hooks (`hs.plan_hooks(model, plan)` gives the list), and yours go on working beside
# them. So a pattern view inside `with` shows what a treated head sees.
#
# *What to look at:* under a window of 8 the induction head loses its line far from the diagonal, and what is left of its
# attention goes to the last keys and the first four.

# %%
sentence = "The keeper trimmed the lamp, and the pilot saw it. The keeper trimmed the lamp, and the pilot"
with hs.apply_plan(model, hs.plan_heads(profile, {copier: "window:8"})):
    view = hs.show.attention(model, sentence, heads=[copier])
view

# %% [markdown]
# ## What does it cost?
#
# `measure_plan` compares the treated model with the original, window by window: KL (the one to look at first), perplexity,
# and induction accuracy on repeated random tokens, each with a 95 % interval. The previous-token head under several
# treatments:

# %%
rows = {}
for what in ("zero", "mean", "random", "window:3", "window:3+0"):
    report = hs.measure_plan(model, hs.plan_heads(profile, {first: what}), text, n_repeats=4, n_needles=0)
    rows[what] = {
        "KL": report.kl,
        "perplexity increase": report.perplexity_increase,
        "induction accuracy": report.induction_accuracy,
    }
print("the original's induction accuracy:", report.induction_accuracy_original)
pd.DataFrame(rows).T

# %% [markdown]
# This head matters: without it the model cannot copy any more. But it needs three keys only, with the first keys of the text
# or without (`+0`).
#
# ## Zero, mean, random, resampled
#
# "Removed" can mean several things. `zero` also takes away what the head writes always; `mean` leaves that; `random` is a
# fixed vector of the usual length; and **resampling** draws what the head gathered at other places of another text: a control
# that keeps the head's usual output, at the wrong moment. For a head that is dead, none of these should matter much.


# %%
def kl(treatment):
    """From the original to the treated model, nats a token."""
    with torch.no_grad():
        original = model(tokens).log_softmax(-1)
        with treatment:
            treated = model(tokens).log_softmax(-1)
    return float((original.exp() * (original - treated)).sum(-1).mean())


other = hs.load_text(model, "probe", n_tokens=2048)
weakest = max(head_map.heads("dead"), key=lambda head: head_map[head].margin)
rows = {}
for head in (first, copier, str(weakest)):
    ways = {what: hs.apply_plan(model, hs.plan_heads(profile, {head: what})) for what in ("zero", "mean", "random")}
    ways["resampled"] = hs.resample_heads(model, [head], other)
    rows[f"{head} ({head_map[head].role})"] = {name: kl(way) for name, way in ways.items()}
pd.DataFrame(rows).T.round(4)

# %% [markdown]
# ## Every head alone
#
# A sweep measures many plans and computes once what they share. One cell a head; the menus choose treatment and measure.
#
# *What to look at:* compare the two treatments (in Jupyter by the menu). Heads that are dear to remove but cheap to window
# are positional.

# %%
treatments = ["mean", "window:8"]
sweep = hs.sweep(model, hs.single_cases(profile, treatments), text, progress=False)
hs.show.sweep(sweep, head_map=head_map)

# %% [markdown]
# The reverse exists too. A head whose window is too small for it does not write less but something else, and that can be
# worse than its mean. So a window is no gentle kind of removal: it suits a head or it does not.

# %%
exact = sweep.to_frame().set_index("heads")
removal, window = (exact[exact.treatment == treatment].kl for treatment in treatments)
worse = removal.index[window > removal]
print("a window of 8 costs more than removal for", ", ".join(f"{head} ({head_map[head].role})" for head in worse))

# %% [markdown]
# With `out="folder"` every finished row is on the disk, and a sweep that was killed goes on where it was; `engine="ray"`
# shares the cases among machines. See `docs/treating.md`.
#
# ## Gradients as a forecast
#
# A pass for every head is too much for a large model. `attribute_heads` forecasts the KL of any treatment of every head from
# one forward and a few backward passes (the Fisher form: to second order, without trying anything).
#
# *What to look at:* dots on the grey line are forecast exactly. Small effects are; large ones turn out larger than forecast.

# %%
forecast = hs.attribute_heads(model, text, profile, treatments)
figure, axes = plt.subplots(figsize=(5, 4.5))
for treatment, color in zip(treatments, ("#332288", "#CC6677"), strict=True):
    found = exact[exact.treatment == treatment].kl
    foretold = forecast.to_frame().set_index("head").query("treatment == @treatment").fisher[found.index]
    axes.loglog(
        found,
        foretold,
        "o",
        color=color,
        alpha=0.7,
        label=f"{treatment}, Spearman {found.corr(foretold, method='spearman'):.2f}",
    )
axes.plot([1e-6, 1], [1e-6, 1], color="grey", lw=0.8)
axes.set(xlabel="exact KL, nats a token", ylabel="forecast KL", title="One dot a head")
axes.legend()
plt.show()

# %% [markdown]
# ## More and more heads
#
# Now heads together: the first 2, 4, 8, … of a ranking, removed at once. Four rankings: by the gradients' forecast, by what a
# head writes (output spread), by uniform attention ("near-uniform is dead"), and by lot.
#
# *What to look at:* a good ranking stays low for long. At the right end all meet: then all heads are gone.

# %%
rankings = {
    "gradients": forecast.ranking("mean"),
    "output spread": numbers.output_spread.sort_values().index,
    "uniformity": numbers.normalized_entropy.sort_values(ascending=False).index,
    "lot": numbers.sample(frac=1, random_state=0).index,
}
curves = [
    case
    for name, heads in rankings.items()
    for case in hs.curve_cases(profile, list(heads), "mean", name, [2, 4, 8, 12, 16, 32])
]
curve_table = hs.sweep(model, curves, text, n_repeats=0, progress=False)
hs.show.sweep(curve_table)

# %% [markdown]
# Effects do not add up: heads stand in for each other. The first eight heads of the best ranking:

# %%
eight = [str(head) for head in rankings["gradients"][:8]]
alone = removal[eight].sum()
together = curve_table.to_frame().set_index("case").kl["mean by gradients, 8 heads"]
print(f"KL of each alone, added up: {alone:.4f}; of all together: {together:.4f}")

# %% [markdown]
# ## Is the choice of heads worth anything?
#
# Compare with **controls**: random plans with the same treatments in the same layers. If they do as well, the choice was for
# nothing. Here for the plan that the head map suggests:

# %%
from headspec.search.cases import Case

chosen = Case("plan", "by the head map", hs.make_plan(head_map, profile, candidates=True))
table = hs.sweep(model, [chosen, *hs.control_cases(chosen, profile, 6)], text, n_repeats=0, progress=False).to_frame()
print({treatment: count for treatment, count in chosen.plan.counts().items() if treatment != "keep"})
print(f"the plan: KL {table.kl[0]:.4f}; six random plans: {', '.join(f'{kl:.3f}' for kl in sorted(table.kl[1:]))}")

# %% [markdown]
# ## The best plan within a budget
#
# `search_plan` does all of this: it orders all moves by their forecast damage, measures whole plans, tries further moves one
# by one, and in the end judges the plan on **fresh text** that chose nothing: its certificate. The budget: at most 3 % more
# perplexity, at the bad end of the interval, and nine tenths of the induction accuracy kept. (More text allows more:
# intervals get narrower. For real work leave the sizes at their defaults.)

# %%
found = hs.search_plan(
    model, hs.Budget(max_ppl_increase=0.03), profile=profile, select=text,
    certify_on=hs.load_text(model, "certify", n_tokens=2048), n_repeats=4, n_controls=5, seeds=(0,), max_evaluations=16,
)  # fmt: skip
found.plan

# %% [markdown]
# *What to look at:* every dot is a plan that was measured; the line joins those that no other beats. The star was chosen; the
# crosses are random plans of the same make: the distance between them and the star is what choosing is worth.

# %%
hs.show.pareto(found)

# %%
fresh = found.certificate["quality"]
print(f"KV bytes left: {found.chosen.kv_share:.0%}; attention weights removed: {found.chosen.removed_share:.0%}")
print(f"KL on the text it was chosen on: {found.chosen.kl}")
print(
    f"KL on fresh text:                {fresh['kl']['value']:.4f}, perplexity {fresh['perplexity_increase']['value']:+.1%}"
)
print(f"limits broken on fresh text:     {', '.join(found.certificate['broken']) or 'none'}")
print(f"random plans that do worse:      {found.certificate['random_plans']['share_worse']:.0%}")

# %% [markdown]
# A limit that held on the text where the plan was chosen can break on fresh text, and with as little text as here it easily
# does. That is what a certificate is for: it says so. The remedy is more text to choose on, or a budget with room.
#
# The search also settles what the statistics could not: dead *candidates* become confirmed or rejected, and induction heads
# are protected.

# %%
for status in ("confirmed", "rejected", "protected"):
    print(
        f"{status:10}", ", ".join(str(verdict.head) for verdict in found.head_map if verdict.status == status) or "none"
    )

# %% [markdown]
# `found.plan.save("plan.json")` keeps the plan with its certificate; `headspec search demo` does the same in a shell.
#
# **Next:** [4_export_and_benchmark](4_export_and_benchmark.ipynb) cuts the heads out for good, and looks at what that saves.
