"""A benchmark in one figure: what matters most of what was measured, or the part asked for."""

from headspec.errors import HeadspecError
from headspec.measure.report import BenchmarkReport
from headspec.show.benchmark_bars_page import roofline_figure, speed_figure
from headspec.show.benchmark_curves import has_quality
from headspec.show.benchmark_panels import roofline_panels, speed_panels
from headspec.show.benchmark_quality_page import quality_figure
from headspec.show.benchmark_rows import Numbers
from headspec.show.twin import TwinFigure

DRAWERS = {"quality": quality_figure, "speed": speed_figure, "roofline": roofline_figure}


def benchmark(report: BenchmarkReport, part: str | None = None) -> TwinFigure:
    """What systems cost in quality over the KV bytes they hold; without quality, how fast they are.

    Args:
        report: From `headspec.benchmark` or `BenchmarkReport.load`.
        part: `quality`, `speed` or `roofline` (the share of the machine's limit that is reached).

    Raises:
        HeadspecError: An unknown part, or one that was not measured.
    """
    if part is not None and part not in DRAWERS:
        raise HeadspecError(f"no part {part!r} of a benchmark: choose one of {', '.join(DRAWERS)}.")
    known = parts_of(report)
    if not known:
        raise HeadspecError("nothing to draw in this benchmark yet: it has neither quality nor times. Run it on.")
    return DRAWERS[part or known[0]](report)


def parts_of(report: BenchmarkReport) -> list[str]:
    """The parts that a report has rows for, the most telling first."""
    numbers = Numbers(report)
    holds = {
        "quality": has_quality(numbers),
        "speed": bool(speed_panels(numbers)),
        "roofline": bool(roofline_panels(numbers)),
    }
    return [part for part in DRAWERS if holds[part]]
