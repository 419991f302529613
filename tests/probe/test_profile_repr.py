"""How a profile shows itself: one line of text; in a notebook every statistic from its lowest head to its highest."""

import re
from dataclasses import replace

import numpy as np
import pytest
from transformer_lens.model_bridge import TransformerBridge

from headspec.load.text import load_text
from headspec.probe.catalogue import STATISTICS
from headspec.probe.collect import probe_heads
from headspec.probe.profile import HeadProfile


@pytest.fixture(scope="module")
def profile(demo: TransformerBridge) -> HeadProfile:
    return probe_heads(demo, load_text(demo, "probe", n_tokens=1024), progress=False)


def rows(body: str) -> dict[str, list[str]]:
    found = re.findall(r"<tr>(.*?)</tr>", body)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in found]
    return {first: rest for first, *rest in cells}


def test_text_is_one_line(profile: HeadProfile) -> None:
    assert repr(profile) == "HeadProfile(demo: 4 layers × 8 heads, 2 × 512 tokens of packaged probe.txt)"


def test_every_statistic_stands_with_its_extremes_and_their_heads(profile: HeadProfile) -> None:
    shown = rows(profile._repr_html_())
    grid = profile["attention_entropy"]
    low, high = (profile.about.heads()[place] for place in (grid.argmin(), grid.argmax()))
    assert shown["attention entropy"] == [
        "nats", f"{grid.min():.3g}", str(low), f"{np.median(grid):.3g}", f"{grid.max():.3g}", str(high)
    ]  # fmt: skip
    assert {known.label for known in STATISTICS.values()} <= {name.replace("&#x27;", "'") for name in shown}


def test_pointing_at_a_name_tells_meaning_and_caution(profile: HeadProfile) -> None:
    known = STATISTICS["output_spread"]
    assert f'title="output_spread: {known.meaning} {known.caution}"' in profile._repr_html_()


def test_what_was_not_measured_says_so(profile: HeadProfile) -> None:
    grids = profile.grids | {"induction_score": np.full_like(profile["induction_score"], np.nan)}
    body = replace(profile, grids=grids, about=replace(profile.about, n_repeats=0))._repr_html_()
    assert rows(body)["induction score"][1] == "not measured"
    assert "no repeated sequences were run" in body


def test_random_weights_are_named(profile: HeadProfile) -> None:
    about = replace(profile.about, model="random:pythia-14m")
    assert "RANDOM WEIGHTS" in replace(profile, about=about)._repr_html_()
    assert "RANDOM WEIGHTS" not in profile._repr_html_()


def test_a_name_with_tags_is_text(profile: HeadProfile) -> None:
    body = replace(profile, about=replace(profile.about, model="</script><b>", text="<i>"))._repr_html_()
    assert not re.search("<(script|/script|b>|i>)", body)
