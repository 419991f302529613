"""`headspec generate` and what is under it: text, table, times and files, exported models, and refusals."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import Run, one_line
from tiny_models import save_neox_hub_layout

import headspec
from headspec.classify.head_map import HeadMap
from headspec.classify.rules import classify_heads
from headspec.errors import HeadspecError, ModelError, RecordError
from headspec.export.export import export_model
from headspec.generation.text import generate_text, policy_of
from headspec.load.model import load_plain
from headspec.load.sources import read_text
from headspec.load.text import load_text
from headspec.pipeline import HEAD_MAP
from headspec.plan.make import plan_heads
from headspec.probe.collect import probe_heads
from headspec.runtime.adaptive import AdaptivePolicy
from headspec.runtime.record import LiveRecord
from headspec.show.live_timeline import timeline
from headspec.show.page import save_page

SHORT = "The Miller of Nether Arrin was a careful man."
LONG = "A careful man was advised by a careless one, as there were seven mills upon the river in those days."
"""100 bytes: so many tokens for the tiny model, which reads 128."""


@pytest.fixture(scope="module")
def prompt() -> str:
    """A prompt of some 200 tokens for the demo model."""
    return read_text("select")[:600].strip()


@pytest.fixture(scope="module")
def head_map(demo: Any) -> HeadMap:
    return classify_heads(probe_heads(demo, load_text(demo, "probe", n_tokens=2048), engine="fast"))


@pytest.fixture
def exported(neox_folder: Path, tmp_path: Path) -> Path:
    """The tiny GPT-NeoX with one head removed and one windowed."""
    model = load_plain(str(neox_folder), device="cpu")
    export_model(model, plan_heads(model, {"L0H1": "zero", "L1H0": "window:4"}), tmp_path / "pruned")
    return tmp_path / "pruned"


def cells(printed: str, name: str) -> list[str]:
    """The row of the table that has this name."""
    row = next(line for line in printed.splitlines() if re.match(rf"│ {name} +│", line))
    return [cell.strip() for cell in row.strip("│").split("│")][1:]


# Plain


def test_without_live_the_text_is_what_the_original_model_writes(run: Run, prompt: str) -> None:
    code, printed, said = run("generate", "demo", "--prompt", prompt, "--max-new-tokens", "12", "--device", "cpu")
    assert code == 0, said
    plain = load_plain("demo", device="cpu")
    ids = plain.tokenizer(prompt, return_tensors="pt").input_ids
    wanted = plain.huggingface.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                                        pad_token_id=0)  # fmt: skip
    assert printed.startswith(prompt + plain.tokenizer.decode(wanted[0, ids.shape[1] :]))
    assert "Live treatment" not in printed


def test_the_time_is_said_and_what_it_is_of(run: Run, neox_folder: Path) -> None:
    printed = run("generate", neox_folder, "--prompt", LONG, "--max-new-tokens", "9")[1]
    assert re.search(
        r"100 tokens of prompt, first new token after [\d.]+ ms; then [\d.]+ ms a token \(median\), [\d.e+]+ tokens/s; "
        r"\d new tokens. By the clock, from prompt or token to token, in one run: no benchmark.", printed,
    )  # fmt: skip


def test_the_prompt_may_come_from_standard_input(run: Run, neox_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("generate", neox_folder, "--max-new-tokens", "3")
    wanted = run(*given, "--prompt", SHORT)[1].splitlines()[0]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(f"{SHORT}\n".encode())))
    assert run(*given, "--prompt", "-")[1].splitlines()[0] == wanted


def test_out_keeps_the_text(run: Run, neox_folder: Path, tmp_path: Path) -> None:
    code, printed, said = run("generate", neox_folder, "--prompt", SHORT, "--max-new-tokens", "5", "--out", "o")
    assert code == 0, said
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["text.txt"]
    assert (tmp_path / "o/text.txt").read_text(encoding="utf-8").startswith(SHORT)
    assert printed.rstrip().endswith("text.txt")


def test_what_would_steer_the_terminal_is_not_printed(run: Run, neox_folder: Path) -> None:
    printed = run("generate", neox_folder, "--prompt", "red \x1b[31m [bold]ink", "--max-new-tokens", "2")[1]
    assert printed.startswith("red �[31m [bold]ink")


def test_random_weights_say_so(run: Run) -> None:
    code, printed, said = run("generate", "random:pythia-14m", "--prompt", SHORT, "--max-new-tokens", "3")
    assert code == 0, said
    assert re.match(re.escape(SHORT) + r"( \d+){3}\n", printed)
    assert "RANDOM WEIGHTS" in printed


# Live


@pytest.fixture
def lived(run: Run, prompt: str, head_map: HeadMap, tmp_path: Path) -> tuple[str, str, LiveRecord]:
    head_map.save(tmp_path / "analysis" / HEAD_MAP)
    code, printed, said = run("generate", "demo", "--prompt", prompt, "--live", "--head-map", "analysis", "--policy",
                              "snapkv", "--max-new-tokens", "40", "--out", "o", "--device", "cpu")  # fmt: skip
    assert code == 0, said
    return printed, said, LiveRecord.load(tmp_path / "o/live.json")


def test_live_prints_the_text_and_what_became_of_the_heads(lived: Any, prompt: str) -> None:
    printed, _, record = lived
    assert printed.startswith(prompt)
    before = [change.role for change in record.at(record.n_prompt).values()]
    for role in ("positional", "gathering", "dead"):
        assert cells(printed, role) == [str(before.count(role)), str(record.counts()[role])]
    assert len(before) == 32
    assert cells(printed, "changes of role")[1] == str(len(record.flips()))
    assert cells(printed, "heads × tokens not computed")[1] == f"{record.skipped:,}"
    assert cells(printed, "saved")[1] == f"{1 - record.kv_share:.1%}"


def test_a_head_map_lets_heads_die(lived: Any) -> None:
    _, said, record = lived
    assert record.counts()["dead"] > 0
    assert "no head is called dead" not in said


def test_live_writes_record_timeline_and_text(lived: Any, tmp_path: Path) -> None:
    printed, _, record = lived
    names = {"text.txt", "live.json", "timeline.png", "timeline.html"}
    assert {path.name for path in (tmp_path / "o").iterdir()} == names
    assert {line.strip() for line in printed[printed.index("Files: o/") :].splitlines()[1:]} == names
    again = save_page(timeline(record), tmp_path / "again.html")
    assert again.read_bytes() == (tmp_path / "o/timeline.html").read_bytes()


def test_live_is_what_generate_with_a_policy_gives(lived: Any, prompt: str, head_map: HeadMap) -> None:
    model, tokenizer = headspec.runtime_model("demo", head_map, device="cpu")
    cache = model.make_cache(AdaptivePolicy(policy="snapkv"))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    written = model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=40,
                             do_sample=False, pad_token_id=0)  # fmt: skip
    printed, _, record = lived
    assert printed.startswith(prompt + tokenizer.decode(written[0, ids.shape[1] :]))
    assert cache.record() == record
    assert record.model == "demo"


def test_without_a_head_map_no_head_dies_and_that_is_said(run: Run, prompt: str) -> None:
    code, printed, said = run("generate", "demo", "--prompt", prompt, "--live", "--max-new-tokens", "2")
    assert code == 0, said
    assert cells(printed, "dead") == ["0", "0"]
    assert "no head is called dead: what a head map knows is missing" in said


def test_watch_only_says_so_and_writes_as_without_live(run: Run, neox_folder: Path) -> None:
    plain = run("generate", neox_folder, "--prompt", LONG, "--max-new-tokens", "20")[1].splitlines()[0]
    watched = run("generate", neox_folder, "--prompt", LONG, "--max-new-tokens", "20", "--live", "--watch-only")[1]
    assert watched.splitlines()[0] == plain
    assert "Watched only: no head was treated." in watched


def test_a_short_text_is_not_classified_and_that_is_said(run: Run, neox_folder: Path) -> None:
    printed = run("generate", neox_folder, "--prompt", SHORT, "--max-new-tokens", "2", "--live")[1]
    assert "No head was classified: it takes 80 tokens, 46 were read." in printed
    assert "Live treatment" not in printed


def test_options_become_settings(run: Run, neox_folder: Path, tmp_path: Path) -> None:
    code, _, said = run(
        "generate", neox_folder, "--prompt", LONG, "--max-new-tokens", "4", "--live", "--every", "8", "--reclassify",
        "0", "--policy", "snapkv", "--budget", "40", "--latest", "20", "--no-dead", "--watch-only", "--out", "o",
    )  # fmt: skip
    assert code == 0, said
    wanted = AdaptivePolicy(every=8, reclassify=0, policy="snapkv", budget=40, latest=20, dead=False, watch_only=True)
    assert LiveRecord.load(tmp_path / "o/live.json").policy == wanted.to_dict()


@pytest.mark.parametrize(("text", "budget"), [("25%", 0.25), ("0.25", 0.25), ("25", 25)])
def test_a_budget_is_a_share_or_a_number_of_keys(
    run: Run, neox_folder: Path, tmp_path: Path, text: str, budget: float
) -> None:
    run("generate", neox_folder, "--prompt", LONG, "--max-new-tokens", "2", "--live", "--policy", "snapkv", "--budget",
        text, "--out", "o")  # fmt: skip
    found = LiveRecord.load(tmp_path / "o/live.json").policy["budget"]
    assert (found, type(found)) == (budget, type(budget))


def test_settings_come_from_a_file_and_options_go_first(run: Run, neox_folder: Path, tmp_path: Path) -> None:
    values = {"every": 4, "reclassify": 8, "sinks": 2, "observed": 32, "thresholds": {"windows": [4, 16]}}
    (tmp_path / "s.json").write_text(json.dumps(values))
    code, _, said = run("generate", neox_folder, "--prompt", LONG, "--max-new-tokens", "2", "--live", "--settings",
                        "s.json", "--reclassify", "16", "--out", "o")  # fmt: skip
    assert code == 0, said
    wanted = policy_of({**values, "reclassify": 16})
    assert LiveRecord.load(tmp_path / "o/live.json").policy == wanted.to_dict()
    assert (wanted.every, wanted.thresholds.windows) == (4, (4, 16))


def test_an_exported_model_runs_live_with_the_heads_it_has(run: Run, exported: Path, neox_folder: Path) -> None:
    code, printed, said = run("generate", exported, "--prompt", LONG, "--max-new-tokens", "8", "--live", "--out", "o")
    assert code == 0, said
    record = LiveRecord.load("o/live.json")
    assert record.model == str(neox_folder)
    assert set(record.heads()) == {(0, 0), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)}
    assert "Live treatment" in printed


def test_the_same_seed_draws_the_same_text(run: Run, neox_folder: Path) -> None:
    def drawn(*more: Any) -> str:
        run("generate", neox_folder, "--prompt", SHORT, "--temperature", "1.5", "--max-new-tokens", "20", "--out", "o",
            *more)  # fmt: skip
        return Path("o/text.txt").read_text(encoding="utf-8")

    assert drawn() == drawn() != drawn("--seed", "1")
    assert drawn("--top-p", "0.0001") == drawn("--top-p", "0.0001", "--seed", "1")  # only the likeliest is left


# Refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NEOX", "--prompt", SHORT, "--every", "8", "--no-dead"], "--every, --no-dead: .* add --live"),
        (["NEOX", "--prompt", SHORT, "--reclassify", "0"], "--reclassify: .* add --live"),
        (["NEOX", "--prompt", SHORT, "--watch-only"], "--watch-only: .* add --live"),
        (["NEOX", "--prompt", SHORT, "--head-map", "x"], "--head-map: .* add --live"),
        (["NEOX", "--prompt", ""], "the prompt is empty"),
        (["NEOX", "--prompt", LONG, "--max-new-tokens", "30"], "100 tokens .* 30 new ones .* context of 128: shorten"),
        (["NEOX", "--prompt", SHORT, "--max-new-tokens", "0"], "0 new tokens: want 1 or more"),
        (["NEOX", "--prompt", SHORT, "--temperature", "-1"], "temperature -1.0: want 0"),
        (["NEOX", "--prompt", SHORT, "--top-p", "0.5"], "at temperature 0 nothing is drawn"),
        (["NEOX", "--prompt", SHORT, "--temperature", "1", "--top-p", "0"], "top_p 0.0: want a share"),
        (["NEOX", "--prompt", SHORT, "--live", "--every", "10"], "reclassify=64: want a multiple of every=10"),
        (["NEOX", "--prompt", SHORT, "--live", "--policy", "streaming"], "needs a number of keys as budget"),
        (["NEOX", "--prompt", SHORT, "--live", "--policy", "snapkv", "--budget", "x%"], "write a share like 50%"),
        (["NEOX", "--prompt", SHORT, "--live", "--budget", "50%"], "--budget and --latest need a --policy"),
        (["NEOX", "--prompt", SHORT, "--live", "--settings", "none.json"], "cannot read --settings none.json"),
        (["NEOX", "--prompt", SHORT, "--live", "--settings", "TEXT"], "is not JSON"),
        (["NEOX", "--prompt", SHORT, "--live", "--settings", "LIST"], "want an object like"),
        (["NEOX", "--prompt", SHORT, "--live", "--settings", "ODD"], "no setting evry: there are thresholds, sinks"),
        (["NEOX", "--prompt", SHORT, "--live", "--head-map", "none"], "no head map at none"),
        (["NEOX", "--prompt", SHORT, "--live", "--head-map", "MAP"], "made for demo .*, not for"),
        (["PRUNED", "--prompt", SHORT, "--live", "--head-map", "MAP"], "is an exported model, which carries"),
        (["LLAMA", "--prompt", SHORT], "llama models cannot run in headspec's runtime"),
        (["pythia-71m", "--prompt", SHORT], "Did you mean pythia-70m"),
        (["NEOX", "--prompt", SHORT, "--dtype", "float9"], "dtype 'float9': choose"),
        (["NEOX", "--prompt", SHORT, "--out", "s.txt"], "cannot write into s.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, neox_folder: Path, llama_folder: Path, exported: Path, head_map: HeadMap, arguments: list[str],
    message: str,
) -> None:  # fmt: skip
    names = {"NEOX": neox_folder, "LLAMA": llama_folder, "PRUNED": exported, "TEXT": "s.txt", "LIST": "l.json",
             "ODD": "o.json", "MAP": head_map.save(Path("map.json"))}  # fmt: skip
    for name, text in (("s.txt", "no JSON"), ("l.json", "[1]"), ("o.json", '{"evry": 1}')):
        Path(name).write_text(text)
    code, _, said = run("generate", *(names.get(part, part) for part in arguments))
    assert code == 2, said
    assert re.search(message, one_line(said)), said


def test_a_model_without_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    save_neox_hub_layout(tmp_path / "bare", tokenizer=False)
    code, _, said = run("generate", "bare", "--prompt", SHORT)
    assert code == 2, said
    assert "bare has no tokenizer" in one_line(said)


def test_an_unknown_policy_is_a_usage_error(run: Run, neox_folder: Path) -> None:
    code, _, said = run("generate", neox_folder, "--prompt", SHORT, "--live", "--policy", "expected_attention")
    assert code == 2
    assert "snapkv" in said


def test_what_is_wrong_at_a_glance_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, headspec.cli\n"
        "try: headspec.cli.main()\n"
        "except SystemExit as done: sys.exit(9 if 'torch' in sys.modules else done.code)"
    )
    for more, wanted in ((["--help"], 0), (["demo", "--prompt", "x", "--every", "8"], 2)):
        done = subprocess.run([sys.executable, "-c", code, "generate", *more], cwd=tmp_path, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == wanted, done.stderr


# From Python


@pytest.mark.parametrize("of", ["name", "plain", "bridge"])
def test_runtime_model_keeps_every_head(demo: Any, of: str) -> None:
    given = {"name": "demo", "plain": load_plain("demo", device="cpu"), "bridge": demo}[of]
    model, tokenizer = headspec.runtime_model(given, device="cpu")
    ids = tokenizer(SHORT, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, demo(ids), atol=1e-4)
    assert model.config.head_facts is None


def test_runtime_model_has_the_dtype_asked_for(neox_folder: Path) -> None:
    model, _ = headspec.runtime_model(neox_folder, device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["map.json", HEAD_MAP, "head_map.json"])
def test_a_head_map_is_found_in_its_file_or_a_folder(head_map: HeadMap, tmp_path: Path, name: str) -> None:
    path = head_map.save(tmp_path / name)
    model, _ = headspec.runtime_model("demo", path if name == "map.json" else tmp_path, device="cpu")
    assert model.config.head_facts == headspec.runtime_model("demo", head_map, device="cpu")[0].config.head_facts


def test_a_head_map_of_some_layers_is_refused(demo: Any) -> None:
    profile = probe_heads(demo, load_text(demo, "probe", n_tokens=512), layers=[0, 1], progress=False)
    with pytest.raises(RecordError, match="knows 2 of the 4 layers of demo: probe all of them"):
        headspec.runtime_model("demo", classify_heads(profile), device="cpu")


def test_another_head_than_a_language_model_is_refused(neox_folder: Path) -> None:
    plain = load_plain(str(neox_folder), device="cpu")
    with pytest.raises(ModelError, match="GPTNeoXModel models cannot run"):
        headspec.runtime_model(replace(plain, huggingface=plain.huggingface.gpt_neox))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"memory": "much"}, "live treatment: "), ({"thresholds": {"windows": [8, 4]}}, "windows are rising"),
     ({"thresholds": {"odd": 1}}, "live treatment: .*odd")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadspecError, match=message):
        policy_of(settings)


def test_there_is_a_time_for_every_new_token(neox_folder: Path) -> None:
    model, tokenizer = headspec.runtime_model(neox_folder, device="cpu")
    model.generation_config.eos_token_id = None  # so that the text does not end
    found = generate_text(model, tokenizer, SHORT, max_new_tokens=7)
    assert (found.n_prompt, len(found.seconds)) == (len(SHORT), 7)
    assert found.first_ms == 1000 * found.seconds[0]
    assert found.tokens_per_second == pytest.approx(6 / sum(found.seconds[1:]))
    one = generate_text(model, tokenizer, SHORT, max_new_tokens=1)
    assert (one.token_ms, one.tokens_per_second) == (None, None)


def test_generating_leaves_the_random_state_alone(neox_folder: Path) -> None:
    model, tokenizer = headspec.runtime_model(neox_folder, device="cpu")
    before = torch.get_rng_state()
    generate_text(model, tokenizer, SHORT, temperature=1.0, max_new_tokens=3, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
