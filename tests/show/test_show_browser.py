"""In a real Chromium: pattern views and the figure of a sweep run, without an error, and ask no network for anything.

Chromium is given a proxy that only writes down what it is asked for.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch
from sweep_tables import everything

from headspec.show.page import save_page
from headspec.show.patterns import attention
from headspec.show.sweep_page import sweep

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MAKERS = re.compile(r"(google|googleapis|gvt1|gstatic)\.com")
NASTY = ["</script>", "<b>bold</b>", "&", "&amp;", "\n", '"', "<!--", "<img src=x onerror='document.title=1'>", ""]
PRESS_EVERYTHING = """
<script>
(async () => {
  const graph = document.getElementById("figure"), seen = [];
  for (const menu of graph.layout.updatemenus) for (const button of menu.buttons) {
    await Plotly[button.method](graph, ...button.args);
    const drawn = graph.data.map(trace => trace.type === "heatmap" ? trace.z[0][0] : trace.y[0]);
    seen.push({label: button.label, drawn, shown: graph.data.map(trace => trace.visible !== false),
               axis: graph._fullLayout.yaxis2.type});
  }
  const note = document.createElement("pre");
  note.id = "seen";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
})();
</script>
"""


class Proxy(BaseHTTPRequestHandler):
    """Gives nothing, and keeps what was asked for."""

    asked: ClassVar[list[str]] = []

    def refuse(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    do_GET = do_POST = do_HEAD = do_CONNECT = refuse  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Page:
    """What has become of a page when its scripts have run."""

    body: str
    console: list[str]
    asked: list[str]
    """What was asked of a network; but for what the browser asks its makers."""


Opened = Callable[[Path], Page]


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium`")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    Thread(target=server.serve_forever, daemon=True).start()

    def open_page(path: Path) -> Page:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
                   "--virtual-time-budget=5000", "--disable-background-networking", "--disable-component-update",
                   f"--proxy-server=127.0.0.1:{server.server_port}", f"--user-data-dir={path.parent / 'browser'}",
                   path.as_uri()]  # fmt: skip
        Proxy.asked.clear()
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        asked = [address for address in Proxy.asked if not MAKERS.search(address)]
        return Page(done.stdout, re.findall(r"CONSOLE.*?\] (.*)", done.stderr), asked)

    yield open_page
    server.shutdown()


def test_errors_and_requests_would_be_seen(opened: Opened, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src='https://example.com/x.png'><script>throw new Error('gone wrong')</script>")
    found = opened(page)
    assert any("gone wrong" in line for line in found.console)
    assert found.asked == ["example.com:443"]


def test_patterns_of_tokens_with_html_are_drawn_and_run_nothing(
    opened: Opened, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headspec.show.patterns.token_texts", lambda model, ids: NASTY[: len(ids)])
    view = attention(demo, torch.arange(20, 20 + len(NASTY)), ["L1H7", "L2H3"])
    page = opened(view.save(tmp_path / "view.html"))
    body = page.body
    assert page.console == page.asked == []
    assert "<title>attention in demo</title>" in body
    assert "L2H3" in re.sub(r"<script.*?</script>", "", body, flags=re.DOTALL)
    assert body.count("<canvas") >= 3
    assert "<img" not in re.sub(r"<script.*?</script>", "", body, flags=re.DOTALL)


def test_every_choice_of_a_sweep_changes_the_figure(opened: Opened, tmp_path: Path) -> None:
    figure = sweep(everything())
    page = save_page(figure, tmp_path / "sweep.html")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PRESS_EVERYTHING}</body>"), encoding="utf-8")
    after = opened(page)
    assert after.console == after.asked == []
    found = re.search(r'<pre id="seen">(.*?)</pre>', after.body)
    assert found is not None
    seen = {each["label"]: each for each in json.loads(found[1])}
    assert [label for label, each in seen.items() if each["axis"] == "linear"] == [
        "induction_accuracy", "one head: mean", "one head: window:8"
    ]  # fmt: skip
    assert seen["kl"]["drawn"][:3] == [-3, -1, 0.01]
    assert seen["induction_accuracy"]["drawn"][:3] == pytest.approx([0.899, 0.8, 0.89])
    assert seen["one head: window:8"]["shown"][:2] == [False, True]
    assert all(seen["one head: window:8"]["shown"][2:])
