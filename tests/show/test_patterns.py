"""Attention patterns with circuitsvis: the numbers of the model, nothing fetched, tokens that cannot break the page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headspec.errors import HeadspecError, TextError
from headspec.load.model import load_model
from headspec.show.patterns import MOST_TOKENS, attention


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
    monkeypatch.setattr("headspec.show.patterns._token_texts", lambda model, ids: [token] * len(ids))
    body = attention(demo, torch.arange(20, 24), ["L1H7"]).body
    assert drawn_properties(body)["tokens"] == [token] * 4
    assert body.count("</script>") == 1


def test_a_long_text_is_cropped_with_a_word(demo: Any) -> None:
    with pytest.warns(UserWarning, match="first 64 of 300 tokens"):
        drawn = drawn_properties(attention(demo, torch.arange(300), ["L1H7"]).body)
    assert len(drawn["tokens"]) == MOST_TOKENS


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
