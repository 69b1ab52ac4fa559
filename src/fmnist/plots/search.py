"""The figures of a search: which configuration each curve is, what mattered, what more trials bought, how they learned.

Hundreds of trials are drawn faintly; the few that validation puts first have colour, marker and line style, and a
number that is their rank in the table and in every figure.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from fmnist.plots.style import (
    COLORS,
    FAINT,
    INK,
    MARKERS,
    drawn,
    figure,
    fold_legend,
    look,
    percent_axis,
    style,
)
from fmnist.searched import CHANCE, error_depth, ranked
from fmnist.words import AXES

GREY = {"colors": "#b0b0b0", "linewidths": 0.35, "alpha": 0.4}
BOX = {"boxstyle": "square,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.8}
TICKS = np.array([10, 50, 70, 80, 84, 86, 88, 89, 90, 91])  # percent, on the axis of validation accuracy


def trial_curves(runs: pd.DataFrame, history: pd.DataFrame, axes: Sequence[str], shown: int = 10) -> Figure:
    """Above, validation accuracy over epochs, a curve a trial; below, its settings as a line over parallel axes.

    The `shown` trials best on validation have the same number, colour, marker and line style in both panels.
    """
    order = ranked(runs)
    with style():
        fig = figure(6.0)
        top, bottom = fig.subplots(2, 1, height_ratios=[1, 1.5])
        wide = history.pivot(index="epoch", columns="run_id", values="val_accuracy") * 100
        wide = wide[order["run_id"]]
        top.add_collection(LineCollection([np.c_[wide.index, wide[run]] for run in wide], **GREY, zorder=1))
        best, last = wide.iloc[:, :shown], wide.index[-1]
        every = max(1, len(wide) // 5)
        for i, run in reversed(list(enumerate(best))):
            wear = look(i)
            top.plot(wide.index, best[run], markevery=(i % every, every), mec="white", mew=0.5, lw=1.1, **wear)
        percent_axis(top, wide.iloc[1:].to_numpy().ravel(), "val_accuracy", pad=0.02)
        top.set(xlabel="epoch", xlim=(0, last * 1.08))
        top.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _parallel(bottom, order, axes, shown)
        fig.canvas.draw()  # the limits are known now
        _ranks(top, last, best.iloc[-1].to_numpy())
    return drawn(fig, order, "run_id", "trial", *axes, "val_accuracy", "test_accuracy")


def _ranks(ax: Axes, x: float, values: np.ndarray) -> None:
    """The ranks at the right, beside the ends of their curves, moved apart so that each can be read."""
    ends = ax.transData.transform(np.c_[np.full(len(values), x), np.nan_to_num(values)])
    for i, ((start, height), place) in enumerate(_with_places(ax.transAxes.inverted().transform(ends), 0.075)):
        ax.plot([start, 0.965], [height, place], color=COLORS[i % len(COLORS)], lw=0.5, transform=ax.transAxes)
        ax.text(0.975, place, str(i + 1), transform=ax.transAxes, va="center", fontsize=6.5)


def _with_places(ends: np.ndarray, gap: float) -> list[tuple[np.ndarray, float]]:
    return list(zip(ends, _apart(ends[:, 1], gap), strict=True))


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """`heights` in [0, 1], moved as little as needed to lie `gap` apart, in the same order, below 1."""
    order = np.argsort(-np.nan_to_num(heights), kind="stable")
    placed = heights[order].copy()
    for i in range(1, len(placed)):
        placed[i] = min(placed[i], placed[i - 1] - gap)
    placed += max(0.0, 0.02 - placed[-1])
    for i in range(len(placed) - 2, -1, -1):
        placed[i] = max(placed[i], placed[i + 1] + gap)
    return placed[np.argsort(order)]


def _parallel(ax: Axes, order: pd.DataFrame, axes: Sequence[str], shown: int) -> None:
    """Settings as lines: `order` best first; the last axis is validation accuracy, logarithmic in the error."""
    columns, spread = [], np.random.default_rng(0).uniform(-0.035, 0.035, (len(axes), len(order)))
    spread[:, :shown] = np.linspace(0.035, -0.035, shown)[: len(order)]  # lines with equal settings lie side by side
    for i, axis in enumerate(axes):
        at, marks = _positions(order[axis], axis)
        columns.append(at + spread[i] * (len(marks) != 0 and order[axis].nunique() <= 12))
        for height, text in marks:
            ax.text(i, height, text, fontsize=6.3, ha="center", va="center", zorder=6, bbox=BOX, linespacing=0.9)
    depth = error_depth(order["val_accuracy"])
    low, high = depth.min(), max(depth.max(), depth.min() + 1e-6)
    columns.append((depth - low) / (high - low))
    m = len(axes)
    points = np.array(columns).T
    ax.add_collection(LineCollection([np.c_[range(m + 1), p] for p in points], **GREY, zorder=1))
    for i in reversed(range(min(shown, len(points)))):
        ax.plot(range(m + 1), points[i], mec="white", mew=0.5, ms=4, lw=1.1, zorder=4, **look(i))
    for x in range(m + 1):
        ax.axvline(x, color="#777777", lw=0.7, zorder=2)
    kept = -np.inf
    for tick in TICKS[(-np.log10(1 - TICKS / 100) >= low - 1e-9) & (-np.log10(1 - TICKS / 100) <= high + 1e-9)]:
        height = (-np.log10(1 - tick / 100) - low) / (high - low)
        if height - kept > 0.06:
            ax.text(m - 0.07, height, f"{tick} –", fontsize=6.3, ha="right", va="center", zorder=6, bbox=BOX)
            kept = height
    for i, ((_, height), place) in enumerate(_with_places(points[:shown, -2:], 0.045)):
        ax.plot([m, m + 0.2], [height, place], color=COLORS[i % len(COLORS)], lw=0.5, clip_on=False)
        ax.text(m + 0.25, place, str(i + 1), fontsize=6.5, va="center")
    ax.set(xlim=(-0.45, m + 0.45), ylim=(-0.06, 1.06))
    ax.set_xticks(range(m + 1), [*(_title(axis) for axis in axes), "validation\n(%)"])
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False)
    ax.yaxis.set_visible(False)
    ax.spines[:].set_visible(False)


def _positions(values: pd.Series, axis: str) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Where each value lies on an axis from 0 to 1, and what is written where: every choice, or powers of ten."""
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= 12:
        found = sorted(values.unique())
        at = {value: i / max(len(found) - 1, 1) for i, value in enumerate(found)}
        return values.map(at).to_numpy(float), [(height, _level(value)) for value, height in at.items()]
    log = values.min() > 0 and values.max() > 20 * values.min()
    x = np.log10(values.to_numpy(float)) if log else values.to_numpy(float)
    low, high = (np.floor(x.min() + 1e-9), np.ceil(x.max() - 1e-9)) if log else (x.min(), x.max())
    marks = np.arange(low, high + 0.5) if log else np.linspace(low, high, 3)
    texts = [f"{10**mark:g}" if log else f"{mark:.2g}" for mark in marks]
    return (x - low) / (high - low), list(zip((marks - low) / (high - low), texts, strict=True))


def _level(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return str(value).replace("_", "\n") if isinstance(value, str) else f"{value:g}"


def _title(axis: str) -> str:
    short = {"lr": "lr", "dropout": "dropout", "init": "initial\nweights"}
    return short.get(axis) or AXES.get(axis, axis).replace("_", "\n")


def importance_dots(tables: dict[str, pd.DataFrame]) -> Figure:
    """Tables of `searched.importance` by what they are of: mean and range over folds, a marker a table."""
    names = list(next(iter(tables.values()))["hyperparameter"])
    with style():
        fig = figure(0.6 + 0.3 * len(names))
        ax = fig.subplots()
        for i, (_, table) in enumerate(tables.items()):
            rows, wear = table.set_index("hyperparameter").loc[names], look(i)
            y = np.arange(len(names)) + 0.24 * (i - (len(tables) - 1) / 2)
            ax.hlines(y, rows["low"], rows["high"], color=wear["color"], lw=1.3)
            ax.plot(rows["importance"], y, ls="none", marker=wear["marker"], color=wear["color"], mec="white", mew=0.5)
        ax.axvline(0, color=FAINT, lw=0.7)
        ax.set_yticks(range(len(names)), [_title(name).replace("\n", " ") for name in names])
        ax.set(ylim=(len(names) - 0.4, -0.6), xlabel="importance: fall of R² when the column is shuffled")
        ax.grid(axis="y", visible=False)
        handles = [Line2D([], [], mec="white", mew=0.5, **{**look(i), "linestyle": "-"}) for i in range(len(tables))]
        fold_legend(fig, handles, list(tables))
    return drawn(fig, pd.concat([table.assign(of=name) for name, table in tables.items()]))


def budget_curves(curve: pd.DataFrame) -> Figure:
    """A table of `searched.budget`: left what n trials reach, right how much validation then overstates it."""
    n = curve["n"]
    with style():
        fig = figure(2.5)
        left, right = fig.subplots(1, 2, width_ratios=[1.25, 1])
        val, test = look(0), look(1)
        left.fill_between(n, 100 * curve["val_low"], 100 * curve["val_high"], color=val["color"], alpha=0.15, lw=0)
        handles = [
            *left.plot(n, 100 * curve["val"], color=val["color"]),
            *left.plot(n, 100 * curve["test"], color=test["color"], ls=test["linestyle"]),
            *left.step(n, 100 * curve["own_val"], where="post", color=val["color"], lw=0.7, alpha=0.8),
            *left.step(n, 100 * curve["own_test"], where="post", color=test["color"], lw=0.7, ls=":", alpha=0.9),
        ]
        every = 0.17  # of the diagonal: the axis is logarithmic
        handles[0].set(marker="o", markevery=every, mec="white", mew=0.5)
        handles[1].set(marker="s", markevery=every, mec="white", mew=0.5)
        percent_axis(left, 100 * curve[["val", "test", "own_val", "own_test"]].to_numpy().ravel(), "val_accuracy")
        left.set_ylabel(left.get_ylabel().replace("validation ", ""))
        ends = 100 * curve[["inflation_low", "inflation_high"]].to_numpy().T
        right.fill_between(n, *ends, color=FAINT, alpha=0.25, lw=0)
        right.plot(n, 100 * curve["inflation"], color=INK, marker="D", markevery=every, mec="white", mew=0.5)
        right.axhline(0, color=FAINT, lw=0.7)
        right.set(ylabel="validation − test (points)")
        for ax in (left, right):
            ax.set(xlabel="number of trials", xscale="log", xlim=(1, n.iloc[-1]))
            marks = [mark for mark in (1, 3, 10, 30, 100, 300, 1000) if mark <= n.iloc[-1]]
            ax.xaxis.set_major_locator(FixedLocator(marks))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xticks(marks, [str(mark) for mark in marks])
        names = ["validation, mean over orders", "test of the selected, mean over orders"]
        fold_legend(fig, handles, [*names, "validation, this search", "test, this search"])
    return drawn(fig, curve)


def growing(runs: pd.DataFrame, history: pd.DataFrame, shown: int = 5, by: str = "optimizer") -> list[Figure]:
    """A picture an epoch: validation accuracy of every trial against its learning rate, a colour and marker by `by`.

    The trials that end best have their rank beside them. Epoch 0 is before training; of many epochs 16 are shown.
    """
    order, epochs = ranked(runs), np.unique(history["epoch"])
    epochs = epochs[np.unique(np.linspace(0, len(epochs) - 1, 16).round().astype(int))]
    wide = history.pivot(index="epoch", columns="run_id", values="val_accuracy")[order["run_id"]].fillna(CHANCE) * 100
    return [_cloud(order, wide.loc[epoch].to_numpy(), epoch, wide.to_numpy(), shown, by) for epoch in epochs]


def _cloud(order: pd.DataFrame, values: np.ndarray, epoch: int, everything: np.ndarray, shown: int, by: str) -> Figure:
    with style():
        fig = figure(2.9)
        ax, groups, handles = fig.subplots(), sorted(order[by].unique()), []
        for i, group in enumerate(groups):
            mine = (order[by] == group).to_numpy()
            wear = {"ls": "none", "marker": MARKERS[i], "color": COLORS[i], "mec": "white", "mew": 0.4}
            handles += ax.plot(order.loc[mine, "lr"], values[mine], ms=4.5, alpha=0.85, **wear)
        for i in range(min(shown, len(values))):
            place = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "size": 6}
            ax.annotate(str(i + 1), (order["lr"][i], values[i]), **place)
        ax.set(xscale="log", xlabel="learning rate", title=f"epoch {epoch}")
        percent_axis(ax, everything.ravel(), "val_accuracy")
        fold_legend(fig, handles, [str(group) for group in groups])
    return drawn(fig, order.assign(epoch=epoch, accuracy=values), "run_id", by, "lr", "epoch", "accuracy")
