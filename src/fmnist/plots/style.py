"""One look for every figure: sizes for a 6.2 inch text column, colours that survive colour blindness and grey printing.

Colours are Okabe and Ito's (jfly.uni-koeln.de/color, 2008), each with a marker and a line style of its own.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from fmnist.config import TEMPLATES
from fmnist.tables import run_ids
from fmnist.words import AXES, metric_of, name_of

WIDTH = 6.2  # inches, the report's text column
INK, FAINT = "#222222", "#8a8a8a"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C7A00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
OUTWARD = np.array([-1, 1])
PERCENT_TICKS = (99, 98, 95, 90, 85, 80, 70, 60, 40, 10)  # apart enough to be printed side by side
SCALES = {"function": "error"}  # of `percent_axis`: logarithmic in 100 % − accuracy
MOST = 20_000  # numbers; a figure of more stays a picture
RC = mpl.rc_params_from_file(TEMPLATES / "figures.mplstyle", use_default_template=False)
for font in TEMPLATES.glob("fonts/*.otf"):
    fontManager.addfont(font)

style = partial(mpl.rc_context, RC)  # the rcParams of the report, for the length of a `with` block


def figure(height: float, width: float = WIDTH, layout: str | None = "constrained") -> Figure:
    """An empty figure of `width` × `height` inches, unknown to pyplot; make it, and draw it, inside `style()`."""
    return Figure(figsize=(width, height), layout=layout)


def drawn(
    fig: Figure, frame: pd.DataFrame, *columns: str, runs: pd.DataFrame | None = None, by: str = "", x: str = ""
) -> Figure:
    """`fig`, knowing what `publish.show` hands on: `frame`, or those `columns` it has, and the ids of its `runs`. `by`
    and `x` are the columns in which a page finds the rows behind a mark: what its label names, where it stands.
    """
    fig.fmnist_keys = {"by": by, "along": x}
    fig.fmnist_data = frame[[name for name in dict.fromkeys(columns) if name in frame]] if columns else frame
    fig.fmnist_runs = run_ids(frame if runs is None else runs)
    return fig


def look(index: int, group: object = None) -> dict[str, Any]:
    """Colour, marker and line style of the `index`-th group, and its label; eight differ without lines, forty with."""
    choices = {"color": COLORS, "marker": MARKERS, "linestyle": LINES}
    named = {} if group is None else {"label": name_of(group)}
    return {name: of[index % len(of)] for name, of in choices.items()} | named


def key(index: int, group: object = None, **wear: Any) -> Line2D:
    """What stands for the `index`-th group in a legend."""
    return Line2D([], [], **({"mec": "white", "mew": 0.5} | look(index, group) | wear))


def keyed(ax: Axes, column: str, **where: object) -> None:
    """Note in which `column` of the figure's data, and in which rows, a page finds the values on `ax`."""
    scale, named = metric_of(column).scale, {name: name_of(value) for name, value in where.items() if name}
    ax.fmnist_keys = {"values": column, "times": scale, "where": named}


def percent_axis(ax: Axes, values: Sequence[float], metric: str, pad: float = 0.06) -> None:
    """Label and scale the y axis that shows `metric`, with `values` (as plotted: percent, nats) in view; logarithmic in
    the error, 100 % − accuracy, when accuracies lie far apart (below 60 % and above 75 %).
    """
    about, values = metric_of(metric), np.asarray(values, float)
    values = values[np.isfinite(values)]
    ends = np.array([values.min(), values.max()] if len(values) else [0.0, 100.0])
    label, limits = about.axis, ends + pad * max(np.ptp(ends), 0.5) * OUTWARD
    if about.unit == "points" and about.level and ends[0] < 60 and ends[1] > 75:
        depths = _error_depth(ends)
        limits = _from_depth(depths + pad * np.ptp(depths) * OUTWARD)
        ax.set_yscale("function", functions=(_error_depth, _from_depth))
        ax.yaxis.set(major_locator=FixedLocator(PERCENT_TICKS), major_formatter="{x:.0f}")
        label += "\nlog error scale"
    ax.set(ylim=limits, ylabel=label)


def _error_depth(percent: Sequence[float] | float) -> np.ndarray:
    return -np.log10(np.maximum(100.0 - np.asarray(percent, float), 0.05))


def _from_depth(depth: Sequence[float]) -> np.ndarray:
    return 100.0 - 10.0 ** -np.asarray(depth, float)


def fold_legend(fig: Figure, handles: list, labels: list[str], by: str = "trial") -> None:
    """One legend below all axes in as few rows as its labels, values of `by`, allow; `fig` grows by its height."""
    title = None if by in ("trial", "variant", "optimizer") else AXES.get(by, by)
    room, widths = fig.get_figwidth() * 72, [4.5 * len(label) + 40 for label in labels]
    columns = len(labels) if sum(widths) < room else max(1, int(room / max(widths)))
    rows = -(-len(labels) // columns)
    fig.set_figheight(fig.get_figheight() + 0.12 + 0.16 * (rows + (title is not None)))
    fig.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows), title=title)


# ---- what a figure has drawn, as data: a page draws the same again at its own width, and says what is touched


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
