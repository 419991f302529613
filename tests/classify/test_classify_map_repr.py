"""How a head map and a verdict show themselves: one line of text; in a notebook coloured cells with letters."""

import math
import re
from dataclasses import replace

from headspec.classify.head_map import HeadMap, HeadStatus, HeadVerdict, Trait
from headspec.classify.map_html import MOST_CELLS, MOST_LAYERS
from headspec.classify.rules import classify_heads
from headspec.classify.thresholds import Thresholds
from headspec.heads import HeadId, HeadRole
from headspec.probe.profile import HeadProfile
from headspec.record_html import ROLE_COLORS

CYCLE = (
    HeadVerdict(HeadId(0, 0), HeadRole.POSITIONAL, 0.1, 8, None, (Trait.PREVIOUS_TOKEN,), (), "close by"),
    HeadVerdict(HeadId(0, 0), HeadRole.GATHERING, math.inf, reason="far & wide"),
    HeadVerdict(HeadId(0, 0), HeadRole.DEAD, 0.2, status=HeadStatus.CANDIDATE, reason="<b>nothing</b>"),
)


def by_hand(profile: HeadProfile, n_layers: int = 2, n_heads: int = 3) -> HeadMap:
    """Positional, gathering, dead, and so on."""
    about = replace(profile.about, n_layers=n_layers, n_heads=n_heads, layers=tuple(range(n_layers)))
    verdicts = tuple(replace(CYCLE[place % 3], head=head) for place, head in enumerate(about.heads()))
    return HeadMap(about, Thresholds(), "default", verdicts)


def cells(body: str) -> list[tuple[str, str, str]]:
    """(title, colour, text) of every coloured cell with a title."""
    return re.findall(r'<td style="[^"]*background:(#\w+);[^"]*" title="([^"]*)">([^<]*)</td>', body)


def test_text_is_one_line(demo_profile: HeadProfile) -> None:
    assert repr(by_hand(demo_profile)) == "HeadMap(demo: 6 heads: 2 positional, 2 gathering, 2 dead)"


def test_by_hand_every_head_is_a_cell_with_letters_and_a_reason(demo_profile: HeadProfile) -> None:
    assert cells(by_hand(demo_profile)._repr_html_())[3:] == [
        (ROLE_COLORS[HeadRole.POSITIONAL], "L1H0 positional: close by", "P8 p"),
        (ROLE_COLORS[HeadRole.GATHERING], "L1H1 gathering: far &amp; wide", "G"),
        (ROLE_COLORS[HeadRole.DEAD], "L1H2 dead (candidate): &lt;b&gt;nothing&lt;/b&gt;", "D"),
    ]


def test_roles_are_counted_and_explained(demo_profile: HeadProfile) -> None:
    body = classify_heads(demo_profile)._repr_html_()
    for role, count in classify_heads(demo_profile).counts().items():
        assert re.search(rf">{role}</th><td[^>]*>{count}</td>", body)


def test_a_thousand_heads_are_counted_layer_by_layer(demo_profile: HeadProfile) -> None:
    body = by_hand(demo_profile, 32, 32)._repr_html_()
    assert not cells(body)
    assert re.search(r">0</th><td[^>]*>11</td><td[^>]*>11</td><td[^>]*>10</td><td[^>]*>L0H2 L0H5", body)
    assert len(body) < 50_000


def test_as_many_heads_as_fit_are_cells(demo_profile: HeadProfile) -> None:
    assert len(cells(by_hand(demo_profile, 2, MOST_CELLS // 2)._repr_html_())) == MOST_CELLS
    assert not cells(by_hand(demo_profile, 3, MOST_CELLS // 2)._repr_html_())


def test_too_many_layers_are_cut_with_a_word(demo_profile: HeadProfile) -> None:
    assert f"the first {MOST_LAYERS} of 100 layers" in by_hand(demo_profile, 100, 3)._repr_html_()


def test_some_layers_keep_their_numbers(demo_profile: HeadProfile) -> None:
    whole = classify_heads(demo_profile)
    about = replace(whole.about, layers=(3,))
    body = replace(whole, about=about, verdicts=tuple(whole.verdicts[24:]))._repr_html_()
    assert [title.split()[0] for _, title, _ in cells(body)] == [f"L3H{head}" for head in range(8)]


def test_a_verdict_shows_its_evidence_with_units(demo_profile: HeadProfile) -> None:
    verdict = classify_heads(demo_profile)["L1H7"]
    body = verdict._repr_html_()
    assert verdict.reason in body
    assert re.search(r">previous-token score</th><td[^>]*>0\.\d+</td><td[^>]*>share</td>", body)


def test_a_verdict_without_a_margin_says_so() -> None:
    assert "margin: nothing measured could change it" in CYCLE[1]._repr_html_()
    assert "margin: 0.2 (distance" in CYCLE[2]._repr_html_()
