"""What live generation has seen of heads is what loops over transformers' own patterns add up to."""

from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from compression_reference import KINDS, source
from live_makers import EVERY, FIRST_QUERY, N_PROMPT, OBSERVED, QUICK, live, live_stores
from runtime_makers import in_chunks, left_padded, random_ids
from torch import Tensor

from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.evidence import PASSAGE, Evidence, KnownHeads
from headspec.runtime.live import LiveStore
from headspec.runtime.thresholds import RoleThresholds

CUT = RoleThresholds(windows=(2, 3, 8), windowed_mass=0.75, windowed_share=0.5, dead_spread=0.5, dead_spread_p95=1.0)
SINKS, N_TOKENS = 2, 64
TEXTS = random_ids(2, N_TOKENS, seed=2)
Sums = dict[str, np.ndarray]


def known(n_heads: int = 2, **values: list[Any]) -> KnownHeads:
    """Of heads that may die and do no induction, unless told otherwise."""
    given = {"induction": [0.0] * n_heads, "repeat_deviation": [0.0] * n_heads, "may_die": [True] * n_heads} | values
    return KnownHeads(*(torch.tensor(given[name]) for name in KnownHeads._fields))


def evidence(about: KnownHeads | None = None, batch: int = 1, first_query: int = 4, d_head: int = 2) -> Evidence:
    """Begun; every head writes z as it is, as its W_O is the identity."""
    about = known() if about is None else about
    made = Evidence(CUT, SINKS, first_query, about)
    w_o = torch.eye(d_head).expand(len(about.may_die), -1, -1)
    made.begin(batch, torch.zeros(1), lambda: w_o)
    return made


def random_pattern(n_rows: int, n_heads: int, n_queries: int, starts: list[int], seed: int = 0) -> Tensor:
    """Attention of the last queries of rows with padding in front: `[row, head, query, key]`, 30 keys."""
    scores = 3 * torch.randn(n_rows, n_heads, n_queries, 30, generator=torch.Generator().manual_seed(seed))
    keys, queries = torch.arange(30), torch.arange(30 - n_queries, 30)[:, None]
    for row, start in enumerate(starts):
        scores[row].masked_fill_((keys > queries) | ((keys < start) & (keys != queries)), -torch.inf)
    return scores.softmax(-1)


def add_attention(sums: Sums, row: int, head: int, weights: list[float], cut: RoleThresholds, n_sinks: int,
                  first_query: int) -> None:  # fmt: skip
    """The textbook: one query at the end of its keys, which are real."""
    position = len(weights) - 1
    for number, window in enumerate(cut.windows):
        if position < first_query or position < 2 * window:
            continue
        sums["counted"][row, head, number] += 1
        for key, weight in enumerate(weights):
            if key < n_sinks:
                sums["sink"][row, head, number] += weight
            elif key > position - window:
                sums["inside"][row, head, number] += weight


def nothing(n_rows: int, n_heads: int, n_windows: int) -> Sums:
    return {name: np.zeros((n_rows, n_heads, n_windows)) for name in ("inside", "sink", "counted")} | {
        name: np.zeros((n_rows, n_heads)) for name in ("energy", "outputs", "peak")
    }


def fits_of(sums: Sums, cut: RoleThresholds) -> np.ndarray:
    """Margins of windows from means, `[row, head, window]`."""
    inside, sink = (sums[name] / np.maximum(sums["counted"], 1) for name in ("inside", "sink"))
    share = np.where(1 - sink > 1e-3, np.minimum(inside / np.maximum(1 - sink, 1e-3), 1), 0)
    return np.minimum((inside + sink) / cut.windowed_mass - 1, share / cut.windowed_share - 1)


# Attention.


@pytest.mark.parametrize("n_queries", [1, 5, 30])
@pytest.mark.parametrize("starts", [[0, 0, 0], [0, 3, 27], [29, 5, 28]])
def test_attention_adds_up_to_that_of_loops(starts: list[int], n_queries: int) -> None:
    pattern, found, sums = random_pattern(3, 2, n_queries, starts), evidence(batch=3), nothing(3, 2, 3)
    for row, start in enumerate(starts):
        found.look(pattern[row : row + 1], 30 - n_queries, start, slice(row, row + 1))
        for head in range(2):
            for query in range(n_queries):
                own = 30 - n_queries + query
                if own >= start:
                    weights = pattern[row, head, query, start : own + 1].tolist()
                    add_attention(sums, row, head, weights, CUT, SINKS, 4)
    for name in ("inside", "sink", "counted"):
        np.testing.assert_allclose(found.sums[name], sums[name], atol=1e-5)


@pytest.mark.parametrize("least", [1, 8])
def test_fits_are_those_of_the_row_where_a_window_does_worst(least: int) -> None:
    pattern, found, sums = random_pattern(2, 2, 12, [0, 6]), evidence(batch=2), nothing(2, 2, 3)
    for row, start in enumerate([0, 6]):
        found.look(pattern[row : row + 1], 18, start, slice(row, row + 1))
        for head in range(2):
            for query in range(12):
                add_attention(sums, row, head, pattern[row, head, query, start : 19 + query].tolist(), CUT, SINKS, 4)
    enough = sums["counted"] >= least
    expected = np.where(enough, fits_of(sums, CUT), -inf).min(0)
    np.testing.assert_allclose(found.margins(least).fits, expected, atol=1e-5)


@pytest.mark.parametrize(("position", "counted"), [(3, 0), (4, 1), (5, 1), (6, 2), (15, 2), (16, 3)])
def test_a_window_is_judged_by_queries_that_see_twice_its_keys(position: int, counted: int) -> None:
    found = evidence()
    found.look(torch.full((1, 2, 1, position + 1), 1 / (position + 1)), position, 0, slice(None))
    assert found.sums["counted"][0, 0].tolist() == [1] * counted + [0] * (3 - counted)


def test_one_queries_attention_by_hand() -> None:
    found = evidence()
    found.look(torch.tensor([0.1, 0.2, 0.0, 0.0, 0.05, 0.15, 0.5]).expand(1, 2, 1, 7), 6, 0, slice(None))
    assert found.sums["inside"][0, 0].tolist() == pytest.approx([0.65, 0.7, 0])
    assert found.margins(1).fits[1] == pytest.approx([0.95 / 0.75 - 1, 1.0 / 0.75 - 1, -inf])


def test_some_heads_may_be_looked_at_alone() -> None:
    found = evidence(known(4))
    pattern = random_pattern(1, 2, 1, [0])
    found.look(pattern, 29, 0, slice(None), [3, 1])
    assert found.sums["counted"][0, :, 0].tolist() == [0, 1, 0, 1]
    alone = evidence(known(2))
    alone.look(pattern, 29, 0, slice(None))
    assert torch.equal(found.sums["inside"][:, [3, 1]], alone.sums["inside"])


def test_windows_fit_no_induction_head() -> None:
    found = evidence(known(3, induction=[0.0, 1.0, nan]))
    found.look(torch.eye(30)[None, None, 10:].expand(1, 3, -1, -1), 10, 0, slice(None))
    assert [min(fits) >= 0 for fits in found.margins(1).fits] == [True, False, True]


def test_nothing_seen_is_nothing_known() -> None:
    margins = evidence().margins(1)
    assert margins.fits == [[-inf] * 3] * 2
    assert margins.dead == [-inf] * 2


def test_fading_leaves_the_margins_and_how_many_were_seen_and_lowers_the_weights() -> None:
    found = evidence()
    found.look(random_pattern(1, 2, 20, [0]), 10, 0, slice(None))
    before, weights = found.margins(10).fits, found.sums["counted"]
    found.fade(0.5)
    np.testing.assert_allclose(found.margins(10).fits, before, rtol=1e-5)
    np.testing.assert_allclose(found.sums["counted"], weights / 2)
    assert found.margins(21).fits == [[-inf] * 3] * 2


def test_what_was_seen_before_counts_less() -> None:
    found, near, far = evidence(), torch.eye(30)[None, None, -1:], torch.eye(30)[None, None, 2:3]
    for pattern in (near, far):
        found.fade(0.25)
        found.look(pattern.expand(1, 2, -1, -1), 29, 0, slice(None))
    means = found.sums["inside"] / found.sums["counted"]
    assert means.flatten().tolist() == pytest.approx([0.2] * 6)


@pytest.mark.parametrize("change", [[1, 0], [1], [0, 0, 1, 1]])
def test_rows_change_their_places(change: list[int]) -> None:
    found = evidence(batch=2)
    for row in range(2):
        found.look(random_pattern(1, 2, 9, [0], seed=row), 21, 0, slice(row, row + 1))
    before = found.sums["inside"]
    found.change_rows(lambda rows: rows[change])
    assert torch.equal(found.sums["inside"], before[change])


# Outputs.


def test_the_spread_of_outputs_by_hand() -> None:
    found = evidence(known(1))
    z = torch.tensor([[[3.0, 0.0]], [[-3.0, 0.0]], [[0.0, 3.0]], [[0.0, -3.0]]])
    found.settle([z], [torch.full((4,), 10.0)])
    assert found.constant is not None
    assert found.constant.tolist() == [[0.0, 0.0]]
    assert found.margins(4).dead == [pytest.approx(min((0.5 - 0.3) / 0.5, (1.0 - 0.3) / 1.0))]


def test_the_liveliest_passage_of_the_prompt_counts() -> None:
    found = evidence(known(1))
    z = torch.zeros(4 * PASSAGE, 1, 2)
    z[2 * PASSAGE : 3 * PASSAGE : 2, 0, 0], z[2 * PASSAGE + 1 : 3 * PASSAGE : 2, 0, 0] = 8.0, -8.0
    found.settle([z], [torch.full((4 * PASSAGE,), 10.0)])
    means = [0.0, 0.0, 0.64, 0.0]  # the 95th percentile lies 85 % of the way from the third to the fourth in order
    assert found.sums["peak"].item() == pytest.approx(np.quantile(means, 0.95))
    assert found.margins(1).dead == [pytest.approx(min((0.5 - 0.16**0.5) / 0.5, 1 - (0.85 * 0.64) ** 0.5))]


def test_a_head_is_as_lively_as_in_its_liveliest_row() -> None:
    found = evidence(known(1), batch=2)
    still, lively = torch.zeros(20, 1, 2), torch.zeros(20, 1, 2)
    lively[::2], lively[1::2] = 5.0, -5.0
    found.settle([still, lively], [torch.full((20,), 10.0)] * 2)
    assert found.margins(8).dead[0] < 0


@pytest.mark.parametrize(
    "values", [{"may_die": [False]}, {"repeat_deviation": [nan]}, {"induction": [nan]}, {"repeat_deviation": [0.5]},
               {"induction": [0.5]}],
)  # fmt: skip
def test_who_is_protected_or_not_known_is_not_dead(values: dict[str, list[Any]]) -> None:
    found = evidence(known(2, **{name: [*value, 0.0 if name != "may_die" else True] for name, value in values.items()}))
    found.settle([torch.ones(20, 2, 2)], [torch.full((20,), 10.0)])
    assert [margin >= 0 for margin in found.margins(8).dead] == [False, True]


def test_fewer_queries_than_wanted_decide_no_death() -> None:
    found = evidence(known(1), batch=2)
    found.settle([torch.ones(20, 1, 2), torch.ones(7, 1, 2)], [torch.ones(20), torch.ones(7)])
    assert found.margins(8).dead == [-inf]
    assert found.margins(7).dead[0] > 0


def test_a_row_without_counted_queries_speaks_for_nobody() -> None:
    found = evidence(known(1), batch=2)
    found.settle([torch.ones(20, 1, 2), torch.ones(0, 1, 2)], [torch.ones(20), torch.ones(0)])
    assert found.margins(1).dead == [-inf]


def test_heads_without_a_map_never_die() -> None:
    found = Evidence(CUT, SINKS, 4, KnownHeads.nothing(2))
    found.begin(1, torch.zeros(1), lambda: pytest.fail("no weights are needed"))
    found.settle([torch.ones(20, 2, 2)], [torch.ones(20)])
    found.watch(torch.ones(1, 1, 2, 2), torch.ones(1, 1))
    assert found.margins(1).dead == [-inf, -inf]


def test_facts_are_found_by_the_number_of_the_head() -> None:
    facts = {"induction": [[0.0] * 4, [0.1, 0.2, None, 0.4]], "repeat_deviation": [[0.0] * 4, [0.5, None, 0.7, 0.8]],
             "protected": [[], [3, 0]]}  # fmt: skip
    found = KnownHeads.of(facts, 1, (3, 1, 2))
    assert found.induction.tolist() == pytest.approx([0.4, 0.2, nan], nan_ok=True)
    assert found.repeat_deviation.tolist() == pytest.approx([0.8, nan, 0.7], nan_ok=True)
    assert found.may_die.tolist() == [False, True, True]


# A model that is watched.


@torch.no_grad()
def expected(tokens: list[Tensor], kind: str, columns: list[int], policy: AdaptivePolicy) -> list[Sums]:
    """Sums a layer, over the queries of these columns of every row; rows without their padding."""
    model, config = source(kind).huggingface, source(kind).huggingface.config
    n_heads, n_layers, longest = config.num_attention_heads, config.num_hidden_layers, max(map(len, tokens))
    cut, first = policy.thresholds, policy.first_query
    patterns, outputs, norms = [], [], []
    for row in tokens:
        z: list[Tensor] = []
        handles = [
            layer.attention.dense.register_forward_pre_hook(lambda _, given, z=z: z.append(given[0][0].double()))
            for layer in model.gpt_neox.layers
        ]
        found = model(row[None], output_attentions=True, output_hidden_states=True, use_cache=False)
        for handle in handles:
            handle.remove()
        patterns.append(found.attentions)
        outputs.append(z)
        norms.append([state[0].double().norm(dim=-1) for state in found.hidden_states])
    all_sums = []
    for layer in range(n_layers):
        sums = nothing(len(tokens), n_heads, len(cut.windows))
        counted = [
            [column - (longest - len(row)) for column in columns if column - (longest - len(row)) >= first]
            for row in tokens
        ]
        shift = [longest - len(row) for row in tokens]
        prompt = [list(range(first, N_PROMPT - shift[row])) for row in range(len(tokens))]
        later = [[p for p in positions if p + shift[row] >= N_PROMPT] for row, positions in enumerate(counted)]
        constant = torch.cat([outputs[row][layer][positions] for row, positions in enumerate(prompt)]).mean(0)
        weight = model.gpt_neox.layers[layer].attention.dense.weight.detach().double()
        d_head = weight.shape[1] // n_heads
        for row, positions in enumerate(counted):
            for head in range(n_heads):
                mine = slice(head * d_head, (head + 1) * d_head)
                wrote = (outputs[row][layer][:, mine] - constant[mine]) @ weight[:, mine].T
                spread = (wrote.norm(dim=-1) / norms[row][layer]) ** 2
                passages = [prompt[row][i : i + PASSAGE] for i in range(0, len(prompt[row]), PASSAGE)]
                means = [float(spread[passage].mean()) for passage in passages]
                peaks = [float(np.quantile(means, 0.95)), *(float(spread[position]) for position in later[row])]
                sums["peak"][row, head] = max(peaks)
                sums["energy"][row, head] = float(spread[prompt[row] + later[row]].sum())
                sums["outputs"][row, head] = len(prompt[row]) + len(later[row])
                for position in positions:
                    weights = patterns[row][layer][0, head, position, : position + 1].tolist()
                    add_attention(sums, row, head, weights, cut, policy.sinks, first)
        all_sums.append(sums)
    return all_sums


def watched(kind: str, tokens: Tensor, mask: Tensor | None, chunks: list[int], **options: Any) -> list[LiveStore]:
    model = live(kind)
    policy = AdaptivePolicy(**QUICK, watch_only=True, memory=1.0, thresholds=CUT)
    cache = model.make_cache(policy, **options)
    in_chunks(model, tokens, chunks, mask, cache)
    return live_stores(cache)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[N_TOKENS, N_TOKENS], [N_TOKENS, N_TOKENS - 11], [N_TOKENS - 30, N_TOKENS]])
def test_what_was_seen_is_what_transformers_patterns_say(kind: str, lengths: list[int]) -> None:
    tokens, mask = left_padded(TEXTS, lengths)
    stores = watched(kind, tokens, mask, [N_PROMPT] + [1] * (N_TOKENS - N_PROMPT))
    columns = [*range(N_PROMPT - OBSERVED, N_PROMPT), *range(N_PROMPT + EVERY - 1, N_TOKENS, EVERY)]
    rows = [row[:length] for row, length in zip(TEXTS, lengths, strict=True)]
    wanted = expected(rows, kind, columns, AdaptivePolicy(**QUICK, thresholds=CUT))
    for store, sums in zip(stores, wanted, strict=True):
        for name, value in sums.items():
            np.testing.assert_allclose(store.evidence.sums[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("sizes", [[7, 7, 7, 7, 7, 5], [1] * 40, [30, 10], [25, 15]])
def test_a_prompt_in_chunks_shows_the_same(sizes: list[int]) -> None:
    tokens, mask = left_padded(TEXTS, [N_PROMPT, N_PROMPT - 13])
    for whole, parts in zip(
        watched("parallel", tokens, mask, [N_PROMPT]),
        watched("parallel", tokens, mask, sizes, prompt=N_PROMPT), strict=True,
    ):  # fmt: skip
        for name, value in whole.evidence.sums.items():
            np.testing.assert_allclose(parts.evidence.sums[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_rows_are_looked_at_together_or_one_by_one_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for together in (0, 2**30):
        monkeypatch.setattr("headspec.runtime.looking.TOGETHER", together)
        found.append([store.evidence.sums for store in watched("sequential", TEXTS, None, [N_PROMPT, 24])])
    for one, other in zip(*found, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_first_queries_do_not_count_in_a_short_prompt() -> None:
    stores = watched("parallel", TEXTS[:, :20], None, [3] + [1] * 17)
    assert FIRST_QUERY == 4
    assert stores[0].evidence.sums["outputs"].unique().tolist() == [16]


def test_of_a_window_that_has_dropped_keys_only_the_output_is_looked_at() -> None:
    model = live()
    easy = RoleThresholds(windows=(8,), windowed_mass=0.0, windowed_share=0.0)
    cache = model.make_cache(AdaptivePolicy(**QUICK, thresholds=easy, memory=1.0, dead=True))
    in_chunks(model, TEXTS, [N_PROMPT, *[4] * 6], cache=cache)
    sums = live_stores(cache)[0].evidence.sums
    assert sums["counted"].unique().tolist() == [16]
    assert sums["outputs"].unique().tolist() == [N_PROMPT - FIRST_QUERY + 6]
