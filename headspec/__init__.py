"""headspec: what every attention head of a Pythia model does, and what may be done about it.

The public names, imported when first used: `import headspec` costs nothing, `headspec.load_model` imports torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "HeadId": "headspec.heads",
    "HeadRole": "headspec.heads",
    "HeadspecError": "headspec.errors",
    "load_model": "headspec.load.model",
    "load_plain": "headspec.load.model",
    "load_text": "headspec.load.text",
    "TokenWindows": "headspec.load.text",
    "probe_heads": "headspec.probe.collect",
    "analyze_attention_heads": "headspec.probe.collect",
    "HeadProfile": "headspec.probe.profile",
    "classify_heads": "headspec.classify.rules",
    "cluster_heads": "headspec.classify.clustering",
    "HeadClusters": "headspec.classify.clusters",
    "Thresholds": "headspec.classify.thresholds",
    "HeadMap": "headspec.classify.head_map",
    "HeadPlan": "headspec.plan.plan",
    "make_plan": "headspec.plan.make",
    "plan_heads": "headspec.plan.make",
    "DeadHeadPruner": "headspec.plan.optimizers",
    "Workload": "headspec.plan.workload",
    "PositionalHeadOptimizer": "headspec.plan.optimizers",
    "apply_plan": "headspec.intervene.ablate",
    "plan_hooks": "headspec.intervene.ablate",
    "resample_heads": "headspec.intervene.resample",
    "measure_quality": "headspec.measure.quality",
    "measure_plan": "headspec.measure.quality",
    "QualityReport": "headspec.measure.quality",
    "score": "headspec.measure.score",
    "BenchmarkReport": "headspec.measure.report",
    "sweep": "headspec.search.sweep",
    "single_cases": "headspec.search.cases",
    "curve_cases": "headspec.search.cases",
    "grid_cases": "headspec.search.cases",
    "control_cases": "headspec.search.cases",
    "SweepTable": "headspec.search.table",
    "attribute_heads": "headspec.search.attribution",
    "HeadImportance": "headspec.search.importance",
    "search_plan": "headspec.search.search_plan",
    "Budget": "headspec.search.budget",
    "export_model": "headspec.export.export",
    "pruned_model": "headspec.export.surgery",
    "register": "headspec.load.pruned",
    "analyze": "headspec.pipeline",
    "report": "headspec.results",
    "run_chain": "headspec.chain",
    "SearchRecord": "headspec.search.record",
    "PatternSample": "headspec.probe.sample",
    "sample_patterns": "headspec.probe.patterns",
    "AdaptivePolicy": "headspec.runtime.adaptive",
    "LiveRecord": "headspec.runtime.record",
    "runtime_model": "headspec.generation.model",
    "live_generate": "headspec.intervene.live",
    "benchmark": "headspec.comparison",
    "Lineup": "headspec.comparison",
    "show": "headspec.show",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"headspec has no {name!r}: there are {', '.join(__all__)}.")
    module = import_module(_HOMES[name])
    return module if name == "show" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
