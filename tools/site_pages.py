"""What mkdocs does beyond its plugins: pages that lie outside `docs/` become pages of the site, public names are found.

A hook of mkdocs.yml. Notebooks are shown as they were saved, with the PNG beside each interactive figure; nothing is run.
"""

import base64
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import headspec
import headspec.show

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "headspec/load/demo/README.md": "demo-model-card.md",
    **{f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")},
}
"""Files of the repository, and the pages of the site that show them."""
HOMES = {
    **{f"headspec.{name}": f"{home}.{name}" for name, home in headspec._HOMES.items()},
    **{f"headspec.show.{name}": f"headspec.show.{home}.{name}" for name, home in headspec.show._HOMES.items()},
}
"""Where public names are defined: they are imported when first used, so mkdocstrings cannot see them."""
PUBLIC = re.compile(r"^::: (\S+)$", re.M)
LINK = re.compile(r"(\]\()([^)\s#]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the notebooks into the navigation, in order."""
    notebooks = sorted(page for page in OUTSIDE.values() if page.startswith("notebooks/"))
    for entry in config.nav or []:
        if "Notebooks" in entry:
            entry["Notebooks"] = notebooks
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and the pictures of notebooks."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source.endswith(".ipynb"):
            text, pictures = notebook_page(text, Path(page).stem)
            for name, picture in pictures.items():
                files.append(File.generated(config, f"notebooks/{name}", content=picture))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside `docs/` lead to their pages, and public names to where they are defined."""
    markdown = PUBLIC.sub(lambda match: f"::: {HOMES.get(match[1], match[1])}", markdown)
    source = {page: source for source, page in OUTSIDE.items()}.get(page.file.src_uri)
    here = f"docs/{page.file.src_uri}" if source is None else source

    def inside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2]))
        if target.startswith("docs/") and source is not None:
            return match[1] + relative(target.removeprefix("docs/"), page)
        return match[1] + relative(OUTSIDE[target], page) if target in OUTSIDE else match[0]

    return LINK.sub(inside, markdown)


def relative(target: str, page: Page) -> str:
    """The way from a page to another."""
    return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")


def notebook_page(text: str, stem: str) -> tuple[str, dict[str, bytes]]:
    """A saved notebook as Markdown, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in nbformat.reads(text, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code" and cell.source.strip():
            parts.append(f"```python\n{cell.source}\n```")
            for output in cell.outputs:
                parts.extend(shown(output, stem, pictures))
    return "\n\n".join(parts) + "\n", pictures


def shown(output: Any, stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """What a reader sees of an output: its picture, else its plain text."""
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}_{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        yield f"![Output]({name})"
    elif output.get("name") != "stderr":
        words = output.get("text") or data.get("text/plain") or ""
        yield f"```text\n{words.rstrip()}\n```"
