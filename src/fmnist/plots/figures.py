"""The figures of the report: DataFrames of runs in, Matplotlib Figures out.

Bars and bands are 95 % t intervals over seeds (`statistics.interval`). Diverged runs are shown where they ended, or
counted beside the group they belong to; no figure drops one silently. Every function returns a Figure for
`publish.show`, and leaves pyplot and the global rcParams alone.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fmnist import words
from fmnist.plots.curves import curves, error_lines, layer_scales
from fmnist.plots.style import (
    BAD,
    COLORS,
    FAINT,
    INK,
    WIDTH,
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
from fmnist.statistics import best, best_per, gap, summary
from fmnist.words import AXES

GAP = 4  # pixels between images
SHARP = 4  # every pixel is embedded as SHARP x SHARP, since some viewers smooth what they enlarge


def image_grid(images: np.ndarray, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Images [n, 28, 28] in rows of `columns`, each below its title, if `titles` are given."""
    images = np.asarray(images)
    n, height, width = images.shape
    lines = max((title.count("\n") + 1 for title in titles), default=0) if titles is not None else 0
    columns = min(columns, n)
    rows, inch = -(-n // columns), WIDTH / (columns * (width + GAP))  # inches a pixel, at full width
    inch = min(inch, 1.1 / (width + GAP))
    head = lines * 0.14 / inch  # pixels of a title
    step = height + GAP + head
    with style():
        fig = figure(rows * step * inch, columns * (width + GAP) * inch, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        for i, image in enumerate(images):
            x, y = (i % columns) * (width + GAP) + GAP / 2, (i // columns) * step + head + GAP / 2
            sharp = np.repeat(np.repeat(image, SHARP, axis=0), SHARP, axis=1)
            ax.imshow(sharp, cmap="gray_r", vmin=0, vmax=255, extent=(x, x + width, y + height, y))
            if titles is not None:
                ax.text(x + width / 2, y - 0.045 / inch, titles[i], ha="center", va="baseline", fontsize=7)
        ax.set(xlim=(0, columns * (width + GAP)), ylim=(rows * step, 0))
        ax.set_axis_off()
    return fig if titles is None else drawn(fig, pd.DataFrame({"picture": range(1, n + 1), "title": titles}))


def class_means(images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figure:
    """The mean image of every class, five in a row, named."""
    means = np.stack([images[np.asarray(labels) == i].mean(axis=0) for i in range(len(names))])
    return image_grid(means, list(names), columns=5)


def confused_pairs(
    images: np.ndarray, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str], columns: int = 6
) -> Figure:
    """Misread images with what they are and what the network read."""
    pairs = zip(labels, predictions, strict=True)
    return image_grid(images, [f"{names[a]}\nread as {names[b]}" for a, b in pairs], columns)


def class_balance(labels_by_split: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Images of each class, a panel a split: {"train": labels, "val": labels, "test": labels}."""
    table = {"class": list(names)}
    with style():
        fig = figure(0.65 + 0.19 * len(names))
        axes = fig.subplots(1, len(labels_by_split), sharey=True, squeeze=False)[0]
        for i, (ax, (split, labels)) in enumerate(zip(axes, labels_by_split.items(), strict=True)):
            table[split] = counts = np.bincount(np.asarray(labels).astype(int), minlength=len(names))
            bars = ax.barh(range(len(names)), counts, color=COLORS[i % len(COLORS)], height=0.7, alpha=0.85)
            ax.bar_label(bars, [f"{value:,}" for value in counts], fontsize=7, padding=2)
            ax.set(xlim=(0, counts.max() * 1.3), xlabel="images", title=f"{split} ({len(labels):,})")
            ax.grid(axis="y", visible=False)
            ax.locator_params(axis="x", nbins=3)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylabel("class")
        axes[0].invert_yaxis()
    return drawn(fig, pd.DataFrame(table))


def confusion_matrix(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Percent of each class (row) that was read as each class (column); errors shaded, hits on the grey diagonal.

    `matrix` holds counts (`statistics.confusion`), of one run or summed over runs.
    """
    import seaborn as sns  # here, because it takes a second and brings pyplot along

    share = 100 * np.asarray(matrix, float) / np.maximum(np.sum(matrix, axis=1, keepdims=True), 1)
    text = np.where(share >= 0.05, np.char.mod("%.1f", share), np.where(np.asarray(matrix) > 0, "<0.1", "0"))
    hits = np.eye(len(names), dtype=bool)
    look = {"cmap": "OrRd", "vmin": 0, "vmax": max(30**0.7, (share[~hits] ** 0.7).max(initial=0)), "cbar": False}
    with style():
        fig = figure(4.8, 5.4)
        ax = fig.subplots()
        words = {"annot": text, "fmt": "", "annot_kws": {"size": 7.2}, "xticklabels": names, "yticklabels": names}
        sns.heatmap(share**0.7, mask=hits, square=True, linewidths=0.8, ax=ax, **look, **words)
        for k in range(len(names)):
            ax.text(
                k + 0.5, k + 0.5, text[k, k], ha="center", va="center", fontsize=7.2, color="#555555", weight="bold"
            )
        ax.set_facecolor("#ececec")
        ax.set_xticklabels(names, rotation=40, ha="right", rotation_mode="anchor")
        ax.set(xlabel="predicted class", ylabel="true class", title="Share of each true class (%)")
        ax.grid(visible=False)
        ax.tick_params(length=0)
    return drawn(fig, pd.DataFrame(matrix, columns=names).assign(true=names)[["true", *names]])


def network_diagram(
    hidden_sizes: Sequence[int], activation: str = "relu", inputs: int = 784, classes: int = 10
) -> Figure:
    """A fully connected network, inputs → hidden layers → classes, with a few neurons a layer and its parameters."""
    sizes = [inputs, *hidden_sizes, classes]
    spread = WIDTH / max(len(sizes), 3)
    weights = [(a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False)]
    with style():
        fig = figure(3.0, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        dots = [_neurons(size) for size in sizes]
        for i, count in enumerate(weights):
            for a in dots[i]:
                for b in dots[i + 1]:
                    ax.plot([i * spread, (i + 1) * spread], [a, b], color="#b9c6d0", linewidth=0.45, zorder=1)
            text = f"{count:,}\nparameters"
            ax.text((i + 0.5) * spread, 1.32, text, ha="center", va="bottom", fontsize=7, color="#555555")
        for i, (size, ys) in enumerate(zip(sizes, dots, strict=True)):
            _layer(ax, i * spread, size, ys, i, len(sizes), activation)
        ax.set(xlim=(-0.55 * spread, (len(sizes) - 0.45) * spread), ylim=(-2.15, 1.85))
        ax.set_axis_off()
    return fig


def _neurons(size: int) -> np.ndarray:
    """Heights of the neurons drawn for a layer: all of up to seven, else three above and three below the dots."""
    if size <= 7:
        return (np.arange(size) - (size - 1) / 2) * 0.36
    return np.array([1.17, 0.83, 0.49, -0.49, -0.83, -1.17])


def _layer(ax: Axes, x: float, size: int, ys: np.ndarray, i: int, layers: int, activation: str) -> None:
    role = "input" if i == 0 else "output" if i == layers - 1 else f"hidden {i}" if layers > 3 else "hidden"
    fact = "pixels" if i == 0 else "logits" if i == layers - 1 else activation.replace("_", " ").replace("relu", "ReLU")
    color = COLORS[2] if i == 0 else COLORS[1] if i == layers - 1 else COLORS[0]
    ax.plot(np.full(len(ys), x), ys, "o", ms=9, color=color, mec="white", mew=0.8, zorder=3)
    if len(ys) < size:
        ax.plot([x] * 3, [-0.14, 0, 0.14], "o", ms=2.2, color=color, zorder=3)
    ax.text(x, -1.45, role, ha="center", va="top", fontsize=8, weight="bold")
    ax.text(x, -1.68, f"{size:,}\n{fact}", ha="center", va="top", fontsize=8, linespacing=1.15)


def pipeline_diagram() -> Figure:
    """One run's way through the house, top to bottom: parameters to printed page."""
    with style():
        fig = figure(5.5, 4.4, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, 44), ylim=(55, 0))
        ax.set_axis_off()
        for box in PIPELINE:
            _box(ax, *box)
        for start, end in ARROWS:
            ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=FAINT, linewidth=1.1))
    return fig


# x, y of the centre, width, height, title, what it holds, colour; in tenths of an inch
PIPELINE = (
    (22, 3.5, 30, 5, "params/<report>/<notebook>.yaml", "what varies, and over which seeds", COLORS[3]),
    (22, 11, 30, 5, "papermill", "puts it into the notebook and executes it", COLORS[0]),
    (22, 18.5, 30, 5, "Study", "checks it; lists the runs it needs", COLORS[0]),
    (11.5, 26.5, 18, 6.8, "store", "finished runs, found\nby the hash of their config", COLORS[2]),
    (32.5, 26.5, 18, 6.8, "stacked training", "what is missing, trained\ntogether on CUDA or CPU", COLORS[2]),
    (22, 35, 30, 5, "two DataFrames", "a row a run, a row an epoch", COLORS[0]),
    (8, 42.5, 13, 5, "figure", "95 % intervals", COLORS[1]),
    (22, 42.5, 13, 5, "table", "every trial", COLORS[1]),
    (36, 42.5, 13, 5, "sentence", "computed claims", COLORS[1]),
    (22, 51, 30, 5.4, "nbconvert", "one report, as HTML and as PDF", COLORS[3]),
)
ARROWS = (
    ((22, 6), (22, 8.5)), ((22, 13.5), (22, 16)), ((17, 21), (12.5, 23.1)), ((20.5, 25.6), (23.5, 25.6)),
    ((23.5, 27.6), (20.5, 27.6)), ((12.5, 29.9), (17, 32.5)), ((14, 37.5), (9, 40)), ((22, 37.5), (22, 40)),
    ((30, 37.5), (35, 40)), ((9, 45), (14, 48.3)), ((22, 45), (22, 48.3)), ((35, 45), (30, 48.3)),
)  # fmt: skip


def _box(ax: Axes, x: float, y: float, width: float, height: float, title: str, text: str, color: str) -> None:
    corner, shape = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.8"
    ax.add_patch(FancyBboxPatch(corner, width, height, shape, facecolor=color, alpha=0.13, edgecolor="none"))
    ax.add_patch(FancyBboxPatch(corner, width, height, shape, fill=False, edgecolor=color, linewidth=1.1))
    lines = text.count("\n") + 1
    ax.text(x, y - 0.95 * lines, title, ha="center", va="center", fontsize=9, weight="bold")
    ax.text(x, y + 1.15, text, ha="center", va="center", fontsize=8, linespacing=1.2)


__all__ = [
    "accuracy_dots", "against_lr", "class_balance", "class_means", "confused_pairs", "confusion_matrix", "curves",
    "error_lines", "gap_plot", "heatmap", "image_grid", "layer_scales", "network_diagram", "pipeline_diagram",
]  # fmt: skip


def accuracy_dots(runs: pd.DataFrame, by: str = "trial", metric: str = "test_accuracy") -> Figure:
    """A forest plot: a row a group with its mean, 95 % interval, every seed as a faint dot, and the numbers beside it.

    The group that validation selects has a star; diverged runs are counted in the margin.
    """
    table, scale = summary(runs, by, metric), words.metric_of(metric).scale
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
            note = "  ".join(filter(None, [_printed(row, metric), words.diverged(row["diverged"], row["runs"])]))
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
    if words.metric_of(metric).unit == "points":
        return words.percent(row["mean"], row["low"], row["high"], sign=False) if row["n"] else ""
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["n"] else ""


def heatmap(runs: pd.DataFrame, rows: str = "variant", columns: str = "lr", metric: str = "test_accuracy") -> Figure:
    """Mean over seeds in every cell; hatched where every run diverged; framed where a row is best on validation.

    Shades are logarithmic in the error (in the loss, for a loss), so that good cells differ visibly: lighter is better.
    """
    table, measure = summary(runs, [rows, columns], metric), words.metric_of(metric)
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


def _cell(ax: Axes, x: int, y: int, row: pd.Series, measure: words.Metric, color: str) -> None:
    """The mean of one cell of the heat map, and below it how many runs diverged."""
    failed = words.diverged(row["diverged"], row["runs"]).replace(" (", "\n(" if not row["n"] else " (")
    if not row["n"]:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(x, y, failed, ha="center", va="center", fontsize=7, color=BAD, bbox=box)
        return
    value = words.number(measure.scale * row["mean"], 1 if measure.unit == "points" else 3)
    ax.text(x, y - (0.13 if failed else 0), value, ha="center", va="center", fontsize=8.5, color=color)
    ax.text(x, y + 0.26, failed, ha="center", va="center", fontsize=7, color=color)


def against_lr(runs: pd.DataFrame, by: str = "variant", metric: str = "test_accuracy", x: str = "lr") -> Figure:
    """Mean and 95 % interval against the learning rate, a line a group; a strip below counts diverged runs."""
    table, scale = summary(runs, [by, x], metric), words.metric_of(metric).scale
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
    failed = words.diverged(int(rows["diverged"].sum()), int(rows["runs"].sum()))
    return " ".join(filter(None, [name_of(group), failed]))
