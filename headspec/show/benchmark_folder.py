"""All figures of a benchmark, written into one folder: what the rows of the report allow, and only that."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from headspec.measure.report import BenchmarkReport
from headspec.show.benchmark_bars import roofline, speed
from headspec.show.benchmark_curves import has_quality, time_place
from headspec.show.benchmark_page import DRAWERS, parts_of
from headspec.show.benchmark_panels import roofline_panels, speed_panels
from headspec.show.benchmark_quality import quality_vs_bytes, quality_vs_time
from headspec.show.benchmark_rows import Numbers
from headspec.show.page import save_page
from headspec.show.static import save_png
from headspec.show.twin import TwinFigure

PNGS = ("quality_vs_bytes.png", "quality_vs_time.png", "speed.png", "roofline.png")
PAGES = ("quality.html", "speed.html", "roofline.html")


def save_figures(report: BenchmarkReport, folder: Path | str) -> list[Path]:
    """Write PNGs and pages; those of an earlier benchmark in the folder that this one has no rows for are deleted."""
    folder = Path(folder)
    drawn, pages = _drawn(report), benchmark_figures(report)
    for name in (*PNGS, *PAGES):
        if name not in drawn and name not in pages:
            (folder / name).unlink(missing_ok=True)
    written = [save_png(draw(), folder / name) for name, draw in drawn.items()]
    return written + [save_page(figure, folder / name) for name, figure in pages.items()]


def benchmark_figures(report: BenchmarkReport) -> dict[str, TwinFigure]:
    """The plotly figures that a report allows, by the names of their pages."""
    return {f"{part}.html": DRAWERS[part](report) for part in parts_of(report)}


def _drawn(report: BenchmarkReport) -> dict[str, Callable[[], Figure]]:
    """What makes the PNGs that a report allows, by name."""
    numbers = Numbers(report)
    found: dict[str, Callable[[], Figure]] = {}
    if has_quality(numbers):
        found["quality_vs_bytes.png"] = lambda: quality_vs_bytes(numbers)
        place = time_place(numbers)
        if place is not None:
            found["quality_vs_time.png"] = lambda: quality_vs_time(numbers, place)
    if speed_panels(numbers):
        found["speed.png"] = lambda: speed(numbers)
    if roofline_panels(numbers):
        found["roofline.png"] = lambda: roofline(numbers)
    return found
