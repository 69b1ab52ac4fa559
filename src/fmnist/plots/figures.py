"""The figures of a study: DataFrames of runs in, Matplotlib Figures for `publish.show` out.

Bars and bands are 95 % t intervals over seeds. Diverged runs are shown where they ended, or counted beside their group.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmnist.plots.curves import curves, log_lines
from fmnist.plots.style import WIDTH, drawn, figure, fold_legend, key, keyed, look, percent_axis, style
from fmnist.statistics import summary
from fmnist.words import AXES, diverged, metric_of, name_of

__all__ = ["against", "confusion_matrix", "curves", "image_grid", "log_lines"]
GAP = 4  # pixels between images
SHARP = 4  # every pixel is embedded as SHARP x SHARP, since some viewers smooth what they enlarge


def against(
    runs: pd.DataFrame, x: str = "lr", by: str = "variant", metrics: Sequence[str] = ("test_accuracy",)
) -> Figure:
    """Mean and 95 % interval against the field `x`, a line a group, a panel a metric; crosses where runs diverged."""
    table = pd.concat([summary(runs, [by, x], metric).assign(metric=metric) for metric in metrics])
    groups, values = table[by].unique(), table[x].unique()
    values = np.sort(values) if pd.api.types.is_numeric_dtype(table[x]) else values
    table["place"] = table[x].map(dict(zip(values, _places(values), strict=True)))
    ends = table["place"].min(), table["place"].max()
    lost = table.drop_duplicates([by, x]).groupby(by, sort=False)[["diverged", "runs"]].sum()
    labels = [" × ".join(filter(None, [name_of(group), diverged(*lost.loc[group])])) for group in groups]
    with style():
        fig = figure(2.4)
        for ax, metric in zip(fig.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            keyed(ax, metric)
            _means(ax, table[table["metric"] == metric].sort_values("place"), by, groups, 0.012 * (ends[1] - ends[0]))
            ax.set_xticks(_places(values), map(name_of, values))
            ax.set(xlabel=AXES.get(x, x), xlim=np.array(ends) + 0.07 * (ends[1] - ends[0] or 1) * np.array([-1, 1]))
        fold_legend(fig, [*map(key, range(len(groups)), groups)], labels, by)
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
    `matrix` holds counts (`statistics.confusion`), of one run or summed over `runs`.
    """
    import seaborn as sns  # here, because it takes a second and brings pyplot along

    share = 100 * np.asarray(matrix, float) / np.maximum(np.sum(matrix, axis=1, keepdims=True), 1)
    text = np.where(share >= 0.05, np.char.mod("%.1f", share), np.where(np.asarray(matrix) > 0, "<0.1", "0"))
    hits, shade = np.eye(len(names), dtype=bool), share**0.7
    paint = {"cmap": "OrRd", "vmin": 0, "vmax": max(30**0.7, shade[~hits].max(initial=0)), "cbar": False}
    labels = {"annot": text, "fmt": "", "annot_kws": {"size": 6.5}, "xticklabels": names, "yticklabels": names}
    with style():
        fig = figure(3.5, 4.2)
        ax = fig.subplots()
        sns.heatmap(shade, mask=hits, square=True, linewidths=0.8, ax=ax, **paint, **labels)
        middle = {"ha": "center", "va": "center", "fontsize": 7, "color": "#555555", "weight": "bold"}
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
