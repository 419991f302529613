"""The sample of attention patterns: the model's own numbers, from hooks or from the plain model, whole in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from headspec.errors import RecordError
from headspec.load.model import load_plain
from headspec.probe.patterns import SAMPLE_TOKENS, patterns_of, sample_patterns
from headspec.probe.sample import PatternSample

IDS = torch.arange(100, 200)


@pytest.fixture(scope="module")
def sample(demo: Any) -> PatternSample:
    return sample_patterns(demo, IDS)


def made_up(**other: Any) -> PatternSample:
    known: dict[str, Any] = {"model": "made up", "n_layers": 2, "n_heads": 3, "layers": (1,), "tokens": ("a", "b")}
    return PatternSample(**known | {"patterns": np.zeros((1, 3, 2, 2), np.float16)} | other)


def test_the_sample_is_a_piece_of_text_twice(sample: PatternSample, demo: Any) -> None:
    half = SAMPLE_TOKENS // 2
    assert sample.tokens[:half] == sample.tokens[half:]
    assert sample.tokens[0] == demo.tokenizer.decode([100])
    assert sample.patterns.shape == (4, 8, SAMPLE_TOKENS, SAMPLE_TOKENS)


def test_patterns_are_those_of_the_hook(sample: PatternSample, demo: Any) -> None:
    seen: dict[str, torch.Tensor] = {}
    tokens = torch.cat([IDS[: SAMPLE_TOKENS // 2]] * 2)[None]
    with torch.no_grad(), demo.hooks(fwd_hooks=[("blocks.2.attn.hook_pattern", lambda x, hook: seen.update(p=x))]):
        demo(tokens)
    np.testing.assert_allclose(sample.head("L2H3"), seen["p"][0, 3].numpy(), atol=1e-3)


def test_a_plain_model_gives_the_same_patterns_and_keeps_its_attention(sample: PatternSample) -> None:
    plain = load_plain("demo")
    before = plain.huggingface.config._attn_implementation
    found = sample_patterns(plain, IDS, [1, 3])
    np.testing.assert_allclose(found.patterns, sample.patterns[[1, 3]], atol=1e-3)
    assert (found.layers, plain.huggingface.config._attn_implementation) == ((1, 3), before)


def test_every_query_spends_all_its_attention_on_the_past(sample: PatternSample) -> None:
    np.testing.assert_allclose(sample.patterns.astype(np.float32).sum(-1), 1, atol=5e-3)
    assert not np.triu(sample.patterns, 1).any()


def test_an_induction_head_draws_a_stripe_and_a_previous_token_head_a_line(sample: PatternSample) -> None:
    half, again = SAMPLE_TOKENS // 2, np.arange(SAMPLE_TOKENS // 2 + 1, SAMPLE_TOKENS)
    assert sample.head("L2H3")[again, again - half + 1].mean() > 0.5
    queries = np.arange(1, SAMPLE_TOKENS)
    assert sample.head("L1H7")[queries, queries - 1].mean() > 0.8


def test_a_hook_that_treats_a_head_shows_in_the_pattern(demo: Any) -> None:
    def first_key_only(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(pattern).index_fill(-1, torch.tensor([0]), 1.0)

    with demo.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", first_key_only)]):
        found = patterns_of(demo, IDS[:8], [1])
    assert (found[1][..., 0] == 1).all()


def test_a_sample_is_saved_and_loaded_whole(sample: PatternSample, tmp_path: Path) -> None:
    loaded = PatternSample.load(sample.save(tmp_path / "sample.safetensors"))
    np.testing.assert_array_equal(loaded.patterns, sample.patterns)
    about = ("model", "n_layers", "n_heads", "layers", "tokens")
    assert [getattr(loaded, name) for name in about] == [getattr(sample, name) for name in about]


@pytest.mark.parametrize("token", ["</script>", "\n", "\u2028", "<b>&"])
def test_any_token_survives_the_file(token: str, tmp_path: Path) -> None:
    path = made_up(tokens=(token, "b")).save(tmp_path / "sample.safetensors")
    assert PatternSample.load(path).tokens == (token, "b")


def test_a_head_that_was_not_sampled_is_named() -> None:
    with pytest.raises(RecordError, match=r"no pattern of L0H1: this sample of made up has layers"):
        made_up().head("L0H1")


def test_patterns_of_another_shape_are_refused() -> None:
    with pytest.raises(RecordError, match=r"patterns of shape \(1, 2, 2, 2\)"):
        made_up(patterns=np.zeros((1, 2, 2, 2), np.float16))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no pattern sample at .*headspec analyze"):
        PatternSample.load(tmp_path / "nowhere.safetensors")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = made_up().save(tmp_path / "sample.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecordError, match=r"sample\.safetensors is damaged"):
        PatternSample.load(path)


def test_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = made_up().save(tmp_path / "sample.safetensors")
    save_file(load_file(path), path, metadata={"schema": "headspec.PatternSample/9"})
    with pytest.raises(RecordError, match=r"is not a headspec.PatternSample/1 but headspec.PatternSample/9"):
        PatternSample.load(path)
