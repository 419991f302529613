"""What plans cost and save: the Pareto front of a search (KV bytes against KL), as PNG and as a plotly figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.graph_objects import Figure as PlotlyFigure
from plotly.graph_objects import Scatter

from headspec.measure.estimate import Estimate
from headspec.record_html import RANDOM_WEIGHTS
from headspec.search.record import PlanPoint, SearchRecord
from headspec.show.budget_words import budget_words
from headspec.show.hover import escaped, faint
from headspec.show.page import save_page
from headspec.show.static import save_png
from headspec.show.style import FAINT_INK, GRID, INK, LINE_COLORS, plotly_layout
from headspec.show.twin import TwinFigure, with_twin

if TYPE_CHECKING:
    from headspec.search.search_plan import SearchResult

Found: TypeAlias = "SearchResult | SearchRecord"
"""A search just done, or its record."""
LEAST_KL = 1e-5
"""Plans that change less than this are drawn here: a logarithmic axis has no zero."""
FRONT, OTHER, CHOSEN, RANDOM = LINE_COLORS[0], "#BBBBBB", LINE_COLORS[1], LINE_COLORS[5]
RANDOM_NAME = "random plans of the same make (fresh text)"
FRESH_NAME = "chosen, on fresh text"
X_TITLE = "KV bytes left at the model's context, share of the original's"
Y_TITLE = "KL(original ‖ treated), nats a token"
TEXT_NOTE = "Dots and star: the text plans were chosen on; diamond and crosses: fresh text"


def pareto_png(found: Found, path: Path) -> Path:
    """Write the figure as PNG."""
    return save_png(pareto_static(found), path)


def draw_search(found: Found, folder: Path, pages: bool = True) -> list[Path]:
    """Write the figure into a folder, as PNG and as a page."""
    drawn = [pareto_png(found, folder / "pareto.png")]
    return [*drawn, save_page(pareto(found), folder / "pareto.html")] if pages else drawn


def pareto_static(found: Found) -> Figure:
    """The figure, with matplotlib."""
    record = _record(found)
    figure = Figure(figsize=(8, 5), layout="constrained")
    figure.suptitle("\n".join(_title(record)), fontsize=10)
    _draw(figure.add_subplot(), record)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def pareto(found: Found) -> TwinFigure:
    """What every measured plan saves and costs, to point at: each says what it does.

    Args:
        found: What `search_plan` returned, or its saved SearchRecord.
    """
    record = _record(found)
    front, rest = _split(record)
    chosen, random = record.chosen, record.certificate["random_plans"]["kl"]
    traces = [
        _trace("measured plans", rest, {"color": OTHER, "size": 7}, "markers"),
        _trace("Pareto front", front, {"color": FRONT, "size": 8}, "lines+markers"),
        _trace("chosen", [chosen], {"color": CHOSEN, "size": 15, "symbol": "star"}, "markers"),
        Scatter(
            name=RANDOM_NAME, mode="markers", hovertemplate="a random plan on fresh text: KL %{y:.4g}<extra></extra>",
            x=[chosen.kv_share] * len(random), y=_drawn(random),
            marker={"color": RANDOM, "size": 7, "symbol": "x-thin", "line": {"width": 1.5, "color": RANDOM}},
        ),
        Scatter(
            name=FRESH_NAME, mode="markers", x=[chosen.kv_share], y=_fresh(record),
            hovertemplate="the chosen plan on fresh text: KL %{y:.4g}<extra></extra>",
            marker={"color": CHOSEN, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
        ),
    ]  # fmt: skip
    figure = PlotlyFigure(traces)
    figure.update_layout(plotly_layout(["<br>".join(map(escaped, _title(record)))], 420))
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    figure.update_xaxes(title_text=_x_title(record), tickformat=".0%", range=[0, 1.03])
    figure.update_yaxes(title_text=Y_TITLE, type="log", dtick=1, exponentformat="power")
    return with_twin(figure, lambda: pareto_static(record))


def _record(found: Found) -> SearchRecord:
    return found if isinstance(found, SearchRecord) else found.record


def _draw(axes: Axes, record: SearchRecord) -> None:
    front, rest = _split(record)
    chosen, random = record.chosen, _drawn(record.certificate["random_plans"]["kl"])
    axes.scatter(*_places(rest), s=16, color=OTHER, label="measured plans")
    axes.plot(*_places(front), marker="o", ms=4, lw=1, color=FRONT, label="Pareto front")
    axes.scatter([chosen.kv_share] * len(random), random, marker="x", s=18, lw=0.8, color=RANDOM,
                 label=RANDOM_NAME)  # fmt: skip
    axes.scatter(*_places([chosen]), marker="*", s=150, color=CHOSEN, edgecolor=INK, lw=0.5, zorder=3, label="chosen")
    axes.scatter([chosen.kv_share], _fresh(record), marker="D", s=45, facecolor="none", edgecolor=CHOSEN, lw=1.5,
                 zorder=3, label=FRESH_NAME)  # fmt: skip
    axes.set(xlabel=_x_title(record), ylabel=Y_TITLE, yscale="log", xlim=(0, 1.03))
    axes.grid(color=GRID, which="major")
    axes.tick_params(colors=FAINT_INK)
    axes.spines[["top", "right"]].set_visible(False)


def _fresh(record: SearchRecord) -> list[float]:
    return _drawn([Estimate.number(record.certificate["quality"]["kl"]["value"])])


def _trace(name: str, points: Sequence[PlanPoint], marker: dict[str, Any], mode: str) -> Scatter:
    x, y = _places(points)
    words = [_words(point) for point in points]
    return Scatter(name=name, x=x, y=y, text=words, mode=mode, marker=marker, line={"width": 1.5},
                   hovertemplate="%{text}<extra></extra>")  # fmt: skip


def _words(point: PlanPoint) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in point.counts.items())
    return (
        f"{escaped(counts)}<br>KV bytes left {point.kv_share:.1%}, attention weights removed "
        f"{point.removed_share:.1%}<br>"
        f"{_time(point)}"
        f"KL {point.kl}{faint(' nats a token on the text plans were chosen on, 95 % interval over windows')}<br>"
        f"perplexity increase {point.perplexity_increase}{faint(' relative: 0.02 is 2 % more')}<br>"
        f"induction accuracy {point.induction_accuracy or 'n/a'}{faint(' share of repeated tokens foreseen')}"
    )


def _time(point: PlanPoint) -> str:
    return "" if point.decode_ms is None else f"at least {point.decode_ms:.3g} ms a token at batch 1 (roofline)<br>"


def _x_title(record: SearchRecord) -> str:
    if record.workload is None:
        return X_TITLE
    return (
        f"KV bytes left, mean over {record.workload.n_new} tokens after a prompt of {record.workload.n_prompt}, share "
        "of the original's"
    )


def _split(record: SearchRecord) -> tuple[list[PlanPoint], list[PlanPoint]]:
    """The front, smallest KV share first, and the rest."""
    front = [point for point in record.points if point.on_front]
    front.sort(key=lambda point: (point.kv_share, point.kl.value))
    return front, [point for point in record.points if not point.on_front]


def _places(points: Sequence[PlanPoint]) -> tuple[list[float], list[float]]:
    return [point.kv_share for point in points], _drawn([point.kl.value for point in points])


def _drawn(values: Sequence[float]) -> list[float]:
    return [max(value, LEAST_KL) for value in values]


def _title(record: SearchRecord) -> list[str]:
    certificate, quality = record.certificate, record.certificate["quality"]
    kl, increase = (Estimate.number(quality[name]["value"]) for name in ("kl", "perplexity_increase"))
    lines = [
        f"What plans for {record.model} save and cost",
        f"chosen: {certificate['heads_removed']} heads removed, {certificate['heads_windowed']} windowed"
        f"{_compressed(certificate)}; on fresh "
        f"text ({quality['n_windows']} × {quality['window']} tokens) KL {kl:.3g}, perplexity "
        f"{increase:+.2%}",
    ]  # fmt: skip
    budget = budget_words(certificate, record.within_budget)
    lines += [TEXT_NOTE, *([budget] if budget else [])]
    return lines + ([RANDOM_WEIGHTS] if record.random_weights else [])


def _compressed(certificate: Mapping[str, Any]) -> str:
    number = certificate.get("heads_compressed", 0)
    return f", {number} compressed" if number else ""
