"""Expected attention (Devoto et al. 2025) for every head, and with AdaKV's shared budgets (Feng et al. 2024)."""

from headspec.measure.systems.baseline import Baseline, compressed

EXPECTED_ATTENTION = Baseline(
    "expected attention", "every head keeps the keys that queries to come should attend to, as a probe of text knows",
    compressed("expected_attention"), needs_queries=True,
)  # fmt: skip
ADA_EXPECTED_ATTENTION = Baseline(
    "Ada-expected attention", "expected attention, with one budget for the heads of a layer (AdaKV)",
    compressed("expected_attention", ":adakv"), needs_queries=True,
)  # fmt: skip
