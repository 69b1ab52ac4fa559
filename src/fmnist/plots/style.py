"""One look for every figure: sizes for a 6.2 inch text column, colours that survive colour blindness and grey printing.

Colours are Okabe and Ito's (jfly.uni-koeln.de/color, 2008), each with a marker and a line style of its own.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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
PERCENT_TICKS = np.array([99, 98, 97, 96, 95, 94, 92, 90, 88, 85, 80, 75, 70, 60, 50, 30, 10, 0])
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
        ax.yaxis.set(major_locator=FixedLocator(_spread_ticks(limits)), major_formatter="{x:.0f}")
        label += "\nlog error scale"
    ax.set(ylim=limits, ylabel=label)


def _spread_ticks(limits: np.ndarray) -> list[int]:
    """The round percentages inside `limits`, from above, less those too close to their neighbour to be printed."""
    kept: list[int] = []
    for tick in PERCENT_TICKS[(limits[0] <= PERCENT_TICKS) & (limits[1] >= PERCENT_TICKS)]:
        if not kept or _error_depth(kept[-1]) - _error_depth(tick) > 0.09 * np.ptp(_error_depth(limits)):
            kept.append(tick)
    return kept[::-1]


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
