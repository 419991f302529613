"""What `probe_heads` takes and refuses, and that it leaves the model as it was."""

from typing import Any

import numpy as np
import pytest
import torch
from accounts import random_ids
from comparing import difference
from tiny_models import CONTEXT, VOCABULARY, bridge_of, tiny_neox
from transformer_lens.model_bridge import TransformerBridge
from watching import hook_count, interrupted, logits

from headspec.errors import HeadspecError, ModelError, TextError
from headspec.load.model import load_model
from headspec.load.text import TokenWindows, load_text, tokenize
from headspec.probe.collect import analyze_attention_heads, probe_heads
from headspec.probe.reader import LayerReader

IDS = random_ids(1, 60)[0]


def test_no_hook_stays_and_no_logit_changes(tiny: TransformerBridge) -> None:
    before, hooks = logits(tiny, IDS[None]), hook_count(tiny)
    probe_heads(tiny, IDS, segment=16, layers=[0], progress=False)
    probe_heads(tiny, IDS, segment=16, progress=False)
    assert hook_count(tiny) == hooks
    torch.testing.assert_close(logits(tiny, IDS[None]), before, rtol=0, atol=0)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_no_hook_stays_when_the_probe_is_interrupted(tiny: TransformerBridge, call: int) -> None:
    before, hooks = logits(tiny, IDS[None]), hook_count(tiny)
    with interrupted(call):
        probe_heads(tiny, IDS, segment=16, progress=False)
    assert hook_count(tiny) == hooks
    torch.testing.assert_close(logits(tiny, IDS[None]), before, rtol=0, atol=0)


def test_no_parameter_changes_or_gathers_gradients(tiny: TransformerBridge) -> None:
    before = {name: parameter.clone() for name, parameter in tiny.named_parameters()}
    probe_heads(tiny, IDS, progress=False)
    for name, parameter in tiny.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None, name


def test_hooks_of_the_user_stay_and_are_obeyed() -> None:
    model = bridge_of(tiny_neox(0))
    model.add_hook("blocks.1.attn.hook_z", lambda z, hook: torch.zeros_like(z))
    logits(model, IDS[None])
    hooks = hook_count(model)
    profile = probe_heads(model, IDS, progress=False)
    assert hook_count(model) == hooks
    assert profile["output_norm"][1].max() == 0
    assert profile["output_norm"][0].min() > 0


def test_the_random_number_generator_of_the_user_is_left_alone(tiny: TransformerBridge) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    probe_heads(tiny, IDS, progress=False)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_one_sequence_of_ids_is_one_window(tiny: TransformerBridge, dtype: torch.dtype) -> None:
    about = probe_heads(tiny, IDS.to(dtype), progress=False).about
    assert (about.n_windows, about.window, about.n_tokens) == (1, 60, 60)


def test_rows_of_ids_are_windows(tiny: TransformerBridge) -> None:
    about = probe_heads(tiny, random_ids(3, 20), progress=False).about
    assert (about.n_windows, about.window) == (3, 20)


def test_token_windows_say_where_they_come_from(tiny: TransformerBridge) -> None:
    windows = TokenWindows(random_ids(2, 30), "a book")
    profile = probe_heads(tiny, windows, progress=False)
    assert (profile.about.text, profile.about.text_digest) == ("a book", windows.digest)
    assert difference(profile, probe_heads(tiny, windows.tokens, progress=False)) == 0


def test_text_is_the_same_as_its_token_ids(demo: TransformerBridge) -> None:
    text = "The miller took the long way home, and his dog went after him through the snow. " * 3
    profile = probe_heads(demo, text, progress=False)
    assert difference(profile, probe_heads(demo, tokenize(demo, text), progress=False)) == 0


@pytest.mark.parametrize(
    ("n_tokens", "n_windows", "window"),
    [(CONTEXT - 1, 1, CONTEXT - 1), (CONTEXT, 1, CONTEXT), (CONTEXT + 1, 1, CONTEXT), (2 * CONTEXT + 9, 2, CONTEXT)],
)
def test_a_sequence_beyond_the_context_is_cut_into_windows(
    tiny: TransformerBridge, n_tokens: int, n_windows: int, window: int
) -> None:
    ids = random_ids(1, n_tokens)[0]
    profile = probe_heads(tiny, ids, progress=False)
    assert (profile.about.n_windows, profile.about.window) == (n_windows, window)
    rows = ids[: n_windows * window].view(n_windows, window)
    assert difference(profile, probe_heads(tiny, rows, progress=False)) == 0


def test_windows_beyond_the_context_are_refused(tiny: TransformerBridge) -> None:
    with pytest.raises(TextError, match=f"{CONTEXT + 1} tokens.*context of {CONTEXT}"):
        probe_heads(tiny, random_ids(2, CONTEXT + 1), progress=False)


@pytest.mark.parametrize("first_query", [4, 16, 40])
def test_one_query_that_counts_is_enough_and_none_is_refused(tiny: TransformerBridge, first_query: int) -> None:
    profile = probe_heads(tiny, IDS[: first_query + 1], first_query=first_query, progress=False)
    assert np.isfinite(list(profile.grids.values())).all()
    with pytest.raises(TextError, match=f"{first_query} tokens; {first_query + 1} or more"):
        probe_heads(tiny, IDS[:first_query], first_query=first_query, progress=False)


def test_two_tokens_are_enough_when_the_second_counts(tiny: TransformerBridge) -> None:
    profile = probe_heads(tiny, IDS[:2], first_query=1, progress=False)
    assert np.isfinite(profile["attention_entropy"]).all()


def test_no_windows_at_all_are_refused(tiny: TransformerBridge) -> None:
    with pytest.raises(TextError):
        probe_heads(tiny, IDS.view(1, 60)[:0], progress=False)


def test_an_empty_text_is_refused(demo: TransformerBridge) -> None:
    with pytest.raises(TextError, match="0 tokens; 17"):
        probe_heads(demo, "", progress=False)


@pytest.mark.parametrize(("shift", "range_"), [(VOCABULARY, "272 to"), (-VOCABULARY, "to -1")])
def test_ids_beyond_the_vocabulary_are_refused(tiny: TransformerBridge, shift: int, range_: str) -> None:
    ids = torch.arange(VOCABULARY)[: CONTEXT if shift > 0 else None][-CONTEXT:] + shift
    with pytest.raises(TextError, match=f"{range_}.*knows 0–271"):
        probe_heads(tiny, ids, progress=False)


def test_text_for_a_model_without_tokenizer_is_refused(tiny: TransformerBridge) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        probe_heads(tiny, "Once upon a time there was a miller who had three sons.", progress=False)


@pytest.mark.parametrize("layers", [[2], [-1], [0, 5], []])
def test_layers_out_of_range_are_refused(tiny: TransformerBridge, layers: list[int]) -> None:
    with pytest.raises(ModelError, match="this model has layers 0–1"):
        probe_heads(tiny, IDS, layers=layers, progress=False)


def test_every_zeroth_layer_is_refused(tiny: TransformerBridge) -> None:
    with pytest.raises(ModelError, match="every=0"):
        probe_heads(tiny, IDS, every=0, progress=False)


@pytest.mark.parametrize(
    "setting", [{"segment": 0}, {"segment": -1}, {"batch_size": 0}, {"n_repeats": -1}, {"n_sinks": -1}], ids=str
)
def test_settings_that_make_no_sense_are_refused_by_name(tiny: TransformerBridge, setting: dict[str, Any]) -> None:
    with pytest.raises(HeadspecError, match=next(iter(setting))):
        probe_heads(tiny, IDS, progress=False, **setting)


def test_a_negative_first_query_is_refused(tiny: TransformerBridge) -> None:
    with pytest.raises(HeadspecError, match="first_query"):
        probe_heads(tiny, IDS, first_query=-1, progress=False)


def test_a_model_that_is_no_bridge_is_refused_by_its_type() -> None:
    with pytest.raises(ModelError, match="GPTNeoXForCausalLM is not a TransformerBridge"):
        probe_heads(tiny_neox(0), IDS, progress=False)


def test_a_layer_that_shows_no_pattern_is_refused(tiny: TransformerBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LayerReader, "on_pattern", lambda self, pattern, hook=None: None)
    with pytest.raises(ModelError, match="layer 0 fired no hook_pattern"):
        probe_heads(tiny, IDS, progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_numbers_are_not_finite_is_refused_by_its_heads(value: float) -> None:
    broken = tiny_neox(0)
    with torch.no_grad():
        broken.gpt_neox.layers[1].attention.query_key_value.bias[-1] = value  # the last value of the last head
    with pytest.raises(ModelError, match=r"planted gives NaN or infinity in .*L1H3"):
        probe_heads(bridge_of(broken), IDS, progress=False)


def test_without_progress_nothing_is_printed(tiny: TransformerBridge, capfd: pytest.CaptureFixture[str]) -> None:
    probe_heads(tiny, IDS, progress=False)
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_standard_error_only(tiny: TransformerBridge, capfd: pytest.CaptureFixture[str]) -> None:
    probe_heads(tiny, IDS, progress=True)
    assert capfd.readouterr().out == ""


def test_it_also_answers_to_the_name_many_will_look_for() -> None:
    assert analyze_attention_heads is probe_heads


def test_compatibility_mode_changes_no_attention_and_no_deviation(demo: TransformerBridge) -> None:
    folded = load_model("demo", device="cpu")
    folded.enable_compatibility_mode()
    windows = load_text(demo, "probe", n_tokens=512)
    plain, other = (probe_heads(model, windows, progress=False) for model in (demo, folded))
    names = ("attention_entropy", "max_attention", "sink_attention_ratio", "previous_token_score", "induction_score")
    assert difference(plain, other, tuple(f"grids.{name}" for name in names)) <= 1e-5
    assert difference(plain, other, ("grids.output_spread", "grids.repeat_deviation")) <= 1e-3


def test_half_precision_is_probed_and_recorded(demo: TransformerBridge) -> None:
    half = load_model("demo", device="cpu", dtype="bfloat16")
    windows = load_text(demo, "probe", n_tokens=512)
    profile = probe_heads(half, windows, progress=False)
    assert profile.about.dtype == "bfloat16"
    assert difference(probe_heads(demo, windows, progress=False), profile, ("grids.normalized_entropy",)) < 5e-3
