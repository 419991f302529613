"""What a record says about its origin, and where its heads are."""

import json
from dataclasses import replace
from typing import Any

import pytest
from transformer_lens.model_bridge import TransformerBridge

from headspec.errors import HeadspecError, RecordError
from headspec.heads import HeadId
from headspec.probe.about import ProbeAbout
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile

ABOUT = ProbeAbout(
    model="pythia-70m", n_layers=6, n_heads=8, d_head=64, d_model=512, context=2048, layers=(0, 2, 4), text="probe",
    text_digest="0" * 64, n_windows=4, window=2048, segment=256, versions=(("torch", "2.6"),),
)  # fmt: skip


def test_cells_of_some_layers_count_the_probed_ones() -> None:
    assert ABOUT.cell("L0H0") == (0, 0)
    assert ABOUT.cell(HeadId(4, 7)) == (2, 7)


def test_heads_come_in_the_order_of_the_grids() -> None:
    heads = ABOUT.heads()
    assert len(heads) == 24
    assert [ABOUT.cell(head) for head in heads] == [(row, column) for row in range(3) for column in range(8)]


def test_a_layer_that_was_not_probed_is_refused() -> None:
    with pytest.raises(RecordError, match=r"layer 1 was not probed: .*pythia-70m has layers \(0, 2, 4\)"):
        ABOUT.cell("L1H0")


def test_a_head_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(RecordError, match=r"unknown head L0H8: pythia-70m has heads 0–7"):
        ABOUT.cell("L0H8")


def test_what_is_no_head_at_all_is_refused() -> None:
    with pytest.raises(HeadspecError, match="'head three' is not a head"):
        ABOUT.cell("head three")


def test_json_brings_back_what_it_was_given() -> None:
    assert ProbeAbout.from_dict(json.loads(json.dumps(ABOUT.to_dict()))) == ABOUT


@pytest.mark.parametrize("other", [("pythia-160m", 12, 12), ("pythia-70m", 6, 4), ("pythia-70m", 5, 8)])
def test_a_record_of_another_model_is_refused_naming_both(other: tuple[str, int, int]) -> None:
    name, n_layers, n_heads = other
    with pytest.raises(
        RecordError, match=rf"pythia-70m \(6 layers × 8 heads\), not for {name} \({n_layers} × {n_heads}"
    ):
        ABOUT.check_model(*other)


def test_a_record_of_the_same_model_is_accepted() -> None:
    ABOUT.check_model("pythia-70m", 6, 8)


def test_random_weights_are_known_by_name() -> None:
    assert replace(ABOUT, model="random:pythia-70m").random_weights
    assert not ABOUT.random_weights


def test_tokens_are_counted_over_all_windows() -> None:
    assert ABOUT.n_tokens == 8192


def test_the_probe_records_the_sizes_of_the_model(tiny_profile: HeadProfile) -> None:
    about = tiny_profile.about
    sizes = (about.n_layers, about.n_heads, about.d_head, about.d_model, about.context, about.layers)
    assert sizes == (2, 4, 8, 32, 128, (0, 1))
    assert (about.model, about.dtype, about.device) == ("planted", "float32", "cpu")


def test_the_probe_records_its_settings(tiny: TransformerBridge) -> None:
    settings: dict[str, Any] = {"segment": 24, "first_query": 20, "n_sinks": 2, "n_repeats": 3, "seed": 5}
    import torch

    about = probe_heads(tiny, torch.arange(50), progress=False, **settings).about
    assert {name: getattr(about, name) for name in settings} == settings


def test_the_probe_records_the_versions_that_made_the_numbers(tiny_profile: HeadProfile) -> None:
    versions = dict(tiny_profile.about.versions)
    assert {"python", "headspec", "torch", "transformers", "transformer-lens", "numpy"} == versions.keys()
    assert "not installed" not in versions.values()
