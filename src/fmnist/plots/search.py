"""The figures of a search: which configuration each curve is, what mattered, what more trials bought."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fmnist.plots.style import FAINT, INK, drawn, figure, fold_legend, look, percent_axis, style

GREY = {"colors": "#b0b0b0", "linewidths": 0.35, "alpha": 0.4}
EDGE = {"mec": "white", "mew": 0.5}


def trial_curves(runs: pd.DataFrame, history: pd.DataFrame, shown: int = 10) -> Figure:
    """Validation accuracy over epochs, a curve a trial of `Search.runs()`: all grey, the best with colour and rank."""
    best = runs.nsmallest(shown, "rank")
    wide = history.pivot(index="epoch", columns="run_id", values="val_accuracy")[runs["run_id"]] * 100
    with style():
        fig = figure(2.9)
        ax, handles, every = fig.subplots(), [], max(1, len(wide) // 5)
        ax.add_collection(LineCollection([np.c_[wide.index, wide[run]] for run in wide], **GREY, zorder=1))
        for i, (run, rank) in enumerate(zip(best["run_id"], best["rank"], strict=True)):
            handles += ax.plot(wide[run], markevery=(i % every, every), lw=1.1, zorder=3 - i / 99, **EDGE, **look(i))
            line = {"arrowstyle": "-", "lw": 0.5, "color": look(i)["color"], "relpos": (0, 0.5), "shrinkA": 0}
            place = {"xytext": (1.05, 1 - 0.06 * i), "textcoords": "axes fraction", "va": "center", "size": 6.5}
            ax.annotate(str(rank), (wide.index[-1], wide[run].iloc[-1]), arrowprops=line, **place)
        percent_axis(ax, wide.iloc[1:].to_numpy().ravel(), "val_accuracy", pad=0.02)
        ax.set(xlabel="epoch", xlim=(0, wide.index[-1]))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        fold_legend(fig, handles, (best["rank"].astype(str) + ": " + best["config"]).tolist())
    return drawn(fig, runs, "run_id", "trial", "rank", "config", "val_accuracy", "test_accuracy")


def importance_dots(tables: dict[str, pd.Series], runs: pd.DataFrame) -> Figure:
    """`search.importance` by what it is of, a marker each, in the order of the first."""
    table = pd.DataFrame(tables).loc[next(iter(tables.values())).index]
    with style():
        fig = figure(0.6 + 0.22 * len(table))
        ax, y, handles = fig.subplots(), np.arange(len(table)), []
        for i, name in enumerate(table):
            handles += ax.plot(table[name], y, **EDGE, **look(i) | {"linestyle": "none"})
        ax.set_yticks(y, table.index)
        ax.set(ylim=(len(table) - 0.4, -0.6), xlabel="importance: share of the variance")
        ax.grid(axis="y", visible=False)
        fold_legend(fig, handles, list(table))
    return drawn(fig, table.rename_axis("hyperparameter").reset_index(), runs=runs)


def budget_curves(curve: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """A table of `search.budget`: left what n trials reach, right how much validation then overstates it."""
    n, percents = curve["n"], 100 * curve
    with style():
        fig = figure(2.5)
        left, right = fig.subplots(1, 2, width_ratios=[1.25, 1])
        handles = []
        for i, name in enumerate(["val", "test"]):
            handles += left.plot(n, percents[name], markevery=0.17, **EDGE, **look(i))
            handles += left.step(n, percents[f"own_{name}"], where="post", lw=0.7, **look(i) | {"marker": ""})
        left.fill_between(n, percents["val_low"], percents["val_high"], color=look(0)["color"], alpha=0.15, lw=0)
        percent_axis(left, percents[["val", "test", "own_val", "own_test"]].to_numpy().ravel(), "val_accuracy")
        left.set_ylabel(left.get_ylabel().replace("validation ", ""))
        right.fill_between(n, percents["inflation_low"], percents["inflation_high"], color=FAINT, alpha=0.25, lw=0)
        right.plot(n, percents["inflation"], color=INK, marker="D", markevery=0.17, **EDGE)
        right.set(ylabel="validation − test (points)")
        for ax in (left, right):
            ax.set(xlabel="number of trials", xscale="log", xlim=(1, n.iloc[-1]))
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        which = product(("validation", "test of the selected"), ("mean over orders", "this search"))
        fold_legend(fig, handles, list(map(", ".join, which)))
    return drawn(fig, curve, runs=runs)
