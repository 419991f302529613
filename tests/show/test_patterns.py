"""Attention patterns with circuitsvis: the numbers of the model, nothing fetched, tokens that cannot break the page."""

import base64
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headspec.errors import HeadspecError, TextError
from headspec.heads import HeadId
from headspec.load.model import load_model, load_plain
from headspec.show.patterns import MOST_TOKENS, attention
from headspec.show.patterns_image import draw_patterns
from headspec.show.twin import small_png


def drawn_properties(body: str) -> dict[str, Any]:
    """What the page hands to circuitsvis."""
    found = re.search(r"CircuitsVis\.AttentionHeads,\s*(\{.*?\})\s*\)\s*</script>", body, re.DOTALL)
    assert found is not None
    properties: dict[str, Any] = json.loads(found[1])
    return properties


def test_patterns_are_the_model_s(demo: Any) -> None:
    ids = torch.arange(20, 40)
    drawn = drawn_properties(attention(demo, ids, ["L1H7", "L2H3"]).body)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), demo.hooks(fwd_hooks=[("blocks.2.attn.hook_pattern", lambda x, hook: seen.update(p=x))]):
        demo(ids[None])
    np.testing.assert_allclose(drawn["attention"][1], seen["p"][0, 3].numpy(), atol=1e-4)
    assert drawn["attentionHeadNames"] == ["L1H7", "L2H3"]


def test_nothing_is_fetched_from_a_network(demo: Any) -> None:
    body = attention(demo, "The lamp was lit.", ["L1H7"]).body
    assert not re.search(r"(src|href)=[\"']https?:", body)
    assert "unpkg.com" not in body


@pytest.mark.parametrize("token", ["</script>", "<b>", "&", "\n", '"', "<!--"])
def test_a_token_of_html_cannot_end_the_script(token: str, demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headspec.show.patterns.token_texts", lambda model, ids: [token] * len(ids))
    view = attention(demo, torch.arange(20, 24), ["L1H7"])
    assert drawn_properties(view.body)["tokens"] == [token.replace("\n", "↵")] * 4
    assert view.tokens == (token,) * 4
    assert view.body.count("</script>") == 1


def test_a_long_text_is_cropped_with_a_word(demo: Any) -> None:
    with pytest.warns(UserWarning, match="first 64 of 300 tokens"):
        drawn = drawn_properties(attention(demo, torch.arange(300), ["L1H7"]).body)
    assert len(drawn["tokens"]) == MOST_TOKENS


def test_of_ten_thousand_tokens_the_model_reads_only_those_that_are_shown(demo: Any) -> None:
    lengths = []
    watch = ("blocks.0.attn.hook_pattern", lambda pattern, hook: lengths.append(pattern.shape[-1]))
    with demo.hooks(fwd_hooks=[watch]), pytest.warns(UserWarning, match=r"showing the first 64 of \d{5} tokens"):
        view = attention(demo, "The lamp was lit again. " * 2000, "L0H1")
    assert lengths == [MOST_TOKENS]
    assert view.patterns.shape == (1, MOST_TOKENS, MOST_TOKENS)


def test_one_head_may_be_named_alone(demo: Any) -> None:
    one, listed = (attention(demo, "The lamp was lit.", heads) for heads in ("L1H7", ["L1H7"]))
    assert one.heads == listed.heads == (HeadId(1, 7),)
    assert one.body.count("L1H7") == listed.body.count("L1H7")


def test_a_plain_model_shows_the_same(demo: Any) -> None:
    text, heads = "The lamp was lit. The lamp was out.", ["L1H7", "L2H3"]
    plain, bridge = (attention(model, text, heads) for model in (load_plain("demo", device="cpu"), demo))
    np.testing.assert_allclose(plain.patterns, bridge.patterns, atol=1e-5)
    assert plain.tokens == bridge.tokens


def test_a_notebook_keeps_the_view_a_small_png_and_a_line(demo: Any) -> None:
    view = attention(demo, "The lamp was lit. The lamp was out.", ["L1H7", "L2H3"])
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert len(bundle["image/png"]) < 200_000
    assert bundle["text/plain"].startswith("<attention of L1H7, L2H3 of demo on ")


def test_the_png_has_the_patterns(demo: Any, tmp_path: Path) -> None:
    view = attention(demo, "The lamp was lit.", ["L1H7", "L2H3"])
    pictures = [axes for axes in view._draw().axes if axes.images]
    for axes, head, pattern in zip(pictures, view.heads, view.patterns, strict=True):
        assert axes.get_title() == str(head)
        np.testing.assert_array_equal(axes.images[0].get_array(), pattern)
    assert view.save_png(tmp_path / "view.png").stat().st_size > 1000


@pytest.mark.parametrize("token", ["$x_$", "_a", "</script>", "\n", "", "漢字 and more than fits"])
def test_any_token_can_be_drawn(token: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_png(draw_patterns(np.eye(3)[None], [token] * 3, [HeadId(0, 1)], token))


def test_many_heads_share_a_picture() -> None:
    heads = [HeadId(0, head) for head in range(11)]
    drawn = draw_patterns(np.zeros((11, 64, 64)), ["a"] * 64, heads, "many")
    titles = [axes.get_title() for axes in drawn.axes if axes.images]
    assert titles == [str(head) for head in heads]
    assert drawn.get_figheight() < 6


def test_too_many_heads_are_refused(demo: Any) -> None:
    with pytest.raises(HeadspecError, match="33 heads are too many"):
        attention(demo, "text", ["L1H7"] * 33)


def test_unknown_heads_are_named(demo: Any) -> None:
    with pytest.raises(HeadspecError, match="unknown heads L9H3, L0H8: demo has layers 0–3, heads 0–7"):
        attention(demo, "text", ["L9H3", "L0H8", "L1H1"])


def test_no_heads_and_no_text_are_refused(demo: Any) -> None:
    with pytest.raises(HeadspecError, match="no heads given"):
        attention(demo, "text", [])
    with pytest.raises(TextError, match="empty"):
        attention(demo, "", ["L1H7"])


def test_a_model_without_tokenizer_shows_ids() -> None:
    model = load_model("random:pythia-14m", device="cpu")
    assert drawn_properties(attention(model, torch.tensor([5, 6, 7]), ["L0H1"]).body)["tokens"] == ["5", "6", "7"]


def test_a_saved_view_is_a_page_of_its_own(demo: Any, tmp_path: Path) -> None:
    view = attention(demo, "The lamp.", ["L1H7"])
    page = view.save(tmp_path / "view.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert view._repr_html_() in page
