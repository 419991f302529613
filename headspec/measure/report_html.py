"""How a BenchmarkReport shows itself in a notebook: who took part, with the numbers that matter most. No torch."""

from headspec.measure.report import MEASURES, BenchmarkReport
from headspec.record_html import RANDOM_WEIGHTS, Cell, Row, card, digits, table

COLUMNS = ("kl", "perplexity_increase", "induction_accuracy", "needle_accuracy", "kv_share")
TIMES = ("ttft_ms", "tpot_ms")


def report_html(report: BenchmarkReport) -> str:
    """A row a system: quality, bytes, and the times of the first cell in which it was timed."""
    settings = report.settings
    lines = [
        f"{settings.get('model', '?')}: {len(report)} measurements. Times are medians in the first cell that was "
        "timed; to_frame() has all of them, with intervals",
        RANDOM_WEIGHTS if report.random_weights else "",
    ]
    header = [Cell("system"), Cell("standing"), *(Cell(name, ": ".join(MEASURES[name])) for name in (*COLUMNS, *TIMES))]
    rows: list[Row] = [
        [Cell(name, heading=True), Cell(standing, left=True),
         *(digits(_number(report.value(name, measure))) for measure in (*COLUMNS, *TIMES))]
        for name, standing in report._systems().items()
    ]  # fmt: skip
    body = [table("Systems; point at a column's name for its meaning", header, rows)] if rows else []
    return card("BenchmarkReport: what systems cost and how fast they are", lines, body,
                ["headspec.show.benchmark(report)", "report.to_frame()"])  # fmt: skip


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
