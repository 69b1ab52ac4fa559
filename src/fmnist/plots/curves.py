"""Lines over epochs, with 95 % bands or one for each trial, and lines on logarithmic axes."""

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from fmnist.plots.style import FAINT, drawn, figure, fold_legend, key, keyed, look, percent_axis, style
from fmnist.statistics import interval, require_replications
from fmnist.words import diverged, metric_of, name_of


def curves(
    history: pd.DataFrame,
    by: str = "trial",
    metrics: Sequence[str] = ("train_loss", "val_accuracy"),
    panels: str = "",
    looks: Mapping[str, int] | None = None,
    until: int = 0,
    xscale: str = "linear",
) -> Figure:
    """Mean over seeds per epoch with its 95 % band, a panel a metric; `panels` names a column for small multiples.

    Means are over the runs that finished. A diverged run is drawn by itself, thin, to a cross at its last finite epoch.
    Epoch 0 (before training) may be out of view. For training that is watched, `looks` gives a group's colour for good
    (see `look`); `until`, the epochs planned, fixes the axes: they move in round steps and leave the first loss out.
    """
    ended, groups = _ended(history), list(dict.fromkeys(history[by]))
    parts = dict(list(history.groupby(panels, sort=False))) if panels else {None: history}
    looks = looks or {group: i for i, group in enumerate(groups)}
    across = len(parts) if panels else len(metrics) if len(metrics) % 2 else 2
    deep = len(metrics) if panels else len(metrics) // across
    with style():
        fig = figure(0.25 + deep * (1.65 if panels else 2.1))
        grid = fig.subplots(deep, across, sharex=True, sharey="row" if panels else False, squeeze=False)
        ticks = LogLocator(subs=(1, 2, 5)) if xscale == "log" else MaxNLocator(5, steps=[1, 2, 5, 10], integer=True)
        for ax in grid[-1]:
            ax.set(xlabel="epoch", xscale=xscale)
            ax.xaxis.set(major_locator=copy(ticks), major_formatter="{x:g}", minor_formatter="")
        for metric, axes in zip(metrics, grid if panels else grid.reshape(-1, 1), strict=True):
            seen = [np.array([])]
            for ax, (name, part) in zip(axes, parts.items(), strict=True):
                keyed(ax, metric, **{panels: name})
                seen += [_curve(ax, part[part[by] == g], ended, metric, looks[g], g, until) for g in groups]
                if panels and metric == metrics[0]:
                    ax.set_title(name if isinstance(name, str) else f"{panels} {name_of(name)}")
            _limit(axes, np.concatenate(seen), metric, until)
        runs = history.drop_duplicates("run_id")
        lost = runs["run_id"].isin(ended.index).groupby(runs[by], sort=False).agg(["sum", "size"])
        labels = [" × ".join(filter(None, [name_of(group), diverged(*lost.loc[group])])) for group in groups]
        if len(groups) > 1 or len(ended):
            fold_legend(fig, [key(looks[group], group) for group in groups], labels, by)
    return drawn(fig, history, "run_id", panels, by, "seed", "epoch", *metrics, by=by, x="epoch")


def _ended(history: pd.DataFrame) -> pd.Series:
    """Last finite epoch of each diverged run, by run_id: a run that went NaN, or stopped before its `epochs`."""
    finite = np.isfinite(history[["train_loss", "val_loss", "val_accuracy"]]).all(axis=1)
    alive = finite | (history["epoch"] == 0)  # which has no training loss
    planned = history.groupby("run_id", sort=False)["epochs"].max()
    last = history[alive].groupby("run_id")["epoch"].max().reindex(planned.index, fill_value=0)
    return last[last < planned]


def _curve(
    ax: Axes, rows: pd.DataFrame, ended: pd.Series, metric: str, index: int, group: object, until: int
) -> np.ndarray:
    """One group on one axis; returns what must be in view: its mean after epoch 0, or its runs when none finished."""
    if rows.empty:
        return np.array([])
    require_replications(rows[rows["epoch"] == rows["epoch"].min()], rows["trial"].iloc[0], metric)
    wide = rows.pivot(index="epoch", columns="run_id", values=metric).astype(float)
    wide = wide.replace([np.inf, -np.inf], np.nan) * metric_of(metric).scale
    wear = look(index, group)
    lost, thin = wide.columns.isin(ended.index), {name: wear[name] for name in ("color", "label")}
    for run in wide.columns[lost]:
        line = wide.loc[: ended[run], run].dropna()
        ax.plot(line.index, line, linewidth=0.6, **thin)
        ax.plot(line.index[-1:], line.iloc[-1:], "x", ms=5, mew=1.4, clip_on=False, **thin)
    whole = wide.loc[:, ~lost].dropna(how="all")
    if whole.empty:
        early = wide[wide.index > 0].median(axis=1).to_numpy()
        return np.minimum(early, 2 * early[:1])
    mean, low, high = interval(whole)
    every = max(1, len(whole) // 5)
    ax.plot(whole.index, mean, markevery=(2 * index % every, every), mec="white", mew=0.5, **wear)
    ax.fill_between(whole.index, low, high, alpha=0.2, linewidth=0, **thin)
    first = 1 if until and metric.endswith("loss") and whole.index.max() > 1 else 0
    return mean[whole.index > first]


def _limit(axes: Sequence[Axes], values: np.ndarray, metric: str, until: int) -> None:
    """Label and limits of one metric's axes; a cross beyond the limits is put on the border."""
    values = values[np.isfinite(values)]
    for ax in axes:
        percent_axis(ax, values, metric)
        ax.yaxis.label.set_visible(ax is axes[0])
    if until and len(values):
        step = 5 if metric_of(metric).unit == "points" else 0.25
        low, high = (step * turn(end / step) for turn, end in ((np.floor, values.min()), (np.ceil, values.max())))
        low = 0 if metric.endswith("loss") else low
        axes[0].set(yscale="linear", ylim=(low, max(high, low + step)), xlim=(0, until))
        axes[0].yaxis.set(major_locator=MaxNLocator(5), major_formatter="{x:g}")
    elif metric.endswith(("loss", "norm")) and len(values) and values.min() > 0 and values.max() > 10 * values.min():
        axes[0].set(yscale="log", ylim=(values.min() * 0.8, values.max() * 1.25))
        axes[0].yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    for line in (line for ax in axes for line in ax.lines if line.get_marker() == "x"):
        line.set_ydata(np.clip(line.get_ydata(), *axes[0].get_ylim()))


def log_lines(frame: pd.DataFrame, x: str, y: str, by: str, panels: str, xscale: str = "linear") -> Figure:
    """|y| on a logarithmic axis against x, a line a value of `by`, a panel a value of `panels`; zeros are triangles."""
    parts, groups = dict(list(frame.groupby(panels, sort=False))), list(dict.fromkeys(frame[by]))
    with style():
        fig = figure(2.6)
        for ax, (name, part) in zip(fig.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
            edge = {"marker": 7, "ms": 7, "linestyle": "none", "transform": ax.get_xaxis_transform()}
            keyed(ax, y, **{panels: name})
            for index, group in enumerate(groups):
                line = part[part[by] == group].set_index(x)[y].abs().sort_index()
                zeros = line.index[line == 0]
                ax.plot(line.index, line.where(line > 0), mec="white", mew=0.5, **look(index, group))
                ax.plot(zeros, [0.02] * len(zeros), **(look(index, group) | edge))
            ax.set(xscale=xscale, yscale="log", xlabel=x, ylabel=str(name))
        handles = [*map(key, range(len(groups)), groups), Line2D([], [], marker=7, color=FAINT, linestyle="none", ms=6)]
        shown = len(groups) + (frame[y] == 0).any()
        fold_legend(fig, handles[:shown], [*map(name_of, groups), "exactly zero"][:shown])
    return drawn(fig, frame, by=by, x=x)


def trial_curves(runs: pd.DataFrame, history: pd.DataFrame, shown: int = 10) -> Figure:
    """Validation accuracy over epochs, a curve a trial of `Search.runs()`: all grey, the best with colour and rank."""
    best = runs.nsmallest(shown, "rank")
    wide = history.pivot(index="epoch", columns="run_id", values="val_accuracy")[runs["run_id"]] * 100
    with style():
        fig = figure(2.9)
        ax, every, edge = fig.subplots(), max(1, len(wide) // 5), {"mec": "white", "mew": 0.5}
        lines = [np.c_[wide.index, wide[run]] for run in wide]
        ax.add_collection(LineCollection(lines, colors="#b0b0b0", linewidths=0.35, alpha=0.4))
        for i, (run, rank) in enumerate(zip(best["run_id"], best["rank"], strict=True)):
            wear = look(i, best["config"].iloc[i]) | edge | {"lw": 1.1, "zorder": 3 - i / 99}
            ax.plot(wide[run], markevery=(i % every, every), **wear)
            line = {"arrowstyle": "-", "lw": 0.5, "color": wear["color"], "relpos": (0, 0.5), "shrinkA": 0}
            place = {"xytext": (1.05, 1 - 0.06 * i), "textcoords": "axes fraction", "va": "center", "size": 6.5}
            ax.annotate(str(rank), (wide.index[-1], wide[run].iloc[-1]), arrowprops=line, **place)
        percent_axis(ax, wide.iloc[1:].to_numpy().ravel(), "val_accuracy", pad=0.02)
        ax.set(xlabel="epoch", xlim=(0, wide.index[-1]))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        fold_legend(fig, ax.lines, (best["rank"].astype(str) + ": " + best["config"]).tolist())
    return drawn(fig, runs, "run_id", "trial", "rank", "config", "val_accuracy", "test_accuracy", by="config")
