"""SnapKV (Li et al. 2024) for every head, and with AdaKV's shared budgets (Feng et al. 2024)."""

from headspec.measure.systems.baseline import Baseline, compressed

SNAPKV = Baseline("SnapKV", "every head keeps the keys that the last 32 queries of the prompt attend to",
                  compressed("snapkv"))  # fmt: skip
ADA_SNAPKV = Baseline("Ada-SnapKV", "SnapKV, with one budget for the heads of a layer (AdaKV)",
                      compressed("snapkv", ":adakv"))  # fmt: skip
