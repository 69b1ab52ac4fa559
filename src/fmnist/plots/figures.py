"""The figures of a study: DataFrames of runs in, Matplotlib Figures for `publish.show` out.

Bars and bands are 95 % t intervals over seeds (`statistics.interval`). Diverged runs are shown where they ended, or
counted beside the group they belong to; no figure drops one silently.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmnist.plots.curves import curves, log_lines
from fmnist.plots.style import (
    BAD,
    COLORS,
    FAINT,
    WIDTH,
    drawn,
    figure,
    fold_legend,
    key,
    keyed,
    look,
    percent_axis,
    style,
)
from fmnist.statistics import best, summary
from fmnist.words import AXES, diverged, metric_of, name_of
from fmnist.words import metric as printed

__all__ = ["accuracy_dots", "against", "confusion_matrix", "curves", "image_grid", "log_lines"]
GAP = 4  # pixels between images
SHARP = 4  # every pixel is embedded as SHARP x SHARP, since some viewers smooth what they enlarge
MEAN = {"color": COLORS[0], "marker": "D", "markersize": 4}
CHOSEN = {"color": COLORS[1], "marker": "*", "markersize": 8.5}
SEED = {"color": FAINT, "marker": "o", "markersize": 3, "alpha": 0.5, "mew": 0}


def accuracy_dots(runs: pd.DataFrame, by: str = "trial", metric: str = "test_accuracy") -> Figure:
    """A forest plot: a row a group with its mean, 95 % interval, every seed as a faint dot, and the numbers beside it.

    The group that validation selects has a star; diverged runs are counted in the margin.
    """
    table, scale = summary(runs, by, metric), metric_of(metric).scale
    chosen = best(runs, by) if runs["val_accuracy"].notna().any() else None
    with style():
        fig = figure(0.65 + 0.22 * len(table))
        ax = fig.subplots()
        keyed(ax, metric)
        for y, row in table.iterrows():
            values = scale * runs.loc[runs[by] == row[by], metric]
            wear = CHOSEN if row[by] == chosen else MEAN
            ax.plot(values, np.full(len(values), y + 0.27), linestyle="none", **SEED)
            ax.hlines(y, scale * row["low"], scale * row["high"], color=wear["color"], lw=1.8)
            ax.plot(scale * row["mean"], y, linestyle="none", mec="white", mew=0.6, **wear)
            value = printed(row["mean"], metric, row["low"], row["high"]) if row["n"] else ""
            note = "  ".join(filter(None, [value, diverged(row["diverged"], row["runs"])]))
            ax.text(1.01, y, note, transform=ax.get_yaxis_transform(), va="center", fontsize=7.2)
        ax.set_yticks(range(len(table)), table[by].map(name_of))
        ax.set(ylim=(len(table) - 0.4, -0.6), ylabel=AXES.get(by, by))
        ax.grid(axis="y", visible=False)
        percent_axis(ax, scale * np.r_[runs[metric], table["low"], table["high"]], metric, "x")
        handles = [key(0, **MEAN, linestyle="-"), key(0, **SEED, linestyle="none"), key(0, **CHOSEN, linestyle="-")]
        fold_legend(fig, handles, ["mean, 95 % interval", "one seed", "best on validation"])
    return drawn(fig, runs, "run_id", by, "seed", metric, "val_accuracy", "diverged", by=by)


def against(
    runs: pd.DataFrame, x: str = "lr", by: str = "variant", metrics: Sequence[str] = ("test_accuracy",)
) -> Figure:
    """Mean and 95 % interval against the field `x`, a line a group, a panel a metric; a strip counts diverged runs."""
    table = pd.concat([summary(runs, [by, x], metric).assign(metric=metric) for metric in metrics])
    groups, values = table[by].unique(), table[x].unique()
    values = np.sort(values) if pd.api.types.is_numeric_dtype(table[x]) else values
    table["place"] = table[x].map(dict(zip(values, _places(values), strict=True)))
    ends = table["place"].min(), table["place"].max()
    lost = table[table["diverged"] > 0].drop_duplicates([by, x])
    failing = [group for group in groups if group in set(lost[by])]
    with style():
        strip = 0.17 * len(failing) + 0.15
        fig = figure(2.8 + (strip + 0.1 if failing else 0))
        ratios = {"height_ratios": [2.4, strip]} if failing else {}
        axes = fig.subplots(1 + bool(failing), len(metrics), sharex=True, squeeze=False, **ratios)
        for ax, metric in zip(axes[0], metrics, strict=True):
            keyed(ax, metric)
            _means(ax, table[table["metric"] == metric].sort_values("place"), by, groups, 0.012 * (ends[1] - ends[0]))
        for ax in axes[1:].flat:
            _strip(ax, lost, by, failing)
        for ax in axes[-1]:
            ax.set_xticks(_places(values), map(name_of, values))
            ax.set(xlabel=AXES.get(x, x), xlim=np.array(ends) + 0.07 * (ends[1] - ends[0] or 1) * np.array([-1, 1]))
        fold_legend(fig, [*map(key, range(len(groups)), groups)], list(map(name_of, groups)), by)
    return drawn(fig, runs, "run_id", by, x, "seed", *metrics, "diverged", by=by, x=x)


def _places(values: Sequence) -> np.ndarray:
    """Where values stand on an axis: numbers in proportion, or in decades if far apart; anything else side by side."""
    if any(isinstance(value, str) for value in values):
        return np.arange(len(values))
    values = np.asarray(values, float)
    if values.max() < 10 * values[values > 0].min(initial=np.inf):
        return values
    return np.log10(values) if values.min() > 0 else np.arange(len(values))


def _means(ax: Axes, table: pd.DataFrame, by: str, groups: list, apart: float) -> None:
    """A line a group, `apart` from the next, joining means with their 95 % intervals as bars."""
    metric = table["metric"].iloc[0]
    scaled = table.assign(**{name: metric_of(metric).scale * table[name] for name in ("mean", "low", "high")})
    for index, group in enumerate(groups):
        rows, wear = scaled[scaled[by] == group], look(index, group)
        place = rows["place"] + apart * (index - (len(groups) - 1) / 2)
        ax.plot(place, rows["mean"], mec="white", mew=0.5, ms=5, **wear)
        ax.vlines(place, rows["low"], rows["high"], color=wear["color"], linewidth=1.1, label=wear["label"])
    percent_axis(ax, scaled[["mean", "low", "high"]].to_numpy().ravel(), metric)


def _strip(ax: Axes, lost: pd.DataFrame, by: str, groups: list) -> None:
    """Beneath the main axes, a row a group: how many of its runs diverged at each place."""
    for _, row in lost.iterrows():
        text = f"{row['diverged']} of {row['runs']}"
        ax.text(row["place"], groups.index(row[by]), text, ha="center", va="center", fontsize=7, color=BAD)
    ax.set_yticks(range(len(groups)), map(name_of, groups))
    ax.set_ylim(len(groups) - 0.4, -0.6)
    ax.set_ylabel("diverged", rotation=0, ha="right", va="center")
    ax.grid(visible=False)
    ax.tick_params(length=0)


def confusion_matrix(matrix: np.ndarray, names: Sequence[str], runs: pd.DataFrame | None = None) -> Figure:
    """Percent of each class (row) that was read as each class (column); errors shaded, hits on the grey diagonal.

    `matrix` holds counts (`statistics.confusion`), of one run or summed over `runs`.
    """
    import seaborn as sns  # here, because it takes a second and brings pyplot along

    share = 100 * np.asarray(matrix, float) / np.maximum(np.sum(matrix, axis=1, keepdims=True), 1)
    text = np.where(share >= 0.05, np.char.mod("%.1f", share), np.where(np.asarray(matrix) > 0, "<0.1", "0"))
    hits, shade = np.eye(len(names), dtype=bool), share**0.7
    paint = {"cmap": "OrRd", "vmin": 0, "vmax": max(30**0.7, shade[~hits].max(initial=0)), "cbar": False}
    labels = {"annot": text, "fmt": "", "annot_kws": {"size": 7.2}, "xticklabels": names, "yticklabels": names}
    with style():
        fig = figure(4.8, 5.4)
        ax = fig.subplots()
        sns.heatmap(shade, mask=hits, square=True, linewidths=0.8, ax=ax, **paint, **labels)
        middle = {"ha": "center", "va": "center", "fontsize": 7.2, "color": "#555555", "weight": "bold"}
        for k in range(len(names)):
            ax.text(k + 0.5, k + 0.5, text[k, k], **middle)
        ax.set_facecolor("#ececec")
        ax.set_xticklabels(names, rotation=40, ha="right", rotation_mode="anchor")
        ax.set(xlabel="predicted class", ylabel="true class", title="Share of each true class (%)")
        ax.grid(visible=False)
        ax.tick_params(length=0)
    frame = pd.DataFrame(matrix, columns=names).assign(true=names)[["true", *names]]
    return drawn(fig, frame, runs=runs)


def image_grid(images: np.ndarray, titles: Sequence[str], columns: int = 8) -> Figure:
    """Images [n, 28, 28] in rows of `columns`, each below its title."""
    n, height, width = images.shape
    lines = max(title.count("\n") + 1 for title in titles)
    columns = min(columns, n)
    inch = min(WIDTH / columns, 1.1) / (width + GAP)  # inches a pixel
    head = lines * 0.14 / inch  # pixels of a title
    rows, step = -(-n // columns), height + GAP + head
    with style():
        fig = figure(rows * step * inch, columns * (width + GAP) * inch, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        for i, image in enumerate(images):
            x, y = (i % columns) * (width + GAP) + GAP / 2, (i // columns) * step + head + GAP / 2
            sharp = np.repeat(np.repeat(image, SHARP, axis=0), SHARP, axis=1)
            ax.imshow(sharp, cmap="gray_r", vmin=0, vmax=255, extent=(x, x + width, y + height, y))
            ax.text(x + width / 2, y - 0.045 / inch, titles[i], ha="center", va="baseline", fontsize=7)
        ax.set(xlim=(0, columns * (width + GAP)), ylim=(rows * step, 0))
        ax.set_axis_off()
    return drawn(fig, pd.DataFrame({"picture": range(1, n + 1), "title": titles}))
