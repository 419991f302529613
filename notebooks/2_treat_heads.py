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
# # Treat heads, and measure what it costs
#
# Which heads can be removed, which need only a window, and what does it cost? On the packaged demo model, without network.
# A treated live model is not faster: this shows the cost in quality.

# %%
# %matplotlib inline
import headspec as hs

model = hs.load_plain("demo")  # hs.load_model gives a TransformerBridge with hooks; a plain model is quicker
profile = hs.probe_heads(model, hs.load_text(model, "probe"), engine="fast", progress=False)
text = hs.load_text(model, "select", n_tokens=4096)

# %% [markdown]
# ## A plan by hand
#
# L1H7 and L1H4 look at the previous token. A window of 3 keys does for both; removing one does not.

# %%
windows = hs.plan_heads(profile, {"L1H7": "window:3", "L1H4": "window:3"})
removed = hs.plan_heads(profile, {"L1H7": "mean"})
for plan in (windows, removed):
    report = hs.measure_plan(model, plan, text)
    print(dict(plan.counts()))
    print("  KL", report.kl, "| perplexity", report.perplexity_increase, "| induction", report.induction_accuracy)

# %% [markdown]
# ## Every head alone
#
# A sweep measures exactly; gradients forecast the same numbers from one forward and a few backward passes.

# %%
treatments = ["mean", "window:8"]
exact = hs.sweep(model, hs.single_cases(profile, treatments), text, progress=False).to_frame()
forecast = hs.attribute_heads(model, text, profile, treatments)
exact.sort_values("kl")[["case", "kl", "repeats_kl", "induction_accuracy"]].tail(6)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(5, 4.5))
for treatment in treatments:
    rows = exact[exact.treatment == treatment]
    axes.loglog(rows.kl, forecast.grid("fisher", treatment).ravel(), "o", label=treatment, alpha=0.7)
axes.plot([1e-6, 1], [1e-6, 1], color="grey", lw=0.8)
axes.set(xlabel="exact KL, nats a token", ylabel="Fisher forecast", title="One dot a head")
axes.legend()  # fmt: skip

# %% [markdown]
# ## The best plan within a budget
#
# Two per cent of perplexity at the bad end of the interval, and nine tenths of the induction accuracy kept. More text would
# allow more: intervals get narrower.

# %%
found = hs.search_plan(
    model, hs.Budget(max_ppl_increase=0.02), profile=profile, select=text,
    certify_on=hs.load_text(model, "certify", n_tokens=4096), n_controls=8, seeds=(0,), max_evaluations=30,
)  # fmt: skip
print(dict(found.plan.counts()))
print("KV bytes left:", f"{found.chosen.kv_share:.0%}", "| KL on the text it was chosen on:", found.chosen.kl)
print("on fresh text:", found.certificate["quality"]["kl"])
print("random plans of the same make, median KL:", found.certificate["random_plans"]["kl_median"])

# %%
hs.show.pareto(found)

# %% [markdown]
# `found.plan.save("plan.json")` keeps the plan with its certificate; `found.head_map` has the removed heads *confirmed* and the
# induction heads *protected*.
