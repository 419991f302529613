"""The model card of an export: front matter, licence, heads, damage, how to load it."""

from pathlib import Path
from typing import Any

import pytest
from export_makers import MIXED, plan_of
from huggingface_hub import ModelCard
from tiny_models import save_neox_hub_layout, tiny_neox

from headspec.export.card import license_of, model_card
from headspec.export.export import export_model
from headspec.load.names import ModelName, Origin, resolve
from headspec.load.plain import PlainModel
from headspec.plan.plan import HeadPlan


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 8, "unit": "windows"}


QUALITY = {
    "model": "tiny", "text": "packaged certify.txt", "n_tokens": 8192,
    "kl": estimate(0.01234, 0.01, 0.0151), "perplexity": estimate(25.5, 25.1, 26.0),
    "perplexity_original": estimate(25.0, 24.6, 25.4), "perplexity_increase": estimate(0.0199, 0.015, 0.025),
    "repeats_kl": estimate(0.05, 0.04, 0.06), "induction_accuracy": estimate(0.81, 0.8, 0.82),
    "induction_accuracy_original": estimate(0.9, 0.89, 0.91),
}  # fmt: skip
CERTIFICATE = {
    "budget": {"max_kl": 0.1}, "broken": [], "heads_removed": 3, "heads_windowed": 2, "kv_share": 0.5, "kv_bytes": 10,
    "full_kv_bytes": 20, "n_tokens": 128, "removed_share": 0.375, "quality": QUALITY, "seeds": [],
    "random_plans": {"n": 20, "kl": [0.5] * 20, "perplexity_increase": [1.0] * 20, "kl_median": 0.5, "share_worse": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def plan() -> HeadPlan:
    return plan_of(PlainModel(tiny_neox(), "tiny"), MIXED | {"L1H0": "window:8"})


def card(plan: HeadPlan, source: ModelName | None = None, twin: bool = False) -> str:
    return model_card(plan, source, twin, [] if twin else ["configuration.py", "modeling.py"])


def parsed(text: str, folder: Path) -> Any:
    (folder / "README.md").write_text(text)
    return ModelCard.load(folder / "README.md").data


@pytest.mark.parametrize("twin", [False, True])
def test_front_matter_is_read_by_the_hub(plan: HeadPlan, tmp_path: Path, twin: bool) -> None:
    data = parsed(card(plan, twin=twin), tmp_path)
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "unknown")
    assert {"headspec", "pruned"} <= set(data.tags)


def test_an_export_has_a_card_that_is_read(tmp_path: Path) -> None:
    model = PlainModel(tiny_neox(), "tiny")
    export_model(model, plan_of(model), tmp_path / "o")
    assert ModelCard.load(tmp_path / "o/README.md").data.license == "unknown"


def test_a_model_of_the_hub_is_named_as_base(plan: HeadPlan, tmp_path: Path) -> None:
    text = card(plan.renamed("pythia-70m"), resolve("pythia-70m"))
    assert parsed(text, tmp_path).base_model == "EleutherAI/pythia-70m"
    assert "https://huggingface.co/EleutherAI/pythia-70m" in text


@pytest.mark.parametrize("name", ["pythia-70m", "pythia-1b-deduped", "pythia-70m@step1000", "EleutherAI/pythia-14m"])
def test_pythia_is_apache(name: str) -> None:
    assert license_of(resolve(name)) == "apache-2.0"


@pytest.mark.parametrize("name", ["somebody/pythia-like", "EleutherAI/gpt-neox-20b", "random:pythia-14m"])
def test_other_licences_are_unknown(name: str) -> None:
    assert license_of(resolve(name)) == "unknown"


def test_a_model_in_memory_has_an_unknown_licence() -> None:
    assert license_of(None) == "unknown"


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: cc-by-4.0\n---\n# A model\n", "cc-by-4.0"),
        ("---\ntags: [a]\n---\n# A model\n", "unknown"),
        ("# A model without front matter\n", "unknown"),
        ("", "unknown"),
        ("---\nlicense: [mit\n---\n# Broken YAML\n", "unknown"),
        ("---\n- a list\n---\n", "unknown"),
        ("---\nlicense: mit\nmodel-index: 3\n---\n", "unknown"),
        (b"---\nlicense: mit\n---\n\xff\xfe\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_licence_is_that_of_the_directory(tmp_path: Path, readme: str | bytes | None, licence: str) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_bytes(readme if isinstance(readme, bytes) else readme.encode())
    assert license_of(ModelName(str(tmp_path), Origin.DIRECTORY, str(tmp_path))) == licence


def test_the_licence_of_the_directory_is_in_the_card(tmp_path: Path) -> None:
    source = save_neox_hub_layout(tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    export_model(str(source), plan_of(PlainModel(tiny_neox(), str(source))), tmp_path / "o")
    assert ModelCard.load(tmp_path / "o/README.md").data.license == "cc-by-4.0"
    assert "licence: cc-by-4.0, for these weights too" in (tmp_path / "o/README.md").read_text()


def test_the_demo_is_mit() -> None:
    assert license_of(resolve("demo")) == "mit"


# Heads


def test_each_layer_has_a_row_of_heads(plan: HeadPlan) -> None:
    text = card(plan)
    assert "| 0 | H0 (mean) | H2 (window:5+2), H3 (window:3) | H1 |" in text
    assert "| 1 | H1 (zero), H3 (random) | H0 (window:8) | H2 |" in text


def test_the_summary_counts_heads(plan: HeadPlan) -> None:
    text = card(plan)
    assert "3 of 8 attention heads are removed" in text
    assert "keep no more than those: 3" in text
    assert "(37.5% of the attention weights)" in text


def test_one_head_is_singular(plan: HeadPlan) -> None:
    text = card(plan.only(["L0H0", "L0H3"]))
    assert "1 heads" not in text


def test_a_twin_says_that_it_has_no_windows(plan: HeadPlan) -> None:
    text = card(plan, twin=True)
    assert "The plan also gives a window to some (" in text
    assert "this dense twin cannot" in text
    assert "| windowed in the plan, whole here |" in text
    assert "not faster" in text


def test_a_twin_without_windows_says_nothing_of_them(plan: HeadPlan) -> None:
    assert "this dense twin cannot" not in card(plan.only(["L0H0"]), twin=True)


# What it costs


def test_without_a_certificate_nothing_was_measured(plan: HeadPlan) -> None:
    assert "Not measured: the plan has no certificate. `headspec search` writes one." in card(plan)


@pytest.mark.parametrize(
    "row",
    [
        "| KL to the original, nats/token | 0.0123 [0.0100, 0.0151] |",
        "| perplexity | 25.50 [25.10, 26.00], original 25.00 [24.60, 25.40] |",
        "| change in perplexity | +1.99% [+1.50%, +2.50%] |",
        "| KL on repeated tokens, nats/token | 0.0500 [0.0400, 0.0600] |",
        "| induction accuracy | 0.810 [0.800, 0.820], original 0.900 [0.890, 0.910] |",
        "On packaged certify.txt, with 95 % intervals",
        "20 plans with the same treatments on random heads of the same layers have a median KL of 0.5000",
    ],
)
def test_a_certificate_is_shown(plan: HeadPlan, row: str) -> None:
    assert row in card(plan.certified(CERTIFICATE))


@pytest.mark.parametrize("missing", ["induction_accuracy", "induction_accuracy_original", "repeats_kl"])
def test_what_was_not_measured_is_left_out(plan: HeadPlan, missing: str) -> None:
    text = card(plan.certified({**CERTIFICATE, "quality": {**QUALITY, missing: None}}))
    assert "None" not in text
    assert "| KL to the original, nats/token | 0.0123" in text


def test_without_random_plans_there_is_no_comparison(plan: HeadPlan) -> None:
    text = card(plan.certified({**CERTIFICATE, "random_plans": {"n": 0, "kl": [], "kl_median": None}}))
    assert "For comparison" not in text


def test_an_estimate_without_interval_is_shown_alone(plan: HeadPlan) -> None:
    text = card(plan.certified({"quality": {"text": "t", "kl": {"value": 0.5, "low": None, "high": None}}}))
    assert "| KL to the original, nats/token | 0.5000 |" in text


@pytest.mark.parametrize("certificate", [{"quality": None}, {"quality": "good"}, {"note": "by hand"}, {}])
def test_a_certificate_of_another_make_does_no_harm(plan: HeadPlan, certificate: dict[str, Any]) -> None:
    assert "Not measured" in card(plan.certified(certificate))


def test_the_dense_twin_of_a_plan_with_windows_does_not_boast_of_the_plans_damage(plan: HeadPlan) -> None:
    text = card(plan.certified(CERTIFICATE), twin=True)
    damage = text.split("## What it costs")[1].split("## Heads")[0]
    assert "window" in damage


# Loading


def test_trust_is_asked_for_where_code_runs(plan: HeadPlan) -> None:
    text = card(plan)
    assert 'from_pretrained("FOLDER", trust_remote_code=True)' in text
    assert "configuration.py, modeling.py" in text


def test_a_twin_needs_no_trust(plan: HeadPlan) -> None:
    text = card(plan, twin=True)
    assert 'from_pretrained("FOLDER")' in text
    assert "trust_remote_code" not in text


@pytest.mark.parametrize("twin", [False, True])
def test_random_weights_are_said_to_be(plan: HeadPlan, twin: bool) -> None:
    assert "**RANDOM WEIGHTS**" in card(plan.renamed("random:pythia-14m"), resolve("random:pythia-14m"), twin)
    assert "RANDOM WEIGHTS" not in card(plan, twin=twin)


def test_a_twin_does_not_speak_of_code(plan: HeadPlan) -> None:
    assert "Python files" not in card(plan, twin=True)
