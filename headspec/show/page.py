"""An interactive figure as one HTML page that works offline: it carries its script and fetches nothing."""

import re
from pathlib import Path

from plotly.graph_objects import Figure

from headspec.classify.clusters import HeadClusters
from headspec.classify.head_map import HeadMap
from headspec.files import write_whole
from headspec.probe.profile import HeadProfile
from headspec.show import groups, interactive, reach
from headspec.show.style import CONFIG

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ margin: 0 auto; padding: 12px 16px; max-width: 1500px; }}</style>
</head>
<body>
{body}
</body>
</html>
"""


def save_page(figure: Figure, path: Path | str) -> Path:
    """Write a stand-alone page (about 5 MB: nearly all of it is plotly's script)."""
    headline = str(figure.layout.title.text or "headspec").split("<br>")[0]
    body = figure.to_html(
        full_html=False, include_plotlyjs=True, include_mathjax=False, config=dict(CONFIG), div_id="figure"
    )
    page = PAGE.format(title=re.sub("<[^>]*>", "", headline), body=body)
    return write_whole(Path(path), lambda temporary: temporary.write_text(page, encoding="utf-8"))


def save_all(
    profile: HeadProfile, head_map: HeadMap, folder: Path | str, clusters: HeadClusters | None = None
) -> list[Path]:
    """Write a page for each figure of an analysis into `folder`, named as the PNGs are."""
    figures = {
        "head_roles.html": interactive.roles(head_map, profile),
        "entropy_heatmap.html": interactive.statistic(profile, None, head_map),
        "position_preference.html": reach.offsets(profile, None, head_map),
        "temporal_evolution.html": groups.by_position(profile, head_map),
    }
    if clusters is not None:
        figures["head_clusters.html"] = groups.clusters(clusters, head_map)
    return [save_page(figure, Path(folder) / name) for name, figure in figures.items()]
