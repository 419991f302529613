"""A plotly figure taken apart for the page: title and menus become HTML, which wraps, and which keyboards reach."""

import json
from typing import Any

from plotly.graph_objects import Figure

LINE, TITLE, MENU, LEAST_TOP = 17, 40, 44, 24
"""Pixels at the top of a figure, as `style.plotly_layout` has them: a line of the title, its first line, the menus; and
what stays when all are gone."""


def taken_apart(figure: Figure) -> dict[str, Any]:
    """`{title, menus, height, figure}`: the figure without title and menus, as plotly's JSON.

    A menu is a list of `{label, method, args, title}`; `title` is None where a choice does not change it.
    """
    whole = json.loads(figure.to_json())
    layout = whole["layout"]
    title = (layout.pop("title", None) or {}).get("text") or ""
    menus = [[_choice(button) for button in menu.get("buttons", ())] for menu in layout.pop("updatemenus", None) or ()]
    titles = [title, *(choice["title"] for menu in menus for choice in menu if choice["title"])]
    _lower(layout, titles, bool(menus))
    return {"title": title, "menus": [menu for menu in menus if len(menu) > 1], "height": layout.get("height", 450),
            "figure": {"data": whole["data"], "layout": layout}}  # fmt: skip


def _choice(button: dict[str, Any]) -> dict[str, Any]:
    args = list(button.get("args", ()))
    title = None
    for place, changes in enumerate(args):
        if isinstance(changes, dict) and "title.text" in changes:
            title = changes["title.text"]
            args[place] = {name: value for name, value in changes.items() if name != "title.text"}
    return {"label": button.get("label", ""), "method": button.get("method", "restyle"), "args": args, "title": title}


def _lower(layout: dict[str, Any], titles: list[str], has_menus: bool) -> None:
    """Take away the room that title and menus had."""
    margin = layout.get("margin") or {}
    if "t" not in margin:
        return
    taken = TITLE + LINE * max(title.count("<br>") for title in titles) + MENU * has_menus
    top = max(margin["t"] - taken, 0) + LEAST_TOP
    if "height" in layout:
        layout["height"] -= margin["t"] - top
    layout["margin"] = margin | {"t": top}
