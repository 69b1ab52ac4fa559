"""One look for every figure: sizes for a 6.2 inch text column, colours that survive colour blindness and grey printing.

Colours are Okabe and Ito's (jfly.uni-koeln.de/color, 2008), and each comes with its own marker and line style, so that
colour is never the only channel. Nothing is set globally: a `StyledFigure` wears the style while it is built
(`style()`) and again whenever it is drawn, because Matplotlib resolves ticks and fonts only then.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fmnist.words import AXES, metric_of, number

WIDTH = 6.2  # inches, the report's text column
INK, FAINT, BAD = "#222222", "#8a8a8a", "#7a1f1f"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C7A00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
PERCENT_TICKS = np.array([0, 10, 30, 50, 60, 70, 75, 80, 85, 88, 90, 92, 94, 95, 96, 97, 98, 99])
RC: dict[str, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8.0, "axes.labelsize": 8.0,
    "axes.titlesize": 8.0, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#555555", "axes.labelcolor": INK, "text.color": INK, "xtick.color": "#555555",
    "ytick.color": "#555555", "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.7,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.minor.width": 0.5, "ytick.minor.width": 0.5,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.4,
    "lines.markersize": 4.5, "legend.title_fontsize": 7.5, "legend.frameon": False, "legend.handlelength": 2.8,
    "legend.columnspacing": 1.4,
    "image.cmap": "cividis", "image.interpolation": "none", "figure.facecolor": "white", "figure.dpi": 120,
    "savefig.dpi": 200, "svg.fonttype": "path", "svg.hashsalt": "fmnist", "hatch.linewidth": 0.5,
}  # fmt: skip


def style() -> AbstractContextManager[None]:
    """The rcParams of the report, for the length of a `with` block."""
    return mpl.rc_context(RC)


class StyledFigure(Figure):
    """A Figure, unknown to pyplot, that is always drawn in the report's style."""

    def draw(self, renderer: Any) -> None:
        with style():
            super().draw(renderer)


def figure(height: float, width: float = WIDTH, layout: str | None = "constrained") -> StyledFigure:
    """An empty figure of `width` × `height` inches; call it inside `style()`."""
    return StyledFigure(figsize=(width, height), layout=layout)


def drawn(fig: Figure, frame: pd.DataFrame, *columns: str | None, runs: pd.DataFrame | None = None) -> Figure:
    """`fig`, knowing what `publish.show` hands on: its data, all of `frame` or the `columns` it has, and its runs.

    The runs are those of `runs`, by default of `frame`, if they have a column run_id.
    """
    wanted = [name for name in dict.fromkeys(columns) if name is not None and name in frame]
    fig.fmnist_data = frame[wanted] if columns else frame
    rests = frame if runs is None else runs
    fig.fmnist_runs = tuple(sorted(rests["run_id"].unique())) if "run_id" in rests else ()
    return fig


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of the `index`-th group; the combinations repeat after forty."""
    wear = {"color": COLORS, "marker": MARKERS, "linestyle": LINES}
    return {name: choices[index % len(choices)] for name, choices in wear.items()}


def key(index: int, **wear: Any) -> Line2D:
    """What stands for the `index`-th group in a legend."""
    return Line2D([], [], **({"mec": "white", "mew": 0.5} | look(index) | wear))


def percent_axis(ax: Axes, values: Sequence[float], metric: str, axis: str = "y", pad: float = 0.06) -> None:
    """Label and scale an axis that shows `metric`, with `values` (as plotted: percent, nats) in view.

    When accuracies lie far apart (below 60 % and above 75 %), equal steps would press the good ones into one line: the
    axis is then logarithmic in the error, 100 % − accuracy, as the unevenly spaced ticks show.
    """
    label, values = metric_of(metric).axis, np.asarray(values, float)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 100.0)
    scaled = metric_of(metric).unit == "points" and metric != "gap" and low < 60 and high > 75
    room = pad * max(high - low, 0.5)
    limits = np.array([low - room, high + room])
    if scaled:
        ends = _error_depth([low, high])
        room = pad * (ends[1] - ends[0])
        limits = _from_depth([ends[0] - room, ends[1] + room])
        getattr(ax, f"set_{axis}scale")("function", functions=(_error_depth, _from_depth))
        which = getattr(ax, f"{axis}axis")
        which.set_major_locator(FixedLocator(_spread_ticks(limits)))
        which.set_minor_locator(NullLocator())
        which.set_major_formatter(FuncFormatter(lambda value, _: number(value, 0)))
        label += "\nlog error scale" if axis == "y" else ", log error scale"
    ax.set(**{f"{axis}lim": limits, f"{axis}label": label})


def _spread_ticks(limits: np.ndarray) -> np.ndarray:
    """The round percentages inside `limits`, less those too close to their neighbour to be printed."""
    inside = PERCENT_TICKS[(limits[0] <= PERCENT_TICKS) & (limits[1] >= PERCENT_TICKS)]
    depth, ends = _error_depth(inside), _error_depth(limits)
    kept: list[int] = []
    for i in reversed(range(len(inside))):
        if not kept or depth[kept[-1]] - depth[i] > 0.09 * (ends[1] - ends[0]):
            kept.append(i)
    return inside[kept[::-1]]


def _error_depth(percent: Sequence[float]) -> np.ndarray:
    return -np.log10(np.maximum(100.0 - np.asarray(percent, float), 0.05))


def _from_depth(depth: Sequence[float]) -> np.ndarray:
    return 100.0 - 10.0 ** -np.asarray(depth, float)


def fold_legend(fig: Figure, handles: list, labels: list[str], title: str | None = None) -> None:
    """One legend below all axes, in one row or in as few as its labels allow; `fig` grows by its height."""
    room, widths = fig.get_figwidth() * 72, [4.5 * len(label) + 40 for label in labels]
    columns = len(labels) if sum(widths) < room else max(1, int(room / max(widths)))
    rows = -(-len(labels) // max(columns, 1))
    fig.set_figheight(fig.get_figheight() + 0.12 + 0.16 * (rows + (title is not None)))
    fig.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows), title=title)


def legend_title(column: str) -> str | None:
    """What the entries of a legend are values of; trials and variants say so themselves."""
    return None if column in ("trial", "variant", "optimizer") else AXES.get(column, column)
