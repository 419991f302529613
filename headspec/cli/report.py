"""`headspec report`: a results folder as one offline page."""

from pathlib import Path
from typing import Annotated

import typer

from headspec.cli.app import Debug, app, option, output, quieten_warnings


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Results of `headspec run` or `analyze`, or a folder of such.")],
    out: Annotated[Path | None, option("The page; report.html in the folder by default.")] = None,
    debug: Debug = False,
) -> None:
    """Write one page that works offline: every head, its numbers, its pattern, and what treating heads costs."""
    from headspec.results import report as write

    quieten_warnings()
    path = write(folder, out)
    output.print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)
