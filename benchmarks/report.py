"""How large the report of a model with 1,024 heads is, and how long Chromium takes to open it.

Records of every kind are made up (those of the tests), so no model is needed:

    python benchmarks/report.py

Times are medians over five openings, each in a fresh browser context: until the head map can be used, until the whole
file has been read, and until the first figure is drawn when one jumps to it.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests" / "show"
sys.path[:0] = [str(TESTS), str(TESTS / "report")]

from playwright.sync_api import Browser, sync_playwright  # noqa: E402
from report_records import write_results  # noqa: E402

from headspec.results import report  # noqa: E402

WATCH = """new MutationObserver(() => {
    if (document.documentElement.dataset.ready && !window.readyAt) window.readyAt = performance.now();
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-ready"] })"""
DRAWN = "() => document.querySelector('#offsets .main-svg') !== null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32, help="in each layer")
    parser.add_argument("--openings", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = write_results(Path(place), asked.layers, asked.heads)
        start = time.perf_counter()
        page = report(folder)
        print(f"{asked.layers * asked.heads:,} heads: {page.stat().st_size / 1e6:.2f} MB, "
              f"written in {time.perf_counter() - start:.1f} s")  # fmt: skip
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            times = [opening(browser, page) for _ in range(asked.openings)]
            print(f"median of {asked.openings} openings in Chromium {browser.version}, ms:")
            for name in times[0]:
                print(f"  {name}: {statistics.median(each[name] for each in times):.0f}")


def opening(browser: Browser, path: Path) -> dict[str, float]:
    """Open the page once: milliseconds from the start of the navigation, for the figure from the jump."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(path.as_uri())
    found: dict[str, Any] = page.evaluate(
        "() => ({ready: readyAt, read: performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd})"
    )
    start = time.perf_counter()
    page.locator("#offsets").scroll_into_view_if_needed()
    page.wait_for_function(DRAWN)
    drawn = 1e3 * (time.perf_counter() - start)
    context.close()
    return {"head map can be used": found["ready"], "whole file read": found["read"], "first figure drawn": drawn}


if __name__ == "__main__":
    main()
