"""The fast engine measures what the hooks engine measures, whatever is treated, in whatever model and text."""

import copy
import random
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_makers import (
    FAMILIES,
    HEADS,
    Wish,
    bridge,
    cases_of,
    difference,
    ids,
    new_plain,
    numbers,
    plain,
    plan_of,
    profile_of,
)
from tiny_models import bridge_of, tiny_neox
from transformer_lens.model_bridge import TransformerBridge
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from headspec.errors import ModelError
from headspec.load.model import load_plain
from headspec.load.plain import PlainModel
from headspec.load.text import load_text
from headspec.measure.compare import compare
from headspec.measure.texts import repeats_text, scored_text
from headspec.plan.plan import HeadPlan
from headspec.search import fast
from headspec.search.cases import Case, single_cases
from headspec.search.fast import measure_fast
from headspec.search.rows import MEASURES
from headspec.search.sweep import sweep
from headspec.search.table import SweepTable

TOLERANCE = 1e-5
EFFECTS = ("loss", "loss_increase", "kl", "repeats_loss_increase", "repeats_kl")
SHARES = ("top1_agreement", "induction_accuracy")
TEXT = ids(2, 40)

KINDS: dict[str, Wish] = {
    "nothing": {},
    "zero": {"L0H1": "zero"},
    "mean": {"L1H3": "mean"},
    "random": {"L0H0": "random"},
    "window of its own key": {"L0H2": "window:1+0"},
    "window without sinks": {"L0H2": "window:3+0"},
    "window with sinks": {"L1H2": "window:3"},
    "window with one sink": {"L1H2": "window:8+1"},
    "window over everything": {"L1H2": "window:128"},
    "sinks without a window": {"L0H3": "window:1+8"},
    "several heads of one layer": {"L0H0": "mean", "L0H1": "window:3", "L0H2": "window:5+0", "L0H3": "random"},
    "one window for several heads": {"L1H0": "window:4", "L1H1": "window:4", "L1H3": "window:4+0"},
    "heads of two layers": {"L0H3": "zero", "L1H0": "mean"},
    "windows in two layers": {"L0H3": "window:3", "L1H0": "window:5+0", "L1H1": "random"},
    "all heads of the first layer": dict.fromkeys(HEADS[:4], "mean"),
    "all heads of the last layer": dict.fromkeys(HEADS[4:], "window:2+0"),
    "all heads": dict.fromkeys(HEADS, "zero"),
    "all heads windowed": dict.fromkeys(HEADS, "window:6+2"),
    "all heads, each another way": dict(
        zip(HEADS, ["zero", "mean", "random", "window:3", "window:3+0", "window:1+0", "mean", "zero"], strict=True)
    ),
}
treatments = st.sampled_from(
    ["zero", "mean", "random", "window:1+0", "window:2", "window:3+0", "window:7+1", "window:30+0", "window:128"]
)
plans = st.dictionaries(st.sampled_from(HEADS), treatments)


def swept(model: Any, wishes: list[Wish], tokens: Any = TEXT, **options: Any) -> SweepTable:
    return sweep(model, cases_of(model, wishes), tokens, **({"progress": False, "n_repeats": 1} | options))


@lru_cache
def both(family: str) -> tuple[SweepTable, SweepTable]:
    """Every kind of case: the fast engine's table of the plain model, and the hooks engine's of the bridge."""
    return swept(plain(family), [*KINDS.values()]), swept(bridge(family), [*KINDS.values()], engine="hooks")


# The same figures.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_the_fast_engine_measures_what_the_hooks_engine_measures(family: str, number: int) -> None:
    by_fast, by_hooks = (SweepTable({}, (table.rows[number],)) for table in both(family))
    assert difference(by_fast, by_hooks, EFFECTS) <= TOLERANCE
    assert difference(by_fast, by_hooks, SHARES) <= 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_there_is_something_to_measure(family: str) -> None:
    kl = dict(zip(KINDS, numbers(both(family)[0], ("kl",))[:, 0], strict=True))
    without_effect = {name for name, value in kl.items() if value < 1e-4}
    assert without_effect == {"nothing", "window over everything"}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(
    wishes=st.lists(plans, min_size=1, max_size=4),
    n_windows=st.integers(1, 3),
    n_tokens=st.integers(2, 40),
    at_once=st.sampled_from([1, 50, 130, 4096]),
)
def test_any_plans_on_any_windows_cost_the_same_by_both_engines(
    family: str, wishes: list[Wish], n_windows: int, n_tokens: int, at_once: int
) -> None:
    tokens = ids(n_windows, n_tokens, seed=n_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "TOKENS_AT_ONCE", at_once)
        by_fast = swept(plain(family), wishes, tokens, n_repeats=1)
    by_hooks = swept(bridge(family), wishes, tokens, n_repeats=1, engine="hooks")
    assert difference(by_fast, by_hooks, EFFECTS) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bridge_is_swept_as_the_plain_model_inside_it(family: str) -> None:
    wishes = [*KINDS.values()]
    assert difference(swept(bridge(family), wishes), both(family)[0]) <= 1e-6


def test_the_hooks_engine_takes_plain_models_too() -> None:
    found = swept(plain("llama-grouped"), [*KINDS.values()], engine="hooks")
    assert difference(found, both("llama-grouped")[1], EFFECTS) <= TOLERANCE


@pytest.fixture(scope="module")
def demo_tables(demo: TransformerBridge) -> tuple[SweepTable, SweepTable]:
    text = load_text(demo, "select", n_tokens=2 * 200, window=200)
    several = {f"L{layer}H{head}": what for layer, head, what in [(0, 1, "mean"), (2, 3, "window:8"), (3, 7, "zero")]}
    layer = {f"L2H{head}": what for head, what in enumerate(["zero", "window:4", "window:4+0", "random", "mean"])}
    everywhere = {f"L{n}H{head}": "window:32" for n in range(4) for head in range(8)}
    wishes: list[Wish] = [{"L3H7": "random"}, several, layer, everywhere]
    of_plain = swept(load_plain("demo", device="cpu"), wishes, text, n_repeats=1)
    return of_plain, swept(demo, wishes, text, n_repeats=1, engine="hooks")


def test_both_engines_measure_the_same_on_the_demo_model(demo_tables: tuple[SweepTable, SweepTable]) -> None:
    assert difference(*demo_tables, EFFECTS) <= TOLERANCE
    one_query = 1 / 199
    assert difference(*demo_tables, SHARES) <= one_query


# What the figures are.


def test_zeroing_all_heads_costs_what_zeroing_their_weights_costs() -> None:
    without, repeats = new_plain(), repeats_text(plain().identity, 1)
    for block in without.huggingface.gpt_neox.layers:
        block.attention.dense.weight.data.zero_()
    [row] = swept(plain(), [dict.fromkeys(HEADS, "zero")]).rows
    assert repeats is not None
    expected, again = (compare(plain(), without, text) for text in (scored_text(plain(), TEXT), repeats))
    assert row["kl"] == pytest.approx(expected.kl.mean(), abs=TOLERANCE)
    assert row["kl_se"] == pytest.approx(expected.kl.std(ddof=1) / np.sqrt(2), abs=TOLERANCE)
    assert row["loss"] == pytest.approx(expected.loss.mean(), abs=TOLERANCE)
    assert row["loss_increase"] == pytest.approx((expected.loss - expected.loss_original).mean(), abs=TOLERANCE)
    assert row["top1_agreement"] == pytest.approx(expected.top1_agreement.mean())
    assert row["repeats_kl"] == pytest.approx(again.kl.mean(), abs=TOLERANCE)
    assert row["induction_accuracy"] == pytest.approx(again.accuracy.mean())


def test_loss_is_the_models_own_cross_entropy() -> None:
    with torch.no_grad():
        logits = plain()(TEXT)[:, :-1].flatten(0, 1)
    [row] = swept(plain(), [{}]).rows
    expected = torch.nn.functional.cross_entropy(logits.double(), TEXT[:, 1:].flatten()).item()
    assert row["loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("engine", ["fast", "hooks"])
def test_a_plan_that_treats_nothing_costs_nothing(engine: str) -> None:
    [row] = swept(bridge(), [{}], engine=engine).rows
    assert abs(row["kl"]) < 1e-6
    assert abs(row["loss_increase"]) < 1e-6
    assert (row["top1_agreement"], row["n_heads"], row["heads"], row["treatment"]) == (1, 0, "", "")
    assert (row["kv_share"], row["removed_share"], row["layer"]) == (1, 0, None)


def test_a_row_says_which_heads_are_treated_and_how() -> None:
    one, several = swept(plain(), [{"L1H2": "window:3"}, {"L1H0": "zero", "L0H3": "mean", "L0H1": "mean"}]).rows
    assert (one["heads"], one["n_heads"], one["layer"], one["treatment"]) == ("L1H2", 1, 1, "window:3")
    assert (several["heads"], several["n_heads"], several["layer"]) == ("L0H1 L0H3 L1H0", 3, None)
    assert several["treatment"] == "mean zero"


def test_a_row_says_what_a_plan_saves() -> None:
    window, removed = swept(plain(), [{"L1H2": "window:12"}, {"L1H0": "zero", "L0H3": "mean"}]).rows
    assert (window["kv_share"], window["removed_share"]) == pytest.approx(((7 + 16 / 128) / 8, 0))
    assert (removed["kv_share"], removed["removed_share"]) == pytest.approx((0.75, 0.25))


def test_relative_perplexity_follows_from_the_loss() -> None:
    for row in both("neox-parallel")[0].rows:
        assert row["perplexity_increase"] == pytest.approx(np.exp(row["loss_increase"]) - 1)


def test_every_column_of_numbers_is_explained() -> None:
    names = {"kind", "case", "heads", "n_heads", "layer", "treatment", "loss", "key"}
    assert set(both("neox-parallel")[0].rows[0]) == names | set(MEASURES)


def test_one_window_has_no_standard_error() -> None:
    [row] = swept(plain(), [{"L0H1": "zero"}], TEXT[:1]).rows
    assert row["kl_se"] is None


def test_without_repeats_their_columns_are_empty() -> None:
    [row] = swept(plain(), [{"L0H1": "zero"}], n_repeats=0).rows
    assert [row[name] for name in ("repeats_loss_increase", "repeats_kl", "induction_accuracy")] == [None] * 3


def test_a_context_too_short_for_repeats_leaves_their_columns_empty() -> None:
    hf = tiny_neox(0, context=4)
    hf.set_attn_implementation("sdpa")
    [row] = swept(PlainModel(hf, "short"), [{"L0H1": "zero"}], ids(2, 4)).rows
    assert row["repeats_kl"] is None
    assert row["kl"] > 0


# What the figures do not depend on.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at_once", [1, 40, 127, 300, 10**6])
def test_how_many_tokens_go_through_the_model_together_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, family: str, at_once: int
) -> None:
    monkeypatch.setattr(fast, "TOKENS_AT_ONCE", at_once)
    assert difference(swept(plain(family), [*KINDS.values()]), both(family)[0]) <= 2e-6


@pytest.mark.parametrize("n_windows", [1, 2, 5])
def test_the_same_windows_again_and_again_cost_the_same(n_windows: int) -> None:
    wishes = [*KINDS.values()]
    one, many = (swept(plain(), wishes, TEXT[:1].expand(n, -1), n_repeats=0) for n in (1, n_windows))
    assert difference(one, many, ("loss", "kl", "top1_agreement")) <= 2e-6


def test_what_else_is_swept_changes_nothing() -> None:
    table = both("neox-parallel")[0]
    alone = [swept(plain(), [wish]).rows[0] for wish in KINDS.values()]
    found = np.array([[row[name] for name in EFFECTS] for row in alone])
    np.testing.assert_allclose(found, numbers(table, EFFECTS), atol=2e-6)


def test_rows_come_in_the_order_of_the_cases() -> None:
    cases = cases_of(plain(), KINDS.values())
    random.Random(1).shuffle(cases)
    for engine in ("fast", "hooks"):
        table = sweep(plain(), cases, TEXT[:1], engine=engine, n_repeats=0, progress=False)
        assert [row["key"] for row in table.rows] == [case.key for case in cases]


@pytest.mark.parametrize("engine", ["fast", "hooks"])
def test_the_same_sweep_again_gives_the_same_numbers(engine: str) -> None:
    wishes = list(KINDS.values())[:6]
    assert swept(plain(), wishes, engine=engine).rows == swept(plain(), wishes, engine=engine).rows


def test_another_seed_draws_other_repeats_and_changes_nothing_else() -> None:
    one, two = (swept(plain(), [{"L0H1": "zero"}], seed=seed).rows[0] for seed in (0, 1))
    assert one["kl"] == two["kl"]
    assert one["repeats_kl"] != two["repeats_kl"]


def test_the_cases_and_their_plans_are_left_alone() -> None:
    cases = cases_of(plain(), KINDS.values())
    before = [case.key for case in cases]
    sweep(plain(), cases, TEXT, progress=False)
    assert [case.key for case in cases] == before


def test_a_sweep_leaves_the_models_weights_and_the_random_state_alone() -> None:
    model = new_plain()
    weights = [weight.clone() for weight in model.huggingface.parameters()]
    before = torch.random.get_rng_state()
    swept(model, [*KINDS.values()])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.huggingface.parameters(), strict=True))


def test_equal_cases_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case, other = cases_of(plain(), [{"L0H1": "zero"}, {"L0H2": "zero"}])
    measured: list[str] = []

    def watch(model: Any, cases: Any, texts: Any) -> Any:
        measured.extend(case.key for case in cases)
        return measure_fast(model, cases, texts)

    monkeypatch.setattr("headspec.search.sweep.measure_fast", watch)
    table = sweep(plain(), [case, other, case, case], TEXT, progress=False)
    assert measured == [case.key, other.key]
    assert len(table) == 2


def test_every_head_alone_is_measured() -> None:
    cases = single_cases(profile_of(plain()), ["zero", "window:4"])
    table = sweep(plain(), cases, TEXT[:1], n_repeats=0, progress=False)
    assert [row["case"] for row in table.rows] == [f"{head}={what}" for head in HEADS for what in ("zero", "window:4")]
    assert (numbers(table, ("kl",)) > 0).all()


# Models out of the ordinary.


def test_half_precision_gives_figures_near_those_of_float32() -> None:
    half = new_plain()
    half.huggingface.bfloat16()
    wishes = [*KINDS.values()]
    exact, found = numbers(both("neox-parallel")[0], ("loss", "kl")), numbers(swept(half, wishes), ("loss", "kl"))
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert abs(found[0, 1]) < 1e-6


def test_a_hugging_face_model_is_swept_as_a_plain_one() -> None:
    model = new_plain().huggingface
    plan = plan_of(plain(), {"L0H1": "zero"}).renamed("GPTNeoXForCausalLM")
    [row] = sweep(model, [Case("wish", "0", plan)], TEXT, progress=False).rows
    assert row["kl"] == pytest.approx(swept(plain(), [{"L0H1": "zero"}]).rows[0]["kl"], abs=1e-6)


def test_windows_of_a_model_with_eager_attention_are_measured_or_refused() -> None:
    # A mask of True and False, added to the scores of eager attention as 1 and 0, would undo causality without a word.
    eager, wish = PlainModel(FAMILIES["neox-parallel"](), "planted"), [{"L0H2": "window:3"}]
    assert eager.huggingface.config._attn_implementation == "eager"
    try:
        found = swept(eager, wish)
    except ModelError:
        return
    assert difference(found, swept(plain(), wish), EFFECTS) <= TOLERANCE


SLIDING_WINDOW = 12


@lru_cache
def sliding_mistral() -> MistralForCausalLM:
    config = MistralConfig(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=128, sliding_window=SLIDING_WINDOW, initializer_range=0.2,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MistralForCausalLM(config).eval()


@lru_cache
def sliding_bridge() -> TransformerBridge:
    return bridge_of(copy.deepcopy(sliding_mistral()))


def with_one_head_windowed(tokens: Any, head: int, window: int, sinks: int) -> Any:
    """Logits of the sliding model when a head of its first layer sees no more than both windows let it see."""
    model = sliding_mistral()

    def narrow(module: Any, inputs: Any, keywords: dict[str, Any]) -> Any:
        mask = keywords["attention_mask"].expand(-1, 4, -1, -1).clone()
        query, key = torch.arange(mask.shape[-1])[:, None], torch.arange(mask.shape[-1])
        hidden = (query - key >= window) & (key >= sinks)
        mask[:, head] = mask[:, head].masked_fill(hidden, torch.finfo(mask.dtype).min)
        return inputs, {**keywords, "attention_mask": mask}

    hook = model.model.layers[0].self_attn.register_forward_pre_hook(narrow, with_kwargs=True)
    try:
        return model(tokens).logits
    finally:
        hook.remove()


def test_removals_in_a_model_with_a_sliding_window_cost_the_same_by_both_engines() -> None:
    model, wishes = sliding_bridge(), [{"L0H1": "zero"}, {"L0H1": "mean", "L1H0": "zero"}]
    assert difference(swept(model, wishes), swept(model, wishes, engine="hooks"), EFFECTS) <= TOLERANCE


@pytest.mark.parametrize("engine", ["fast", "hooks"])
@pytest.mark.parametrize(("window", "sinks"), [(20, 0), (5, 0), (5, 4), (12, 4)])
def test_a_window_in_a_model_with_a_sliding_window_is_measured_rightly_or_refused(
    engine: str, window: int, sinks: int
) -> None:
    # The mask of the window must not take the place of the model's own; and keys that the last query does not see are
    # not padding.
    model, wish = sliding_bridge(), [{"L0H1": f"window:{window}+{sinks}"}]
    text = scored_text(model, TEXT)
    expected = compare(sliding_mistral(), lambda tokens: with_one_head_windowed(tokens, 1, window, sinks), text)
    try:
        [row] = swept(model, wish, engine=engine).rows
    except ModelError:
        return
    assert row["kl"] == pytest.approx(expected.kl.mean(), abs=TOLERANCE)


def test_a_model_whose_layers_differ_on_the_repeats_alone_is_measured_rightly_or_refused() -> None:
    config = Qwen2Config(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=128, use_sliding_window=True, sliding_window=24,
        max_window_layers=1, initializer_range=0.2, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PlainModel(Qwen2ForCausalLM(config).eval(), "planted")
    wish = [{"L0H1": "zero"}]
    try:
        found = swept(model, wish, TEXT[:, :20])
    except ModelError:
        return
    assert difference(found, swept(model, wish, TEXT[:, :20], engine="hooks"), EFFECTS) <= TOLERANCE


# Hooks.


def test_the_users_own_hooks_are_in_force_in_the_hooks_engine_and_stay() -> None:
    model = bridge_of(FAMILIES["neox-parallel"]())
    case = cases_of(model, [{"L1H0": "zero"}])

    def zero(z: Any, hook: Any = None) -> Any:
        z = z.clone()
        z[:, :, 1] = 0
        return z

    model.add_hook("blocks.0.attn.hook_z", zero)
    [row] = sweep(model, case, TEXT, engine="hooks", progress=False).rows
    assert len(model.hook_dict["blocks.0.attn.hook_z"].fwd_hooks) == 1
    mine, together = swept(plain(), [{"L0H1": "zero"}, {"L0H1": "zero", "L1H0": "zero"}]).rows
    assert row["loss"] - row["loss_increase"] == pytest.approx(mine["loss"], abs=TOLERANCE)
    assert row["loss"] == pytest.approx(together["loss"], abs=TOLERANCE)


def n_hooks(model: Any) -> int:
    inner = model.huggingface if isinstance(model, PlainModel) else model
    points = [] if isinstance(model, PlainModel) else model.hook_dict.values()
    of_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in inner.modules())
    return of_modules + sum(len(point.fwd_hooks) for point in points)


@pytest.mark.parametrize("model", [plain, bridge])
@pytest.mark.parametrize("engine", ["fast", "hooks"])
def test_no_hooks_are_left(model: Any, engine: str) -> None:
    before = n_hooks(model())
    swept(model(), [*KINDS.values()], TEXT[:1], engine=engine)
    assert n_hooks(model()) == before


class BrokenPlan(HeadPlan):
    """Its fills give out when they are wanted for the second layer."""

    def fills_in(self, layer: int) -> Any:
        if layer == 1:
            raise KeyboardInterrupt
        return super().fills_in(layer)


@pytest.mark.parametrize("model", [plain, bridge])
@pytest.mark.parametrize("engine", ["fast", "hooks"])
def test_no_hooks_are_left_after_an_interrupt(model: Any, engine: str) -> None:
    before, [case] = n_hooks(model()), cases_of(model(), [{"L0H1": "zero", "L0H2": "window:3", "L1H1": "zero"}])
    broken = BrokenPlan(case.plan.about, case.plan.treatments, case.plan.fills)
    with pytest.raises(KeyboardInterrupt):
        sweep(model(), [Case("wish", "broken", broken)], TEXT[:1], engine=engine, progress=False)
    assert n_hooks(model()) == before
