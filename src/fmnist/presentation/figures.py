"""The figures of the report: DataFrames of runs in, Matplotlib Figures out.

Bars and bands are 95 % t intervals over seeds (`statistics.interval`). Diverged runs are shown where they ended, or
counted beside the group they belong to; no figure drops one silently. Every function returns a Figure for
`publish.show`, and leaves pyplot and the global rcParams alone.
"""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fmnist import wording
from fmnist.analysis.statistics import best, best_per, gap, summary
from fmnist.presentation.curves import curves, error_lines, layer_scales
from fmnist.presentation.pictures import (
    class_balance,
    class_means,
    confused_pairs,
    confusion_matrix,
    image_grid,
    network_diagram,
    pipeline_diagram,
)
from fmnist.presentation.style import (
    BAD,
    FAINT,
    INK,
    drawn,
    figure,
    fold_legend,
    in_order,
    legend_title,
    look,
    name_of,
    percent_axis,
    style,
)
from fmnist.wording import AXES

__all__ = [
    "accuracy_dots", "against_lr", "class_balance", "class_means", "confused_pairs", "confusion_matrix", "curves",
    "error_lines", "gap_plot", "heatmap", "image_grid", "layer_scales", "network_diagram", "pipeline_diagram",
]  # fmt: skip


def accuracy_dots(runs: pd.DataFrame, by: str = "trial", metric: str = "test_accuracy") -> Figure:
    """A forest plot: a row a group with its mean, 95 % interval, every seed as a faint dot, and the numbers beside it.

    The group that validation selects has a star; diverged runs are counted in the margin.
    """
    table, scale = summary(runs, by, metric), wording.metric_of(metric).scale
    chosen = _chosen(runs, by)
    with style():
        fig = figure(0.65 + 0.22 * len(table))
        ax = fig.subplots()
        for y, row in table.iterrows():
            values = scale * runs.loc[runs[by] == row[by], metric]
            star = row[by] in chosen
            wear = {"marker": "*" if star else "D", "ms": 8.5 if star else 4, "color": "#D55E00" if star else "#0072B2"}
            ax.plot(values, np.full(len(values), y + 0.27), "o", color=FAINT, ms=3, alpha=0.5, mew=0)
            ax.plot(
                [scale * row["low"], scale * row["high"]], [y, y], color=wear["color"], lw=1.8, solid_capstyle="butt"
            )
            ax.plot(scale * row["mean"], y, linestyle="none", mec="white", mew=0.6, **wear)
            note = "  ".join(filter(None, [_printed(row, metric), wording.diverged(row["diverged"], row["runs"])]))
            ax.text(1.01, y, note, transform=ax.get_yaxis_transform(), va="center", fontsize=7.2)
        ax.set_yticks(range(len(table)), [name_of(name) for name in table[by]])
        ax.set_ylim(len(table) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_ylabel(AXES.get(by, by))
        percent_axis(ax, scale * np.r_[runs[metric], table["low"], table["high"]], metric, "x")
        fold_legend(fig, *_dots_key())
    return drawn(fig, runs, "run_id", by, "seed", metric, "val_accuracy", "diverged")


def _dots_key() -> tuple[list, list[str]]:
    handles = [
        Line2D([], [], marker="D", color="#0072B2", ms=4.5, mec="white"),
        Line2D([], [], color=FAINT, marker="o"),
    ]
    handles[1].set(alpha=0.45, markersize=3, linestyle="none")
    handles.append(Line2D([], [], marker="*", color="#D55E00", ms=9, mec="white"))
    return handles, ["mean, 95 % interval", "one seed", "best on validation"]


def _chosen(runs: pd.DataFrame, by: str) -> list:
    if "val_accuracy" not in runs or not np.isfinite(runs["val_accuracy"]).any():
        return []
    return [best(runs, by)]


def _printed(row: pd.Series, metric: str) -> str:
    """Mean and interval of a row of `summary`, without the unit that the axis has."""
    if wording.metric_of(metric).unit == "points":
        return wording.percent(row["mean"], row["low"], row["high"], sign=False) if row["n"] else ""
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["n"] else ""


def heatmap(runs: pd.DataFrame, rows: str = "variant", columns: str = "lr", metric: str = "test_accuracy") -> Figure:
    """Mean over seeds in every cell; hatched where every run diverged; framed where a row is best on validation.

    Shades are logarithmic in the error (in the loss, for a loss), so that good cells differ visibly: lighter is better.
    """
    table, measure = summary(runs, [rows, columns], metric), wording.metric_of(metric)
    down, across = list(dict.fromkeys(table[rows])), in_order(table[columns])
    depth = -np.log(np.maximum(1 - table["mean"] if measure.higher_is_better else table["mean"], 1e-4))
    depth = (depth - depth.min()) / max(depth.max() - depth.min(), 1e-9)
    with style():
        fig = figure(0.75 + 0.4 * len(down))
        ax = fig.subplots()
        for (_, row), shade in zip(table.iterrows(), depth, strict=True):
            x, y = across.index(row[columns]), down.index(row[rows])
            wear = (
                {"facecolor": mpl.colormaps["cividis"](shade)} if row["n"] else {"facecolor": "white", "hatch": "////"}
            )
            ax.add_patch(Rectangle((x - 0.49, y - 0.47), 0.98, 0.94, edgecolor="#d9c4c4", linewidth=0, **wear))
            _cell(ax, x, y, row, measure, "white" if shade < 0.5 else "black")
        for name, value in best_per(runs, rows, columns).items() if "val_accuracy" in runs else []:
            corner = across.index(value) - 0.47, down.index(name) - 0.44
            ax.add_patch(Rectangle(corner, 0.94, 0.88, fill=False, edgecolor=INK, linewidth=2))
        ax.set_xticks(range(len(across)), [name_of(value) for value in across])
        ax.set_yticks(range(len(down)), [name_of(value) for value in down])
        ax.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
        ax.set(xlabel=AXES.get(columns, columns), ylabel=AXES.get(rows, rows), title=f"{measure.axis}, mean over seeds")
        ax.grid(visible=False)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        fold_legend(fig, [Patch(fill=False, edgecolor=INK, linewidth=2)], ["best of its row on validation"])
    return drawn(fig, table)


def _cell(ax: Axes, x: int, y: int, row: pd.Series, measure: wording.Metric, color: str) -> None:
    """The mean of one cell of the heat map, and below it how many runs diverged."""
    failed = wording.diverged(row["diverged"], row["runs"]).replace(" (", "\n(" if not row["n"] else " (")
    if not row["n"]:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(x, y, failed, ha="center", va="center", fontsize=7, color=BAD, bbox=box)
        return
    value = wording.number(measure.scale * row["mean"], 1 if measure.unit == "points" else 3)
    ax.text(x, y - (0.13 if failed else 0), value, ha="center", va="center", fontsize=8.5, color=color)
    ax.text(x, y + 0.26, failed, ha="center", va="center", fontsize=7, color=color)


def against_lr(runs: pd.DataFrame, by: str = "variant", metric: str = "test_accuracy", x: str = "lr") -> Figure:
    """Mean and 95 % interval against the learning rate, a line a group; a strip below counts diverged runs."""
    table, scale = summary(runs, [by, x], metric), wording.metric_of(metric).scale
    groups, rates = list(dict.fromkeys(table[by])), sorted(table[x].unique())
    failing = [group for group in groups if table.loc[table[by] == group, "diverged"].any()]
    with style():
        strip = 0.17 * len(failing) + 0.15
        fig = figure(2.8 + (strip + 0.1 if failing else 0))
        axes = fig.subplots(
            1 + bool(failing), sharex=True, squeeze=False, height_ratios=[2.4, strip][: 1 + bool(failing)]
        )
        ax, last = axes[0, 0], axes[-1, 0]
        for index, group in enumerate(groups):
            rows = table[table[by] == group].sort_values(x)
            _intervals(ax, rows[x] * 1.03 ** (index - (len(groups) - 1) / 2), rows, scale, look(index), name_of(group))
        ax.set(xscale="log", xlim=(min(rates) / 1.35, max(rates) * 1.35))
        percent_axis(ax, scale * table[["mean", "low", "high"]].to_numpy().ravel(), metric)
        last.xaxis.set_major_locator(FixedLocator(rates))
        last.xaxis.set_minor_locator(NullLocator())
        last.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        last.set_xlabel(AXES.get(x, x))
        if failing:
            _divergence_strip(last, table[table[by].isin(failing)], by, x, failing)
        fold_legend(fig, *ax.get_legend_handles_labels(), legend_title(by))
    return drawn(fig, table)


def _intervals(ax: Axes, x: pd.Series, rows: pd.DataFrame, scale: float, wear: dict, label: str | None) -> None:
    """Means joined by a line, with the 95 % interval of each as a bar."""
    mean, low, high = (scale * rows[name].to_numpy(float) for name in ("mean", "low", "high"))
    ax.plot(x, mean, label=label, mec="white", mew=0.5, ms=5, **wear)
    ax.vlines(x, low, high, color=wear["color"], linewidth=1.1)


def _divergence_strip(ax: Axes, table: pd.DataFrame, by: str, x: str, groups: list) -> None:
    """Beneath the main axes, a row a group: how many of its runs diverged at each x."""
    for _, row in table[table["diverged"] > 0].iterrows():
        text = f"{row['diverged']} of {row['runs']}"
        ax.text(row[x], groups.index(row[by]), text, ha="center", va="center", fontsize=7, color=BAD)
    ax.set_yticks(range(len(groups)), [name_of(group) for group in groups])
    ax.set_ylim(len(groups) - 0.4, -0.6)
    ax.set_ylabel("diverged", rotation=0, ha="right", va="center")
    ax.grid(visible=False)
    ax.tick_params(length=0)


def gap_plot(runs: pd.DataFrame, x: str = "dropout", by: str = "hidden_sizes") -> Figure:
    """Training and validation accuracy, and their difference, against `x`: overfitting and what regularization does."""
    runs = gap(runs)
    tables = {name: summary(runs, [by, x], name) for name in ("train_accuracy", "val_accuracy", "gap")}
    groups = list(dict.fromkeys(tables["gap"][by]))
    with style():
        fig = figure(2.6)
        left, right = fig.subplots(1, 2)
        for index, group in enumerate(groups):
            wear = look(index) | {"linestyle": "-"}
            for name, table in tables.items():
                rows = table[table[by] == group].sort_values(x)
                hollow = {"mfc": "white", "linestyle": (0, (3, 1.5))} if name == "train_accuracy" else {}
                _gap_line(right if name == "gap" else left, rows, x, wear, hollow)
        fractions = np.r_[
            tables["train_accuracy"][["mean", "low", "high"]], tables["val_accuracy"][["mean", "low", "high"]]
        ]
        percent_axis(left, 100 * fractions.ravel(), "val_accuracy")
        percent_axis(right, 100 * np.r_[tables["gap"][["mean", "low", "high"]].to_numpy().ravel(), 0], "gap")
        left.set_ylabel("accuracy (%)")
        right.set_ylabel("training \N{MINUS SIGN} validation (points)")
        right.axhline(0, color=FAINT, linewidth=0.8)
        for ax in (left, right):
            ax.set_xlabel(AXES.get(x, x))
        handles = [Line2D([], [], **look(i) | {"linestyle": "-"}) for i in range(len(groups))]
        handles += [Line2D([], [], color=FAINT, marker="o", **k) for k in ({"mfc": "white", "ls": "--"}, {})]
        fold_legend(fig, handles, [_counted(tables["gap"], by, group) for group in groups] + ["training", "validation"])
    return drawn(fig, runs, "run_id", by, x, "seed", *tables)


def _gap_line(ax: Axes, rows: pd.DataFrame, x: str, wear: dict, hollow: dict) -> None:
    mean, low, high = (100 * rows[name].to_numpy(float) for name in ("mean", "low", "high"))
    ax.fill_between(rows[x], low, high, color=wear["color"], alpha=0.16, linewidth=0)
    ax.plot(rows[x], mean, **wear | hollow)


def _counted(table: pd.DataFrame, by: str, group: object) -> str:
    """Legend text of a group of `summary` rows, with its diverged runs if there are any."""
    rows = table[table[by] == group]
    failed = wording.diverged(int(rows["diverged"].sum()), int(rows["runs"].sum()))
    return " ".join(filter(None, [name_of(group), failed]))
