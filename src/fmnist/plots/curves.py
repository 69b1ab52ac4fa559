"""Lines over epochs, layers and ε: learning curves with 95 % bands, the scales of signals in the network, and the error
of numerical gradients.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fmnist import words
from fmnist.plots.style import (
    FAINT,
    INK,
    drawn,
    figure,
    fold_legend,
    legend_title,
    look,
    name_of,
    percent_axis,
    style,
)
from fmnist.statistics import interval, require_replications


def curves(
    history: pd.DataFrame,
    by: str = "trial",
    metrics: Sequence[str] = ("train_loss", "val_accuracy"),
    panels: str | None = None,
) -> Figure:
    """Mean over seeds per epoch with its 95 % band, a panel a metric; `panels` names a column for small multiples.

    Means are over the runs that finished. A diverged run is drawn by itself, thin, to a cross at its last finite epoch.
    Losses and norms that span more than a decade get a logarithmic axis. Epoch 0 (before training) may be out of view.
    """
    ended, groups = _ended(history), list(dict.fromkeys(history[by]))
    names = list(dict.fromkeys(history[panels])) if panels else [None]
    with style():
        fig, blocks = _grid(len(metrics), len(names) if panels else 0)
        for metric, axes in zip(metrics, blocks, strict=True):
            seen = []
            for ax, name in zip(axes, names, strict=True):
                part = history if name is None else history[history[panels] == name]
                for index, group in enumerate(groups):
                    seen.append(_curve(ax, part[part[by] == group], ended, metric, index))
                if panels and (metric == metrics[0] or len(names) > 5):
                    ax.set_title(name if isinstance(name, str) else f"{panels} {name_of(name)}")
                ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
            _limit(axes, seen, metric)
        _curve_legend(fig, history, ended, by, groups)
    return drawn(fig, history, panels, by, "seed", "epoch", *metrics)


def _grid(metrics: int, panels: int) -> tuple[Figure, list[list[Axes]]]:
    """A figure, and for each metric its axes. With panels: rows of up to five for each metric, sharing its y axis."""
    across = math.ceil(panels / math.ceil(panels / 5)) if panels else min(metrics, 2)
    deep = math.ceil(panels / across) if panels else 1
    rows = metrics * deep if panels else math.ceil(metrics / across)
    fig = figure(0.25 + rows * (1.65 if panels else 2.1))
    grid = fig.subplots(rows, across, sharex=True, squeeze=False)
    if panels:
        blocks = [list(grid[i * deep : (i + 1) * deep].flat) for i in range(metrics)]
        spare = [ax for block in blocks for ax in block[panels:]]
        blocks = [block[:panels] for block in blocks]
    else:
        blocks, spare = [[ax] for ax in list(grid.flat)[:metrics]], list(grid.flat)[metrics:]
    for ax in spare:
        ax.remove()
    for block in blocks:
        for ax in block:
            place = ax.get_subplotspec()
            bottom = place.is_last_row() or grid[place.rowspan.stop, place.colspan.start] in spare
            ax.tick_params(labelbottom=bottom)
            ax.set_xlabel("epoch" if bottom else "")
            if ax is not block[0]:
                ax.sharey(block[0])
                ax.tick_params(labelleft=place.is_first_col())
    return fig, blocks


def _ended(history: pd.DataFrame) -> pd.Series:
    """Last finite epoch of each diverged run, by run_id: a run that went NaN, or stopped before its `epochs`."""
    columns = [name for name in ("train_loss", "val_loss", "val_accuracy") if name in history]
    alive = (np.isfinite(history[columns]) | (history[["epoch"]] == 0).to_numpy()).all(axis=1)
    last = history[alive].groupby("run_id", sort=False)["epoch"].max()
    planned = history.groupby("run_id", sort=False)["epochs" if "epochs" in history else "epoch"].max()
    last = last.reindex(planned.index, fill_value=0)
    return last[last < planned]


def _curve(ax: Axes, rows: pd.DataFrame, ended: pd.Series, metric: str, index: int) -> np.ndarray:
    """One group on one axis; returns what must be in view: its mean after epoch 0, or its runs when none finished."""
    if rows.empty:
        return np.array([])
    require_replications(rows[rows["epoch"] == rows["epoch"].min()], rows["trial"].iloc[0], metric)
    wide = rows.pivot(index="epoch", columns="run_id", values=metric).astype(float)
    wide = wide.replace([np.inf, -np.inf], np.nan) * words.metric_of(metric).scale
    lost = wide.columns.isin(ended.index)
    whole, wear = wide.loc[:, ~lost].dropna(how="all"), look(index)
    if len(whole):
        mean, low, high = interval(whole)
        every = max(1, len(whole) // 5)
        ax.plot(whole.index, mean, markevery=(2 * index % every, every), mec="white", mew=0.5, **wear)
        ax.fill_between(whole.index, low, high, color=wear["color"], alpha=0.2, linewidth=0)
    for run in wide.columns[lost]:
        line = wide.loc[: ended[run], run].dropna()
        ax.plot(line.index, line, color=wear["color"], linewidth=0.6)
        ax.plot(line.index[-1:], line.iloc[-1:], "x", color=wear["color"], ms=5, mew=1.4, clip_on=False)
    if len(whole):
        return mean[whole.index > 0]
    early = wide[wide.index > 0].median(axis=1).to_numpy()
    return np.minimum(early, 2 * early[:1])


def _limit(axes: Sequence[Axes], seen: list[np.ndarray], metric: str) -> None:
    """Label and limits of one metric's axes; a cross beyond the limits is put on the border."""
    values = np.concatenate(seen) if seen else np.array([])
    values = values[np.isfinite(values)]
    for ax in axes:
        percent_axis(ax, values, metric)
        ax.yaxis.label.set_visible(ax is axes[0] or ax.get_subplotspec().is_first_col())
    if metric.endswith(("loss", "norm")) and len(values) and values.min() > 0 and values.max() > 10 * values.min():
        axes[0].set_yscale("log")
        axes[0].set_ylim(values.min() * 0.8, values.max() * 1.25)
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0].yaxis.set_minor_formatter(NullFormatter())
    low, high = axes[0].get_ylim()
    for line in (line for ax in axes for line in ax.lines if line.get_marker() == "x"):
        line.set_ydata(np.clip(line.get_ydata(), low, high))


def _curve_legend(fig: Figure, history: pd.DataFrame, ended: pd.Series, by: str, groups: list) -> None:
    runs = history.drop_duplicates("run_id")
    labels, handles = [], []
    for index, group in enumerate(groups):
        mine = runs.loc[runs[by] == group, "run_id"]
        failed = words.diverged(int(mine.isin(ended.index).sum()), len(mine))
        labels.append(f"{name_of(group)} \N{MULTIPLICATION SIGN} {failed}" if failed else name_of(group))
        handles.append(Line2D([], [], mec="white", mew=0.5, **look(index)))
    if len(groups) > 1 or len(ended):
        fold_legend(fig, handles, labels, legend_title(by))


def layer_scales(frame: pd.DataFrame) -> Figure:
    """How activations and gradients grow or fade through the layers: columns init, layer, quantity, value.

    Lines are geometric means with 95 % bands over the rows of one (init, layer, quantity), e.g. seeds. What is exactly
    zero has no place on a logarithmic axis: it is drawn as a triangle on its lower edge.
    """
    groups, layers = list(dict.fromkeys(frame["init"])), list(dict.fromkeys(frame["layer"]))
    quantities = list(dict.fromkeys(frame["quantity"]))
    with style():
        fig = figure(2.6)
        axes = fig.subplots(1, len(quantities), squeeze=False)[0]
        for ax, quantity in zip(axes, quantities, strict=True):
            part = frame[frame["quantity"] == quantity]
            for index, group in enumerate(groups):
                _scale_line(ax, part[part["init"] == group], layers, look(index))
            ax.set_yscale("log")
            ax.set_xticks(range(len(layers)), [str(layer) for layer in layers])
            ax.set(xlabel="layer", ylabel=quantity, xlim=(-0.3, len(layers) - 0.7))
        handles = [Line2D([], [], mec="white", mew=0.5, **look(i)) for i in range(len(groups))]
        zero = any((frame.loc[frame["init"] == group, "value"] == 0).any() for group in groups)
        if zero:
            handles.append(Line2D([], [], marker=7, color=FAINT, linestyle="none", ms=6))
        fold_legend(fig, handles, [str(group) for group in groups] + ["exactly zero"] * zero)
    return drawn(fig, frame)


def _scale_line(ax: Axes, part: pd.DataFrame, layers: list, wear: dict) -> None:
    values = [part.loc[part["layer"] == layer, "value"].to_numpy(float) for layer in layers]
    spans = np.array([interval(np.log(v[v > 0])) for v in values])
    mean, low, high = np.exp(spans).T
    ax.plot(range(len(layers)), mean, mec="white", mew=0.5, **wear)
    ax.fill_between(range(len(layers)), low, high, color=wear["color"], alpha=0.2, linewidth=0)
    zeros = [i for i, v in enumerate(values) if (v == 0).any()]
    ax.plot(
        zeros, [0.02] * len(zeros), marker=7, ms=7, color=wear["color"], ls="none", transform=ax.get_xaxis_transform()
    )


def error_lines(checked: pd.DataFrame, crossings: pd.DataFrame) -> Figure:
    """How far numerical gradients are off, against ε, from `gradients.check` and `gradients.crossings`.

    A panel a precision, a line a weight; dashed the fitted C ε², dotted the ε at which rounding takes over. What is
    exactly zero is drawn as a triangle on the lower edge.
    """
    weights = list(dict.fromkeys(checked["weight"]))
    smallest = checked.loc[checked["difference"] != 0, "difference"].abs().min()
    with style():
        fig = figure(2.9)
        axes = fig.subplots(1, len(crossings), sharey=True, squeeze=False)[0]
        for ax, (_, fit) in zip(axes, crossings.iterrows(), strict=True):
            part = checked[checked["precision"] == fit["precision"]]
            for index, weight in enumerate(weights):
                rows = part[part["weight"] == weight].sort_values("eps")
                error, wear = rows["difference"].abs(), look(index)
                ax.plot(rows["eps"], error.where(error > 0), mec="white", mew=0.4, ms=3.5, lw=0.9, **_plain(wear))
                none = rows.loc[error == 0, "eps"]
                ax.plot(
                    none, [0.02] * len(none), marker=7, ls="none", transform=ax.get_xaxis_transform(), c=wear["color"]
                )
            eps = np.sort(part["eps"].unique())
            ax.plot(eps, fit["truncation"] * eps**2, color=INK, linestyle=(0, (4, 2)), linewidth=1.2)
            ax.axvline(fit["eps"], color=INK, linestyle=":", linewidth=1.2)
            ax.set(xscale="log", yscale="log", xlabel="ε", title=fit["precision"])
            ax.set_ylim(smallest / 3, 3 * checked["difference"].abs().max())
        axes[0].set_ylabel("error of the numerical gradient")
        handles = [Line2D([], [], mec="white", mew=0.4, **_plain(look(i))) for i in range(len(weights))]
        handles += [Line2D([], [], color=INK, linestyle=line) for line in ((0, (4, 2)), ":")]
        fold_legend(fig, handles, [*weights, "C ε²", "rounding takes over"])
    return drawn(fig, checked)


def _plain(wear: dict) -> dict:
    """A look with a plain line: markers and colours tell the weights apart, broken lines are the fit's."""
    return wear | {"linestyle": "-"}
