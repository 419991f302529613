"""Exported models in a process that has no headspec: they load, compute what the plan says, and save again."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from export_makers import (
    GREEDY,
    MIXED,
    hooked,
    hooked_greedy,
    in_fresh_process,
    loads_registered,
    plan_of,
    random_ids,
    same,
)
from tiny_models import save_neox_hub_layout, tiny_neox
from transformers import GPTNeoXForCausalLM

from headspec.export.export import export_model
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan

BARE = MIXED | {f"L0H{head}": "mean" for head in range(4)}
EVERYTHING = {f"L{layer}H{head}": "mean" for layer in range(2) for head in range(4)}
KINDS = ("hub", "half", "sequential", "bare", "headless", "no bias", "tied", "shards", "demo", "again", "registered")
TRUSTED = {"trust_remote_code": True}


class Case(NamedTuple):
    """An exported model, its original and its plan."""

    folder: Path
    original: PlainModel
    plan: HeadPlan

    @property
    def tokens(self) -> torch.Tensor:
        return random_ids(vocabulary=self.original.huggingface.config.vocab_size)


def configured(**settings: Any) -> PlainModel:
    config = tiny_neox().config
    config.update(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return PlainModel(GPTNeoXForCausalLM(config).eval(), "tiny")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    place = tmp_path_factory.mktemp("exports")
    hub = str(save_neox_hub_layout(place / "original", 6))
    sources: dict[str, tuple[Any, dict[str, str], dict[str, Any]]] = {
        "hub": (hub, MIXED, {}),
        "half": (hub, MIXED, {"dtype": "float16"}),
        "sequential": (PlainModel(tiny_neox(1, parallel=False, rotary_share=1.0), "tiny"), MIXED, {}),
        "bare": (PlainModel(tiny_neox(2), "tiny"), BARE, {}),
        "headless": (PlainModel(tiny_neox(2), "tiny"), EVERYTHING, {}),
        "no bias": (configured(attention_bias=False), MIXED, {}),
        "tied": (configured(tie_word_embeddings=True), MIXED, {}),
        "shards": (PlainModel(tiny_neox(4), "tiny"), MIXED, {}),
        "demo": ("demo", {"L0H1": "mean", "L1H0": "window:8", "L3H7": "window:16+1", "L2H2": "zero"}, {}),
    }
    found = {}
    for name, (source, wish, options) in sources.items():
        model = load_plain(source, device="cpu") if isinstance(source, str) else source
        plan = plan_of(model, wish)
        with pytest.MonkeyPatch.context() as patch:
            if name == "shards":
                patch.setattr("headspec.export.export.SHARD", "20KB")
            export_model(source, plan, place / name, **options)
        found[name] = Case(place / name, model, plan)
    return found


@pytest.fixture(scope="module")
def fresh(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What fresh processes find in each folder: `again` and `registered` are copies that loaded models have saved."""
    place = tmp_path_factory.mktemp("fresh")
    jobs = [
        {"folder": case.folder, "tokens": case.tokens.tolist(), "greedy": GREEDY, "options": TRUSTED}
        for case in cases.values()
    ]
    jobs[0]["save_to"] = place / "again"
    jobs.append({**jobs[0], "options": {}})
    first = in_fresh_process(jobs, place / "1")
    found = dict(zip([*cases, "not trusted"], first, strict=True))
    loads_registered(cases["hub"].folder).save_pretrained(place / "registered")
    for name in ("again", "registered"):
        cases[name] = cases["hub"]._replace(folder=place / name)
    more = [{**jobs[0], "folder": place / name} for name in ("again", "registered")]
    more[0]["save_to"], more[1]["save_to"] = place / "third", place / "fourth"
    return found | dict(zip(("again", "registered"), in_fresh_process(more, place / "2"), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_without_headspec_with_the_code_of_its_folder(fresh: Any, kind: str) -> None:
    assert "error" not in fresh[kind], fresh[kind]["error"]
    assert fresh[kind]["class"] == "PrunedGPTNeoXForCausalLM"
    assert fresh[kind]["module"].startswith("transformers_modules.")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "half"])
def test_logits_are_those_of_the_hooked_original(fresh: Any, cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    same(fresh[kind]["logits"], hooked(case.original, case.plan, case.tokens))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "half"])
def test_greedy_tokens_are_those_of_the_hooked_original(fresh: Any, cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    assert fresh[kind]["greedy"] == hooked_greedy(case.original, case.plan, case.tokens)


def test_half_precision_is_rounded_but_the_same_model(fresh: Any, cases: dict[str, Case]) -> None:
    case = cases["half"]
    assert fresh["half"]["dtype"] == "torch.float16"
    same(fresh["half"]["logits"], hooked(case.original, case.plan, case.tokens), 0.05)


def test_it_is_float32_unless_asked_otherwise(fresh: Any) -> None:
    assert fresh["hub"]["dtype"] == "torch.float32"


def test_the_tokenizer_comes_along(fresh: Any, cases: dict[str, Case]) -> None:
    for kind in ("hub", "demo"):
        assert fresh[kind]["words"] == cases[kind].original.tokenizer("a word")["input_ids"]


def test_without_trust_the_code_of_the_folder_does_not_run(fresh: Any) -> None:
    assert "trust_remote_code" in fresh["not trusted"]["error"]


@pytest.mark.parametrize("kind", ["again", "registered"])
def test_saved_again_it_has_the_same_code(fresh: Any, cases: dict[str, Case], kind: str) -> None:
    def code(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.glob("*.py")}

    assert code(cases[kind].folder) == code(cases["hub"].folder)


@pytest.mark.parametrize("kind", ["again", "registered"])
def test_saved_again_it_has_the_same_configuration(fresh: Any, cases: dict[str, Case], kind: str) -> None:
    first, second = (json.loads((cases[name].folder / "config.json").read_text()) for name in ("hub", kind))
    assert second == first


def test_large_models_are_written_in_several_files(cases: dict[str, Case]) -> None:
    assert len(list(cases["shards"].folder.glob("model-*-of-*.safetensors"))) > 2
    assert (cases["shards"].folder / "model.safetensors.index.json").is_file()
