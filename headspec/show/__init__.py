"""Makes figures of records; computes nothing.

`headspec.show.attention(model, text, heads)` draws patterns in Jupyter; `headspec.show.draw_all` writes the PNGs.
"""

from importlib import import_module
from typing import Any

_HOMES = {"attention": "patterns", "draw_all": "static"} | dict.fromkeys(
    ("head_roles", "entropy_heatmap", "position_preference", "temporal_evolution"), "static"
)
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"headspec.show has no {name!r}: there are {', '.join(__all__)}.")
    return getattr(import_module(f"headspec.show.{_HOMES[name]}"), name)
