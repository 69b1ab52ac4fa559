"""What a figure has drawn, as data: from it a page draws the same again at its own width, and says what is touched."""

import json
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

SCALES = {"function": "error"}  # of `style.percent_axis`: logarithmic in 100 % − accuracy
MOST = 20_000  # numbers; a figure of more stays a picture


def redrawn(fig: Figure) -> str:
    """The figure's axes, marks, legend and keys into its CSV as JSON; "" where it holds more than lines."""
    for ax in fig.axes:
        known = all(isinstance(part, LineCollection | PolyCollection) for part in ax.collections)
        if not known or ax.images or ax.patches or not ax.axison:
            return ""
    legends = [legend for legend in [*fig.legends, *(ax.get_legend() for ax in fig.axes)] if legend]
    legend = [
        _look(handle) | {"text": text.get_text()}
        for each in legends
        for handle, text in zip(each.legend_handles, each.get_texts(), strict=True)
    ]
    axes = [_axes(ax) for ax in fig.axes]
    size = sum(len(mark["x"]) for ax in axes for mark in ax["marks"])
    drawing = {"legend": legend, "axes": axes, **getattr(fig, "fmnist_keys", {})}
    text = json.dumps(drawing, separators=(",", ":"), ensure_ascii=False)
    return text if axes and size <= MOST else ""


def _axes(ax: Axes) -> dict[str, Any]:
    place = ax.get_subplotspec()
    about = {"row": place.rowspan.start, "column": place.colspan.start} if place else {"row": 0, "column": 0}
    about |= {"title": ax.get_title(loc="left"), **getattr(ax, "fmnist_keys", {})}
    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        locator, ticks = axis.get_major_locator(), None  # the page may choose
        if isinstance(locator, FixedLocator):
            places = axis.get_majorticklocs()
            texts = axis.get_major_formatter().format_ticks(places)
            ticks = [[float(f"{place:.6g}"), text] for place, text in zip(places, texts, strict=True)]
        about[name] = {"label": axis.get_label_text(), "scale": SCALES.get(axis.get_scale(), axis.get_scale())}
        about[name] |= {"limits": _numbers(getattr(ax, f"get_{name}lim")()), "ticks": ticks}
        about[name]["whole"] = bool(getattr(locator, "_integer", False))
    marks = [mark for part in (*ax.collections, *ax.lines) for mark in _marks(part, ax)]
    return about | {"marks": marks}


def _marks(part: Line2D | Collection, ax: Axes) -> list[dict[str, Any]]:
    """A line, or each polygon or segment of a collection, in data coordinates; `edge`: y is a share of the height."""
    look = _look(part)
    if isinstance(part, Line2D):
        x, y = (_numbers(np.atleast_1d(values)) for values in part.get_data(orig=False))
        every, edge = part.get_markevery(), bool(part.get_transform() == ax.get_xaxis_transform())
        return [look | {"edge": edge, "every": every if isinstance(every, tuple) else (0, every or 1), "x": x, "y": y}]
    line = isinstance(part, LineCollection)
    look["kind"], colors = "line" if line else "band", part.get_edgecolor() if line else part.get_facecolor()
    ends = [map(_numbers, path.vertices.T) for path in part.get_paths()]
    return [look | {"color": to_hex(colors[i % len(colors)]), "x": x, "y": y} for i, (x, y) in enumerate(ends)]


def _look(part: Line2D | Collection) -> dict[str, Any]:
    label, alpha = str(part.get_label()), part.get_alpha()
    look = {"alpha": 1 if alpha is None else alpha, "group": None if label.startswith("_") else label or None}
    if not isinstance(part, Line2D):
        return look | {"width": float(np.atleast_1d(part.get_linewidth())[0])}
    dash = part._unscaled_dash_pattern[1] or []
    joined, marker = part.get_linestyle() not in ("None", ""), str(part.get_marker())
    look |= {"color": to_hex(part.get_color()), "marker": "" if marker == "None" else marker}
    return look | {"width": part.get_linewidth() if joined else 0, "dash": [*dash], "size": part.get_markersize()}


def _numbers(values: Any) -> list[float | None]:
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.asarray(values, float)]
