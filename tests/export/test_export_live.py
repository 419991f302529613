"""An exported checkpoint treats heads live where headspec is not installed, with what its folder knows of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_makers import FRESH, VOCABULARY, loads_registered, plan_of
from tiny_models import save_neox_hub_layout

from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict
from headspec.classify.thresholds import Thresholds
from headspec.export.export import export_model
from headspec.load.model import load_plain
from headspec.plan.plan import HeadPlan
from headspec.probe.about import ProbeAbout
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.record import LiveRecord

POLICY: dict[str, Any] = {
    "every": 8, "reclassify": 16, "observed": 24, "first_query": 4, "policy": "snapkv",
    "thresholds": {"windowed_mass": 0.5, "windowed_share": 0.3, "windows": [3, 8, 16], "dead_spread": 5.0,
                   "dead_spread_p95": 5.0},
}  # fmt: skip
NEW = 40
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "pad_token_id": 0,
    "eos_token_id": 10**6,
}
TOKENS = torch.randint(2, VOCABULARY, (2, 48), generator=torch.Generator().manual_seed(3))
MIXED = {"L0H0": "mean", "L0H2": "window:5+2", "L1H1": "compress:snapkv:0.5"}
PROTECTED, REJECTED, UNKNOWN = "L1H0", "L0H3", "L1H2"
WORK = """
import json, sys
from pathlib import Path
sys.path.insert(0, {place!r})
import fresh_process
sys.meta_path.insert(0, fresh_process.NoHeadspec())
import torch
from transformers import AutoModelForCausalLM
found = []
for job in json.loads(Path("jobs.json").read_text()):
    model = AutoModelForCausalLM.from_pretrained(job["folder"], trust_remote_code=True)
    tokens = torch.tensor(job["tokens"])
    cache = model.make_cache(job["policy"])
    out = model.generate(tokens, past_key_values=cache, attention_mask=torch.ones_like(tokens), **job["greedy"])
    record = cache.record()
    path = record.save(Path(f"{{len(found)}}.json").absolute())
    found.append({{"tokens": out.tolist(), "record": str(path), "module": type(cache.policy).__module__}})
assert not any(name.split(".")[0] == "headspec" for name in sys.modules)
Path("results.json").write_text(json.dumps(found))
"""


def map_of(plan: HeadPlan) -> HeadMap:
    """A map in which one head does induction, one was refused by a search, and one was not measured on repeats."""
    about = plan.about
    known = ProbeAbout(
        model=about.model, n_layers=about.n_layers, n_heads=about.n_heads, d_head=about.d_head, d_model=about.d_model,
        context=about.context, layers=tuple(range(about.n_layers)), text="t", text_digest="d", n_windows=1, window=32,
        segment=32,
    )  # fmt: skip
    verdicts = []
    for head in about.heads:
        numbers = {
            "induction_score": 0.5 if str(head) == PROTECTED else 0.0,
            "repeat_deviation": None if str(head) == UNKNOWN else 0.0,
        }
        values = {
            "head": str(head), "role": "gathering", "margin": 1.0, "window": None, "traits": [], "evidence": numbers,
            "status": HeadStatus.REJECTED if str(head) == REJECTED else None, "reason": "",
        }  # fmt: skip
        verdicts.append(HeadVerdict.from_dict(values))
    return HeadMap(known, Thresholds(), "default", tuple(verdicts))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("live")
    source = str(save_neox_hub_layout(place / "source", 6))
    found = {}
    for name, wish, known in (("mapped", {}, True), ("unmapped", {}, False), ("pruned", MIXED, True)):
        plan = plan_of(load_plain(source, device="cpu"), wish)
        found[name] = place / name
        export_model(source, plan, found[name], head_map=map_of(plan) if known else None)
    return found


@pytest.fixture(scope="module")
def fresh(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a process without headspec generates from each folder."""
    place = tmp_path_factory.mktemp("fresh")
    jobs = [
        {"folder": str(folder), "tokens": TOKENS.tolist(), "greedy": GREEDY, "policy": POLICY}
        for folder in folders.values()
    ]
    (place / "jobs.json").write_text(json.dumps(jobs))
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(place=str(FRESH.parent))], cwd=place, capture_output=True, text=True,
        check=False, env={**surroundings, "HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1",
                          "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((place / "results.json").read_text())
    return {
        name: {**result, "record": LiveRecord.load(result["record"])}
        for name, result in zip(folders, results, strict=True)
    }


def here(folder: Path) -> tuple[list[list[int]], LiveRecord]:
    """The same with headspec's own code."""
    model = loads_registered(folder)
    cache = model.make_cache(AdaptivePolicy(**POLICY))
    found = model.generate(TOKENS, past_key_values=cache, attention_mask=torch.ones_like(TOKENS), **GREEDY)
    return found.tolist(), cache.record()


@pytest.mark.parametrize("name", ["mapped", "unmapped", "pruned"])
def test_without_headspec_the_same_is_decided_and_generated(fresh: Any, folders: dict[str, Path], name: str) -> None:
    tokens, record = here(folders[name])
    assert fresh[name]["module"].startswith("transformers_modules.")
    assert fresh[name]["tokens"] == tokens
    assert fresh[name]["record"] == record


def test_heads_die_by_the_map_of_the_folder(fresh: Any) -> None:
    roles = {f"L{layer}H{head}": change.role for (layer, head), change in fresh["mapped"]["record"].at(10**6).items()}
    assert len(roles) == 8
    assert {head for head, role in roles.items() if role != "dead"} == {PROTECTED, REJECTED, UNKNOWN}


def test_without_a_map_no_head_is_called_dead(fresh: Any) -> None:
    record = fresh["unmapped"]["record"]
    assert record.heads() == [(layer, head) for layer in range(2) for head in range(4)]
    assert "dead" not in record.counts()


def test_of_a_pruned_checkpoint_the_rest_is_watched(fresh: Any) -> None:
    names = {f"L{layer}H{head}" for layer, head in fresh["pruned"]["record"].heads()}
    assert names == {f"L{layer}H{head}" for layer in range(2) for head in range(4)} - set(MIXED)
    assert fresh["pruned"]["record"].counts()["dead"] == 2


def test_the_record_names_the_original_model(fresh: Any, folders: dict[str, Path]) -> None:
    origin = json.loads((folders["mapped"] / "config.json").read_text())["headspec"]["model"]
    assert fresh["mapped"]["record"].model == origin


def test_facts_stand_in_the_configuration(folders: dict[str, Path]) -> None:
    mapped, unmapped = (json.loads((folders[name] / "config.json").read_text()) for name in ("mapped", "unmapped"))
    assert mapped["head_facts"]["protected"] == [[3], [0]]
    assert mapped["head_facts"]["induction"] == [[0.0] * 4, [0.5, 0.0, 0.0, 0.0]]
    assert mapped["head_facts"]["repeat_deviation"] == [[0.0] * 4, [0.0, 0.0, None, 0.0]]
    assert unmapped.get("head_facts") is None
