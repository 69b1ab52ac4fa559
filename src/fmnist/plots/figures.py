"""The figures of a study: DataFrames of runs in, Matplotlib Figures for `publish.show` out.

Bars and bands are 95 % t intervals over seeds; a bar of two, what they reach. Diverged runs are shown where they ended,
or counted beside their group.
"""

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from fmnist.plots.style import FAINT, WIDTH, drawn, figure, fold_legend, key, keyed, look, percent_axis, style
from fmnist.statistics import interval, require_replications, summary
from fmnist.words import AXES, diverged, metric_of, name_of

GAP = 4  # pixels between images
SHARP = np.ones((4, 4), np.uint8)  # every pixel is embedded as 4 × 4, since some viewers smooth what they enlarge


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

    Means are over the runs that finished; a diverged one is drawn thin, to a cross at its last finite epoch. Epoch 0
    may be out of view. For training that is watched, `looks` gives a group's colour for good (see `look`); `until`, the
    epochs planned, fixes the axes, which move in round steps and leave the first loss out.
    """
    ended, groups = _ended(history), list(dict.fromkeys(history[by]))
    parts = dict(list(history.groupby(panels, sort=False))) if panels else {None: history}
    looks = looks or dict(zip(groups, range(len(groups)), strict=True))
    across = len(parts) if panels else len(metrics) if len(metrics) % 2 else 2
    with style():
        deep = len(metrics) if panels else len(metrics) // across
        fig = figure(0.25 + deep * (1.6 if panels else 1.75))
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
                ax.set_title(str(name) if panels and metric == metrics[0] else "")
            _limit(axes, np.concatenate(seen), metric, until)
        runs = history.drop_duplicates("run_id")
        lost = runs["run_id"].isin(ended.index).groupby(runs[by]).agg(["sum", "size"])
        if len(groups) > 1 or len(ended):
            labels = ["; × ".join(filter(None, [name_of(group), diverged(*lost.loc[group])])) for group in groups]
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
    ends = [] if metric_of(metric).level else [low[-1], high[-1]]  # of a difference the last interval, too
    return np.r_[mean[whole.index > first], ends]


def _limit(axes: Sequence[Axes], values: np.ndarray, metric: str, until: int) -> None:
    """Label and limits of one metric's axes; a cross beyond the limits is put on the border."""
    values = values[np.isfinite(values)]
    values = values if len(values) or not until else metric_of(metric).scale * np.arange(2.0)  # before the first epoch
    for ax in axes:
        percent_axis(ax, values, metric)
        ax.yaxis.label.set_visible(ax is axes[0])
    if until:
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
        fig = figure(2.1)
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


def against(runs: pd.DataFrame, x: str = "lr", by: str = "variant", metric: str = "test_accuracy") -> Figure:
    """Means against the field `x`, a line a group; of one or two runs, what they reach; crosses where some diverged."""
    table, reached = summary(runs, [by, x], metric).assign(metric=metric), runs.groupby([by, x], sort=False)[metric]
    ends = np.where(table[["n"]] < 3, np.c_[reached.min(), reached.max()], table[["low", "high"]])
    table["low"], table["high"] = ends.T
    groups, values = table[by].unique(), table[x].unique()
    values = np.sort(values) if pd.api.types.is_numeric_dtype(table[x]) else values
    table["place"] = table[x].map(dict(zip(values, _places(values), strict=True)))
    ends = table["place"].min(), table["place"].max()
    lost = table.groupby(by, sort=False)[["diverged", "runs"]].sum()
    labels = ["; × ".join(filter(None, [name_of(group), diverged(*lost.loc[group])])) for group in groups]
    with style():
        fig = figure(1.95)
        keyed(ax := fig.subplots(), metric)
        _means(ax, table.sort_values("place"), by, groups, 0.012 * (ends[1] - ends[0]))
        ax.set_xticks(_places(values), map(name_of, values))
        ax.set(xlabel=AXES.get(x, x), xlim=np.array(ends) + 0.07 * (ends[1] - ends[0] or 1) * np.array([-1, 1]))
        if len(groups) > 1 or table["diverged"].any():
            fold_legend(fig, [*map(key, range(len(groups)), groups)], labels, by)
    return drawn(fig, runs, "run_id", by, x, "seed", metric, "diverged", by=by, x=x)


def _places(values: Sequence) -> np.ndarray:
    """Where values stand on an axis: numbers in proportion, or in decades if far apart; anything else side by side."""
    if any(isinstance(value, str) for value in values):
        return np.arange(len(values))
    values = np.asarray(values, float)
    if values.max() < 10 * values[values > 0].min(initial=np.inf):
        return values
    return np.log10(values) if values.min() > 0 else np.arange(len(values))


def _means(ax: Axes, table: pd.DataFrame, by: str, groups: list, apart: float) -> None:
    """A line a group, `apart` from the next, joining means with their 95 % intervals as bars; crosses on the axis."""
    metric = table["metric"].iloc[0]
    scaled = table.assign(**{name: metric_of(metric).scale * table[name] for name in ("mean", "low", "high")})
    for index, group in enumerate(groups):
        rows, wear = scaled[scaled[by] == group], look(index, group)
        place = rows["place"] + apart * (index - (len(groups) - 1) / 2)
        ax.plot(place, rows["mean"], mec="white", mew=0.5, ms=5, **wear)
        ax.vlines(place, rows["low"], rows["high"], color=wear["color"], linewidth=1.1, label=wear["label"])
        cross = {"color": wear["color"], "ms": 5, "mew": 1.4, "clip_on": False, "transform": ax.get_xaxis_transform()}
        for at in place[rows["diverged"] > 0]:
            ax.plot(at, 0.02 + 0.05 * index, "x", **cross)
    percent_axis(ax, scaled[["mean", "low", "high"]].to_numpy().ravel(), metric)


def confusion_matrix(matrix: np.ndarray, names: Sequence[str], runs: pd.DataFrame | None = None) -> Figure:
    """Percent of each class (row) that was read as each class (column); errors shaded, hits on the grey diagonal.
    `matrix` holds counts (scikit-learn's confusion_matrix), of one run or summed over `runs`.
    """
    import seaborn as sns  # here, because it takes a second and brings pyplot along

    share = 100 * np.asarray(matrix, float) / np.maximum(np.sum(matrix, axis=1, keepdims=True), 1)
    text = np.where(share >= 0.05, np.char.mod("%.1f", share + 1e-9), np.where(np.asarray(matrix) > 0, "<0.1", "0"))
    hits, shade = np.eye(len(names), dtype=bool), share**0.7
    paint = {"cmap": "OrRd", "vmin": 0, "vmax": max(30**0.7, shade[~hits].max(initial=0)), "cbar": False}
    labels = {"annot": text, "fmt": "", "annot_kws": {"size": 8}, "xticklabels": names, "yticklabels": names}
    with style():
        fig = figure(3.0, 5.6)
        ax = fig.subplots()
        sns.heatmap(shade, mask=hits, linewidths=0.8, ax=ax, **paint, **labels)
        middle = {"ha": "center", "va": "center", "fontsize": 8, "color": "#555555", "weight": "bold"}
        for k in range(len(names)):
            ax.text(k + 0.5, k + 0.5, text[k, k], **middle)
        ax.set_xticklabels(names, rotation=40, ha="right", rotation_mode="anchor")
        ax.set(xlabel="predicted class", ylabel="true class", title="Share of each true class (%)", facecolor="#ececec")
        ax.grid(visible=False)
        ax.tick_params(length=0)
    frame = pd.DataFrame(matrix, columns=names).assign(true=names)[["true", *names]]
    return drawn(fig, frame, runs=runs)


def image_grid(images: np.ndarray, titles: Sequence[str], columns: int = 8) -> Figure:
    """Images [n, 28, 28] in rows of `columns`, each below its title."""
    n, height, width = images.shape
    columns = min(columns, n)
    inch = min(WIDTH / columns, 1.1) / (width + GAP)  # inches a pixel
    head = max(title.count("\n") + 1 for title in titles) * 0.14 / inch  # pixels of a title
    rows, step = -(-n // columns), height + GAP + head
    with style():
        fig = figure(rows * step * inch, columns * (width + GAP) * inch, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        for i, image in enumerate(images):
            x, y = (i % columns) * (width + GAP) + GAP / 2, (i // columns) * step + head + GAP / 2
            ax.imshow(np.kron(image, SHARP), "gray_r", vmin=0, vmax=255, extent=(x, x + width, y + height, y))
            ax.text(x + width / 2, y - 0.045 / inch, titles[i], ha="center", va="baseline", fontsize=8)
        ax.set(xlim=(0, columns * (width + GAP)), ylim=(rows * step, 0))
        ax.set_axis_off()
    return drawn(fig, pd.DataFrame({"picture": range(1, n + 1), "title": titles}))
