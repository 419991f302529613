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
# # 2 · Which cut-offs are good ones?
#
# In notebook 1 every head got a role, and roles rest on cut-offs: *dead* is a head whose output varies by less than so much.
# Who says that this is the right number, or the right cut-off?
#
# A cut-off is good if the heads on its one side can be treated at little cost and those on the other cannot. So this notebook
# treats **every head alone**, measures exactly what that costs, and asks which number could have told in advance.
#
# One small model: it shows how to find out. Do the same for yours.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import pandas as pd

import headspec as hs
from headspec.show.style import ROLE_COLORS

model = hs.load_plain("demo")  # no hooks are needed here, and without them it is quicker
profile = hs.probe_heads(model, hs.load_text(model, "probe"), engine="fast", progress=False)
head_map = hs.classify_heads(profile)
select = hs.load_text(model, "select", n_tokens=2048)  # not the text that was probed
print({str(role): count for role, count in head_map.counts().items()})

# %% [markdown]
# ## The truth: every head treated alone
#
# Two treatments. `mean` removes a head: the mean of what it gathers takes its place. `window:8` lets it see its last 8 keys
# and the first 4 (the sinks), no more. What it costs is the **KL** from the original model's predictions to those of the
# treated one, in nats a token: on text, and once more on random tokens that repeat (`repeats_kl`).
#
# *What to look at:* costs range over a factor of more than a hundred (colours are logarithmic). In Jupyter a menu has the
# other measures.

# %%
sweep = hs.sweep(model, hs.single_cases(profile, ["mean", "window:8"]), select, progress=False)
hs.show.sweep(sweep, "mean", head_map)

# %% [markdown]
# The KL on repeated tokens tells another story. Here are both side by side: the heads that seem cheapest to remove on text,
# and what removing them costs where tokens repeat.

# %%
exact = sweep.to_frame().set_index("heads")
removal, window = exact[exact.treatment == "mean"], exact[exact.treatment == "window:8"]
cheapest = removal.sort_values("kl").head(10)
cheapest.assign(role=[str(head_map[head].role) for head in cheapest.index])[
    ["role", "kl", "repeats_kl", "induction_accuracy"]
].round(4)

# %% [markdown]
# **Text alone misleads.** Heads that do induction, or help with it, look idle on prose. That is why headspec probes with
# repeated tokens too, and why no cut-off on text alone can be a good one.
#
# ## Which number foretells the cost?
#
# Rank correlation (Spearman) over all heads between a number from the probe and the exact cost: 1 or −1 would be a perfect
# forecast of the order, 0 is none. Among 32 heads chance alone reaches .35 once in twenty.

# %%
from headspec.search.evidence import predictors

correlations = predictors(sweep, profile)
correlations.pivot(index="predictor", columns="treatment", values=["kl", "repeats_kl"]).round(2)

# %% [markdown]
# The same as bars.
#
# *What to look at:* for removal the longest bars on text are those of what a head **writes** (output spread, relative output
# norm), and on repeats the deviation on repeats. For windows it is where the attention falls (mass in window + sinks).
# Entropy stands behind these, and points in opposite directions for the two treatments.

# %%
hs.show.prediction(correlations, ["mean", "window:8"], "What foretells the cost of treating one head?")

# %% [markdown]
# ## Why low entropy, or high, misleads
#
# The textbook says that a head which looks everywhere alike does nothing. Each dot is a head, coloured by its role.
#
# *What to look at:* the right end. Some of the most uniform heads are as cheap as can be; one is among the most expensive.


# %%
def dots(axes, x, y, annotate):
    """One dot a head, by role; some with their name."""
    for role, color in ROLE_COLORS.items():
        heads = [str(head) for head in head_map.heads(role)]
        axes.scatter(x[heads], y[heads], color=color, edgecolor="#444444", lw=0.5, label=str(role))
    line = {"arrowstyle": "-", "lw": 0.6, "color": "#444444"}
    for head, place in zip(annotate, ((14, -16), (14, 10), (-40, 10), (-40, -16), (-6, 18), (-6, -22)), strict=False):
        axes.annotate(head, (x[head], y[head]), xytext=place, textcoords="offset points", fontsize=8, arrowprops=line)
    axes.set_yscale("log")
    axes.grid(alpha=0.2)


numbers = profile.to_frame().set_index("head")
uniform = list(numbers.normalized_entropy.nlargest(6).index)
figure, axes = plt.subplots(figsize=(6, 4))
dots(axes, numbers.normalized_entropy, removal.kl, uniform)
axes.set(
    xlim=(-0.05, 1.05),
    xlabel="normalised entropy",
    ylabel="KL when the head is removed, nats a token",
    title="Near-uniform is not dead",
)
axes.legend()
plt.show()

# %% [markdown]
# So remove six heads at once, chosen in three ways, and measure the three plans as a whole:

# %%
by_output = list(numbers.output_spread.nsmallest(6).index)
on_both = list(numbers[["output_spread", "repeat_deviation"]].max(axis=1).nsmallest(6).index)
choices = {"most uniform": uniform, "weakest output on text": by_output, "weakest output on text and repeats": on_both}
rows = {}
for name, heads in choices.items():
    plan = hs.plan_heads(profile, dict.fromkeys(heads, "mean"))
    report = hs.measure_plan(model, plan, select, n_repeats=4, n_needles=0)
    rows[name] = {"heads": " ".join(sorted(heads)), "KL": round(report.kl.value, 4), "perplexity": f"{report.perplexity_increase.value:+.1%}",
                  "loss on repeats": f"{report.repeats_loss_increase.value:+.2f}", "induction accuracy": round(report.induction_accuracy.value, 2)}  # fmt: skip
print(f"the original's induction accuracy: {report.induction_accuracy_original.value:.2f}")
pd.DataFrame(rows).T

# %% [markdown]
# Low entropy is no better a sign of *positional*. A head that rests on the first token of the text has the lowest entropy of
# all, and needs no window but that token; many induction heads rest there between uses. The demo model has no such head, so
# this model cannot show it: real Pythias are full of them (notebook 6). headspec asks instead where the attention falls that
# is *not* on the first keys.
#
# ## Where the default cut-offs lie
#
# All of them, with their source: `docs/statistics.md`. Three of them against what they are there to foretell; the dashed line
# is the default.
#
# *What to look at:* left of the first two lines and right of the third should be cheap heads only. Look for dots on the wrong
# side, and for lines that run through a crowd (the three nearest heads have their names): there a little noise turns the
# role.

# %%
from headspec.classify.evidence import judged_windows

cut = hs.Thresholds()
[held] = judged_windows(profile, (8,))
mass = pd.Series(held.mass.ravel(), index=numbers.index)
figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for axes, x, y, line, title, words in (
    (panels[0], numbers.output_spread, removal.kl, cut.dead_spread, "dead_spread", "output spread on text"),
    (panels[1], numbers.repeat_deviation, removal.repeats_kl, cut.dead_repeat_deviation, "dead_repeat_deviation", "deviation on repeats"),
    (panels[2], mass, window.kl, cut.windowed_mass, "windowed_mass", "attention in the last 8 keys + sinks"),
):  # fmt: skip
    dots(axes, x, y, (x - line).abs().nsmallest(3).index)
    axes.axvline(line, color="#444444", ls="--", lw=1)
    axes.set(xlabel=words, title=f"{title} = {line}")
panels[0].set_ylabel("KL of removal, text")
panels[1].set_ylabel("KL of removal, repeats")
panels[2].set_ylabel("KL of window:8, text")
panels[0].legend()
plt.show()

# %% [markdown]
# ## Move a cut-off
#
# Cut-offs are plain values: `hs.classify_heads(profile, hs.Thresholds(dead_spread=0.05))`. The probe is not run again. Which
# heads change their role?


# %%
def moved(**values):
    """What changes against the default map."""
    other = hs.classify_heads(profile, hs.Thresholds(**values))
    changes = [
        f"{new.head} {old.role} → {new.role}" for old, new in zip(head_map, other, strict=True) if old.role != new.role
    ]
    counts = {str(role): other.counts()[role] for role in ROLE_COLORS}
    return {**values, **counts, "changes": ", ".join(changes) or "none"}


pd.set_option("display.max_colwidth", None)
pd.DataFrame([moved(dead_spread=value) for value in (0.05, 0.07, 0.09, 0.12)])

# %%
pd.DataFrame([moved(windowed_mass=value) for value in (0.6, 0.7, 0.8, 0.9)])

# %% [markdown]
# A head is dead only if *three* numbers say so (spread, spread of the liveliest windows, deviation on repeats), so one
# cut-off alone moves less than one might think.
#
# ## What a setting costs
#
# A map is a plan: windows for positional heads, removal for dead ones. `grid_cases` makes the plan of every setting and the
# sweep measures it, so that a cut-off can be chosen by what it costs and what it saves.
#
# *What to look at:* a point is a setting; left is small, low is harmless. Settings further up and to the right than another
# are not worth having.

# %%
settings = [
    hs.Thresholds(dead_spread=spread, windowed_mass=mass) for spread in (0.05, 0.09) for mass in (0.6, 0.7, 0.8, 0.9)
]
grid = hs.sweep(model, hs.grid_cases(profile, settings), select, progress=False)
hs.show.sweep(grid)

# %%
grid.to_frame()[["case", "n_heads", "kv_share", "kl", "repeats_kl", "induction_accuracy"]].round(4)

# %% [markdown]
# ## The candidates together
#
# One last trap: effects of single heads do not add up, since heads stand in for each other. Here are the dead candidates one
# by one, added up, and removed together.

# %%
dead = [str(head) for head in head_map.heads("dead")]
everyone = hs.plan_heads(profile, dict.fromkeys(dead, "mean"))
report = hs.measure_plan(model, everyone, select, n_repeats=4, n_needles=0)
print(removal.loc[dead, ["kl", "repeats_kl"]].round(4).to_string())
print(f"added up:  text {removal.kl[dead].sum():.4f}, repeats {removal.repeats_kl[dead].sum():.4f}")
print(f"together:  text {report.kl.value:.4f}, repeats {report.repeats_kl.value:.4f}")

# %% [markdown]
# That is why *dead* is called a candidate. Who of them is it that hurts? Leave out one at a time; the lower the rest comes,
# the more it is this head's doing.

# %%
from headspec.search.cases import Case

cases = [Case("without one", f"without {head}", everyone.without([head])) for head in dead]
hs.sweep(model, cases, select, progress=False).to_frame()[["case", "kl", "repeats_kl", "induction_accuracy"]].round(4)

# %% [markdown]
# `hs.search_plan` (notebook 3) goes through this by itself: it removes only what keeps a budget of damage *together with the
# rest*, and only such heads count as *confirmed*.
#
# ## Other texts, the same roles?
#
# A cut-off that holds for one text only is none. Here are probes of other texts and of fewer tokens, against the map from
# above. Do the heads that change have a small margin?

# %%
for source, n_tokens in (("certify", 8192), ("certify", 2048), ("certify", 1024), ("probe", 1024)):
    windows = hs.load_text(model, source, n_tokens=n_tokens)
    other = hs.classify_heads(hs.probe_heads(model, windows, engine="fast", progress=False))
    pairs = zip(head_map, other, strict=True)
    changes = [
        f"{old.head} {old.role} → {new.role} (margin {old.margin:.3f})" for old, new in pairs if old.role != new.role
    ]
    print(
        f"{n_tokens} tokens of {source}: {head_map.agreement(other):.0%} of the roles agree; {', '.join(changes) or 'no changes'}"
    )
print("median margin of all heads:", round(pd.Series([verdict.margin for verdict in head_map]).median(), 2))

# %% [markdown]
# As much of another text gives the same roles. With two windows of text (1,024 tokens) a head that is needed only now and
# then may look dead: **probe with more text before you believe in a dead head**.
#
# Not all that change have a small margin. L3H3 does (.009), and is the first to turn. L3H2 turns with a margin of .109, and
# L3H5 with .389, more than most heads have (median .23). **A small margin is a warning, a large one no promise**: it says how
# far the deciding number is from its cut-off, not how much that number varies with the text.

# %% [markdown]
# **To take along**
#
# - Look at what a head writes before you call it dead, and at where its attention falls before you give it a window.
# - Look at repeated tokens as well as at text.
# - Choose cut-offs by the cost of whole plans, on text that was not probed.
# - Take a verdict with a small margin as the toss of a coin, and one with a large margin as good for the text that was probed.
#
# **Next:** [3_ablate_and_sweep](3_ablate_and_sweep.ipynb) leaves the rules behind and searches for the best plan itself.
