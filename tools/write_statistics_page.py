"""Write `docs/statistics.md` from the catalogue and the thresholds, so that the page cannot drift from the code.

python tools/write_statistics_page.py
"""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

from headspec.classify import thresholds
from headspec.classify.thresholds import Thresholds
from headspec.probe.catalogue import STATISTICS
from headspec.runtime import thresholds as runtime_thresholds

PAGE = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
HEADER = """# Statistics and cut-offs

*Written by `python tools/write_statistics_page.py` from `headspec/probe/catalogue.py` and the `thresholds.py` files.*

Averages run over all windows of text and over the queries from `first_query` (16) on. Positions, offsets and heads
count from 0. Normalised entropy and everything by position depend on the window length, which every record keeps.

"""


def page() -> str:
    """The whole page as Markdown."""
    lines = [HEADER + "## Statistics of a head", "", "| column | unit | meaning | careful |", "|---|---|---|---|"]
    for name, statistic in STATISTICS.items():
        lines.append(f"| `{name}` | {statistic.unit} | {statistic.meaning} | {statistic.caution} |")
    lines += ["", "## Cut-offs", "", "| threshold | default | meaning and source |", "|---|---|---|"]
    documented = attribute_docs(runtime_thresholds) | attribute_docs(thresholds)
    for field in fields(Thresholds):
        lines.append(f"| `{field.name}` | {field.default} | {documented[field.name]} |")
    return "\n".join(lines) + "\n"


def attribute_docs(module: object) -> dict[str, str]:
    """The string under each annotated attribute of the module's classes, on one line."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        if isinstance(node, ast.ClassDef):
            for attribute, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(attribute, ast.AnnAssign) and isinstance(text, ast.Expr):
                    name = ast.unparse(attribute.target)
                    found[name] = " ".join(ast.literal_eval(text.value).split())
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
