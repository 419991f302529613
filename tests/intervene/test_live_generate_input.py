"""What live treatment by hooks takes, refuses, and leaves as it was."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from plan_references import installed, random_ids, sliding_mistral
from tiny_models import CONTEXT, VOCABULARY, bridge_of, tiny_llama, tiny_neox
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import OPTConfig, OPTForCausalLM

import headspec
from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.errors import HeadspecError, ModelError, RecordError, TextError
from headspec.intervene.live import live_generate
from headspec.load.model import load_model
from headspec.load.plain import PlainModel
from headspec.probe.collect import probe_heads
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.configuration import HeadGroup

IDS = random_ids(2, 90)


class Windows(AdaptivePolicy):
    """A short window for every head."""

    def treatments(self, layer: int, n_read: int, verdicts: Any, now: Any) -> list[HeadGroup | None]:
        return [HeadGroup((), 3, 1)] * len(now)


@torch.no_grad()
def read_once(bridge: TransformerBridge) -> TransformerBridge:
    """TransformerLens puts hooks of its own on the norms when a bridge is first called."""
    bridge(IDS[:, :5])
    return bridge


@pytest.fixture(scope="module")
def bridge() -> TransformerBridge:
    """Without a tokenizer."""
    model = tiny_neox(3)
    model.generation_config.eos_token_id = None
    return read_once(bridge_of(model))


@pytest.fixture(scope="module")
def reading(neox_folder: object) -> TransformerBridge:
    """With one token for each byte."""
    return load_model(str(neox_folder), device="cpu")


@pytest.fixture(scope="module")
def head_map(bridge: TransformerBridge) -> HeadMap:
    return classify_heads(probe_heads(bridge, IDS, n_repeats=0, progress=False))


@pytest.fixture(autouse=True)
def _left_as_it_was(bridge: TransformerBridge) -> Iterator[None]:
    before = installed(bridge)
    yield
    assert installed(bridge) == before


# What is given back.


def test_ids_go_on_without_a_tokenizer(bridge: TransformerBridge) -> None:
    found = live_generate(bridge, IDS, max_new_tokens=4)
    assert found.tokens.shape == (2, 94)
    assert torch.equal(found.tokens[:, :90], IDS)
    assert (found.n_prompt, found.texts, found.text) == (90, (), None)


@pytest.mark.parametrize("ids", [IDS[0], IDS[:1], IDS[0].tolist(), IDS[:1].numpy()])
def test_one_row_may_come_in_any_form(bridge: TransformerBridge, ids: Any) -> None:
    expected = live_generate(bridge, IDS, max_new_tokens=3).tokens[:1]
    assert torch.equal(live_generate(bridge, ids, max_new_tokens=3).tokens, expected)


def test_a_text_is_read_and_written_by_the_tokenizer(reading: TransformerBridge) -> None:
    found = live_generate(reading, "The quick brown fox", max_new_tokens=5)
    assert found.n_prompt == 19
    assert found.text is not None
    assert found.text.startswith("The quick brown fox")
    assert found.text == found.texts[0] == reading.tokenizer.decode(found.tokens[0])


def test_no_token_is_drawn_after_the_end_of_every_row() -> None:
    free = live_generate(_ending(None), IDS, max_new_tokens=12).tokens[:, 90:]
    end = int(free[0, 2])
    rows = [row[: row.index(end) + 1] if end in row else row for row in free.tolist()]
    longest = max(len(row) for row in rows)
    expected = [row + [end] * (longest - len(row)) for row in rows]
    assert live_generate(_ending(end), IDS, max_new_tokens=12).tokens[:, 90:].tolist() == expected
    assert live_generate(_ending(end), IDS[:1], max_new_tokens=12).tokens.shape[1] <= 93


def _ending(end: int | None) -> TransformerBridge:
    model = tiny_neox(3)
    model.generation_config.eos_token_id = end
    return bridge_of(model)


def test_settings_of_a_policy_may_come_as_a_dictionary(bridge: TransformerBridge) -> None:
    found = live_generate(bridge, IDS, {"policy": "snapkv", "every": 4, "reclassify": 8}, max_new_tokens=2)
    assert found.record.policy == AdaptivePolicy(policy="snapkv", every=4, reclassify=8).to_dict()


def test_a_text_that_ends_before_heads_are_classified_has_a_record_without_changes(bridge: TransformerBridge) -> None:
    record = live_generate(bridge, IDS[:, :5], max_new_tokens=6).record
    assert (record.n_read, record.n_classifications, record.changes) == (10, 0, ())


def test_the_context_may_be_filled_to_its_end(bridge: TransformerBridge) -> None:
    found = live_generate(bridge, IDS, max_new_tokens=CONTEXT - 90 + 1)  # the last one is not read
    assert found.tokens.shape[1] == CONTEXT + 1


def test_one_text_does_not_remember_another(bridge: TransformerBridge) -> None:
    expected = live_generate(bridge, IDS, Windows(), max_new_tokens=8)
    live_generate(bridge, IDS.flip(0), max_new_tokens=8)
    found = live_generate(bridge, IDS, Windows(), max_new_tokens=8)
    assert torch.equal(found.tokens, expected.tokens)
    assert found.record == expected.record


def test_live_generate_is_a_public_name() -> None:
    assert headspec.live_generate is live_generate


# The model is left as it was.


def test_hooks_are_gone_after_an_error_while_text_is_written(bridge: TransformerBridge) -> None:
    before, calls = installed(bridge), []

    def fail(z: Tensor, hook: Any = None) -> None:
        calls.append(z.shape[1])
        if len(calls) == 4:
            raise RuntimeError("stop here")

    with (
        pytest.raises(RuntimeError, match="stop here"),
        bridge.hooks(fwd_hooks=[("blocks.1.attn.hook_z", fail)]),
    ):
        live_generate(bridge, IDS, Windows(), max_new_tokens=9)
    assert calls == [90, 1, 1, 1]
    assert installed(bridge) == before


def test_hooks_of_the_users_stay(bridge: TransformerBridge) -> None:
    calls = []
    with bridge.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: calls.append(z.shape[1]))]):
        live_generate(bridge, IDS, max_new_tokens=2)
        with torch.no_grad():
            bridge(IDS[:, :7])
    assert calls == [90, 1, 7]


def test_the_model_computes_afterwards_what_it_did_before(bridge: TransformerBridge) -> None:
    with torch.no_grad():
        before = bridge(IDS)
        live_generate(bridge, IDS, Windows(), max_new_tokens=5)
        assert torch.equal(bridge(IDS), before)


def test_drawing_leaves_the_random_state_alone(bridge: TransformerBridge) -> None:
    state = torch.random.get_rng_state()
    live_generate(bridge, IDS, max_new_tokens=5, temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), state)


# What is refused.


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([[5, 6, 7], [5, 6]], "of one length"),
        (["two", "texts"], "of one length"),
        (torch.zeros(1, 0, dtype=torch.int64), "the prompt is empty"),
        ([], "token ids|empty"),
        (torch.ones(2, 3, 4, dtype=torch.int64), r"shape \(2, 3, 4\)"),
        (torch.rand(1, 5), "float32"),
        ([[5, VOCABULARY]], f"this model knows 0–{VOCABULARY - 1}"),
        ([[-1, 5]], "token ids from -1 to 5"),
        (random_ids(1, CONTEXT), f"128 tokens of the prompt and 3 new ones are more than .* context of {CONTEXT}"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(bridge: TransformerBridge, prompt: Any, message: str) -> None:
    with pytest.raises(TextError, match=message):
        live_generate(bridge, prompt, max_new_tokens=3)


def test_an_empty_text_is_refused(reading: TransformerBridge) -> None:
    with pytest.raises(TextError, match="the prompt is empty"):
        live_generate(reading, "")


def test_a_text_without_a_tokenizer_is_refused(bridge: TransformerBridge) -> None:
    with pytest.raises(ModelError, match=r"planted has no tokenizer, .* give token ids"):
        live_generate(bridge, "The quick brown fox")


@pytest.mark.parametrize("make", [lambda: PlainModel(tiny_neox(3), "planted"), lambda: tiny_neox(3)])
def test_models_without_hooks_are_sent_to_the_runtime(make: Any) -> None:
    with pytest.raises(ModelError, match=r"has no hooks: load a TransformerBridge .* make_cache\(policy\)"):
        live_generate(make(), IDS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "0 new tokens: want a whole number, 1 or more"),
        ({"temperature": -1.0}, "temperature -1.0: want 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"policy": {"window": 3}}, "live treatment: .*window"),
        ({"policy": {"every": 0}}, "live treatment: every=0"),
        ({"policy": "snapkv"}, "policy 'snapkv': want an AdaptivePolicy"),
    ],
)
def test_settings_out_of_range_are_refused(bridge: TransformerBridge, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadspecError, match=message):
        live_generate(bridge, IDS, **settings)


def test_a_head_map_of_another_model_is_refused(head_map: HeadMap, reading: TransformerBridge) -> None:
    with pytest.raises(RecordError, match="made for planted"):
        live_generate(reading, IDS.clamp(max=257), head_map=head_map)


def test_a_head_map_of_some_layers_is_refused(bridge: TransformerBridge) -> None:
    part = classify_heads(probe_heads(bridge, IDS, layers=[1], n_repeats=0, progress=False))
    with pytest.raises(RecordError, match="knows 1 of the 2 layers of planted: probe all of them"):
        live_generate(bridge, IDS, head_map=part)


def test_compression_of_other_families_is_refused() -> None:
    with pytest.raises(ModelError, match=r"only, not of planted \(llama\). Leave policy empty"):
        live_generate(bridge_of(tiny_llama(5)), IDS, {"policy": "snapkv"})


def test_compression_that_a_policy_of_ones_own_wants_of_other_families_is_refused() -> None:
    class Compressing(AdaptivePolicy):
        def treatments(self, layer: int, n_read: int, verdicts: Any, now: Any) -> list[HeadGroup | None]:
            return [HeadGroup((), policy="snapkv", budget=0.5)] * len(now)

    llama = read_once(bridge_of(tiny_llama(5)))
    before = installed(llama)
    with pytest.raises(ModelError, match=r"compress:snapkv:0.5 for heads of layer 0"):
        live_generate(llama, IDS, Compressing(), max_new_tokens=3)
    assert installed(llama) == before


def test_a_model_with_a_sliding_window_of_its_own_is_refused() -> None:
    with pytest.raises(ModelError, match="has a sliding window of 24 keys of its own"):
        live_generate(bridge_of(sliding_mistral()), IDS)


@pytest.mark.filterwarnings("ignore:A hook on:UserWarning")
def test_a_model_whose_attention_heeds_no_hooks_is_refused() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "vocab_size": 272}
    config = OPTConfig(**sizes, max_position_embeddings=128, word_embed_proj_dim=32, attn_implementation="eager")
    with torch.random.fork_rng(devices=[]):
        opt = OPTForCausalLM(config).eval()
    with pytest.raises(ModelError, match="without heeding hook_attn_scores"):
        live_generate(bridge_of(opt), IDS)
