"""Notebook 6 without weights, and with weights at hand: tiny ones in the layouts in which Pythia lies on disk."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from nbformat import NotebookNode
from notebook_runs import quickly, read_notebook, run_notebook, shown
from tiny_models import save_neox_hub_layout, tiny_neox

from headspec.load.model import load_model

NAME = "6_published_facts"
QUICKLY = {
    "N_SEQUENCES = 2000": "N_SEQUENCES = 24",
    "selectivity(demo, n=200)": "selectivity(demo, n=24)",
    'hs.load_text(model, "probe")': 'hs.load_text(model, "probe", n_tokens=512)',
}
"""What is changed where only the way through the notebook is tested: no measurement there says anything."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tools() -> dict[str, Any]:
    """The names that the notebook's first cells define, up to `selectivity`."""
    names: dict[str, Any] = {}
    for cell in read_notebook(NAME).cells:
        if cell.cell_type == "code":
            exec(cell.source.replace("%matplotlib inline", ""), names)
            if "selectivity" in names:
                return names
    raise AssertionError("no cell defines selectivity")


@pytest.fixture(scope="module")
def skipped(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook where no weights are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HEADSPEC_PYTHIA", raising=False)
        patch.setenv("HF_HUB_CACHE", str(tmp_path_factory.mktemp("empty")))
        return run_notebook(read_notebook(NAME), tmp_path_factory.mktemp("skipped"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook with four models at hand: a folder of the right shape, one in the hub's cache, one of another shape,
    and one without weights."""
    own, cache = tmp_path_factory.mktemp("pythia"), tmp_path_factory.mktemp("cache")
    save_neox_hub_layout(own / "pythia-160m", n_layers=12, n_heads=12, d_model=96, context=256)
    save_neox_hub_layout(own / "pythia-410m", context=256)
    save_neox_hub_layout(own / "pythia-1b")
    (own / "pythia-1b" / "model.safetensors").unlink()
    in_cache = cache / "models--EleutherAI--pythia-70m-deduped"
    save_neox_hub_layout(in_cache / "snapshots" / COMMIT, n_layers=6, n_heads=8, d_model=64, context=256)
    (in_cache / "refs").mkdir()
    (in_cache / "refs" / "main").write_text(COMMIT)
    notebook = quickly(NAME, QUICKLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSPEC_PYTHIA", str(own))
        patch.setenv("HF_HUB_CACHE", str(cache))
        return run_notebook(notebook, tmp_path_factory.mktemp("measured"))


# How it measures.


def test_a_and_b_occur_where_they_are_planted_and_nowhere_else(tools: dict[str, Any]) -> None:
    tokens, places = tools["sequences"](range(300), 50, 64)
    for row, place in zip(tokens.tolist(), places.tolist(), strict=True):
        a, b = row[place], row[place + 1]
        assert [i for i, token in enumerate(row) if token == a] == [place, 63]
        assert row.count(b) == 1
        assert min(row) >= 100


def test_selectivity_is_that_of_patterns_read_one_by_one(tools: dict[str, Any], tmp_path: Path) -> None:
    model = load_model(str(save_neox_hub_layout(tmp_path / "tiny")), device="cpu")
    found = tools["selectivity"](model, 10, batch=3)
    reference = tiny_neox()
    reference.load_state_dict({name: tensor.half().float() for name, tensor in reference.state_dict().items()})
    assert list(found.index[:5]) == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]
    np.testing.assert_allclose(found[list(tools["CLASSES"])], naive(reference, tools, 10), rtol=1e-4)


def naive(model: Any, tools: dict[str, Any], n: int) -> np.ndarray:
    """`[head, class]`, sequence by sequence from transformers' own patterns."""
    tokens, places = tools["sequences"](range(2, 258), n, 128)
    others = np.random.default_rng(0).integers(1, 122, 50)
    rows = []
    for row, place in zip(tokens, places.tolist(), strict=True):
        with torch.no_grad():
            patterns = model(row[None], output_attentions=True).attentions
        last = torch.cat([pattern[0, :, -1] for pattern in patterns]).double()
        local = last[:, [122, 123, 124, 125]].mean(1)
        rows.append([last[:, place + 1], last[:, place], last[:, 126], last[:, 0], last[:, 127], local,
                     last[:, others].mean(1)])  # fmt: skip
    mean = np.array([[each.numpy() for each in row] for row in rows]).mean(0)
    return (mean[:-1] / mean[-1]).T


# Without weights.


def test_every_model_that_is_not_there_is_skipped_with_how_to_get_it(skipped: NotebookNode) -> None:
    for name in ("pythia-70m-deduped", "pythia-160m", "pythia-410m", "pythia-1b"):
        assert f'{name} is skipped, as its weights are not here: hs.load_model("{name}")' in shown(skipped)


def test_without_weights_it_says_that_nothing_is_about_pythia(skipped: NotebookNode) -> None:
    assert "nothing below is about Pythia" in shown(skipped)


def test_what_ablation_knows_of_the_demo_model_is_found_again(skipped: NotebookNode) -> None:
    table = facts_in(skipped)
    assert len(table) == 7
    assert set(table.agree) == {"yes"}


# With weights at hand: random ones, which can confirm nothing.


def test_models_are_taken_from_the_folder_and_from_the_cache_of_the_hub(measured: NotebookNode) -> None:
    assert "measured: pythia-70m-deduped, pythia-160m, pythia-410m\n" in shown(measured)


def test_a_folder_without_weights_is_skipped_with_the_reason(measured: NotebookNode) -> None:
    assert re.search("pythia-1b is skipped: .* has a config.json but no weights", shown(measured))


def test_weights_of_another_shape_are_measured_but_not_compared(measured: NotebookNode) -> None:
    assert "pythia-410m: these weights have 2 × 4 heads, and pythia-410m has 24 × 16" in shown(measured)
    assert "pythia-410m" not in set(facts_in(measured, "model").model)


def test_random_weights_of_the_right_shape_do_not_agree_with_the_facts(measured: NotebookNode) -> None:
    table = facts_in(measured, "model")
    told = table[(table.model == "pythia-160m") & ~table.fact.str.contains("needed")]
    assert list(told.agree) == ["no"] * 4
    assert told.here.iloc[0] == "0"


def test_the_table_of_dead_heads_covers_every_model_with_candidates(measured: NotebookNode) -> None:
    assert "demo" in set(tables_of(measured)[-1].model)


def facts_in(notebook: NotebookNode, first: str = "fact") -> pd.DataFrame:
    """The table of checked facts whose first column is this one."""
    [table] = [found for found in tables_of(notebook) if "agree" in found and found.columns[0] == first]
    return table


def tables_of(notebook: NotebookNode) -> list[pd.DataFrame]:
    """Every DataFrame that was shown, as text, without the running number in front."""
    return [
        table_of(output.data["text/html"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "<table" in output.get("data", {}).get("text/html", "")
    ]


def table_of(page: str) -> pd.DataFrame:
    """The cells of a table as pandas writes it."""
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", page, re.S)]
    body = [row for row in rows if any(row)]
    if len(body[1]) and not any(body[1][1:]):  # the name of the index stands in a row of its own
        body = [[body[1][0], *body[0][1:]], *body[2:]]
    frame = pd.DataFrame(body[1:], columns=body[0])
    return frame.drop(columns="") if "" in frame.columns else frame


def test_tables_are_read_back_as_they_were_shown() -> None:
    frame = pd.DataFrame({"fact": ["a", "b"], "agree": ["yes", "no"]})
    assert json.loads(table_of(frame.to_html()).to_json()) == json.loads(frame.to_json())
    indexed = frame.set_index("fact")
    assert list(table_of(indexed.to_html()).columns) == ["fact", "agree"]
