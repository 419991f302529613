"""The budget of a search in words: what it allowed, and whether the chosen plan keeps it."""

from collections.abc import Mapping
from typing import Any

LIMITS = {"max_kl": "KL up to {:g} nats a token", "max_ppl_increase": "perplexity up to {:+.3g} %",
          "max_kv_share": "at most {:.3g} % of the KV bytes"}  # fmt: skip
IN_PERCENT = ("max_ppl_increase", "max_kv_share")


def limits_words(certificate: Mapping[str, Any]) -> str:
    """The limits of the budget of a certificate; empty where it does not tell.

    >>> limits_words({"budget": {"max_kl": None, "max_ppl_increase": 0.02, "min_induction_kept": 0.9}})
    'perplexity up to +2 %, induction kept 90 % or more'
    """
    budget = certificate.get("budget") or {}
    limits = {name: budget[name] for name in LIMITS if budget.get(name) is not None}
    words = [LIMITS[name].format(100 * limit if name in IN_PERCENT else limit) for name, limit in limits.items()]
    if limits.keys() - {"max_kv_share"} and budget.get("min_induction_kept"):
        words.append(f"induction kept {100 * budget['min_induction_kept']:.3g} % or more")
    return ", ".join(words)


def budget_words(certificate: Mapping[str, Any], within_budget: bool = True) -> str:
    """Limits, and whether they hold on the text that chose the plan and on fresh text; empty if nothing is known.

    >>> budget_words({"budget": {"max_kl": 0.1}, "broken": []})
    'Budget: KL up to 0.1 nats a token; kept'
    >>> budget_words({"broken": ["KL up to 0.3 > 0.1"]}, within_budget=False)
    'OVER BUDGET: no plan within it was found, this is the nearest; on fresh text it breaks: KL up to 0.3 > 0.1'
    """
    limits, broken = limits_words(certificate), [str(word) for word in certificate.get("broken") or []]
    verdict = [] if within_budget else ["no plan within it was found, this is the nearest"]
    verdict += [f"on fresh text it breaks: {', '.join(broken)}"] if broken else []
    if verdict:
        return f"OVER BUDGET{f' ({limits})' if limits else ''}: {'; '.join(verdict)}"
    return f"Budget: {limits}; kept" if limits else ""
