"""How the numbers of a benchmark are written: three digits, intervals, bytes, and the line that names the machine."""

import math

from headspec.measure.estimate import Estimate
from headspec.show.benchmark_rows import SIZE, Numbers
from headspec.show.hover import TITLE_WIDTH, escaped, faint

RANDOM = "RANDOM WEIGHTS: timing only"
MISSING = "–"


def digits(value: float | None) -> str:
    """Three significant digits.

    >>> digits(0.0123456), digits(1.5), digits(99.96), digits(12345.0), digits(0.0), digits(None)
    ('0.0123', '1.50', '100', '12,300', '0', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:#.3g}"


def with_interval(found: Estimate | None, scale: float = 1.0) -> str:
    """A value and its 95 % interval, where there is one.

    >>> with_interval(Estimate(1.5, 1.25, 2.0)), with_interval(Estimate(1.5, math.nan, math.nan))
    ('1.50 [1.25, 2.00]', '1.50')
    """
    if found is None:
        return MISSING
    limits = f" [{digits(scale * found.low)}, {digits(scale * found.high)}]" if has_interval(found) else ""
    return digits(scale * found.value) + limits


def has_interval(found: Estimate) -> bool:
    """Whether both limits are numbers."""
    return math.isfinite(found.low) and math.isfinite(found.high)


def percent(value: float | None) -> str:
    """A share.

    >>> percent(0.2481), percent(1.0)
    ('24.8 %', '100 %')
    """
    return MISSING if value is None else f"{digits(100 * value)} %"


def byte_words(value: float | None) -> str:
    """In MB or GB, of a thousand each.

    >>> byte_words(8692248.0), byte_words(1.5e9)
    ('8.69 MB', '1.50 GB')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{digits(value / 1e9)} GB" if value >= 1e9 else f"{digits(value / 1e6)} MB"


def short(name: str, length: int = 32) -> str:
    """A name that fits beside a bar: a long one loses its middle.

    >>> short("abcdefghij", 5)
    'ab…ij'
    """
    if len(name) <= length:
        return name
    return f"{name[: length // 2]}…{name[-(length // 2) :]}"


def threads_of(numbers: Numbers) -> str:
    """`1 thread`, `2 threads`, or those of several machines."""
    threads = numbers.machine("threads") or str(numbers.report.settings.get("threads", "?"))
    return f"{threads} thread" if threads == "1" else f"{threads} threads"


def machine_words(numbers: Numbers) -> str:
    """On what it was measured, and with which versions."""
    names = ("python", "torch", "transformers", "headspec")
    versions = [f"{name} {known}" for name in names if (known := numbers.machine(name))]
    device = numbers.machine("device") or str(numbers.report.settings.get("device", ""))
    parts = [numbers.machine("processor"), device, threads_of(numbers), *versions]
    return " · ".join(part for part in parts if part)


def footer(numbers: Numbers) -> str:
    """Model and machine, as they stand under every figure."""
    settings = numbers.report.settings
    model = " ".join(str(part) for part in (settings["model"], settings.get("dtype", "")) if part)
    return f"{model} · {machine_words(numbers)}"


def rate_words(numbers: Numbers) -> str:
    """What the machine can do; empty where it was not measured."""
    read, flops = (numbers.value(SIZE, "", name) for name in ("read_bytes_s", "flops"))
    if read is None or flops is None:
        return ""
    return f"this machine reads {digits(read / 1e9)} GB/s and multiplies {digits(flops / 1e9)} GFLOP/s"


def warning(numbers: Numbers) -> list[str]:
    """The line of a title that random weights need."""
    return [RANDOM] if numbers.report.random_weights else []


def page_title(numbers: Numbers, headline: str, *lines: str) -> str:
    """The title of a plotly figure: the headline, further lines (already escaped), model and machine."""
    small = [*lines, *warning(numbers), faint(escaped(footer(numbers), TITLE_WIDTH))]
    return f"<b>{escaped(headline)}</b>" + "".join(
        f"<br><span style='font-size:12px'>{line}</span>" for line in small if line
    )
